"""Replaying recorded workflows: what is read, the DAG it becomes, and that the second run downloads nothing."""

import sys
from typing import Any

import msgspec
import pytest

from bench.local import local
from bench.replay import (
    DATA,
    Workflow,
    content,
    external_inputs,
    read_workflow,
    replay,
    scaled_sizes,
    task_name,
    to_dag,
)
from helios.dag import parse_dag
from helios.records import InputRecord, TaskView


def document(tasks: list[dict[str, Any]], files: dict[str, int], seconds: dict[str, float] | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "name": "tried out",
            "workflow": {
                "specification": {
                    "tasks": tasks,
                    "files": [{"id": file, "sizeInBytes": size} for file, size in files.items()],
                },
                "execution": {"tasks": [{"id": t, "runtimeInSeconds": s} for t, s in (seconds or {}).items()]},
            },
        }
    )


SMALL = document(
    [
        {"id": "make it", "inputFiles": ["in put"], "outputFiles": ["mid"]},
        {"id": "use", "parents": ["make it"], "inputFiles": ["mid", "in put", "log"], "outputFiles": ["out", "log"]},
    ],
    {"in put": 1_000_000, "mid": 3_000_000, "out": 0},
    {"make it": 20.0, "use": 5.0},
)


def test_external_files_are_those_that_no_task_makes() -> None:
    workflow = read_workflow(SMALL)
    assert workflow.external == ["in put"]
    assert workflow.producers == {"mid": "make it", "out": "use", "log": "use"}
    assert workflow.inputs["use"] == ["mid", "in put"]  # it appends to its own log


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"workflow": {}}'])
def test_what_is_no_wfformat_is_refused(text: bytes) -> None:
    with pytest.raises((KeyError, msgspec.DecodeError)):
        read_workflow(text)


def test_sizes_are_scaled_to_the_megabytes_and_never_up() -> None:
    workflow = read_workflow(SMALL)
    assert scaled_sizes(workflow, 2) == {"in put": 500_000, "mid": 1_500_000, "out": 1}
    assert scaled_sizes(workflow, 100)["mid"] == 3_000_000


def test_the_dag_of_a_workflow_is_valid_and_has_its_edges() -> None:
    workflow = read_workflow(SMALL)
    dag = parse_dag(msgspec.json.encode(to_dag(workflow, scaled_sizes(workflow, 1), 0.5))).dag
    make, use = dag.tasks
    assert (make.name, use.depends_on) == ("make-it", ("make-it",))
    assert make.command[0] == sys.executable
    plans = [msgspec.json.decode(task.command[-1]) for task in dag.tasks]
    assert [plan["seconds"] for plan in plans] == [0.5, 0.125]
    assert plans[1]["inputs"] == {"mid": 750_000, "in-put": 250_000}


def test_the_bundled_workflow_becomes_a_valid_dag() -> None:
    workflow = read_workflow(DATA.read_bytes())
    dag = parse_dag(msgspec.json.encode(to_dag(workflow, scaled_sizes(workflow, 1), 0))).dag
    assert [task.name for task in dag.tasks] == [task_name(name) for name in workflow.parents]


def test_an_external_file_holds_what_a_task_would_write() -> None:
    assert content("a", 100_000)[:65_536] == content("a", 65_536)
    assert len(content("a", 1)) == 1
    assert content("a", 9) != content("b", 9)


def test_hits_are_counted_of_external_inputs_only() -> None:
    workflow = Workflow("w", {"t": []}, {"t": ["x"]}, {"t": []}, {"x": 1}, {})
    inputs = [InputRecord("x", 1, "cached"), InputRecord("x", 1, "never-here"), InputRecord("made", 1, "cached")]
    assert external_inputs(workflow, [TaskView(name="t", status="SUCCEEDED", inputs=inputs)]) == (2, 1)


@pytest.mark.timeout(180)
def test_in_the_second_run_of_a_workflow_every_external_input_hits() -> None:
    workflow = read_workflow(DATA.read_bytes())
    with local() as place:
        metrics = replay(place, workflow, megabytes=1, seconds=0.01)
    hits = {name: metric for name, metric in metrics.items() if name.endswith("external inputs hit")}
    first, second = hits.values()
    assert first.value < int(first.unit.removeprefix("of "))
    assert second.met
    assert second.unit != "of 0"
