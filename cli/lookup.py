"""Which run a user means: a full id, an alias of one, or @latest. And which of its tasks."""

from typing import Any

from cli.connection import Link
from cli.failure import CommandFailed
from helios.dag_problem import nearest
from helios.run_lookup import is_forgotten, is_run_id, is_submitted
from helios.run_lookup import newest_runs as stored_runs

LATEST = "@latest"


def newest_runs(link: Link, limit: int, dag_name: str | None = None) -> list[str]:
    """Ids of stored runs, newest first, over all partitions."""
    return stored_runs(link.client, link.partitions, limit, dag_name)


def find_run(link: Link, named: str) -> str:
    """The id of the run that is meant; raises CommandFailed when there is none."""
    if named == LATEST:
        newest = newest_runs(link, 1)
        if not newest:
            raise CommandFailed("there is no run yet", hint="helios run FILE")
        return newest[0]
    if not is_run_id(named):
        raise CommandFailed(
            f"{named!r} is no run id; one looks like 1764027260123-0, and {LATEST} stands for the newest run",
            hint="`helios runs` lists them",
        )
    fields: Any = link.client.hmget(link.keys(named).run(named), "status", "aliasOf")
    if fields[1]:
        return fields[1]
    if fields[0] is None:
        raise _unknown(link, named)
    return named


def _unknown(link: Link, named: str) -> CommandFailed:
    from cli.submission import why_waiting

    if is_submitted(link.client, named):
        why = why_waiting(link)
        return CommandFailed(
            f"run {named} is submitted but not accepted yet{f': {why}' if why else ''}",
            hint="try again in a moment; `helios doctor` says whether a submitter is alive",
        )
    if is_forgotten(link.client, link.keys(named), named):
        return CommandFailed(
            f"run {named} is no longer kept: of each DAG the newest runs are", hint="`helios runs` lists those that are"
        )
    near = nearest(named, newest_runs(link, 1000))
    hint = f"did you mean {near}? `helios runs` lists them" if near else "`helios runs` lists those that are kept"
    return CommandFailed(f"there is no run {named}", hint=hint)


def task_names(link: Link, run: str) -> list[str]:
    """The run's tasks in the order of its DAG."""
    names: Any = link.client.lrange(link.keys(run).task_names(run), 0, -1)
    return names


def check_task(names: list[str], run: str, named: str) -> str:
    if named in names:
        return named
    near = nearest(named, names)
    hint = f"did you mean {near!r}? " if near else ""
    listed = f"it has {', '.join(names)}" if 0 < len(names) <= 8 else f"`helios show {run}` lists its tasks"
    raise CommandFailed(f"run {run} has no task {named!r}", hint=f"{hint}{listed}")
