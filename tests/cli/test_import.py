"""`helios import`: what is carried over does the same, and what is not is said with its line, whatever it is."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.imports.argo import import_argo
from cli.imports.argo_text import dependencies, renamed_paths, sequence
from cli.imports.argo_when import condition, decided
from cli.imports.document import Unreadable
from cli.imports.wfformat import import_wfformat
from helios.dag import DagInvalid, ExternalInput, TaskInput, parse_dag
from helios.dag_plain import parse_plain
from tests.cli.command import Helios

HERE = Path(__file__).parent / "imports"
RECORDING = Path(__file__).parents[2] / "bench" / "data" / "small-workflow.json"


def argo(body: str, **parameters: str) -> Any:
    (found,) = import_argo(body, parameters)
    return found


def one(template: str, more: str = "") -> Any:
    """A workflow of a single template, given without its name."""
    text = f"kind: Workflow\nmetadata: {{name: w}}\nspec:\n  entrypoint: t\n{more}  templates:\n  - name: t\n"
    return argo(text + "".join(f"    {line}\n" for line in template.splitlines()))


def test_a_workflow_of_dags_steps_loops_and_artifacts_is_carried_over_whole(helios: Helios) -> None:
    done = helios("import", "argo", str(HERE / "pipeline.yaml"))
    assert done.code == 0, done.err
    dag = parse_dag(done.out.encode()).dag
    tasks = {task.name: task for task in dag.tasks}
    assert dag.dag_name == "nightly"
    assert list(tasks) == [
        "make",
        "round.0.first",
        "round.0.left",
        "round.0.right",
        "round.1.first",
        "round.1.left",
        "round.1.right",
        "gather",
    ]
    make = tasks["make"]
    assert make.args == ("echo 'good night' > /artifacts/result.txt",)
    assert (make.outputs, make.retries, make.timeout_seconds) == (("result.txt",), 2, 600)
    assert (make.requests, make.limits) == ({"cpu": "100m"}, {"memory": "1Gi"})
    assert (make.node_selector, make.service_account_name) == ({"disk": "ssd"}, "builders")
    assert [(each.name, getattr(each, "value", None)) for each in make.env] == [("LEVEL", "3"), ("TOKEN", None)]
    first = tasks["round.1.first"]
    assert first.command == ("sh", "-c", "echo r01\ncat /artifacts/in.txt\n")
    assert first.inputs == (TaskInput("make", "result.txt", "in.txt"),)
    assert tasks["round.1.left"].depends_on == ("round.1.first",)
    gather = tasks["gather"]
    last = ("round.0.left", "round.0.right", "round.1.left", "round.1.right")
    assert gather.depends_on == last, "make is implied by the input"
    assert gather.inputs == (
        TaskInput("make", "result.txt", "text"),
        ExternalInput("s3://corpora/moby.txt", "corpus.txt"),
    )
    assert gather.command[2] == "cat /artifacts/text /artifacts/corpus.txt /work/text.bak | wc -w > /artifacts/words"


def test_a_parameter_of_the_command_line_wins(helios: Helios) -> None:
    done = helios("import", "argo", str(HERE / "pipeline.yaml"), "-p", "rounds=3", "-p", "greeting=a=b", "-o", "json")
    names = [task["name"] for task in done.json()["dag"]["tasks"]]
    assert "never" in names
    assert "round.2.right" in names
    assert "echo 'a=b'" in done.out


def test_what_is_left_out_and_changes_nothing_is_a_note(helios: Helios) -> None:
    told = helios("import", "argo", str(HERE / "pipeline.yaml")).err
    lines = {int(line): what for line, what in re.findall(r"pipeline\.yaml:(\d+): note: ([\w.]+)", told)}
    assert lines == {6: "metadata.labels", 9: "podGC", 35: "when", 99: "archive"}
    assert "complete: 8 tasks; 4 notes above" in told


def test_whatever_cannot_be_carried_over_is_listed_with_its_line(helios: Helios, tmp_path: Path) -> None:
    """The fixture says of each line what is lost there; no more and no less may be told."""
    expected = {
        (number, what.strip())
        for number, line in enumerate((HERE / "losses.yaml").read_text().splitlines(), 1)
        for _, _, marks in [line.partition("# LOST ")]
        for what in marks.split(",")
        if marks
    }
    done = helios("import", "argo", str(HERE / "losses.yaml"), "--to", str(tmp_path / "out.yaml"))
    told = {
        (int(line), what)
        for line, what in re.findall(r"losses\.yaml:(\d+): ([^:]+(?:\.uid\}\})?): ", done.err)
        if what != "note"
    }
    assert told == expected
    assert done.code == 1
    written = (tmp_path / "out.yaml").read_text()
    assert written.startswith("# NOT complete.")
    assert all(f"# line {line}: {what}: " in written for line, what in expected)


@pytest.mark.parametrize(
    ("expression", "tasks", "plain"),
    [
        ("A", ["A"], True),
        ("A && B.Succeeded && (C)", ["A", "B", "C"], True),
        ("A || B", ["A", "B"], False),
        ("!A", ["A"], False),
        ("A.Failed", ["A"], False),
        ("A && B.Skipped", ["A", "B"], False),
        ("a-1 && b_2", ["a-1", "b_2"], True),
        ("A ? B : C", ["A"], False),
    ],
)
def test_dependencies_are_plain_where_all_of_them_have_to_succeed(
    expression: str, tasks: list[str], plain: bool
) -> None:
    found = dependencies(expression)
    assert (found.tasks, found.plain) == (tasks, plain)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("a == a", True),
        ("'a b' == \"a b\"", True),
        ("1 != 1", False),
        ("true", True),
        ("1 < 2 && 10 >= 9", True),
        ("-1 > 1 || 2 <= 2", True),
        ("a == b || (a == a && !(b == b))", False),
        ("heads =~ ^hea && tails !~ hea", True),
        ("1 == 1.0 && 01 == 1", True),
        ("1 != 1.0", False),
        ("1 == '1'", False),
        ("true == 'true' || 1 == 'a'", False),
        ("\"'a'\" == 'a'", False),
        ("'9' < '10'", None),
        ("'true'", None),
        ("a", None),
        ("a < b", None),
        ("a == a &&", None),
        ("(a == a", None),
        ("lower(a) == a", None),
        ("a =~ '('", None),
    ],
)
def test_conditions_without_variables_are_decided(text: str, verdict: bool | None) -> None:
    asked = condition(text)
    assert (decided(asked) if asked is not None else None) is verdict


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("L == 5", True),
        ("L == -2.5", True),
        ("L != 5.0", False),
        ("05 == L", False),
        ("L == '5'", False),
        ("L == 'true'", False),
        ("'L' == '5'", True),
        ("'L' == 5", False),
        ("L == true", True),
        ("L == five && L == L", True),
        ("L < 5", True),
        ("'L' < 5", False),
        ("L =~ '^a[0-9]+$'", True),
        (r"L =~ '^\d+$'", False),
        (r"L !~ '^a\.b'", True),
        ("L =~ '(?i)a'", False),
        ("L =~ 'a.*?b'", False),
    ],
)
def test_a_condition_of_a_later_value_is_carried_over_where_a_shell_comes_to_the_same(text: str, same: bool) -> None:
    """Argo tells numbers, truths and texts apart, and has Go's regular expressions."""
    assert (condition(text.replace("L", "\0" + "1\0")) is not None) == same


def test_sequences_count_as_argo_does() -> None:
    assert sequence(3, None, None, "") == ["0", "1", "2"]
    assert sequence(2, 5, None, "x%03d") == ["x005", "x006"]
    assert sequence(None, 3, 1, "%d") == ["3", "2", "1"]
    assert sequence(None, 0, 1, "%X") == ["0", "1"]
    assert sequence(1, None, None, "%s %s") is None


def test_a_path_is_renamed_where_it_is_one() -> None:
    places = {"/tmp/a": "/artifacts/a", "/tmp/a/b": "/artifacts/b"}
    assert renamed_paths("cat /tmp/a /tmp/a/b /tmp/a/c /tmp/a.txt /tmp/ab x/tmp/a '/tmp/a'", places) == (
        "cat /artifacts/a /artifacts/b /artifacts/a/c /tmp/a.txt /tmp/ab x/tmp/a '/artifacts/a'",
        {"/tmp/a", "/tmp/a/b"},
    )


def test_a_container_or_a_script_alone_is_a_dag_of_one_task() -> None:
    found = one("script:\n  image: python:3.12\n  command: [python, -u]\n  source: print(1)")
    assert found.complete
    assert found.dag["tasks"] == [{"name": "t", "image": "python:3.12", "command": ["python", "-u", "-c", "print(1)"]}]


def test_variables_are_put_into_a_command_as_kubernetes_does() -> None:
    found = one(
        "container:\n  image: i\n  command: [echo, $(A), $(B)$(C), $$(A), $(date), $A, '$$$$', $(, '$$(A']\n"
        "  args: [sh, $(B)]\n"
        "  env: [{name: A, value: one}, {name: B, value: $(A) two $(C)}, {name: C, value: $$}]"
    )
    assert found.complete
    (task,) = found.dag["tasks"]
    assert task["command"] == ["echo", "one", "one two $(C)$", "$(A)", "$(date)", "$A", "$$", "$(", "$(A"]
    assert task["args"] == ["sh", "one two $(C)"]
    assert task["env"] == {"A": "one", "B": "one two $(C)", "C": "$"}, "a variable sees those before it"


def test_how_argo_shows_a_template_is_a_note() -> None:
    for body in (
        "container: {image: i, command: [x]}",
        "steps: [[{name: a, inline: {container: {image: i, command: [x]}}}]]",
    ):
        found = one(f"annotations: {{a.b/display-name: c}}\n{body}")
        assert [(each.what, each.weight) for each in found.losses] == [("annotations", "note")]


def test_a_secret_in_a_command_is_lost() -> None:
    found = one(
        "container:\n  image: i\n  command: [echo, $(A)]\n"
        "  env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"
    )
    assert [(each.line, each.what) for each in found.losses] == [(9, "$(A)")]


def test_what_a_script_is_started_with_stays_before_its_text() -> None:
    text = "script: {image: i, command: [bash], args: [-eu, -o, pipefail], source: $(A) $$, env: [{name: A, value: b}]}"
    assert one(text).complete
    assert one(text).dag["tasks"][0]["command"] == ["bash", "-eu", "-o", "pipefail", "-c", "$(A) $$"]
    assert "args" not in one(text).dag["tasks"][0]
    found = one("script: {image: i, command: [python], args: [x.py], source: print(1)}")
    assert [(each.line, each.what) for each in found.losses] == [(7, "args")]


def test_dependencies_of_the_older_form_and_targets() -> None:
    found = one(
        "dag:\n  target: b\n  tasks:\n"
        "  - {name: b, inline: {container: {image: i, command: [x, '{{item}}']}}, dependencies: [a],\n"
        "     withItems: [1, {k: 2}]}\n"
        "  - {name: a, inline: {container: {image: i, command: [x]}}}\n"
        "  - {name: c, inline: {container: {image: i, command: [x]}}}"
    )
    assert found.complete
    assert [(task["name"], task["command"], task.get("depends_on")) for task in found.dag["tasks"]] == [
        ("a", ["x"], None),
        ("b.0", ["x", "1"], ["a"]),
        ("b.1", ["x", '{"k":2}'], ["a"]),
    ]
    assert [(each.what, each.weight) for each in found.losses] == [("task c", "note")]


def test_a_workflow_that_is_scheduled_is_imported_without_its_schedule() -> None:
    found = argo(
        "kind: CronWorkflow\nmetadata: {name: w}\nspec:\n  schedule: '0 3 * * *'\n  workflowSpec:\n"
        "    entrypoint: t\n    templates: [{name: t, container: {image: i, command: [x]}}]"
    )
    assert found.complete
    assert [each.what for each in found.losses] == ["schedule"]


def test_what_a_parameter_holds_is_never_taken_for_a_variable() -> None:
    found = one(
        "inputs: {parameters: [{name: a}]}\ncontainer: {image: i, command: [x, '{{inputs.parameters.a}}']}",
        "  arguments: {parameters: [{name: a, value: '{{= secret }}'}]}\n",
    )
    assert found.dag["tasks"][0]["command"] == ["x", "{{= secret }}"]


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "kind: Pod", "- 1", "kind: Workflow\nspec: &a\n  x: *a", "\0", "a: &a [1]\nb: &b [" + "*a," * 3 + "]"],
)
def test_what_is_no_workflow_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        import_argo(text)


@settings(deadline=None)
@given(st.data())
def test_a_workflow_of_any_shape_is_imported_or_refused(data: st.DataObject) -> None:
    """Any field of the fixtures with something else in its place: never an error of another kind."""
    name = data.draw(st.sampled_from(["pipeline.yaml", "losses.yaml", "late.yaml", "loops.yaml"]))
    lines = (HERE / name).read_text().splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.sampled_from(["", "[]", "{}", "null", "[1, {a: b}]", "{x: [y]}", "'{{item}}'", "-1", "yes"]))
    key, colon, _ = lines[at].partition(": ")
    lines[at] = f"{key}{colon}{other}" if colon else f"{key} {other}"
    try:
        found = import_argo("\n".join(lines))
    except Unreadable:
        return
    with contextlib.suppress(DagInvalid):  # which the command says, and calls not complete
        parse_plain(found[0].dag)


def test_a_recording_becomes_the_dag_that_was_recorded(helios: Helios) -> None:
    done = helios("import", "wfformat", str(RECORDING), "--image", "python:3.12", "--inputs", "s3://corpora/small/")
    assert done.code == 0, done.err
    dag = parse_dag(done.out.encode()).dag
    recorded = json.loads(RECORDING.read_text())["workflow"]["specification"]["tasks"]
    assert [task.name for task in dag.tasks] == [each["id"] for each in recorded]
    graph = dag.graph()
    assert {name: set(graph.parents[name]) for name in graph.parents} == {
        each["id"]: set(each["parents"]) for each in recorded
    }
    split = dag.tasks[0]
    assert split.inputs == (ExternalInput("s3://corpora/small/reads.fastq", "reads.fastq"),)
    assert split.command == ("split",)
    assert "runtimeInSeconds" in done.err


def test_a_recording_needs_an_image_and_a_place_of_its_inputs(helios: Helios) -> None:
    assert "--image" in helios("import", "wfformat", str(RECORDING)).err
    assert "--inputs" in helios("import", "wfformat", str(RECORDING), "--image", "i").err
    assert helios("import", "wfformat", str(RECORDING), "--image", "i", "--inputs", "corpora").code == 2
    assert helios("import", "wfformat", "-", "--image", "i", text="{]").code == 2


def test_what_a_recording_says_and_a_dag_cannot_is_listed() -> None:
    text = json.dumps(
        {
            "name": "odd name",
            "schemaVersion": "1.5",
            "workflow": {
                "specification": {
                    "tasks": [
                        {
                            "id": "a b",
                            "parents": ["nobody"],
                            "inputFiles": ["x", "log"],
                            "outputFiles": ["log", "d/é:y"],
                        },
                        {"id": "c", "parents": [], "outputFiles": ["log"]},
                    ]
                },
                "execution": {
                    "tasks": [{"id": "a b", "coreCount": 2, "command": {"program": "p", "arguments": ["--n 1", "x"]}}]
                },
            },
        },
        indent=1,
        ensure_ascii=False,
    )
    found = import_wfformat(text, image="i", inputs="s3://corpora/w")
    assert [(each.what, each.weight) for each in found.losses if each.weight == "lost"] == [
        ("nobody", "lost"),
        ("log", "lost"),
        ("d/é:y", "lost"),
        ("task c", "lost"),
        ("log", "lost"),
    ]
    lines = text.splitlines()
    assert all(
        each.what.removeprefix("task ") in "".join(lines[each.line - 1 : each.line + 1]) for each in found.losses
    )
    first = found.dag["tasks"][0]
    assert first["name"] == "a-b"
    assert first["command"] == ["sh", "-c", "p --n 1 x"]
    assert first["resources"] == {"requests": {"cpu": "2"}}
    assert first["inputs"] == [{"uri": "s3://corpora/w/x"}]


def test_every_command_of_the_page_runs(helios: Helios, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    shutil.copy(HERE / "pipeline.yaml", tmp_path / "workflow.yaml")
    shutil.copy(RECORDING, tmp_path / "recording.json")
    for line in text.split("```sh\n")[1].partition("\n```")[0].splitlines():
        program, *words = shlex.split(line)
        assert program == "helios"
        done = helios(*words)
        assert done.code == 0, (line, done.err)
    assert parse_dag((tmp_path / "dag.yaml").read_bytes()).dag.dag_name == "nightly"
    assert parse_dag((tmp_path / "recorded.yaml").read_bytes()).dag.dag_name == "small-alignment"
