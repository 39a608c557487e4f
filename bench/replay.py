"""Replays recorded workflows (WfFormat 1.5, as WfCommons publishes them) twice, through all of local mode.

    python -m bench.replay [FILE …] [--json FILE] [--megabytes N] [--seconds N]

Without a file it replays the small workflow in bench/data. External inputs are seeded into the object store; sizes are
scaled down so that all files of a workflow together have about the megabytes given, run times so that the longest task
takes the seconds given. Every task reads all its inputs, waits, and writes its outputs with content that depends on the
file's name alone. In the second run every external input must hit.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.local import Local, local, succeeded
from bench.report import Metric, tell
from helios.records import HIT_CAUSES, TaskView

DATA = Path(__file__).parent / "data" / "small-workflow.json"
BUCKET = "replay"

TASK = """
import hashlib, json, os, sys, time
plan = json.loads(sys.argv[1])
for name, size in plan["inputs"].items():
    read = 0
    with open(name, "rb") as file:
        while chunk := file.read(1 << 20):
            read += len(chunk)
    assert read == size, (name, read, size)
time.sleep(plan["seconds"])
for name, (seed, size) in plan["outputs"].items():
    block = hashlib.sha256(seed.encode()).digest() * 2048
    with open(name, "wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
"""


class Workflow(msgspec.Struct):
    """What a replay needs of a WfFormat file. Sizes in bytes, times in seconds, both as recorded."""

    name: str
    parents: dict[str, list[str]]
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    sizes: dict[str, int]
    seconds: dict[str, float]

    @property
    def producers(self) -> dict[str, str]:
        return {file: task for task, files in self.outputs.items() for file in files}

    @property
    def external(self) -> list[str]:
        """Files that no task makes but some task reads, each once."""
        made = self.producers
        return list(dict.fromkeys(file for files in self.inputs.values() for file in files if file not in made))


def read_workflow(text: bytes) -> Workflow:
    """Raises KeyError or msgspec.DecodeError for what is not WfFormat 1.5."""
    document: dict[str, Any] = msgspec.json.decode(text)
    tasks: list[dict[str, Any]] = document["workflow"]["specification"]["tasks"]
    files: list[dict[str, Any]] = document["workflow"]["specification"].get("files", [])
    executed: list[dict[str, Any]] = document["workflow"].get("execution", {}).get("tasks", [])
    # A task that lists one of its own outputs as an input appends to it; it needs nothing from elsewhere for that.
    return Workflow(
        name=str(document.get("name", "workflow")),
        parents={task["id"]: list(task.get("parents", [])) for task in tasks},
        inputs={
            task["id"]: [file for file in task.get("inputFiles", []) if file not in task.get("outputFiles", [])]
            for task in tasks
        },
        outputs={task["id"]: list(task.get("outputFiles", [])) for task in tasks},
        sizes={file["id"]: int(file["sizeInBytes"]) for file in files},
        seconds={task["id"]: float(task.get("runtimeInSeconds", 0)) for task in executed},
    )


def scaled_sizes(workflow: Workflow, megabytes: float) -> dict[str, int]:
    """Sizes that add up to about `megabytes`, never larger than recorded, at least one byte each."""
    whole = sum(workflow.sizes.values())
    factor = min(1.0, megabytes * 1e6 / whole) if whole else 1.0
    return {file: max(1, int(size * factor)) for file, size in workflow.sizes.items()}


def to_dag(workflow: Workflow, sizes: Mapping[str, int], longest_seconds: float) -> dict[str, Any]:
    """The Helios DAG that does what was recorded."""
    made = workflow.producers
    longest = max(workflow.seconds.values(), default=0)
    factor = longest_seconds / longest if longest else 0
    tasks: list[dict[str, Any]] = []
    for task, parents in workflow.parents.items():
        plan = {
            "inputs": {file_name(file): sizes.get(file, 1) for file in workflow.inputs[task]},
            "outputs": {file_name(file): [file, sizes.get(file, 1)] for file in workflow.outputs[task]},
            "seconds": round(workflow.seconds.get(task, 0) * factor, 4),
        }
        tasks.append(
            {
                "name": task_name(task),
                "image": "python:3.11",
                "command": [sys.executable, "-c", TASK, msgspec.json.encode(plan).decode()],
                "depends_on": [task_name(parent) for parent in parents],
                "inputs": [
                    {"fromTask": task_name(made[file]), "name": file_name(file)}
                    if file in made
                    else {"uri": f"s3://{BUCKET}/{workflow.name}/{file_name(file)}", "as": file_name(file)}
                    for file in dict.fromkeys(workflow.inputs[task])
                ],
                "outputs": [file_name(file) for file in dict.fromkeys(workflow.outputs[task])],
            }
        )
    return {"dagName": task_name(workflow.name), "tasks": tasks}


def task_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9._-]", "-", name).strip("-._") or "unnamed"


def file_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9._-]", "-", name)


def content(file: str, size: int) -> bytes:
    """What an external file holds: as a task would write it."""
    block = hashlib.sha256(file.encode()).digest() * 2048
    return (block * (size // len(block) + 1))[:size]


def external_inputs(workflow: Workflow, tasks: list[TaskView]) -> tuple[int, int]:
    """(inputs from outside the DAG, how many of them were hits)."""
    outside = {file_name(file) for file in workflow.external}
    causes = [each.cause for task in tasks for each in task.inputs if each.name in outside]
    return len(causes), sum(cause in HIT_CAUSES for cause in causes)


def replay(place: Local, workflow: Workflow, megabytes: float, seconds: float) -> dict[str, Metric]:
    sizes = scaled_sizes(workflow, megabytes)
    for file in workflow.external:
        size = sizes.get(file, 1)
        place.put(BUCKET, f"{workflow.name}/{file_name(file)}", content(file, size), size)
    dag = to_dag(workflow, sizes, seconds)
    metrics: dict[str, Metric] = {}
    durations: list[float] = []
    for number, which in enumerate(("first", "second")):
        run, tasks = place.run(dag)
        succeeded(run, tasks)
        inputs, hits = external_inputs(workflow, tasks)
        durations.append(run["durationMs"] / 1000)
        name = f"{workflow.name[:24]} {which} run"
        metrics[name] = Metric(
            value=durations[-1],
            unit="s",
            floor=durations[0] if number else None,
            ratio=durations[-1] / durations[0] if number else None,
        )
        metrics[f"{name}: external inputs hit"] = Metric(
            value=hits,
            unit=f"of {inputs}",
            target="all" if number else None,
            met=hits == inputs if number else None,
        )
        metrics[f"{name}: {run['cacheHit']}, from the cache"] = Metric(value=run["cacheHitBytes"] / 1e6, unit="MB")
        metrics[f"{name}: downloaded"] = Metric(value=run["cacheMissBytes"] / 1e6, unit="MB")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DATA])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--megabytes", type=float, default=200, help="all files of a workflow together")
    parser.add_argument("--seconds", type=float, default=0.2, help="the longest task")
    options = parser.parse_args()
    metrics: dict[str, Metric] = {}
    with local() as place:
        for file in options.files:
            workflow = read_workflow(file.read_bytes())
            tasks, files = len(workflow.parents), len(workflow.sizes)
            print(f"{workflow.name}: {tasks} tasks, {files} files, {len(workflow.external)} of them external")
            metrics |= replay(place, workflow, options.megabytes, options.seconds)
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
