"""Earlier runs of a DAG, as commands compare with them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec

from cli.connection import Link
from cli.differences import Side, specs_of
from cli.lookup import newest_runs
from cli.run_object import read_views
from helios.dag import Dag
from helios.memo import decode_check
from helios.records import TaskView, decode_attempt
from helios.run_lookup import id_order
from helios.transitions import pipelined

LOOKED_AT = 1000
"""Runs of a DAG that are looked through; as many are kept at most, unless HELIOS_RUNS_KEPT_PER_DAG says more."""

TASKS_LOOKED_AT = 20_000
"""Tasks that are looked through for the name of a content."""


def earlier_runs(link: Link, dag_name: str, before: str | None = None) -> list[str]:
    """Stored runs of a DAG that started before that one (all, if None), newest first."""
    runs = newest_runs(link, LOOKED_AT, dag_name)
    return runs if before is None else [run for run in runs if id_order(run) < id_order(before)]


def runs_with_success(link: Link, runs: list[str], task: str) -> Iterator[str]:
    """Those of the runs in which the task succeeded, in the same order."""
    pipeline = pipelined(link.client)
    for run in runs:
        pipeline.hget(link.keys(run).task(run, task), "status")
    statuses: list[Any] = pipeline.execute(raise_on_error=False) if runs else []
    for run, status in zip(runs, statuses, strict=True):
        if status == "SUCCEEDED":
            yield run


def read_dag_of(link: Link, run: str) -> Dag | None:
    """The DAG of a stored run; None if it is gone or cannot be read."""
    stored: Any = link.client.get(link.keys(run).dag(run))
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored.encode("utf-8", "surrogateescape"), type=Dag)
    except msgspec.DecodeError:
        return None


def read_side(link: Link, run: str, task: str | None = None, *, asked: bool = False) -> Side:
    """A run as far as it is known. `task` is the one whose look for an earlier success is wanted too; `asked` says that
    why it went as it did is the question.

    A task that was skipped has no inputs of its own. It gets those of the task that stands for it, if its run is kept,
    because they have the same contents; not so the one that is asked about.
    """
    keys = link.keys(run)
    views = read_views(link, run)
    _take_inputs(link, [view for view in views if not (asked and view.name == task)])
    cache_enabled, memoize = link.client.hmget(keys.run(run), "cacheEnabled", "memoize")
    memo: Any = link.client.hget(keys.task(run, task), "memo") if task is not None else None
    dag = read_dag_of(link, run)
    return Side(
        run=run,
        cache_enabled=cache_enabled != "false",
        memoize=memoize != "false",
        tasks={view.name: view for view in views},
        specs=specs_of(dag),
        lists=dag.growth.lists if dag is not None and dag.growth is not None else {},
        memo=decode_check(memo),
    )


def names_of(link: Link, digests: set[str]) -> dict[str, str]:
    """What the contents were in the newest run that read or made them, over all DAGs. Not all that is kept is looked
    through, so some may be missing.
    """
    names: dict[str, str] = {}
    looked_at = 0
    for run in newest_runs(link, LOOKED_AT) if digests else ():
        if len(names) == len(digests) or looked_at > TASKS_LOOKED_AT:
            break
        views = read_views(link, run)
        looked_at += len(views)
        for view in views:
            for each in view.inputs:
                if each.sha256 in digests:
                    names.setdefault(each.sha256, f"input {each.name} of task {view.name} in run {run}")
            for each in view.outputs:
                if each.sha256 in digests:
                    names.setdefault(each.sha256, f"output {each.name} of task {view.name} in run {run}")
    return names


def _take_inputs(link: Link, views: list[TaskView]) -> None:
    skipped = [(view, view.skipped) for view in views if view.skipped is not None]
    pipeline = pipelined(link.client)
    for _, producer in skipped:
        pipeline.hget(link.keys(producer.run).task(producer.run, producer.task), "record")
    records: list[Any] = pipeline.execute(raise_on_error=False) if skipped else []
    for (view, _), record in zip(skipped, records, strict=True):
        if isinstance(record, str):
            with contextlib.suppress(msgspec.DecodeError):
                view.inputs = decode_attempt(record).inputs
