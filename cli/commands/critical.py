"""`helios critical`: what a run waited for."""

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from cli.checkup import server_ms
from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.critical_path import CriticalPath, Step, critical_path
from cli.failure import SUCCEEDED, CommandFailed
from cli.figures import count, duration
from cli.lookup import find_run, task_names
from cli.output import Format, put, put_json
from cli.run_object import read_run
from cli.run_text import STATUS_STYLES
from cli.table import Cell, Column, Painter, lay_out, plain
from helios.dag import Dag
from helios.phases import MOMENTS, PHASES, Moments, Timed
from helios.records import read_tasks
from helios.wire import hash_values

SKEW_SHOWN_MS = 1_000
UNKNOWN = "?"


def critical(run: str, /, *, output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table") -> int:
    """Show the critical path of a run: which tasks it waited for, and in which phase of each.

    Phases: EARLIER attempts; QUEUE, until its Job is made; CREATE, until its pod is seen; SCHEDULE, until that has a
    node; PULL, until fetch is at work, and from its end until the command is: images are pulled and containers start
    (one figure: what Kubernetes tells of pulls comes late); FETCH; RUN; PUBLISH; SETTLE, until the next task is queued.
    What is not known is "?", and its time is in SCHEDULE, PULL or RUN. In local mode QUEUE includes the wait for a
    slot, CREATE the start of processes, and there is nothing to schedule or to pull.

    "With everything cached" takes away what misses took to fetch, from every task of the run, and looks for the longest
    path anew. Of a run that goes on the path so far is shown, and of one that failed the path to its end.

    Parameters
    ----------
    run
        The run's id, or @latest.
    output
        table for people, json for one object.
    """
    with connected() as link:
        found = find_run(link, run)
        fields = read_run(link, found)
        if fields["startTime"] is None or fields["status"] == "REJECTED":
            raise CommandFailed(f"run {found} was rejected, so no task of it ran", hint=f"helios show {found}")
        path = read_path(link, found, fields)
        if output == "json":
            put_json(path_object(fields, path))
        else:
            put("\n".join(path_lines(fields, path, paint)))
        return SUCCEEDED


def read_path(link: Link, run: str, fields: dict[str, Any]) -> CriticalPath:
    names, keys = task_names(link, run), link.keys(run)
    text: Any = link.client.get(keys.dag(run))
    try:
        above = msgspec.json.decode(text or "", type=Dag).after()
    except (msgspec.DecodeError, UnicodeError):
        raise CommandFailed(f"the DAG of run {run} is not kept", hint="`helios runs` lists those that are") from None
    views = read_tasks(link.client, keys, run, names)
    seen = hash_values(link.client, [keys.task(run, name) for name in names], MOMENTS)
    local = link.stack is not None
    tasks = [
        Timed(view, above.get(view.name, ()), _moments(values), local) for view, values in zip(views, seen, strict=True)
    ]
    return critical_path(tasks, started_at=fields["startTime"], ended_at=fields["endTime"], now_ms=server_ms(link))


def _moments(values: Any) -> Moments:
    if isinstance(values, Exception):
        return Moments()
    return Moments(*(int(text) if text and text.isdecimal() else None for text in values))


def path_object(run: dict[str, Any], path: CriticalPath) -> dict[str, Any]:
    """What `-o json` prints."""
    shown: dict[str, Any] = msgspec.to_builtins(path)
    for step in shown["path"]:
        step["share"] = _share(step["ms"], path.ms)
    if path.allCached is not None:
        shown["allCached"]["savedMs"] = path.ms - path.allCached.ms
    return {"run": run["dagId"], "dagName": run["dagName"], "status": run["status"], **shown}


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def path_lines(run: dict[str, Any], path: CriticalPath, paint: Painter = plain) -> list[str]:
    status: str = run["status"]
    so_far = " so far" if run["endTime"] is None else ""
    named = f"{run['dagName']} {run['dagId']}  {paint(status, STATUS_STYLES.get(status, ''))}"
    lines = [f"{named} in {duration(path.ms)}{so_far}"]
    if not path.path:
        return [*lines, "", "no task of it had its turn"]
    columns = [Column("TASK"), *(Column(name.upper(), right=True) for name in PHASES)]
    rows: list[list[Cell | str]] = []
    for step in path.path:
        figures = [_figure(step, name) for name in PHASES]
        percent = f"{_share(step.ms, path.ms) * 100:.0f} %"
        name = f"{step.task} (skipped)" if step.skipped else step.task
        rows.append([Cell(name, STATUS_STYLES["FAILED"] if step.status == "FAILED" else ""), *figures])
        rows[-1] += [duration(step.ms), percent]
    totals = [sum(step.phases[name] or 0 for step in path.path) for name in PHASES]
    sums = [Cell(duration(total) if total else "", "bold") for total in totals]
    rows.append([Cell("all", "bold"), *sums, Cell(duration(sum(step.ms for step in path.path)), "bold"), ""])
    lines += ["", *lay_out([*columns, Column("TIME", right=True), Column("SHARE", right=True)], rows, paint)]
    skewed = [step for step in path.path if abs(step.skewMs) >= SKEW_SHOWN_MS]
    for step in skewed:
        way = "behind" if step.skewMs > 0 else "ahead of"
        lines.append(
            f"the clock of {step.node or 'the node'} was {duration(abs(step.skewMs))} {way} Redis's at {step.task}"
        )
    return [*lines, "", *_cached_lines(path)]


def _figure(step: Step, phase: str) -> str:
    """Nothing for what the task has not come to yet, or never was to."""
    milliseconds = step.phases[phase]
    if milliseconds is not None:
        return duration(milliseconds)
    if phase in ("schedule", "pull") and step.phases["pull"] is None:
        return ""  # as in local mode
    return "" if phase == "earlier" or not step.node or step.status in ("QUEUED", "RUNNING") else UNKNOWN


def _cached_lines(path: CriticalPath) -> list[str]:
    cached = path.allCached
    if cached is None:
        return ["what it would take with everything cached is known when it has ended"]
    if not cached.missed:
        return ["no input missed: there is nothing left for the cache to save"]
    saved = path.ms - cached.ms
    lines = [f"with everything cached it would have taken {duration(cached.ms)}, {duration(saved)} less"]
    now = [step.task for step in path.path]
    if list(cached.path) == now:
        lines.append("its critical path would be the same")
    else:
        lines.append(f"its critical path would then be {' → '.join(cached.path)}")
    if cached.unknown:
        tasks = count(cached.unknown, "task")
        lines.append(f"of {tasks} it is not known how long the misses took; that is left in")
    return lines
