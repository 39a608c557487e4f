"""`helios import argo`: what Argo settles while a workflow runs is settled by the tasks themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.import_argo import has_graph, looked_at, read, tell, tried
from cli.imports.argo import import_argo, workflows
from helios.dag import Dag, ExternalInput, TaskInput, grown, parse_dag
from helios.dag_params import read_list
from helios.dag_plain import yaml_text
from helios.dag_problem import DagInvalid
from tests.cli.command import Helios

HERE = Path(__file__).parent / "imports"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def carried_over(text: str, others: tuple[str, ...] = ()) -> Any:
    """The only workflow of the text; that nothing of it is lost is checked."""
    (found,) = import_argo(text, others=others)
    assert found.complete, found.losses
    return found


def run(dag: Dag, folder: Path) -> dict[str, Ran]:
    """Every task in its own folder, one after the other, as Helios' rules say: inputs are there before, outputs after.

    There is no /artifacts here, so that the commands' own paths are those of the folder.
    """
    ran: dict[str, Ran] = {}
    over: set[str] = set()
    while left := [name for name in dag.graph().order if name not in over]:
        name = left[0]
        over.add(name)
        task, place = next(each for each in dag.tasks if each.name == name), folder / name
        if task.for_each is not None:
            dag = grown(dag, name, read_list((folder / task.for_each.origin).read_text()))
            continue
        place.mkdir(parents=True)
        for each in task.inputs:
            assert isinstance(each, TaskInput)
            to = place / each.as_
            to.parent.mkdir(parents=True, exist_ok=True)
            source = folder / each.from_task / each.name
            subprocess.run(["cp", "-R", str(source), str(to)], check=True)
        words = [each.replace("/artifacts", str(place)) for each in (*task.command, *task.args)]
        env = {"PATH": os.environ["PATH"], "HELIOS_RUN_ID": "17-0", "HELIOS_ATTEMPT": "2"}
        env |= {each.name: each.value for each in task.env if hasattr(each, "value")}  # type: ignore[attr-defined]
        done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=30, check=False)
        ran[name] = Ran(done.returncode, done.stdout, done.stderr)
        assert done.returncode != 0 or all((place / each).exists() for each in task.outputs), (name, done)
    return ran


def test_values_and_conditions_are_settled_while_it_runs(helios: Helios, tmp_path: Path) -> None:
    done = helios("import", "argo", str(HERE / "late.yaml"))
    assert done.code == 0, done.err
    dag = parse_dag(done.out.encode()).dag
    ran = run(dag, tmp_path / "run")
    assert {name for name, each in ran.items() if each.code} == set(), ran
    assert ran["toss"].out == "up\n", "what is kept is printed all the same"
    assert ran["down.climb"].out == "skipped: its condition does not hold\n"
    assert "failed with 7" in ran["breaks"].err
    assert ran["tell"].out == ("it's Failed 7\nit's page one\nup up's m, < m>, it's nothing, it's nothing\n"), (
        "of what was not run, the value is empty"
    )
    assert ran["tell"].err == "117-0", "Argo counts retries from 0, Helios attempts from 1"
    assert dag.tasks[0].node_selector == {"disk": "ssd"}


def pair(asked: str, b: str = "", more: str = "") -> str:
    """A workflow of a and then b, which prints `asked`; `b` is what else its call says, `more` what else a is."""
    return (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    dag: {tasks: [{name: a, template: a}, {name: b, template: b, depends: a,\n"
        f"      arguments: {{parameters: [{{name: p, value: '{asked}'}}]}}{b}}}]}}\n"
        f"  - {{name: a, container: {{image: i, command: [sh, -c, echo said]}}{more}}}\n"
        "  - name: b\n    inputs: {parameters: [{name: p}]}\n"
        "    container: {image: i, command: [echo, '{{inputs.parameters.p}}']}\n"
    )


def test_the_exit_code_has_argos_own_spelling() -> None:
    task = carried_over(pair("{{tasks.a.exitCode}}")).dag["tasks"][1]
    assert task["command"] == ["echo", "0"]
    (found,) = import_argo(pair("{{tasks.a.outputs.exitCode}}"))
    assert [(each.line, each.what) for each in found.losses] == [(8, "{{tasks.a.outputs.exitCode}}")]


def test_a_task_that_fails_still_fails_where_its_output_is_read(tmp_path: Path) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - {name: t, dag: {tasks: [{name: a, template: a}, {name: b, template: b, depends: a,\n"
        "       arguments: {parameters: [{name: p, value: '{{tasks.a.outputs.result}}'}]}}]}}\n"
        "  - {name: a, container: {image: i, command: [sh, -c, 'echo said; exit 3']}}\n"
        "  - name: b\n    inputs: {parameters: [{name: p}]}\n"
        "    container: {image: i, command: [echo, '{{inputs.parameters.p}}']}\n"
    )
    found = carried_over(text)
    assert run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")["a"] == Ran(3, "said\n", "")
    assert [(each.line, each.what) for each in found.losses] == [(9, "task b")], "b has no shell of its own"


@pytest.mark.parametrize(
    ("by", "value", "runs"),
    [
        ("=~ ^he", "heads", True),
        ("!~ ^he", "heads", False),
        ("== 'two words'", "two words", True),
        ("< 10", "9", True),
        ("< 10", "heads", False),
        ("!= heads && !(a == b || b == b)", "tails", False),
        ("== heads || a == a", "tails", True),
        ("== heads && 1 == 1.0", "heads", True),
        ("== heads || 1 == '1'", "tails", False),
    ],
)
def test_a_condition_of_a_value_is_a_test_of_the_shell(by: str, value: str, runs: bool, tmp_path: Path) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    steps:\n    - [{name: a, template: a}]\n"
        f'    - [{{name: b, template: b, when: "{{{{steps.a.outputs.result}}}} {by}"}}]\n'
        f"  - {{name: a, container: {{image: i, command: [echo, '{value}']}}}}\n"
        "  - {name: b, container: {image: i, command: [echo, ran]}}\n"
    )
    ran = run(parse_dag(yaml_text(carried_over(text).dag).encode()).dag, tmp_path / "run")
    assert ("b" in ran and ran["b"].out == "ran\n") == runs, "where no value matters, b is left out"
    assert {each.code for each in ran.values()} == {0}


@pytest.mark.parametrize(
    ("when", "depends", "ran"),
    [
        ("{{tasks.toss.outputs.result}} == up", "a", {"a", "b", "c"}),
        ("{{tasks.toss.outputs.result}} == down", "a", {"b", "c"}),
        ("{{tasks.toss.outputs.result}} == up", "a.Succeeded", {"a", "b", "c"}),
        ("{{tasks.toss.outputs.result}} == down", "a.Succeeded", set()),
        ("{{tasks.toss.outputs.result}} == down", "a.Succeeded && toss", set()),
        ("1 == 2", "a", {"b", "c"}),
        ("1 == 2", "a.Succeeded", set()),
        ("1 == 1", "a.Succeeded", {"a", "b", "c"}),
    ],
)
def test_what_wants_a_skipped_task_to_have_succeeded_is_omitted_and_so_is_what_waits_for_it(
    when: str, depends: str, ran: set[str], tmp_path: Path
) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - {name: up, container: {image: i, command: [echo, up]}}\n"
        "  - name: t\n    dag:\n      tasks:\n"
        "      - {name: toss, template: up}\n"
        f"      - {{name: a, template: up, depends: toss, when: '{when}'}}\n"
        f"      - {{name: b, template: up, depends: {depends}}}\n"
        "      - {name: c, template: up, dependencies: [b]}\n"
    )
    found = carried_over(text)
    done = run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")
    assert {name for name, each in done.items() if each.out == "up\n"} == {"toss", *ran}


def test_success_of_a_loop_with_conditions_is_lost() -> None:
    (found,) = import_argo(
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - {name: up, container: {image: i, command: [echo, up]}}\n"
        "  - name: t\n    dag:\n      tasks:\n"
        "      - {name: a, template: up, withItems: [1, 2], when: '{{item}} == 1'}\n"
        "      - {name: b, template: up, depends: a.Succeeded}\n"
    )
    assert [(each.line, each.what) for each in found.losses if each.weight == "lost"] == [(11, "depends")]


def test_parameters_are_put_into_whatever_a_template_says(tmp_path: Path) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n"
        "  serviceAccountName: '{{workflow.parameters.x}}'\n"
        "  arguments: {parameters: [{name: x, value: one}]}\n  templates:\n"
        "  - name: t\n    inputs:\n      parameters: [{name: p, value: '{{workflow.parameters.x}}'}]\n"
        "      artifacts: [{name: i, path: '/tmp/{{inputs.parameters.p}}.in', raw: {data: d}}]\n"
        "    serviceAccountName: '{{inputs.parameters.p}}'\n"
        "    tolerations: [{key: '{{inputs.parameters.p}}', operator: Exists}]\n"
        "    outputs:\n"
        "      artifacts: [{name: o, path: '/tmp/-{{inputs.parameters.p}}'}]\n"
        "      parameters: [{name: v, valueFrom: {path: '/tmp/-{{inputs.parameters.p}}.v',\n"
        "        default: '{{inputs.parameters.p}} {{workflow.uid}}'}}]\n"
        "    container:\n      image: i\n      command: [sh, -c, 'cat /tmp/one.in > /tmp/-one']\n"
        "      env: [{name: S, valueFrom: {secretKeyRef: {name: s, key: '{{inputs.parameters.p}}'}}}]\n"
    )
    found = carried_over(text)
    assert "{{" not in yaml_text(found.dag)
    assert found.dag["serviceAccountName"] == "one"
    (task,) = found.dag["tasks"]
    assert (task["serviceAccountName"], task["tolerations"]) == ("one", [{"key": "one", "operator": "Exists"}])
    assert task["env"] == {"S": {"secret": "s", "key": "one"}}
    assert task["outputs"] == ["-one", "-one.v"]
    assert run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")["t"] == Ran(0, "", "")
    assert (tmp_path / "run/t/-one.v").read_text() == "one 17-0"
    assert (tmp_path / "run/t/-one").read_text() == "d"


def test_a_name_that_begins_with_a_dash_is_no_option_of_the_shells_lines(tmp_path: Path) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        f"  - name: t\n    outputs: {{artifacts: [{{name: o, path: {tmp_path}/-o}}]}}\n"
        f"    container: {{image: i, command: [sh, {tmp_path}/make]}}\n"
    )
    (tmp_path / "make").write_text(f"echo made > {tmp_path}/-o\n")
    dag = parse_dag(yaml_text(carried_over(text).dag).encode()).dag
    assert run(dag, tmp_path / "run")["t"] == Ran(0, "", "")
    assert (tmp_path / "run/t/-o").read_text() == "made\n"


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("    outputs: {artifacts: [{name: o, path: '/tmp/{{pod.name}}'}]}\n", "{{pod.name}}"),
        ("    outputs: {parameters: [{name: o, valueFrom: {path: '/x', default: '{{pod.name}}'}}]}\n", "{{pod.name}}"),
        ("    serviceAccountName: '{{pod.name}}'\n", "{{pod.name}}"),
        ("    tolerations: [{key: '{{pod.name}}', operator: Exists}]\n", "{{pod.name}}"),
    ],
)
def test_no_text_that_argo_would_replace_is_left_without_a_word(template: str, what: str) -> None:
    (found,) = import_argo(
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        f"  - name: t\n{template}    container: {{image: i, command: [touch, /x, '/tmp/pod.name']}}\n"
    )
    assert (7, what) in [(each.line, each.what) for each in found.losses if each.weight == "lost"]


def test_the_default_of_a_value_that_a_graph_passes_on_is_lost() -> None:
    (found,) = import_argo(
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    steps: [[{name: a, template: a}]]\n"
        "    outputs: {parameters: [{name: p, valueFrom: {parameter: '{{steps.a.outputs.result}}', default: d}}]}\n"
        "  - {name: a, container: {image: i, command: [echo]}}\n"
    )
    assert [(each.line, each.what) for each in found.losses if each.weight == "lost"] == [(8, "default")]


def test_names_of_a_workflow_are_not_those_of_the_shells_lines(tmp_path: Path) -> None:
    """Variables called v1 and code, a variable that no shell knows, outputs called result and argo."""
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    steps:\n    - [{name: a, template: a}]\n    - - name: b\n        template: b\n"
        "        arguments:\n          parameters:\n"
        "          - {name: p, value: '{{steps.a.outputs.result}}'}\n"
        "          - {name: q, value: '{{steps.a.outputs.parameters.r}}'}\n"
        "          - {name: r, value: '{{steps.a.outputs.parameters.s}}'}\n"
        "          artifacts: [{name: f, from: '{{steps.a.outputs.artifacts.f}}'}]\n"
        "  - name: a\n    container:\n      image: i\n      command: [PYTHON, -c]\n"
        '      args: [\'import os; [print(os.environ[n], flush=True) for n in ("code", "dotted.name")];\n'
        '        os.system("echo wrote > /tmp/result; echo file > /x/argo; echo s > /tmp/s")\']\n'
        "      env: [{name: code, value: red}, {name: dotted.name, value: kept}]\n"
        "    outputs:\n      artifacts: [{name: f, path: /x/argo}]\n"
        "      parameters: [{name: r, valueFrom: {path: /tmp/result}}, {name: s, valueFrom: {path: /tmp/s}}]\n"
        "  - name: b\n    inputs:\n      parameters: [{name: p}, {name: q}, {name: r}]\n"
        "      artifacts: [{name: f, path: /y/argo}]\n"
        "    container:\n      image: i\n      command: [PYTHON, -c]\n"
        '      args: [\'import os, sys; print(os.environ["v1"], os.environ["odd.name"], *sys.argv[1:],\n'
        "        open(\"/y/argo\").read())', '{{inputs.parameters.q}}', '{{inputs.parameters.r}}']\n"
        "      env: [{name: v1, value: mine}, {name: odd.name, value: '<{{inputs.parameters.p}}>'}]\n"
    )
    found = carried_over(text.replace("PYTHON", sys.executable))
    ran = run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")
    assert ran["a"] == Ran(0, "red\nkept\n", "")
    assert ran["b"] == Ran(0, "mine <red\nkept> wrote s file\n\n", "")


def test_templates_of_one_name_in_several_objects_are_no_recursion() -> None:
    def holder(name: str, body: str) -> str:
        return f"kind: WorkflowTemplate\nmetadata: {{name: {name}}}\nspec: {{templates: [{{name: t, {body}}}]}}\n"

    other = holder("lib", "container: {image: i, command: [echo, hi]}")
    calling = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n"
        "  templates: [{name: t, steps: [[{name: a, templateRef: {name: %s, template: t}}]]}]\n"
    )
    assert [each["name"] for each in carried_over(calling % "lib", (other,)).dag["tasks"]] == ["a"]
    one = holder("one", "steps: [[{name: b, templateRef: {name: two, template: t}}]]")
    two = holder("two", "steps: [[{name: c, templateRef: {name: one, template: t}}]]")
    (found,) = import_argo(calling % "one", others=(one, two))
    assert [each.what for each in found.losses] == ["tasks", "template t"]


def test_templates_of_other_objects_are_found_in_the_file_and_in_others(helios: Helios, tmp_path: Path) -> None:
    library = (
        "kind: WorkflowTemplate\nmetadata: {name: lib}\nspec:\n  entrypoint: say\n"
        "  arguments: {parameters: [{name: word, value: hello}]}\n  templates:\n"
        "  - name: say\n    inputs: {parameters: [{name: word}]}\n"
        "    container: {image: i, command: [echo, '{{inputs.parameters.word}}']}\n"
    )
    calling = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    dag:\n      tasks:\n      - name: a\n"
        "        templateRef: {name: lib, template: say}\n"
        "        arguments: {parameters: [{name: word, value: hi}]}\n"
    )
    (tmp_path / "lib.yaml").write_text(library)
    (tmp_path / "w.yaml").write_text(calling)
    alone = helios("import", "argo", str(tmp_path / "w.yaml"))
    assert alone.code == 1
    assert "w.yaml:10: templateRef: the template is in lib" in alone.err
    done = helios("import", "argo", str(tmp_path / "w.yaml"), "--templates", str(tmp_path / "lib.yaml"), "-o", "json")
    assert done.json()["dag"]["tasks"] == [{"name": "a", "image": "i", "command": ["echo", "hi"]}]
    made = "kind: Workflow\nmetadata: {name: w}\nspec:\n  workflowTemplateRef: {name: lib}\n"
    assert carried_over(made, (library,)).dag["tasks"][0]["command"] == ["echo", "hello"]
    parameter = "  arguments: {parameters: [{name: word, value: mine}]}\n"
    assert carried_over(made + parameter, (library,)).dag["tasks"][0]["command"] == ["echo", "mine"]
    inner = library.replace("  entrypoint: say\n", "") + "---\n" + calling
    assert carried_over(inner).dag["tasks"][0]["command"] == ["echo", "hi"]


def test_a_value_for_the_whole_workflow_that_several_calls_give_is_lost() -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - {name: t, steps: [[{name: a, template: a}], [{name: b, template: a}]]}\n"
        "  - name: a\n    container: {image: i, command: [touch, /x]}\n"
        "    outputs: {parameters: [{name: p, globalName: g, valueFrom: {path: /x}}]}\n"
    )
    (found,) = import_argo(text)
    assert [(each.line, each.what) for each in found.losses if each.weight == "lost"] == [(7, "globalName g")]


def test_an_output_that_the_command_does_not_name_is_copied_from_where_it_is(tmp_path: Path) -> None:
    place = tmp_path / "made.txt"
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        f"  - {{name: t, outputs: {{artifacts: [{{name: made, path: {place}}}]}},\n"
        f"     container: {{image: i, command: [{tmp_path}/make]}}}}\n"
    )
    (tmp_path / "make").write_text(f"#!/bin/sh\necho done > {place}\n")
    (tmp_path / "make").chmod(0o755)
    found = carried_over(text)
    ran = run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")
    assert ran["t"].code == 0
    assert (tmp_path / "run" / "t" / "made.txt").read_text() == "done\n"


def test_what_only_a_running_task_knows_is_lost_where_no_command_can_look() -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    steps:\n    - [{name: a, template: a}]\n"
        "    - [{name: b, template: b, arguments: {parameters: [{name: p, value: '{{steps.a.outputs.result}}'}]}}]\n"
        "    - [{name: c, template: a, withParam: '{{workflow.uid}}'}]\n"
        "  - {name: a, container: {image: i, command: [echo, i]}}\n"
        "  - name: b\n    inputs: {parameters: [{name: p}]}\n    nodeSelector: {disk: '{{inputs.parameters.p}}'}\n"
        "    container: {image: 'i:{{inputs.parameters.p}}', command: [echo]}\n"
    )
    (found,) = import_argo(text)
    assert [(each.line, each.what) for each in found.losses if each.weight == "lost"] == [
        (10, "withParam"),
        (14, "{{inputs.parameters.p}}"),
        (15, "{{inputs.parameters.p}}"),
    ]


def loop(call: str, each: str, lists: str = '["a", "b c", "3", "10"]') -> str:
    """A workflow of `gen`, which leaves a list, `each` over it, and `last`. `call` and `each` go on with theirs."""
    return (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    dag:\n      tasks:\n      - {name: gen, template: gen}\n"
        "      - name: each\n        template: each\n        dependencies: [gen]\n"
        "        withParam: '{{tasks.gen.outputs.parameters.list}}'\n"
        f"        {call}\n"
        "      - {name: last, template: last, dependencies: [each]}\n"
        "  - {name: last, container: {image: i, command: [echo, over]}}\n"
        "  - name: gen\n    container:\n      image: i\n"
        "      command: [sh, -c, 'printf %s \"$LIST\" > /tmp/list; echo yes']\n"
        f"      env: [{{name: LIST, value: '{lists}'}}]\n"
        "    outputs: {parameters: [{name: list, valueFrom: {path: /tmp/list}}]}\n"
        f"  - name: each\n    inputs: {{parameters: [{{name: p, default: none}}]}}\n    {each}\n"
    )


GIVEN = "arguments: {parameters: [{name: p, value: '<{{item}}>'}]}"
SAYS = "container: {image: i, command: [echo, '{{inputs.parameters.p}}']}"


def each_of(ran: dict[str, Ran]) -> dict[str, str]:
    return {name.removeprefix("each-"): done.out for name, done in ran.items() if name.startswith("each-")}


def test_a_loop_over_what_a_task_makes_is_a_task_for_each_item(tmp_path: Path) -> None:
    more = "retryStrategy: {limit: 3}\n    activeDeadlineSeconds: 60\n    nodeSelector: {disk: ssd}\n    "
    found = carried_over(loop(GIVEN, more + SAYS))
    task = found.dag["tasks"][1]
    assert task == {
        "name": "each",
        "forEach": {"fromTask": "gen", "name": "list"},
        "image": "i",
        "command": ["echo", "<${item}>"],
        "retries": {"count": 3},
        "timeoutSeconds": 60,
        "nodeSelector": {"disk": "ssd"},
    }, "the list makes it wait, so depends_on needs not to"
    assert found.dag["tasks"][2]["depends_on"] == ["each"]
    dag = parse_dag(yaml_text(found.dag).encode()).dag
    ran = run(dag, tmp_path / "some")
    assert each_of(ran) == {"a": "<a>\n", "1": "<b c>\n", "3": "<3>\n", "10": "<10>\n"}
    assert list(ran)[-1] == "last"
    none = run(parse_dag(yaml_text(carried_over(loop(GIVEN, SAYS, "[]")).dag).encode()).dag, tmp_path / "none")
    assert list(none) == ["gen", "last"]


@pytest.mark.parametrize(
    ("when", "runs", "by_helios"),
    [
        ("'{{item}}' == 'b c'", {"1"}, True),
        ("{{=item != 'b c' && item != 'a'}}", {"3", "10"}, True),
        ("{{item}} != 'b c' && !({{item}} == 'a')", {"3", "10"}, True),
        ("({{item}} == a || 'b c' == '{{item}}') && 1 == 1.0", {"a", "1"}, True),
        ("'$' == '{{item}}'", set(), True),
        ("'{{item}} ${item}' != 'a ${item}'", {"1", "3", "10"}, True),
        ("'\"' == '{{item}}' || \"'\" == '{{item}}'", set(), True),
        ("'${{item}}' == '$a'", {"a"}, False),
        ("'{{item}}' =~ '^[0-9]'", {"3", "10"}, False),
        ("{{tasks.gen.outputs.result}} == yes && {{item}} != a", {"1", "3", "10"}, False),
    ],
)
def test_a_condition_of_an_item_is_helios_own_where_that_has_words_for_it(
    when: str, runs: set[str], by_helios: bool, tmp_path: Path
) -> None:
    found = carried_over(loop(f"when: {json.dumps(when)}\n        {GIVEN}", SAYS))
    assert ("when" in found.dag["tasks"][1]) == by_helios
    ran = each_of(run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run"))
    assert {key for key, out in ran.items() if out.startswith("<")} == runs
    assert not by_helios or set(ran) == runs, "the others are not even started"


@pytest.mark.parametrize(
    "container",
    [
        "command: [echo, '{{inputs.parameters.p}}']",
        "command: [printf, '%s\\n'], args: ['{{inputs.parameters.p}}']",
        "command: [printenv, P], env: [{name: P, value: '{{inputs.parameters.p}}'}]",
        "command: [printf, '%s\\n', '{{inputs.parameters.p}}'], env: [{name: odd.name, value: '{{retries}}'}]",
        "command: [printenv, P], env: [{name: P, value: '{{inputs.parameters.p}}'}, {name: R, value: '{{retries}}'}]",
    ],
)
def test_no_text_of_an_item_is_anything_but_text(container: str, tmp_path: Path) -> None:
    items = ['it\'s "quoted"', "$HOME ${item} ${params.p} $(date) `date` \\n", "-n", "two\n lines", "${x}", "*", "a;b"]
    rest = "$HOME ${x} ${item} ${items} ${params.p}"
    call = f"arguments: {{parameters: [{{name: p, value: '{{{{item}}}} {rest}'}}]}}"
    text = loop(call, f"container: {{image: i, {container}}}", "LIST").replace("'LIST'", json.dumps(json.dumps(items)))
    ran = each_of(run(parse_dag(yaml_text(carried_over(text).dag).encode()).dag, tmp_path / "run"))
    assert ran == {("-n" if item == "-n" else str(at)): f"{item} {rest}\n" for at, item in enumerate(items)}


def test_an_item_right_behind_a_dollar_comes_by_a_variable(tmp_path: Path) -> None:
    """Where Helios puts items in, a dollar before one means the text ${item}."""
    text = loop(GIVEN, "container: {image: i, command: [echo, '${{inputs.parameters.p}}', $$]}", '["a"]')
    found = carried_over(text.replace("<{{item}}>", "{{item}}"))
    assert each_of(run(parse_dag(yaml_text(found.dag).encode()).dag, tmp_path / "run")) == {"a": "$a $\n"}


def test_an_item_may_be_in_an_image_and_in_the_key_of_an_object() -> None:
    more = (
        "    inputs: {parameters: [{name: p}], artifacts: [{name: f, path: /tmp/in}]}\n"
        "    outputs: {artifacts: [{name: o, path: /tmp/out}]}\n"
    )
    text = loop(
        "arguments: {parameters: [{name: p, value: '{{item.tag}}'}],\n"
        "          artifacts: [{name: f, s3: {bucket: b-1, key: 'in/{{item.key}}/${params.x}'}}]}",
        "container: {image: 'i:{{inputs.parameters.p}}', command: [cp, /tmp/in, /tmp/out]}",
        '[{"tag": "1.0", "key": "one"}, {"tag": 2.50, "key": "two"}]',
    )
    found = carried_over(text.replace("    inputs: {parameters: [{name: p, default: none}]}\n", more))
    dag = parse_dag(yaml_text(found.dag).encode()).dag
    found = grown(dag, "each", [{"tag": "1.0", "key": "one"}, {"tag": "2.50", "key": "two"}])
    made = {task.name: (task.image, *task.inputs) for task in found.tasks if task.name.startswith("each-")}
    assert made == {
        "each-one": ("i:1.0", ExternalInput("s3://b-1/in/one/${params.x}", "in")),
        "each-two": ("i:2.50", ExternalInput("s3://b-1/in/two/${params.x}", "in")),
    }


def test_a_loop_whose_tasks_would_be_named_like_another_is_named_apart() -> None:
    """Else who waits for each-thing would wait for the loop too, which here waits for that."""
    text = loop(GIVEN, SAYS).replace("dependencies: [gen]", "dependencies: [gen, mid]")
    more = "      - {name: each-thing, template: last}\n      - {name: mid, template: last, depends: each-thing}\n"
    found = carried_over(text.replace("      - {name: last,", more + "      - {name: last,"))
    dag = parse_dag(yaml_text(found.dag).encode()).dag
    parents = {name: set(found) for name, found in dag.graph().parents.items()}
    assert parents["mid"] == {"each-thing"}
    assert parents["last"] == {"each.each"}


def test_a_loop_that_is_named_apart_takes_no_name_that_is_there() -> None:
    text = loop(GIVEN, SAYS)
    taken = ("each-a", "each.each", "each.each.each-b")
    more = "".join(f"      - {{name: {name}, template: last}}\n" for name in taken)
    found = carried_over(text.replace("      - {name: last,", more + "      - {name: last,"))
    dag = parse_dag(yaml_text(found.dag).encode()).dag
    assert set(dag.graph().parents["last"]) == {"each.each.each.each"}


@pytest.mark.parametrize("over", ["withParam: [1, 2]", "withParam: {a: b}", "withItems: {a: b}", "withSequence: '3'"])
def test_a_loop_over_what_argo_goes_over_in_no_case_is_lost(over: str) -> None:
    (found,) = import_argo(loop("", SAYS).replace("withParam: '{{tasks.gen.outputs.parameters.list}}'", over))
    assert [each.what for each in found.losses if each.weight == "lost"] == ["loop"]


def test_a_list_without_items_that_is_written_out_makes_no_loop(tmp_path: Path) -> None:
    text = loop("", SAYS).replace("withParam: '{{tasks.gen.outputs.parameters.list}}'", "withItems: []")
    assert run(parse_dag(yaml_text(carried_over(text).dag).encode()).dag, tmp_path / "run")["each"].out == "none\n"


def test_the_note_of_a_loop_says_what_a_key_has_to_be() -> None:
    """Objects in S3 are listed with such keys: Helios would name a task by it."""
    text = loop("arguments: {parameters: [{name: p, value: '{{item.size}}'}]}", SAYS, '[{"key": "a/b", "size": 1}]')
    found = carried_over(text)
    assert [each.what for each in found.losses if "called key has to be able to end a task's name" in each.reason] == [
        "withParam"
    ]
    with pytest.raises(DagInvalid, match="the key 'a/b' of item 0 cannot end a task's name"):
        grown(parse_dag(yaml_text(found.dag).encode()).dag, "each", [{"key": "a/b", "size": "1"}])


def test_a_value_within_the_json_of_an_item_is_lost() -> None:
    """Only there: alone, in a field, it is looked up like any other."""
    items = "withItems: [{a: '{{tasks.gen.outputs.result}}', b: [1]}]"
    text = loop(GIVEN, SAYS).replace("withParam: '{{tasks.gen.outputs.parameters.list}}'", items)
    (found,) = import_argo(text)
    assert [each.what for each in found.losses if each.weight == "lost"] == ["{{item}}"]
    carried_over(text.replace("<{{item}}>", "{{item.a}} {{item.b}}"))


def test_the_variable_of_an_item_is_none_of_the_tasks_own(tmp_path: Path) -> None:
    own = "env: [{name: _h1, value: mine}, {name: P, value: '{{retries}} {{inputs.parameters.p}}'}]"
    text = loop(GIVEN, f"container: {{image: i, command: [sh, -c, 'echo $_h1 $P'], {own}}}", '["a"]')
    ran = run(parse_dag(yaml_text(carried_over(text).dag).encode()).dag, tmp_path / "run")
    assert each_of(ran) == {"a": "mine 1 <a>\n"}


def test_a_list_may_come_out_of_a_graph_or_be_of_the_whole_workflow(tmp_path: Path) -> None:
    text = (
        "kind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: t\n  templates:\n"
        "  - name: t\n    steps:\n    - [{name: made, template: made}]\n"
        "    - - {name: one, template: say, withParam: ' {{steps.made.outputs.parameters.list}} ',\n"
        "         arguments: {parameters: [{name: p, value: '{{item}}'}]}}\n"
        "      - {name: two, inline: {container: {image: i, command: [echo, '{{item}}']}},\n"
        "         withParam: '{{workflow.outputs.parameters.all}}'}\n"
        "  - name: made\n    steps: [[{name: gen, template: gen}]]\n"
        "    outputs: {parameters: [{name: list, valueFrom: {parameter: '{{steps.gen.outputs.result}}'}}]}\n"
        "  - name: gen\n    container: {image: i, command: [sh, -c, 'echo [1]; echo [2] > /tmp/x']}\n"
        "    outputs: {parameters: [{name: x, globalName: all, valueFrom: {path: /tmp/x}}]}\n"
        "  - {name: say, inputs: {parameters: [{name: p}]},\n"
        "     container: {image: i, command: [echo, '{{inputs.parameters.p}}']}}\n"
    )
    ran = run(parse_dag(yaml_text(carried_over(text).dag).encode()).dag, tmp_path / "run")
    assert (ran["one-1"].out, ran["two-2"].out) == ("1\n", "2\n")


def test_why_a_loop_over_what_a_task_makes_is_lost() -> None:
    def lost(text: str) -> list[tuple[str, str]]:
        (found,) = import_argo(text)
        return [(each.what, each.reason) for each in found.losses if each.weight == "lost"]

    text = loop(GIVEN, SAYS)
    assert lost(text) == []
    many = "".join(
        f"      - {{name: e{at}, template: each, depends: each, withParam: '{{{{tasks.gen.outputs.result}}}}'}}\n"
        for at in range(100)
    )
    (found,) = lost(text.replace("      - {name: last,", many + "      - {name: last,"))
    assert found == (
        "withParam",
        "there are more than 100 such loops, the limit of a DAG; one call is made of the loop",
    )

    def last(more: str) -> list[tuple[str, str]]:
        return lost(text.replace("template: last, dependencies: [each]", f"template: each, depends: each, {more}"))

    assert last("withParam: '{{ tasks.each.outputs.result }}'") == [
        ("withParam", "what the calls of a loop made together is in no single file; one call is made of the loop")
    ]
    (found,) = last("arguments: {parameters: [{name: p, value: '{{tasks.each.outputs.result}}'}]}")
    assert found[0] == "{{tasks.each.outputs.result}}"
    text = text.replace("'{{tasks.gen.outputs.parameters.list}}'", "'[{{tasks.gen.outputs.result}}]'")
    assert [
        what for what, _ in last("arguments: {parameters: [{name: p, value: '{{tasks.each.outputs.result}}'}]}")
    ] == [
        "withParam",
        "{{item}}",
        "{{tasks.each.outputs.result}}",
    ], "what one call made is not what the loop made"


def test_a_folder_of_workflows_is_counted_by_what_becomes_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    found = [tried(name, (HERE / name).read_text()) for name in ("late.yaml", "losses.yaml")]
    single = "kind: Workflow\nspec:\n  entrypoint: t\n  templates: [{name: t, container: {image: i, command: [x]}}]\n"
    assert not has_graph(workflows(single))
    assert [each.result for each in found] == ["complete", "refused"]
    assert "templateRef" in found[1].reasons
    tell(found, 1)
    told = capsys.readouterr().out
    assert "complete    1  50%" in told
    assert "2 files with dag or steps (1 others left out)" in told


def test_a_file_that_cannot_be_read_spoils_no_other(tmp_path: Path) -> None:
    for name in ("late.yaml", "pipeline.yaml"):
        (tmp_path / name).write_text((HERE / name).read_text())
    (tmp_path / "broken.yaml").write_text("kind: Workflow\nspec: [")
    (tmp_path / "odd.yaml").write_bytes(b"kind: Workflow\nspec: \xff\x00")
    found, left_out, unreadable = looked_at(list(read(tmp_path)), tmp_path, templates=True)
    assert [(each.name, each.result) for each in found] == [("late.yaml", "complete"), ("pipeline.yaml", "complete")]
    assert (left_out, unreadable) == (0, ["broken.yaml", "odd.yaml"])
