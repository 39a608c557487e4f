"""Parameters of a DAG: where they are put in, what is refused and how that is said, and what a stored DAG becomes."""

from typing import Any

import msgspec
import pytest

from helios.dag import EnvValue, ExternalInput, ParsedDag, parse_dag
from helios.dag_params import ParamsUnreadable, read_params, recorded_params
from helios.dag_problem import DagInvalid, DagLimits
from helios.dag_written import written

EVERYWHERE = b"""
dagName: daily
params: {date: 2026-01-01, tag: 3.20, bucket: , verbose: true, level: 0x1F}
tasks:
  - name: make
    image: alpine:${params.tag}
    command: [sh, -c, "make ${params.date}${params.tag} > out-${params.date}"]
    args: ["${params.verbose}", "$${params.date}", "$$${params.date}", "${HOME}"]
    env: {DAY: "${params.date}", LEVEL: "${params.level}", COUNT: 1}
    inputs: [{uri: "s3://${params.bucket}/${params.date}.csv", as: "in-${params.date}"}]
    outputs: ["out-${params.date}"]
  - name: use
    image: alpine:3.20
    command: [cat]
    env: [{name: DAY, value: "${params.date}"}]
    inputs: [{fromTask: make, name: "out-${params.date}"}]
"""


def bound(text: bytes = EVERYWHERE, **params: str) -> ParsedDag:
    return parse_dag(text, params=params)


def document(command: list[str], **fields: Any) -> bytes:
    tasks = [{"name": "a", "image": "i", "command": command}]
    return msgspec.json.encode({"dagName": "d", "tasks": tasks, **fields})


def problems(text: bytes, limits: DagLimits | None = None, **params: str) -> list[str]:
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text, limits or DagLimits(), params=params)
    return [str(problem) for problem in refused.value.problems]


def test_a_parameter_is_put_in_wherever_a_task_says_what_it_does() -> None:
    """Defaults arrive as they are written, what is given goes before them, `$$` keeps the text."""
    make, use = bound(bucket="data").dag.tasks
    assert make.image == "alpine:3.20"
    assert make.command[2] == "make 2026-01-013.20 > out-2026-01-01"
    assert make.args == ("true", "${params.date}", "$${params.date}", "${HOME}")
    assert make.env == (EnvValue("DAY", "2026-01-01"), EnvValue("LEVEL", "0x1F"), EnvValue("COUNT", "1"))
    assert make.inputs == (ExternalInput("s3://data/2026-01-01.csv", "in-2026-01-01"),)
    assert make.outputs == ("out-2026-01-01",)
    assert use.env == (EnvValue("DAY", "2026-01-01"),)
    assert use.inputs[0].as_ == "out-2026-01-01"
    given = bound(bucket="data", date="2026-11-01").dag
    assert given.tasks[0].outputs == ("out-2026-11-01",)
    assert given.params == {"date": "2026-11-01", "tag": "3.20", "bucket": "data", "verbose": "true", "level": "0x1F"}


def test_a_value_is_text_and_not_looked_through_for_parameters() -> None:
    (task,) = parse_dag(document(["${params.a}"], params={"a": "${params.b}", "b": "x"})).dag.tasks
    assert task.command == ("${params.b}",)


def test_every_problem_with_parameters_is_told_with_its_next_step() -> None:
    """Together with those of the rest of the DAG; where a value is missing, the rules are silent about its text."""
    text = b"""\
dagName: daily
params:
  date:
  tag: [1]
  bad name: 1
tasks:
  - name: a
    image: "i:${params.tag}"
    command: ["${params.dat}", "${params.date}", "${params.a b}", "${params.other}"]
    inputs: [{uri: "s3://${params.date}/k", as: k}]
    retries: {count: 99}
"""
    told = problems(text, dtae="x")
    assert told[:2] == [
        "line 2, params: the DAG has no parameter 'dtae'; did you mean 'date'?",
        "line 3, params.date: has no default and no value was given; give one, such as `helios run -p date=VALUE`",
    ]
    assert told[2].startswith("line 4, params.tag: expected text or")
    assert told[3].startswith("line 5, params['bad name']: the parameter's name ")
    assert [each.partition("(")[0] for each in told[4:]] == [
        "line 9, tasks[0].command[0]: no parameter is named 'dat'; did you mean 'date'? ",
        "line 9, tasks[0].command[2]: ${params. begins the name of a parameter, ${params.NAME}; $${params. stands for "
        "the text",
        "line 9, tasks[0].command[3]: no parameter is named 'other'; declare it under params ",
        "line 11, tasks[0].retries.count: 99 is not within 0 to 20",
    ]


def test_what_a_parameter_makes_of_a_field_is_checked_like_the_field() -> None:
    told = problems(EVERYWHERE, bucket="No Bucket", date="a//b", tag="nul\0")
    assert {each.split(": ")[0].partition(", ")[2] for each in told} >= {
        "tasks[0].image",
        "tasks[0].inputs[0].uri",
        "tasks[0].outputs[0]",
    }


def test_a_dag_without_parameters_takes_none() -> None:
    assert problems(document(["x"]), a="1") == [
        "line 1, params: the DAG has no parameter 'a'; it declares none under params"
    ]
    assert problems(document(["${params.a}"])) == [
        "line 1, tasks[0].command[0]: no parameter is named 'a'; declare it under params "
        "($${params. stands for the text)"
    ]


def test_what_parameters_add_is_bounded() -> None:
    few = DagLimits(max_params=2, max_params_bytes=100, max_params_added_chars=1_000)
    assert "3 parameters; the limit is 2" in problems(document(["x"], params={"a": 1, "b": 1, "c": 1}), few)[-1]
    assert "101 bytes; the limit is 100" in problems(document(["x"], params={"a": "x" * 100}), few)[-1]
    references = document(["${params.a}" * 100], params={"a": "x" * 50})
    assert "stand for more than 1,000 characters" in problems(references, few)[-1]
    # At the real limits a text that would stand for gigabytes costs no more than what is allowed.
    large = document(["${params.a}" * 400_000], params={"a": "x" * 60_000})
    assert "stand for more than 4,194,304 characters" in problems(large)[-1]


def test_a_value_that_is_no_unicode_is_refused() -> None:
    assert "the value is not UTF-8" in problems(document(["${params.a}"], params={"a": ""}), a="\udcff")[0]


def test_a_stored_dag_is_written_with_its_values_and_reads_as_the_same() -> None:
    """Text that only looks like a parameter stays text, whatever dollars stand before it."""
    dag = bound(bucket="data", date="$${params.x}").dag
    assert parse_dag(written(msgspec.json.encode(dag))).dag == dag
    plain = parse_dag(document(["$${params.a}", "$$$${params.b", "$${params."])).dag
    assert plain.tasks[0].command == ("${params.a}", "$$${params.b", "${params.")
    assert parse_dag(written(msgspec.json.encode(plain))).dag == plain


def test_the_record_of_a_version_without_parameters_is_read_as_it_was_meant() -> None:
    """A run that was recorded before an upgrade is rebuilt with the command it had."""
    command = ["nextflow", "${params.reads}", "$${params.x}"]
    assert parse_dag(document(command), recorded=True).dag.tasks[0].command == tuple(command)
    now = parse_dag(document(command, params={"reads": "r", "x": "y"}), recorded=True).dag
    assert now.tasks[0].command == ("nextflow", "r", "${params.x}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        ('"date"', "not a JSON object"),
        ('{"a": 1, "a": 2}', "a name is there twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": null}', "the value of 'a' is neither text nor a number nor a boolean"),
        ('{"a": [1]}', "the value of 'a' is neither"),
        ('{"a": {}}', "the value of 'a' is neither"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_parameters_of_a_submission_that_are_not_understood_are_refused(text: str, said: str) -> None:
    with pytest.raises(ParamsUnreadable, match=said):
        read_params(text)
    assert recorded_params(text) == {}


def test_parameters_of_a_submission_keep_the_way_they_are_written() -> None:
    assert read_params('{"a": "x", "b": 1.10, "c": true, "d": 12345678901234567890123, "e": 1e3}') == {
        "a": "x",
        "b": "1.10",
        "c": "true",
        "d": "12345678901234567890123",
        "e": "1e3",
    }
    assert read_params(None) == read_params("") == read_params("{}") == {}
