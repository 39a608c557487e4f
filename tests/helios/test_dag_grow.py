"""`forEach` over an output of an earlier task: the DAG before its list is there, and what it grows to."""

import contextlib
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.dag import Dag, ItemsFrom, grown, parents, parse_dag
from helios.dag_fan import Items
from helios.dag_problem import DagInvalid, DagLimits
from helios.dag_written import written

LIST = "{fromTask: list, name: parts.json}"
GROWING = """\
dagName: d
params: {tag: 3.20}
tasks:
  - name: list
    image: i
    command: [sh, -c, "echo $${params.tag} ${params.tag}"]
    outputs: [parts.json]
  - name: work
    forEach: FIRST
    image: "i:${params.tag}"
    command: [run, "${item}", "$${item}"]
    env: {SIZE: 010, ITEM: "${item}"}
    outputs: ["out-${item}"]
    memoize: {verify: 0.5}
    retries: {count: 2}
  - name: fit
    forEach: SECOND
    when: ${item} != c
    image: i
    command: [c]
    depends_on: ["work-${item}"]
    inputs: [{fromTask: "work-${item}", name: "out-${item}", as: o}]
    outputs: [m]
  - name: merge
    image: i
    command: [c]
    inputs:
      - {fromTask: work, name: "out-${item}", as: parts}
      - {fromTask: fit, name: m}
      - {fromTask: list, name: parts.json}
    outputs: [all]
  - name: one
    image: i
    command: [c]
    inputs: [{fromTask: work-a, name: out-a}]
  - name: end
    image: i
    command: [c]
    depends_on: [fit, work-b]
onExit: {name: bye, image: i, command: [c]}
"""


def growing(first: str = LIST, second: str = LIST) -> str:
    return GROWING.replace("FIRST", first).replace("SECOND", second)


def read(text: str) -> Dag:
    return parse_dag(text.encode()).dag


def problems(text: str, limits: DagLimits | None = None) -> list[str]:
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text.encode(), limits or DagLimits())
    return [str(problem) for problem in refused.value.problems]


def refused(dag: Dag, task: str, items: Items, limits: DagLimits | None = None) -> list[str]:
    with pytest.raises(DagInvalid) as invalid:
        grown(dag, task, items, limits or DagLimits())
    assert all(problem.line is None for problem in invalid.value.problems)
    return [str(problem) for problem in invalid.value.problems]


def edges(dag: Dag) -> dict[str, set[str]]:
    return {task.name: set(parents(task)) for task in dag.tasks}


def two(more: str = "", source: str = LIST, fields: str = "") -> str:
    return f"""\
dagName: d
tasks:
  - {{name: list, image: i, command: [c], outputs: [parts.json]}}
  - name: work
    forEach: {source}
    image: i
    command: [c]
    outputs: [o]
    {fields}
{more}"""


def test_before_its_list_is_there_a_task_stands_for_what_it_will_make() -> None:
    dag = read(growing())
    assert edges(dag) == {
        "list": set(),
        "work": {"list"},
        "fit": {"list", "work"},
        "merge": {"list", "work", "fit"},
        "one": {"work"},
        "end": {"fit", "work"},
        "bye": set(),
    }
    work = dag.tasks[1]
    assert (work.for_each, work.image, work.outputs) == (ItemsFrom("list", "parts.json"), "", ())
    assert [each.as_ for each in dag.tasks[3].inputs] == ["parts.json"]
    assert dag.growth is not None
    assert dag.growth.lists == {}


def without_joins(dag: Dag) -> list[Any]:
    """The tasks that run, each without whom it waits for besides those whose outputs it reads."""
    return [msgspec.structs.replace(task, depends_on=()) for task in dag.tasks if task.for_each is None]


@given(st.lists(st.sampled_from("abc") | st.text("dx-_7", min_size=1, max_size=3), max_size=5, unique=True))
def test_what_it_grows_to_is_what_one_would_have_got_with_the_list_written_out(items: list[str]) -> None:
    items = ["a", "b", *(each for each in items if each not in "ab")]
    dag = grown(grown(read(growing()), "work", items), "fit", items)
    literal = read(growing(*[json.dumps(items)] * 2))
    assert without_joins(dag) == without_joins(literal)
    ours, theirs = dag.graph(), literal.graph()
    joins = {"work", "fit"}
    for name in theirs.order:
        assert set(theirs.descendants(name)) <= set(ours.descendants(name))
        assert not set(ours.descendants(name)) - set(theirs.descendants(name)) - joins or name in {"list", *joins} | {
            f"{base}-{each}" for base in joins for each in items
        }
    assert (dag.dag_name, dag.params, dag.on_exit) == (literal.dag_name, literal.params, literal.on_exit)


def test_what_was_there_stays_and_only_what_reads_the_new_outputs_changes() -> None:
    before = read(growing())
    after = grown(before, "work", ["a", "b"])
    assert edges(after) == {
        **edges(before),
        "work": {"list", "work-a", "work-b"},
        "work-a": {"list"},
        "work-b": {"list"},
        "merge": {"list", "work", "fit", "work-a", "work-b"},
        "one": {"work", "work-a"},
    }
    former, now = ({task.name: task for task in dag.tasks} for dag in (before, after))
    assert {name for name in former if now[name] != former[name]} == {"work", "merge", "one"}
    assert [each.as_ for each in now["merge"].inputs] == ["parts/a", "parts/b", "parts.json"]
    assert after.growth is not None
    assert after.growth.lists == {"work": ["a", "b"]}
    assert [task.name for task in after.tasks][:4] == ["list", "work", "work-a", "work-b"]
    assert after.tasks[-1].name == "bye"


def test_an_item_that_a_condition_leaves_out_makes_no_task() -> None:
    dag = grown(grown(read(growing()), "work", ["a", "b", "c"]), "fit", ["a", "b", "c"])
    assert [task.name for task in dag.tasks if task.name.startswith("fit-")] == ["fit-a", "fit-b"]


def test_an_empty_list_makes_nothing_and_who_collects_its_outputs_has_none() -> None:
    dag = grown(read(two("  - {name: end, image: i, command: [c], inputs: [{fromTask: work, name: o}]}")), "work", [])
    assert edges(dag) == {"list": set(), "work": {"list"}, "end": {"work"}}
    assert dag.tasks[2].inputs == ()


def test_items_that_are_mappings_name_their_tasks_by_key_and_give_their_fields() -> None:
    dag = grown(read(two(fields='env: {SIZE: "${item.size}"}')), "work", [{"key": "eu", "size": "010"}, {"size": "2"}])
    made = {task.name: [each.value for each in task.env] for task in dag.tasks if task.name.startswith("work-")}  # type: ignore[union-attr]
    assert made == {"work-eu": ["010"], "work-1": ["2"]}


def test_values_of_items_are_not_looked_through() -> None:
    dag = grown(read(two(fields='args: ["${item}"]')), "work", ["${params.x}", "${item}"])
    assert [task.args for task in dag.tasks[2:]] == [("${params.x}",), ("${item}",)]


def test_tasks_of_one_list_may_wait_for_each_other() -> None:
    dag = read(two("  - {name: work-0, image: i, command: [c]}", fields='depends_on: ["work-${item.after}"]'))
    assert edges(dag)["work"] == {"list", "work-0"}
    after = grown(dag, "work", [{"key": "2", "after": "1"}, {"key": "1", "after": "0"}])
    assert edges(after)["work-2"] == {"list", "work-1"}
    assert edges(after)["work-1"] == {"list", "work-0"}
    items: Items = [{"key": "1", "after": "2"}, {"key": "2", "after": "1"}]
    assert "cycle: work-1 -> work-2 -> work-1" in refused(dag, "work", items)[0]


@pytest.mark.parametrize("field", ["depends_on", "inputs"])
@pytest.mark.parametrize("name", ["src-${item}", "${params.p}-${item}", "src-${item.of}"])
def test_whatever_an_item_may_name_is_waited_for(name: str, field: str) -> None:
    named = f'["{name}"]' if field == "depends_on" else f'[{{fromTask: "{name}", name: o, as: x}}]'
    more = """\
  - {name: src-a, image: i, command: [c], outputs: [o]}
  - {name: src-, image: i, command: [c], outputs: [o]}
  - {name: srca, image: i, command: [c], outputs: [o]}
"""
    dag = read(two(more, fields=f"{field}: {named}").replace("tasks:", "params: {p: src}\ntasks:", 1))
    assert edges(dag)["work"] == {"list", "src-a", "src-"}


def test_a_name_that_begins_with_an_item_is_refused_since_nobody_knows_what_to_wait_for() -> None:
    (problem,) = problems(two(fields='depends_on: ["${item}"]'))
    assert "begins with the item" in problem


def test_a_new_task_that_would_wait_for_what_nobody_waited_for_is_refused() -> None:
    """By whatever way a name came about: it would not wait."""
    more = """\
  - {name: other, image: i, command: [c], depends_on: [list]}
"""
    dag = read(two(more))
    assert dag.growth is not None
    spec = dag.growth.spec.replace('"name":"work","image"', '"name":"work","depends_on":["other"],"image"')
    changed = msgspec.structs.replace(dag, growth=msgspec.structs.replace(dag.growth, spec=spec))
    assert refused(changed, "work", ["a"]) == ["'work-a' would wait for 'other', which 'work' has not waited for"]


@pytest.mark.parametrize("maker", ["list", "shards-a"])
def test_a_dag_without_its_list_keeps_no_trace_of_what_that_would_have_made(maker: str) -> None:
    text = f"""\
dagName: d
params: {{env: dev}}
tasks:
  - {{name: first, image: i, command: [c]}}
  - {{name: list, when: "${{params.env}} == prod", image: i, command: [c], outputs: [parts.json], depends_on: [first]}}
  - name: shards
    forEach: [a, b]
    when: ${{item}} == b
    image: i
    command: [c]
    outputs: [parts.json]
    depends_on: [first]
  - {{name: work, forEach: {{fromTask: {maker}, name: parts.json}}, image: i, command: [c], outputs: [o]}}
  - {{name: end, image: i, command: [c], depends_on: [work]}}
  - {{name: reader, image: i, command: [c], inputs: [{{fromTask: work, name: o}}]}}
"""
    dag = read(text)
    assert edges(dag) == {"first": set(), "shards-b": {"first"}, "end": {"first"}}
    assert dag.growth is None
    dag.success_graph()


def test_no_item_is_taken_for_the_one_that_stands_for_all() -> None:
    more = """\
  - {name: one, image: i, command: [c], depends_on: [work-item], inputs: [{fromTask: work-item, name: o}]}
"""
    dag = read(two(more))
    assert edges(dag)["one"] == {"work"}
    assert edges(grown(dag, "work", ["item"]))["one"] == {"work", "work-item"}
    found = problems(two('  - {name: one, image: i, command: [c], depends_on: ["work-${item}"]}'))
    assert "no task is named 'work-${item}'" in found[0]


def test_readers_of_what_a_condition_leaves_out_are_told_of() -> None:
    more = """\
  - {name: x, forEach: [a, b], when: "${item} == b", image: i, command: [c], outputs: [o]}
  - name: fit
    forEach: {fromTask: list, name: parts.json}
    image: i
    command: [c]
    inputs: [{fromTask: "x-${item}", name: o}]
    outputs: [m]
  - {name: end, image: i, command: [c], inputs: [{fromTask: fit, name: m, as: all}]}
"""
    dag = read(two(more))
    assert [task.name for task in grown(dag, "fit", ["b"]).tasks if task.name.startswith("fit")] == ["fit", "fit-b"]
    assert refused(dag, "fit", ["a"]) == [
        "the task 'end' waits already, and all whose outputs it reads would be left out"
    ]


def test_what_is_kept_to_grow_from_is_bounded_when_the_dag_is_accepted() -> None:
    text = two().replace("name: list, image: i,", "name: list, image: i, env: {A: '" + '"' * 100_000 + "'},")
    (problem,) = problems(text, DagLimits(max_payload_bytes=150_000))
    assert "is kept as JSON, which has 20" in problem
    small = read(two("".join(f"  - {{name: t{number}, image: i, command: [c]}}\n" for number in range(1_000))))
    assert small.growth is not None
    assert len(small.growth.spec) < 100_000


@pytest.mark.parametrize(
    "fields",
    [
        'depends_on: ["' + "-" * 400_000 + '${item}"]',
        "depends_on: [" + ", ".join(['"s-${item}"'] * 9_000) + "]",
    ],
)
def test_references_without_end_take_no_time_without_end(fields: str) -> None:
    more = "  - {name: s, forEach: [" + ", ".join(str(number) for number in range(5_000)) + "], image: i, command: [c]}"
    begun = time.process_time()
    with contextlib.suppress(DagInvalid):
        read(two(more, fields=fields))
    assert time.process_time() - begun < 20


def test_so_many_tasks_have_such_a_list() -> None:
    more = "".join(f"  - {{name: f{n}, forEach: {LIST}, image: i, command: [c]}}\n" for n in range(100))
    assert any("more than 100 tasks have a forEach over an output" in each for each in problems(two(more)))
    read(two(more.partition("  - {name: f99,")[0]))


def test_an_instance_of_a_plain_for_each_may_be_meant_too() -> None:
    text = two(
        """\
  - {name: base, forEach: [a, b], image: i, command: [c], outputs: [o]}
  - name: fit
    forEach: {fromTask: list, name: parts.json}
    image: i
    command: [c]
    inputs: [{fromTask: "base-${item}", name: o, as: x}]
"""
    )
    dag = read(text)
    assert edges(dag)["fit"] == {"list", "base-a", "base-b"}
    assert edges(grown(dag, "fit", ["b"]))["fit-b"] == {"list", "base-b"}
    assert refused(dag, "fit", ["z"]) == [
        "tasks[3].inputs[0].fromTask: no task is named 'base-z'; did you mean 'base-a'? (in 'fit-z')"
    ]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{fromTask: lost, name: parts.json}", "line 5, tasks[1].forEach.fromTask: no task is named 'lost'"),
        ("{fromTask: lsit, name: parts.json}", "no task is named 'lsit'; did you mean 'list'?"),
        (
            "{fromTask: list, name: part.json}",
            "line 5, tasks[1].forEach.name: the task 'list' has no output 'part.json'; did you mean 'parts.json'?",
        ),
        ("{fromTask: list}", "line 5, tasks[1].forEach.name: is required"),
        ("{fromTask: list, nam: x}", "tasks[1].forEach.nam: unknown field 'nam'; did you mean 'name'?"),
        (
            "{fromTask: work, name: o}",
            "tasks[1].forEach.fromTask: the task 'work' cannot make the list that it goes over",
        ),
        ("{fromTask: work-a, name: o}", "the tasks of 'work' are not known yet; a list comes from one task"),
    ],
)
def test_where_the_list_is_has_to_be_an_output_of_another_task(source: str, problem: str) -> None:
    assert any(problem in each for each in problems(two(source=source))), problems(two(source=source))


@pytest.mark.parametrize("source", ["fan", "later", "later-a"])
def test_a_list_comes_from_one_task_that_is_known_from_the_start(source: str) -> None:
    more = f"""\
  - {{name: fan, forEach: [a], image: i, command: [c], outputs: [o]}}
  - {{name: later, forEach: {LIST}, image: i, command: [c], outputs: [o]}}
"""
    found = problems(two(more, source=f"{{fromTask: {source}, name: o}}"))
    assert len(found) == 1
    assert "tasks[1].forEach" in found[0]
    assert "fan-a" not in problems(two(more, source="{fromTask: fan-a, name: p}"))[0].partition("forEach")[0]
    read(two(more, source="{fromTask: fan-a, name: o}"))


def test_a_cycle_through_what_is_not_made_yet_is_found() -> None:
    text = two().replace("outputs: [parts.json]}", "outputs: [parts.json], depends_on: [work]}")
    assert "cycle: list -> work -> list" in problems(text)[0]
    text = two().replace("outputs: [parts.json]}", "outputs: [parts.json], inputs: [{fromTask: work-x, name: o}]}")
    assert "cycle: list -> work -> list" in problems(text)[0]


def test_what_is_wrong_in_every_instance_is_said_at_once() -> None:
    found = problems(two(fields="env: {1=2: x}\n    timeoutSeconds: 0"))
    assert [each.partition(":")[0].split(", ")[1] for each in found] == [
        "tasks[1].env['1=2']",
        "tasks[1].timeoutSeconds",
    ]


@pytest.mark.parametrize("flag", ["true", "false"])
def test_a_condition_on_parameters_leaves_the_whole_out_before_it_begins(flag: str) -> None:
    text = two(
        "  - {name: end, image: i, command: [c], depends_on: [work]}\n"
        "  - {name: reader, image: i, command: [c], inputs: [{fromTask: work, name: o}]}",
        fields="when: ${params.full}",
    ).replace("tasks:", f"params: {{full: {flag}}}\ntasks:", 1)
    found = parse_dag(text.encode())
    if flag == "true":
        assert list(edges(found.dag)) == ["list", "work", "end", "reader"]
        return
    assert edges(found.dag) == {"list": set(), "end": {"list"}}
    assert found.dag.growth is None
    assert [str(each) for each in found.warnings] == [
        "line 10, tasks[1].when: 'work' is left out: '${params.full}' does not hold",
        "line 12, tasks[3].inputs: 'reader' is left out: an input comes from 'work', which is left out",
    ]


def test_without_the_task_that_makes_the_list_there_is_nothing_to_go_over() -> None:
    text = two("  - {name: end, image: i, command: [c]}").replace("name: list,", "name: list, when: false,")
    found = parse_dag(text.encode())
    assert list(edges(found.dag)) == ["end"]
    assert any("'work' is left out: an input comes from 'list'" in str(each) for each in found.warnings)


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        (["x", "x"], "item 1 makes the task 'work-x', as item 0 is"),
        ([{"key": "a b"}], "the key 'a b' of item 0 cannot end a task's name"),
        ([{"a b": "1"}], "the name of a field of its items"),
        (["free"], "item 0 makes the task 'work-free', which is the name of tasks[2] too"),
        (["y"], "no task is named 'work-x'"),
    ],
)
def test_items_that_make_no_valid_tasks_are_refused(items: Items, problem: str) -> None:
    more = """\
  - {name: work-free, image: i, command: [c]}
  - {name: end, image: i, command: [c], inputs: [{fromTask: work-x, name: o}]}
"""
    assert any(problem in each for each in refused(read(two(more)), "work", items))


def test_a_run_does_not_grow_beyond_the_limits() -> None:
    dag = read(two())
    found = refused(dag, "work", [str(number) for number in range(10_000)])
    assert "with what forEach makes there are more than 10,000 tasks" in found[0]
    assert len(grown(dag, "work", [str(number) for number in range(9_000)]).tasks) == 9_002
    assert "characters in all" in refused(read(two(fields='args: ["${item}"]')), "work", ["x" * 9_000_000])[0]


def test_it_is_submitted_again_as_it_was_written_with_the_values_it_had() -> None:
    dag = parse_dag(growing().encode(), params={"tag": "7"}).dag
    for each in (dag, grown(dag, "work", ["a", "b"])):
        again = parse_dag(written(msgspec.json.encode(each)), recorded=True).dag
        assert again == dag


def test_a_draft_may_have_any_list() -> None:
    text = (
        two().replace("name: parts.json", 'name: "${params.which}"').replace("tasks:", "params: {which: }\ntasks:", 1)
    )
    assert [
        str(each)
        for each in parse_dag(text.replace("outputs: [parts.json]", "outputs: [param]").encode(), draft=True).warnings
    ] == []


def test_on_exit_has_no_list() -> None:
    text = two() + f"onExit: {{name: bye, image: i, command: [c], forEach: {LIST}}}\n"
    assert problems(text) == ["line 10, onExit.forEach: cannot be used here: onExit is one task"]
