"""DAGs built in Python are judged by the same rules as files, at once, and written as files that mean the same."""

import datetime
import typing
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helios import Dag, DagInvalid, external, secret, task
from helios.dag import ItemsFrom, TaskInput, parse_dag
from helios.dag_format import DagSpec, InputSpec, ItemsSpec, MemoizeSpec, ResourcesSpec, TaskSpec
from sdk.building import DagFields, TaskFields


def refused(make: Any) -> list[str]:
    with pytest.raises(DagInvalid) as caught:
        make()
    return [str(each) for each in caught.value.problems]


def word_count() -> Dag:
    dag = Dag("word-count", priority="high")
    split = dag.task(
        "split",
        image="alpine:3.20",
        command=["sh", "-c", "split -n l/2 corpus.txt part-"],
        inputs=[external("s3://corpora/moby.txt", as_="corpus.txt", verify="always"), "s3://corpora/stop.txt"],
        outputs=["part-aa", "part-ab"],
    )
    dag.task(
        "count",
        image="alpine:3.20",
        command=["wc", "-w", "part-aa"],
        depends_on=[split],
        inputs=[split["part-aa"], split.output("part-ab", as_="other.txt", mode="copy")],
        env={"TOKEN": secret("api-login", "token"), "UNIT": "words", "TWICE": True},
        retries=2,
        memoize=MemoizeSpec(max_age="7d"),
        resources=ResourcesSpec(requests={"cpu": "500m"}),
        timeout_seconds=60,
    )
    return dag


def test_parameters_without_a_default_are_left_to_the_submission() -> None:
    dag = Dag("daily", params={"date": None, "bucket": "data"})
    dag.task("t", image="alpine:3.20", command=["echo", "${params.date}"], inputs=["s3://${params.bucket}/in.csv"])
    assert dag.check() == []
    text = dag.to_yaml().encode()
    assert parse_dag(text, params={"date": "2026-11-01"}).dag.tasks[0].command == ("echo", "2026-11-01")
    with pytest.raises(DagInvalid, match="date"):
        parse_dag(text)
    assert Dag.from_yaml(text).to_dict()["params"] == {"date": None, "bucket": "data"}
    assert Dag.from_yaml(text)["t"].document["command"] == ["echo", "${params.date}"]
    with pytest.raises(DagInvalid, match="dat"):
        dag.task("u", image="alpine:3.20", command=["echo", "${params.dat}"])


def test_a_task_is_made_for_each_item_and_left_out_by_a_condition() -> None:
    """What depends on parameters is left to the submission; a task that names instances of another is taken too."""
    dag = Dag("d", params={"list": None, "env": "dev"})
    load = dag.task("load", image="i", command=["x", "${item}"], for_each="${params.list}", outputs=["o-${item}"])
    pair: dict[str, Any] = {"fromTask": "load-${item.key}", "name": "o-${item.key}"}
    dag.task("pair", image="i", command=["x"], for_each=[{"key": "a"}, {"key": "b"}], inputs=[pair])
    dag.task("all", image="i", command=["x"], inputs=[load["o-${item}"]], depends_on=[dag["pair"]])
    dag.task("tell", image="i", command=["x"], depends_on=["all"], when="${params.env} == prod")
    assert dag.check() == []
    text = dag.to_yaml().encode()
    read = parse_dag(text, params={"list": '["a", "b"]'})
    assert [each.name for each in read.dag.tasks] == ["load-a", "load-b", "pair-a", "pair-b", "all"]
    assert len(read.warnings) == 1
    assert Dag.from_yaml(text).checked() == dag.checked()
    assert (
        "tasks['bad'].when: '=' at character"
        in refused(lambda: dag.task("bad", image="i", command=["x"], when="${params.env} = prod"))[0]
    )


def test_a_task_may_name_all_instances_of_another_and_one_of_them() -> None:
    dag = Dag("d")
    load = dag.task("load", image="i", command=["x"], for_each=["orders", "users"], outputs=["o"])
    one = {"fromTask": "load-orders", "name": "o", "as": "one"}
    dag.task("all", image="i", command=["x"], depends_on=["load", "load-orders"], inputs=[load["o"], one])
    assert dag.check() == []


def test_a_task_is_made_for_each_item_of_an_output() -> None:
    dag = Dag("d")
    split = dag.task("split", image="i", command=["x"], outputs=["parts.json"])
    work = dag.task("work", image="i", command=["x", "${item}"], for_each=split["parts.json"], outputs=["o"])
    dag.task("fit", image="i", command=["x"], for_each=ItemsSpec("split", "parts.json"), depends_on=["work-${item}"])
    one = {"fromTask": "work-a", "name": "o", "as": "one"}
    dag.task("all", image="i", command=["x"], depends_on=[work, "work-b"], inputs=[work["o"], one])
    assert dag.check() == []
    made = dag.checked()
    assert made.tasks[1].for_each == ItemsFrom("split", "parts.json")
    assert Dag.from_yaml(dag.to_yaml()).checked() == made
    (problem,) = refused(lambda: dag.task("bad", image="i", command=["x"], for_each={"fromTask": "split", "name": "p"}))
    assert problem.startswith("tasks['bad'].forEach.name: the task 'split' has no output 'p'")


def test_a_dag_built_in_python_is_the_one_that_its_file_says() -> None:
    dag = word_count()
    assert [each.path for each in dag.check()] == ["tasks['count'].image", "tasks['count'].memoize"]
    read = parse_dag(dag.to_yaml().encode()).dag
    assert read == dag.checked() == parse_dag(dag.to_json()).dag
    split, count = read.tasks
    assert count.inputs == (
        TaskInput("split", "part-aa", "part-aa"),
        TaskInput("split", "part-ab", "other.txt", "copy"),
    )
    assert (count.retries, count.timeout_seconds, count.requests) == (2, 60, {"cpu": "500m"})
    assert [each.as_ for each in split.inputs] == ["corpus.txt", "stop.txt"]
    assert Dag.from_yaml(dag.to_yaml()).checked() == read


def test_three_ways_to_build_make_the_same_dag() -> None:
    with Dag("d") as within:
        first = task("a", image="i", command=["x"], outputs=["o"])
        task("b", image="i", command=["x"], inputs=[first["o"]])
    by_hand = Dag("d")
    first = by_hand.task("a", image="i", command=["x"], outputs=["o"])
    by_hand.task("b", image="i", command=["x"], inputs=[first["o"]])
    first = task("a", image="i", command=["x"], outputs=["o"])
    listed = Dag("d", tasks=[first, task("b", image="i", command=["x"], inputs=[InputSpec("a", "o")])])
    assert within.checked() == by_hand.checked() == listed.checked()
    assert list(within.tasks) == ["a", "b"]


def test_every_problem_of_a_task_is_said_where_it_is_made() -> None:
    dag = Dag("d")
    dag.task("a", image="i", command=["x"], outputs=["out.txt"])
    more: dict[str, Any] = {"imag": "x"}
    said = refused(
        lambda: dag.task(
            "b",
            image="",
            command=typing.cast(Any, "wc"),
            retries=99,
            inputs=[{"fromTask": "a", "name": "out.tx"}],
            env={"A": typing.cast(Any, None)},
            **more,
        )
    )
    told = "\n".join(said)
    assert len(said) == 6, told
    assert "tasks['b'].imag: unknown field 'imag'; did you mean 'image'?" in said
    assert "tasks['b'].command: expected a list, got the text 'wc'; write ['wc']" in said
    assert "tasks['b'].retries.count: 99 is not within 0 to 20" in said
    assert "tasks['b'].inputs[0].name: the task 'a' has no output 'out.tx'; did you mean 'out.txt'?" in said
    assert list(dag.tasks) == ["a"], "what is refused is not taken in"


def test_what_only_the_whole_shows_is_said_of_the_whole() -> None:
    dag = Dag("d")
    dag.task("a", image="i", command=["x"], depends_on=["b", "nobody"])
    dag.task("b", image="i", command=["x"], depends_on=["a"])
    said = refused(dag.to_yaml)
    assert sorted(said) == ["tasks['a'].depends_on[1]: no task is named 'nobody'", "tasks['a']: cycle: a -> b -> a"]
    assert refused(lambda: dag.task("a", image="i", command=["x"])) == [
        "tasks['a'].name: 'a' is the name of another task too"
    ]
    assert refused(Dag("empty").to_yaml) == ["tasks: is empty; a DAG needs at least one task"]


def test_a_wrong_field_of_the_dag_is_said_when_it_is_made() -> None:
    assert "dagName" in refused(lambda: Dag("a b"))[0]
    assert "did you mean 'high'" in refused(lambda: Dag("d", priority=typing.cast(Any, "hihg")))[0]


def test_an_output_that_is_not_declared_cannot_be_read() -> None:
    made = task("a", image="i", command=["x"], outputs=["out.txt"])
    assert refused(lambda: made["out.tx"]) == [
        "tasks['a'].outputs: the task 'a' has no output 'out.tx'; did you mean 'out.txt'?"
    ]


def test_what_is_no_plain_data_is_refused_by_its_place() -> None:
    odd: Any = datetime.date(2026, 11, 29)
    assert refused(lambda: task("a", image="i", command=["x", odd])) == ["command[1]: expected plain data, got a date"]


@pytest.mark.parametrize(("fields", "format_"), [(TaskFields, TaskSpec), (DagFields, DagSpec)])
def test_type_checkers_know_every_field_of_the_format(fields: Any, format_: Any) -> None:
    """A field that the format gains works at once; that editors offer it too takes a line in sdk/building.py."""
    given = {"name", "image", "command", "dag_name", "tasks"}
    assert set(fields.__annotations__) == set(format_.__struct_fields__) - given


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    st.sampled_from(
        ["1e3", "0o17", "0x1F", "yes", "no", "~", "null", "1.10", ".inf", "- a", "a: b", "2026-11-29", "="]
    ),
    st.lists(st.sampled_from(["a", " b", "c ", "", "\t", "#", "é"]), max_size=5).map("\n".join),
)


@given(command=st.lists(TEXTS, min_size=1, max_size=4), value=TEXTS)
def test_whatever_the_texts_are_the_file_says_the_same(command: list[str], value: str) -> None:
    """In YAML 1.2, which Helios reads, and in YAML 1.1, which most other tools read."""
    dag = Dag("d")
    dag.task("a", image="i", command=["sh", *command], env={"A": value})
    text = dag.to_yaml()
    assert parse_dag(text.encode()).dag == dag.checked()
    assert yaml.safe_load(text) == dag.to_dict()


def test_a_large_dag_is_built_in_time_linear_in_its_tasks() -> None:
    """Each is checked when it is made; checked against all before it, this would take minutes."""
    dag = Dag("large")
    last = dag.task("t0", image="i", command=["x"], outputs=["o"])
    for at in range(1, 3_000):
        made = dag.task(f"t{at}", image="i", command=["x"], inputs=[last.output("o", as_="in")], outputs=["o"])
        last = made if at % 1000 else dag["t0"]
    assert len(dag.checked().tasks) == 3_000


def test_a_notebook_shows_a_dag_as_a_table_in_which_nothing_is_markup() -> None:
    dag = Dag("d")
    dag.task("a", image="<script>alert(1)</script>", command=["x"])
    shown = dag._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_dag_has_a_task_for_its_end() -> None:
    last = task("bye", image="alpine:3.20", command=["true"], retries=1)
    with Dag("ends", on_exit=last) as built:
        task("a", image="alpine:3.20", command=["true"])
    assert built.checked().on_exit == "bye"
    assert built.on_exit is not None and built.on_exit.name == "bye"
    assert list(built.tasks) == ["a"]
    assert Dag.from_yaml(built.to_yaml()).checked() == built.checked()
    with pytest.raises(DagInvalid, match="memoize"):
        Dag("ends", on_exit=task("bye", image="i", command=["true"], memoize=True))
