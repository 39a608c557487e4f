"""A run as people read it: its metrics, its tasks, its reasons. No I/O happens here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cli.figures import count, duration, moment, size
from cli.output import inert
from cli.table import Cell, Column, Painter, lay_out, plain, shortened
from helios.records import MISS_CAUSES, TaskView

STATUS_STYLES = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "UPSTREAM_FAILED": "red",
    "REJECTED": "red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
}
CACHE_STYLES = {"Hit": "green", "Partial": "yellow"}

REASON_CHARACTERS = 90
PARAM_CHARACTERS = 120
"""Of a parameter's value; `-o json` has them whole."""
LONG_WAIT_MS = 1_000
"""Shorter waits are not shown."""
ROWS_SHOWN = 50
"""Tasks listed after a run; those that did not succeed come first."""

RUN_COLUMNS = (
    Column("RUN"),
    Column("DAG"),
    Column("STATUS"),
    Column("STARTED"),
    Column("TIME", right=True),
    Column("TASKS", right=True),
    Column("CACHE"),
    Column("HIT", right=True),
    Column("MISSED", right=True),
)
NAME_CHARACTERS = 24
"""Of an input's name in the table of tasks; `-o json` has them whole."""

TASK_COLUMNS = (
    Column("TASK"),
    Column("STATUS"),
    Column("ATTEMPT", right=True),
    Column("CACHE"),
    Column("HIT", right=True),
    Column("MISSED", right=True),
    Column("WHY MISSED"),
    Column("WAIT", right=True),
    Column("TIME", right=True),
    Column("REASON"),
)


def metrics_lines(run: Mapping[str, Any], paint: Painter = plain) -> list[str]:
    """The run's metrics."""
    status: str = run["status"]
    time = f" in {duration(run['durationMs'])}" if run["durationMs"] is not None and status != "REJECTED" else ""
    lines = [
        f"run      {run['dagId']}",
        f"dag      {run['dagName']}",
        f"status   {paint(status, STATUS_STYLES.get(status, ''))}{time}",
    ]
    if run["startTime"] is not None:
        ended = f", ended {moment(run['endTime'])}" if run["endTime"] is not None else ""
        lines.append(f"started  {moment(run['startTime'])}{ended}")
    if status == "REJECTED":
        return lines
    if run["params"]:
        pairs = [f"{name}={inert(shortened(value, PARAM_CHARACTERS))}" for name, value in run["params"].items()]
        lines += [f"{'params' if at == 0 else '':<8} {pair}" for at, pair in enumerate(pairs)]
    lines.append(f"tasks    {task_counts(run)}")
    lines.append(f"cache    {cache_line(run, paint)}")
    if run["nodes"]:
        lines.append(f"nodes    {run['nodes'].replace(',', ', ')}")
    if not run["memoize"]:
        lines.append("memoize  off for this run: no task is skipped")
    if run["reason"]:
        lines.append(f"reason   {run['reason']}")
    return lines


def task_counts(run: Mapping[str, Any]) -> str:
    parts = [
        f"{run[field]:,} {word}"
        for field, word in (
            ("taskSucceeded", f"succeeded{skipped_words(run)}"),
            ("taskFailed", "failed"),
            ("taskUpstreamFailed", "not started because of a failure above"),
            ("taskCancelled", "cancelled"),
        )
        if run[field]
    ]
    return f"{run['taskCount']:,}: {', '.join(parts)}" if parts else f"{run['taskCount']:,}"


def skipped_words(run: Mapping[str, Any]) -> str:
    return f" ({run['taskSkipped']:,} skipped)" if run["taskSkipped"] else ""


def cache_line(run: Mapping[str, Any], paint: Painter = plain) -> str:
    if not run["cacheEnabled"]:
        return "off for this run"
    outcome: str = run["cacheHit"]
    tasks = f"{run['cacheHitTasks']:,} tasks hit, {run['cachePartialTasks']:,} partly, {run['cacheMissTasks']:,} missed"
    moved = f"{size(run['cacheHitBytes'])} from the cache, {size(run['cacheMissBytes'])} downloaded"
    if run["cachePeerBytes"]:
        moved += f" ({size(run['cachePeerBytes'])} of them from other nodes)"
    saved = f"; saved {duration(run['cacheSavedMs'])} of downloading" if run["cacheSavedMs"] else ""
    return f"{paint(outcome, CACHE_STYLES.get(outcome, ''))}; {tasks}; {moved}{saved}"


def task_lines(views: Sequence[TaskView], paint: Painter = plain, limit: int | None = None) -> list[str]:
    """The table of tasks; with a limit, first those that did not succeed, and a last line that says what is missing."""
    shown = list(views)
    if limit is not None and len(shown) > limit:
        shown = sorted(shown, key=lambda view: view.status == "SUCCEEDED")[:limit]
    lines = lay_out(TASK_COLUMNS, [task_row(view) for view in shown], paint)
    if len(shown) < len(views):
        lines.append(f"… and {count(len(views) - len(shown), 'more task')}")
    return lines


def task_row(view: TaskView) -> tuple[Cell | str, ...]:
    waited = wait_ms(view)
    has_inputs = view.cache not in ("N/A",)
    return (
        view.name,
        Cell(view.status, STATUS_STYLES.get(view.status, "")),
        str(view.attempt or ""),
        Cell(view.cache, CACHE_STYLES.get(view.cache, "")),
        size(view.cacheHitBytes) if has_inputs else "",
        size(view.cacheMissBytes) if has_inputs or view.cacheMissBytes else "",
        why_missed(view),
        duration(waited) if waited is not None and waited >= LONG_WAIT_MS else "",
        duration(run_ms(view)),
        shortened(_reason(view), REASON_CHARACTERS),
    )


def _reason(view: TaskView) -> str:
    if view.skipped:
        return view.skipped.words()
    if view.made is not None and not view.reason:
        return f"made {count(view.made, 'task')}" if view.made else "made no tasks: its list is empty"
    return view.reason or ""


def why_missed(view: TaskView) -> str:
    """`corpus.txt never-here`, or with several misses `2 never-here, 1 changed`; empty without a miss."""
    missed = [each for each in view.inputs if each.cause in MISS_CAUSES]
    if len(missed) == 1:
        return f"{shortened(missed[0].name, NAME_CHARACTERS)} {missed[0].cause}"
    return ", ".join(f"{number} {cause}" for cause, number in Counter(each.cause for each in missed).most_common())


def run_ms(view: TaskView) -> int | None:
    """How long the last attempt's command ran; where that is not known, how long its Job was there."""
    if view.startedAt is not None and view.finishedAt is not None:
        return max(0, view.finishedAt - view.startedAt)
    return view.endTime - view.startTime if view.endTime is not None and view.startTime is not None else None


def wait_ms(view: TaskView) -> int | None:
    """From when the last attempt was queued to the start of its command: for a place to run in, and for its inputs."""
    if view.startedAt is None or view.queuedTime is None:
        return None
    return max(0, view.startedAt - view.queuedTime)


def run_row(run: Mapping[str, Any]) -> tuple[Cell | str, ...]:
    status: str = run["status"]
    rejected = status == "REJECTED"
    done = run["taskSucceeded"] + run["taskFailed"] + run["taskUpstreamFailed"] + run["taskCancelled"]
    return (
        run["dagId"],
        run["dagName"],
        Cell(status, STATUS_STYLES.get(status, "")),
        moment(run["startTime"]),
        "" if rejected else duration(run["durationMs"]),
        "" if rejected else f"{done}/{run['taskCount']}{skipped_words(run)}",
        "" if rejected else Cell(run["cacheHit"], CACHE_STYLES.get(run["cacheHit"], "")),
        "" if rejected else size(run["cacheHitBytes"]),
        "" if rejected else size(run["cacheMissBytes"]),
    )


def reason_lines(view: TaskView) -> list[str]:
    """Why a task did not succeed, in full."""
    attempts = f" after {view.attempt} attempts" if view.attempt > 1 else ""
    return [f"task {view.name!r} {view.status}{attempts}: {view.reason or 'no reason is known'}"]
