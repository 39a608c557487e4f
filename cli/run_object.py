"""Runs as `-o json` prints them, read by a command."""

from collections.abc import Mapping, Sequence
from typing import Any

from cli.connection import Link
from cli.failure import CommandFailed
from cli.lookup import task_names
from helios.records import TaskView, read_tasks
from helios.run_object import run_object, task_object
from helios.transitions import pipelined


def read_run(link: Link, run: str) -> dict[str, Any]:
    """The run without its tasks."""
    found: Any = link.client.hgetall(link.keys(run).run(run))
    if "status" not in found:
        raise CommandFailed(f"run {run} is no longer kept", hint="`helios runs` lists those that are")
    return _shown(found)


def read_runs(link: Link, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Several runs without their tasks; one that was deleted meanwhile is left out."""
    pipeline = pipelined(link.client)
    for run in runs:
        pipeline.hgetall(link.keys(run).run(run))
    found: list[Any] = pipeline.execute(raise_on_error=False) if runs else []
    hashes = [fields for fields in found if not isinstance(fields, Exception)]
    return [_shown(fields) for fields in hashes if "status" in fields]


def _shown(fields: Mapping[str, str]) -> dict[str, Any]:
    try:
        return run_object(fields)
    except ValueError as error:
        raise CommandFailed(
            f"the record of run {fields.get('dagId', '?')} is damaged: {error}", hint="helios doctor"
        ) from None


def read_views(link: Link, run: str) -> list[TaskView]:
    """The run's tasks in the order of its DAG."""
    return read_tasks(link.client, link.keys(run), run, task_names(link, run))


def whole_object(run: Mapping[str, Any], views: Sequence[TaskView]) -> dict[str, Any]:
    """What `helios run -o json` and `helios show -o json` print."""
    return {**run, "tasks": [task_object(view) for view in views]}
