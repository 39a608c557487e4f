"""`forEach` and `when`: what they make of a DAG is the DAG that one would write by hand, or is refused in words."""

import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.dag import Dag, TaskInput, parents, parse_dag
from helios.dag_plain import parse_plain
from helios.dag_problem import DagInvalid, DagLimits
from helios.dag_written import written
from tests.cli.command import ROOT


def read(text: str, **params: str) -> Dag:
    return parse_dag(text.encode(), params=params).dag


def warnings(text: str, **params: str) -> list[str]:
    return [str(each) for each in parse_dag(text.encode(), params=params).warnings]


def problems(text: str | bytes, limits: DagLimits | None = None, **params: str) -> list[str]:
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text.encode() if isinstance(text, str) else text, limits or DagLimits(), params=params)
    return [str(problem) for problem in refused.value.problems]


def lines(dag: Dag) -> dict[str, tuple[str, ...]]:
    """The parents of each task."""
    return {task.name: parents(task) for task in dag.tasks}


FANNED = """\
dagName: d
params: {tag: 3.20, shards: '["x", 1.10, true]'}
tasks:
  - name: prep
    image: i
    command: [a]
    outputs: [o]
  - name: shard
    forEach: [{key: eu, size: 010, url: "s3://data/${params.tag}"}, {size: 2, url: "s3://data/two"}]
    image: "i:${params.tag}"
    command: [run, "${item.size}", "$${item.size}", "${HOME}${item}"]
    args: ["--of=${item.url}"]
    env: {SIZE: "${item.size}-${params.tag}", ITEM: "$${params.tag}"}
    inputs: [{uri: "${item.url}", as: "in-${item.size}"}, {fromTask: prep, name: o}]
    outputs: [n, "part-${item.size}.csv"]
  - name: collect
    image: i
    command: [sh, -c, 'for item in all/*; do cat ${item}; done']
    depends_on: [shard]
    inputs: [{fromTask: shard, name: n, as: all}, {fromTask: shard, name: "part-${item.size}.csv"}]
  - name: each
    forEach: ${params.shards}
    image: i
    command: ["${item}"]
"""
BY_HAND = """\
dagName: d
params: {tag: 3.20, shards: '["x", 1.10, true]'}
tasks:
  - {name: prep, image: i, command: [a], outputs: [o]}
  - name: shard-eu
    image: "i:3.20"
    command: [run, "010", "${item.size}", "${HOME}X"]
    args: ["--of=s3://data/3.20"]
    env: {SIZE: "010-3.20", ITEM: "$${params.tag}"}
    inputs: [{uri: "s3://data/3.20", as: in-010}, {fromTask: prep, name: o}]
    outputs: [n, part-010.csv]
  - name: shard-1
    image: "i:3.20"
    command: [run, "2", "${item.size}", "${HOME}X"]
    args: ["--of=s3://data/two"]
    env: {SIZE: "2-3.20", ITEM: "$${params.tag}"}
    inputs: [{uri: "s3://data/two", as: in-2}, {fromTask: prep, name: o}]
    outputs: [n, part-2.csv]
  - name: collect
    image: i
    command: [sh, -c, 'for item in all/*; do cat ${item}; done']
    depends_on: [shard-eu, shard-1]
    inputs:
      - {fromTask: shard-eu, name: n, as: all/eu}
      - {fromTask: shard-1, name: n, as: all/1}
      - {fromTask: shard-eu, name: part-010.csv}
      - {fromTask: shard-1, name: part-2.csv}
  - {name: each-x, image: i, command: ["x"]}
  - {name: each-1.10, image: i, command: ["1.10"]}
  - {name: each-true, image: i, command: ["true"]}
"""


def test_what_for_each_makes_is_the_dag_that_one_would_write_by_hand() -> None:
    """Values arrive as they are written; `$$` keeps the text; `${item}` of a task without forEach is the shell's."""
    fanned = FANNED.replace("${HOME}${item}", "${HOME}X")
    assert read(fanned) == read(BY_HAND)
    stored = msgspec.json.encode(read(fanned))
    assert parse_dag(written(stored)).dag == read(fanned) == parse_dag(written(stored), recorded=True).dag
    (wrong,) = {each.partition(": ")[2] for each in problems(FANNED)}
    assert wrong == "the item 'eu' is a mapping; write ${item.FIELD}, of its fields 'key', 'size', 'url'"


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
ITEMS = st.one_of(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,9}", fullmatch=True), st.integers(0, 99), PLAIN)


def suffix(item: Any, at: int) -> str:
    text = str(item)
    fit = text and text[0] != "." and all(each.isascii() and (each.isalnum() or each in "._-") for each in text)
    return text if fit else str(at)


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(ITEMS, min_size=1, max_size=4),
    values=st.lists(PLAIN, min_size=2, max_size=2),
    keep=st.sets(st.integers(0, 3)),
    paired=st.booleans(),
)
def test_whatever_the_items_are_it_is_the_dag_by_hand(
    items: list[Any], values: list[str], keep: set[int], paired: bool
) -> None:
    """An item's or a parameter's value is never looked through, and is no part of a condition."""
    names = [f"fan-{suffix(item, at)}" for at, item in enumerate(items)]
    kept = [at for at in range(len(items)) if at in keep]
    params = {"one": values[0], "two": "$" + values[1], "brace": "{item}", "expression": "' or true == true"}
    condition = " or ".join(f"${{item.at}} == {at}" for at in keep) or "${params.expression} == ''"
    mappings = [{"key": suffix(item, at), "v": item, "at": at} for at, item in enumerate(items)]
    text = "${params.one}|${item.v}|${params.two}${params.brace}"
    tasks: list[dict[str, Any]] = [
        {"name": "first", "image": "i", "command": ["c"]},
        {
            "name": "fan",
            "image": "i",
            "command": ["c", text],
            "outputs": ["o"],
            "depends_on": ["first"],
            "forEach": mappings,
            "when": condition,
        },
        {"name": "after", "image": "i", "command": ["c"], "depends_on": ["fan"]},
        {
            "name": "all",
            "image": "i",
            "command": ["c"],
            "inputs": [{"fromTask": "fan", "name": "o", "as": "${item.key}"}],
        },
    ]
    by_hand: list[dict[str, Any]] = [tasks[0]]
    for at in kept:
        said = f"{values[0]}|{items[at]}|{params['two']}{{item}}".replace("${params.", "$${params.")
        by_hand.append(
            {"name": names[at], "image": "i", "command": ["c", said], "outputs": ["o"], "depends_on": ["first"]}
        )
    waits = [names[at] for at in kept] + (["first"] if len(kept) < len(items) else [])
    by_hand.append({"name": "after", "image": "i", "command": ["c"], "depends_on": waits})
    if kept:
        inputs = [{"fromTask": names[at], "name": "o", "as": suffix(items[at], at)} for at in kept]
        more = waits[len(kept) :]
        by_hand.append({"name": "all", "image": "i", "command": ["c"], "depends_on": more, "inputs": inputs})
    if paired:
        tasks.append(
            {
                "name": "pair",
                "image": "i",
                "command": ["c"],
                "forEach": mappings,
                "inputs": [{"fromTask": "fan-${item.key}", "name": "o"}],
            }
        )
        for at in kept:
            source = {"fromTask": names[at], "name": "o"}
            name = f"pair-{suffix(items[at], at)}"
            by_hand.append({"name": name, "image": "i", "command": ["c"], "inputs": [source]})
    document = msgspec.json.encode({"dagName": "d", "params": params, "tasks": tasks})
    if len(set(names)) < len(names):
        assert any("makes the task" in each for each in problems(document))
        return
    parsed = parse_dag(document)
    expected = parse_dag(msgspec.json.encode({"dagName": "d", "params": params, "tasks": by_hand})).dag
    assert parsed.dag == expected
    told = " ".join(str(each) for each in parsed.warnings)
    assert all((f"'{names[at]}'" in told) == (at not in keep) for at in range(len(items)))


def test_every_problem_of_a_fan_is_told_once_with_its_line() -> None:
    text = """\
dagName: d
params: {list: "a,b", bad: '[null]', url: x}
tasks:
  - {name: "a-${item}", image: i, command: [x], forEach: [1]}
  - name: b
    image: i
    forEach: [u, "u", "s t", 2]
    command: ["${item.x}", "${item.", "${params.lis}"]
    resources: {requests: {cpuu: 1}}
    depends_on: [bb]
  - {name: b-u, image: i, command: [x]}
  - {name: c, image: i, command: [x], forEach: "${params.list}"}
  - {name: e, image: i, command: [x], forEach: "${params.bad}"}
  - {name: f, image: i, command: [x], forEach: "a, b"}
  - {name: g, image: i, command: [x], forEach: "${params.lst}"}
  - {name: h, image: i, command: [x], forEach: [{key: a/b}, [1], {"a b": 1}]}
  - name: k
    image: i
    forEach: [a, b/c, d//e]
    command: [x]
    outputs: ["out/${item}"]
    inputs: [{uri: "s3://data/o", as: one}, {uri: "s3://data/o", as: one}]
  - {name: m, image: i, command: [x], inputs: [{fromTask: k, name: nothing}], depends_on: [k-z]}
"""
    told = problems(text)
    assert told == [
        "line 4, tasks[0].name: needs no ${…}: with forEach each task's name is this one, '-' and its item",
        "line 7, tasks[1].forEach[0]: item 0 makes the task 'b-u', which is the name of tasks[2] too; a mapping's "
        "field 'key' gives it another name",
        "line 7, tasks[1].forEach[1]: item 1 makes the task 'b-u', which is the name of tasks[2] too; a mapping's "
        "field 'key' gives it another name",
        "line 7, tasks[1].forEach[3]: item 3 makes the task 'b-2', as item 2 is; a mapping's field 'key' gives it "
        "another name",
        "line 8, tasks[1].command[0]: the item 'u' is no mapping, so it has no 'x'; write ${item}",
        "line 8, tasks[1].command[1]: ${item. begins the name of a field, ${item.FIELD}; $${item. stands for the text",
        "line 8, tasks[1].command[2]: no parameter is named 'lis'; did you mean 'list'? ($${params. stands for the "
        "text)",
        "line 9, tasks[1].resources.requests.cpuu: unknown resource 'cpuu'; did you mean 'cpu'?",
        "line 10, tasks[1].depends_on[0]: no task is named 'bb'",
        "line 12, tasks[3].forEach: the value 'a,b' of the parameter 'list' is not a JSON list: Expecting value: line "
        """1 column 1 (char 0); give one, such as -p 'list=["a", "b"]'""",
        "line 13, tasks[4].forEach: the value '[null]' of the parameter 'bad' is a list, but its item 0 is neither "
        """text nor a number nor a boolean; give one, such as -p 'bad=["a", "b"]'""",
        "line 14, tasks[5].forEach: 'a, b' is no list; write one, or ${params.NAME} of a parameter that holds one",
        "line 15, tasks[6].forEach: no parameter is named 'lst'; did you mean 'list'? ($${params. stands for the text)",
        "line 16, tasks[7].forEach[1]: expected text or a number or true or false or a mapping, got a list",
        "line 21, tasks[8].outputs[0]: 'out/d//e' has an empty part: '//' or a '/' at its end (in 'k-2')",
        "line 22, tasks[8].inputs[1]: is placed at 'one', as inputs[0] is; use 'as'",
        "line 23, tasks[9].depends_on[0]: no task is named 'k-z'; did you mean 'k-1'?",
        "line 23, tasks[9].inputs[0].name: the task 'k-a' has no output 'nothing'",
    ]
    later = """\
dagName: d
tasks:
  - {name: h, image: i, command: [x], forEach: [{key: a/b}, {"a b": 1}, {key: .x}]}
  - {name: k, image: i, command: [x], forEach: [{key: a, g: 1}, {key: b}], outputs: [o], depends_on: ["x-${item.g}"]}
  - {name: k, image: i, command: [x]}
  - name: l
    image: i
    command: [x]
    inputs: [{fromTask: k, name: o, as: "${item.key}"}, {fromTask: k, name: o, as: a}]
  - {name: n, image: i, command: [x], forEach: [1, 2], outputs: [o], depends_on: [n]}
  - {name: o, image: i, command: [x], inputs: [{fromTask: n, name: o, as: "$${item}${item}"}], depends_on: [n-3]}
"""
    assert problems(later) == [
        "line 3, tasks[0].forEach: the name of a field of its items: a space at position 2 of 'a b' is not allowed; "
        "use ASCII letters, digits, '.', '_' and '-'",
        "line 3, tasks[0].forEach[0]: the key 'a/b' of item 0 cannot end a task's name: use up to 63 ASCII letters, "
        "digits, '.', '_' and '-', and no '.' at its beginning",
        "line 3, tasks[0].forEach[2]: the key '.x' of item 2 cannot end a task's name: use up to 63 ASCII letters, "
        "digits, '.', '_' and '-', and no '.' at its beginning",
        "line 4, tasks[1].depends_on[0]: the item 'b' has no field 'g'; it has 'key'",
        "line 5, tasks[2].name: 'k' is the name of tasks[1] too",
        "line 9, tasks[3].inputs[0]: is placed at 'a', which inputs[1] needs as a folder; use 'as'",
        "line 10, tasks[4].depends_on[0]: the task 'n-1' waits for itself (in 'n-1')",
        "line 10, tasks[4]: cycle: n-1 -> n-2 -> n-1",
        "line 11, tasks[5].depends_on[0]: no task is named 'n-3'; did you mean 'n-1'?",
    ]


def fan(items: int, **fields: Any) -> dict[str, Any]:
    return {"image": "i", "command": ["x"], "forEach": list(range(items)), **fields}


def document(*tasks: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode({"dagName": "d", "tasks": list(tasks), **fields})


def test_what_for_each_would_make_is_bounded_before_it_is_made() -> None:
    listed = {"params": {"list": msgspec.json.encode(list(range(10_000))).decode()}}
    many = [{**fan(0, name=f"t{at}"), "forEach": "${params.list}"} for at in range(1_000)]
    wide = fan(5_000, name="a", outputs=["o"])
    reads = {"inputs": [{"fromTask": "a", "name": "o"}]}
    long = [{"v": "z" * 900}] * 1_000
    cases = [
        ("more than 10,000 tasks", document(fan(10_000, name="a"), fan(10_000, name="b", depends_on=["a"]))),
        ("more than 10,000 tasks", document(*many, **listed)),
        (
            "have 24,995,000 entries in all, or more; the limit is 200,000",
            document(wide, fan(4_999, name="b", **reads)),
        ),
        ("more than 8,388,608 characters in all", document(fan(9_000, name="a", args=["y" * 100_000]))),
        (
            "more than 8,388,608 characters in all",
            document(fan(9_000, name="a", args=["${params.long}" * 50]), params={"long": "z" * 60_000}),
        ),
        ("more than 8,388,608 characters in all", document({**wide, "args": ["${item.v}" * 200], "forEach": long})),
    ]
    for said, text in cases:
        tracemalloc.start()
        began = time.process_time()
        told = problems(text)
        spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert said in told[-1] and told[-1].startswith("line "), told
        assert peak < 150 * 1024**2 and spent < 20, (said, peak, spent)


def test_instances_and_what_collects_them_are_checked_like_any_task() -> None:
    """Two of its files in one place, or more inputs than one task has, are said of the input as it is written."""
    text = """\
dagName: d
tasks:
  - {name: f, image: i, command: [x], forEach: [{key: a, g: one}, {key: b, g: one}], outputs: [o]}
  - name: c
    image: i
    command: [x]
    outputs: [all/a/o]
    inputs: [{uri: "s3://data/all"}, {fromTask: f, name: o, as: all}, {fromTask: f, name: o, as: "${item.g}"}]
"""
    assert problems(text) == [
        "line 7, tasks[1].outputs[0]: 'all/a/o' lies in 'all', where inputs[0] is placed",
        "line 8, tasks[1].inputs[2]: several of its files are placed at 'one'; give each a place of its own with "
        "${item} in 'as', or leave 'as' without any",
        "line 8, tasks[1].inputs[0]: is placed at 'all', which inputs[1] needs as a folder; use 'as'",
    ]
    few = DagLimits(max_inputs_per_task=3)
    assert (
        "inputs: 4 inputs; the limit for one task is 3"
        in problems(
            document(
                fan(4, name="f", outputs=["o"]),
                {"name": "c", "image": "i", "command": ["x"], "inputs": [{"fromTask": "f", "name": "o"}]},
            ),
            few,
        )[0]
    )
    long = DagLimits(max_task_name_chars=5)
    assert "line 1, tasks[0].forEach[0]: the name 'abcd-x' has 6 characters; the limit is 5" in problems(
        document({**fan(0, name="abcd"), "forEach": ["x"]}), long
    )


CHAIN = """\
dagName: d
params: {env: dev, list: '[]', full: false}
tasks:
  - {name: a, image: i, command: [x], outputs: [o]}
  - {name: b, image: i, command: [x], depends_on: [a], when: "${params.env} == prod", outputs: [o]}
  - {name: c, image: i, command: [x], depends_on: [b], when: "${params.full}"}
  - {name: d, image: i, command: [x], depends_on: [c, a]}
  - {name: e, image: i, command: [x], inputs: [{fromTask: b, name: o}]}
  - {name: f, image: i, command: [x], depends_on: [e]}
  - {name: g, image: "i:${item}", command: [x], depends_on: [c], forEach: "${params.list}", outputs: ["o-${item}"]}
  - {name: h, image: i, command: [x], depends_on: [g]}
  - {name: k, image: i, command: [x], inputs: [{fromTask: g, name: "o-${item}", as: in}]}
  - {name: l, image: i, command: [x], forEach: "${params.list}", inputs: [{fromTask: "g-${item}", name: "o-${item}"}]}
"""


def test_what_waits_for_a_task_that_is_left_out_waits_for_its_parents_and_what_reads_it_is_left_out() -> None:
    assert lines(read(CHAIN)) == {"a": (), "d": ("a",), "f": ("a",), "h": ("a",)}
    assert warnings(CHAIN) == [
        "line 5, tasks[1].when: 'b' is left out: '${params.env} == prod' does not hold",
        "line 6, tasks[2].when: 'c' is left out: '${params.full}' does not hold",
        "line 8, tasks[4].inputs: 'e' is left out: an input comes from 'b', which is left out",
        "line 10, tasks[6].forEach: 'g' is left out: the list of its forEach is empty",
        "line 12, tasks[8].inputs: 'k' is left out: an input comes from 'g', which is left out",
        "line 13, tasks[9].forEach: 'l' is left out: the list of its forEach is empty",
    ]
    all_of_it = {"env": "prod", "full": "true", "list": '["1", "2"]'}
    assert warnings(CHAIN, **all_of_it) == []
    assert lines(read(CHAIN, **all_of_it)) == {
        "a": (),
        "b": ("a",),
        "c": ("b",),
        "d": ("c", "a"),
        "e": ("b",),
        "f": ("e",),
        "g-1": ("c",),
        "g-2": ("c",),
        "h": ("g-1", "g-2"),
        "k": ("g-1", "g-2"),
        "l-1": ("g-1",),
        "l-2": ("g-2",),
    }
    assert [(i.name, i.as_) for i in read(CHAIN, **all_of_it).tasks[9].inputs if isinstance(i, TaskInput)] == [
        ("o-1", "in/1"),
        ("o-2", "in/2"),
    ]


def test_a_dag_of_which_nothing_is_left_is_invalid_and_says_why() -> None:
    text = """\
dagName: d
params: {env: dev}
tasks:
  - {name: a, image: i, command: [x], when: "${params.env} == prod", outputs: [o]}
  - {name: b, image: i, command: [x], inputs: [{fromTask: a, name: o}]}
"""
    assert problems(text) == [
        "line 3, tasks: nothing is left to run: every task is left out, for the reasons given; give other parameters, "
        "or change when or forEach",
        "line 4, tasks[0].when: 'a' is left out: '${params.env} == prod' does not hold",
        "line 5, tasks[1].inputs: 'b' is left out: an input comes from 'a', which is left out",
    ]
    assert len(read(text, env="prod").tasks) == 2


def test_many_instances_that_are_left_out_are_one_warning() -> None:
    (told,) = parse_dag(document(fan(1_000, name="f", when="${item} in [0, 1]"))).warnings
    assert told.message.startswith("'f-2', 'f-3', ")
    assert told.message.endswith("'f-11' and 988 more are left out: '${item} in [0, 1]' does not hold")


def test_a_value_that_no_field_takes_is_no_problem_of_a_task_that_is_left_out_for_it() -> None:
    """An optional parameter: what depends on nothing but the text is checked all the same."""
    text = """\
dagName: d
params: {model: ""}
tasks:
  - {name: a, image: i, command: [x]}
  - name: b
    image: i
    command: [x]
    when: ${params.model} != ''
    inputs: [{uri: "s3://${params.model}/m", as: m}]
    timeoutSeconds: 5
"""
    assert [task.name for task in read(text).tasks] == ["a"]
    assert "is not a bucket name" in problems(text, model="No")[0]
    assert "timeoutSeconds" in problems(text.replace("timeoutSeconds: 5", "timeoutSeconds: 0"))[0]
    assert "no task is named 'z'" in problems(text.replace("timeoutSeconds: 5", "depends_on: [z]"))[0]


def test_what_leaving_tasks_out_adds_is_bounded() -> None:
    """Two thousand tasks that wait for one that is left out, which waits for a thousand."""
    waits = [{"name": f"w{at}", "image": "i", "command": ["x"], "depends_on": ["mid"]} for at in range(2_000)]
    mid = {"name": "mid", "image": "i", "command": ["x"], "depends_on": ["f"], "when": "a == b"}
    told = problems(document(fan(1_000, name="f"), mid, *waits))
    assert "wait for its own parents instead, which makes more than 200,000 entries" in told[0]
    chain = [
        {"name": f"c{at}", "image": "i", "command": ["x"], "depends_on": [f"c{at - 1}" if at else "f"], "when": False}
        for at in range(1_000)
    ]
    last = {"name": "last", "image": "i", "command": ["x"], "depends_on": ["c999"]}
    assert len(parents(parse_dag(document(fan(1_000, name="f"), *chain, last)).dag.tasks[-1])) == 1_000


@pytest.mark.parametrize(
    ("condition", "result"),
    [
        ("${params.env} == prod", True),
        ("${params.env}==prod", True),
        ("${params.env} != 'prod'", False),
        ('"${params.env}" == "prod"', True),
        ("v-${params.env} == 'v-prod'", True),
        ("${params.env} in [dev, prod]", True),
        ("${params.env} not in [dev, prod]", False),
        ("${params.env} in []", False),
        ("not ${params.yes}", False),
        ("${params.yes} and ${params.env} == dev", False),
        ("${params.env} == dev or ${params.yes}", True),
        ("${params.env} == dev or ${params.yes} and not (${params.env} == prod)", False),
        ("(${params.env} == dev or ${params.yes}) and not (${params.env} == dev)", True),
        ("${params.number} == 3.2", False),
        ("${params.number} == 3.20", True),
        ("${params.evil} == ''", False),
        ("$${params.env} == '$${params.env}'", True),
        ("true", True),
    ],
)
def test_a_condition_compares_texts(condition: str, result: bool) -> None:
    params = {"env": "prod", "yes": True, "number": "3.20", "evil": "' == '' or true or '"}
    kept = {"name": "kept", "image": "i", "command": ["x"]}
    asked = {"name": "asked", "image": "i", "command": ["x"], "when": condition}
    assert (len(parse_dag(document(kept, asked, params=params)).dag.tasks) == 2) is result


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "is empty; write a condition such as ${params.env} == prod"),
        ("${params.env} = prod", "'=' at character 15 is not understood; write =="),
        ("${params.env} == prod && a == b", "'&' at character 23 is not understood; write and"),
        ("a || b", "write or"),
        ("1 < 2", "values are text: there are ==, != and in"),
        ("'a == b", "the quote does not end"),
        ("$(date) == x", "it begins ${params.NAME}, ${item} or ${item.FIELD}"),
        (
            "${params.env} == big data",
            "expected and, or, or the end, got 'data' at character 22; put other text in quotes",
        ),
        ("a ==", "expected a text after ==, got the end"),
        ("a in b", "expected a list such as [a, b] after in"),
        ("a in [b c]", "expected ',' or ']', got 'c'"),
        ("(a == b", "expected and, or, or ')', got the end"),
        ("a not b", "expected in after not"),
        ("and", "expected a text, got 'and'"),
        ("${params.nev} == prod", "no parameter is named 'nev'; did you mean 'env'?"),
        (
            "${params.env}",
            "'${params.env}' is 'prod', neither true nor false; compare it, as in '${params.env} == yes'",
        ),
        ("${item} == a", "${item} has a meaning only with forEach"),
        ("(" * 100 + "a" + ")" * 100, "has more than 16 parentheses and nots in one another"),
        ("not " * 100 + "a", "has more than 16"),
        ("a" * 2_000, "has 2,000 characters; the limit is 1,000"),
    ],
)
def test_a_condition_that_is_not_understood_is_refused_with_the_next_step(condition: str, said: str) -> None:
    task = {"name": "a", "image": "i", "command": ["x"], "when": condition}
    (told,) = problems(document(task, params={"env": "prod"}))
    assert told.startswith("line 1, tasks[0].when: ")
    assert said in told


WORDS = ["${params.a}", "${item}", "${item.x}", "==", "!=", "in", "not", "and", "or", "(", ")", "[", "]", ",", "'", '"']
WORDS += ["${params.", "$${item}", "true", "x", " ", "é", "\0", "${params.a", "{", "$"]


@settings(max_examples=150, deadline=None)
@given(
    condition=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    items=st.one_of(
        st.lists(
            st.one_of(
                st.text(max_size=3),
                st.booleans(),
                st.integers(),
                st.dictionaries(st.sampled_from("xk"), st.text(max_size=3)),
            ),
            max_size=3,
        ),
        st.sampled_from(["${params.a}", "${params.b}", "x", ""]),
    ),
    value=st.one_of(
        st.text(max_size=10), st.sampled_from(["[]", '["x"]', '[{"x": 1}]', "[" * 50, '["\\ud800"]', "[[]]"])
    ),
    text=st.lists(st.sampled_from(WORDS), max_size=3).map("".join),
    draft=st.booleans(),
)
def test_whatever_is_written_is_read_or_refused_and_nothing_else(
    condition: str, items: Any, value: str, text: str, draft: bool
) -> None:
    task = {"name": "a", "image": "i", "command": ["x", text], "outputs": ["o", f"p{text}"], "forEach": items}
    tasks: list[dict[str, Any]] = [
        task | {"when": condition},
        {"name": "b", "image": "i", "command": [text], "when": condition, "depends_on": ["a", text]},
        {"name": "c", "image": "i", "command": ["x"], "inputs": [{"fromTask": "a", "name": "o", "as": f"in{text}"}]},
        {
            "name": "e",
            "image": "i",
            "command": ["x"],
            "forEach": items,
            "inputs": [{"fromTask": f"a-{text}", "name": "o"}],
        },
    ]
    for part in (tasks, tasks[:1], tasks[::2]):
        try:
            parsed = parse_dag(document(*part, params={"a": "", "b": None}), params={"a": value}, draft=draft)
        except DagInvalid as refused:
            assert all(problem.message and problem.line for problem in refused.problems)
            continue
        msgspec.json.encode(parsed)
        assert len(parsed.dag.graph().order) == len(parsed.dag.tasks)
        if not draft:
            assert parse_dag(written(msgspec.json.encode(parsed.dag)), recorded=True).dag.tasks == parsed.dag.tasks


def test_of_a_draft_nothing_is_left_out_and_a_list_that_is_not_given_is_taken_as_any() -> None:
    """What an SDK checks: another submission gives other parameters."""
    tasks = [
        {"name": "a", "image": "i", "command": ["x"], "forEach": "${params.list}", "outputs": ["${item.name}"]},
        {"name": "b", "image": "i", "command": ["x"], "when": "${params.env} == prod", "depends_on": ["a", "a-eu"]},
        {"name": "c", "image": "i", "command": ["x"], "inputs": [{"fromTask": "a", "name": "${item.name}"}]},
        {
            "name": "d",
            "image": "i",
            "command": ["x"],
            "forEach": ["eu", "us"],
            "inputs": [{"fromTask": "a-${item}", "name": "x"}],
            "when": "${item} != eu and ${params.must}",
        },
    ]
    data = {"dagName": "d", "params": {"list": None, "env": "dev", "must": None}, "tasks": tasks}
    parsed = parse_plain(data)
    assert [task.name for task in parsed.dag.tasks] == ["a-param", "b", "c", "d-eu", "d-us"]
    assert parsed.warnings == []


def test_the_example_collects_its_instances() -> None:
    text = (ROOT / "examples/regions.yaml").read_text(encoding="utf-8")
    assert lines(read(text)) == {
        "count-eu": (),
        "count-us": (),
        "total": ("count-eu", "count-us"),
        "announce": ("total",),
    }
    assert lines(read(text, env="dev", regions='["x"]')) == {"count-x": (), "total": ("count-x",)}


LEFT_OUT = """\
dagName: d
params: {b: x}
tasks:
  - {name: other, image: a, command: [a]}
"""


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            '{when: "${params.b} == y", inputs: [{fromTask: nope, name: a}, {uri: "s3://bucket/${params.b}"}]}',
            "no task is named 'nope'",
        ),
        (
            '{forEach: [1], when: "${item} == 3", inputs: [{fromTask: "load-${item}", name: q, as: z}]}',
            "no task is named 'load-1'",
        ),
        (
            '{when: "${params.b} == y", outputs: [q], inputs: [{fromTask: t, name: q}, {uri: "s3://b/${params.b}"}]}',
            "waits for itself",
        ),
    ],
)
def test_a_task_that_is_left_out_is_refused_for_an_edge_to_nowhere(task: str, problem: str) -> None:
    """Its values may be why it is left out; what it waits for is not."""
    with pytest.raises(DagInvalid, match=problem):
        parse_dag(f"{LEFT_OUT}  - {{name: t, image: a, command: [a], {task[1:]}\n".encode())
