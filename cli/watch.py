"""Stays with a run until it ended, shows how it goes, and reports what came of it."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import redis

from cli.connection import Link
from cli.failure import INTERRUPTED, STATUS_CODES
from cli.follow import Follower
from cli.forecast import Forecast, score
from cli.forecast_text import forecast_object, score_lines, score_object
from cli.interrupts import Interrupts
from cli.output import Format, harmless, is_terminal, narrate, put, put_json, silence_stdout, styled
from cli.plain_progress import PlainProgress
from cli.run_object import read_run, read_views, whole_object
from cli.run_progress import RunProgress, TaskProgress
from cli.run_text import ROWS_SHOWN, metrics_lines, reason_lines, task_lines
from cli.submission import cancel, why_idle
from cli.task_logs import LogFollower, last_lines
from helios.records import TaskView

CANCEL_SECONDS = 10.0
"""How long an interrupted run is waited for after its cancellation was asked."""
LOG_LINES = 10
FAILURES_SHOWN = 5
SERVICES = ("submitter", "jobrunner", "collector")
SILENCE_SECONDS = 5.0
"""After so long without any change it is looked whether the services are alive."""


class Display(Protocol):
    """Shows progress on stderr."""

    def show(self, progress: RunProgress, changed: list[TaskProgress]) -> None: ...

    def close(self) -> None: ...


def watch(
    link: Link,
    run: str,
    title: str,
    *,
    cancels: bool,
    output: Format,
    report_to: Callable[[str], None],
    forecast: Forecast | None = None,
    interrupts: Interrupts | None = None,
) -> int:
    """Follow a run and report on it; returns the exit code. `cancels`: Ctrl-C cancels the run, else only the watching
    ends. `interrupts`: what notes them already.
    """
    interrupted_at: float | None = None
    asked = False
    with interrupts or Interrupts() as interrupts:
        follower = Follower(link, run)
        changed = follower.read()
        silence = Silence(link)
        display = display_of(title, follower.progress)
        try:
            while True:
                display.show(follower.progress, changed)
                if follower.ended:
                    break
                if interrupts.wanted and interrupted_at is None:
                    if not cancels:
                        break
                    interrupted_at = time.monotonic()
                    narrate("cancelling the run; Ctrl-C again leaves at once")
                    with interrupts.held():
                        cancel(link, run)
                        asked = True
                if interrupted_at is not None and time.monotonic() > interrupted_at + CANCEL_SECONDS:
                    break
                changed = follower.read()
                silence.note(changed)
        except KeyboardInterrupt:
            if cancels and not asked:  # the second came before the first was heeded
                with interrupts.held():
                    cancel(link, run)
            raise
        finally:
            display.close()
    if not follower.ended:
        state = "is still being cancelled" if cancels else "goes on"
        narrate(f"run {run} {state}\n  next: helios show {run}, or helios cancel {run}")
        return INTERRUPTED
    code = report(link, run, output=output, report_to=report_to, forecast=forecast)
    return INTERRUPTED if interrupts.wanted else code


class Silence:
    """Says once why nothing moves, when that is not the tasks' doing."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.since = time.monotonic()
        self.told = False

    def note(self, changed: Sequence[TaskProgress]) -> None:
        now = time.monotonic()
        if changed:
            self.since = now
        elif not self.told and now > self.since + SILENCE_SECONDS:
            self.since = now
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):  # which the follower deals with
                why = why_idle(self.link, *SERVICES)
                if why:
                    self.told = True
                    narrate(f"nothing moves: {why}")


def display_of(title: str, progress: RunProgress) -> Display:
    """Live on a terminal, else lines."""
    if not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        return PlainProgress(progress)
    from cli.live_progress import LiveProgress

    return LiveProgress(title)


def report(
    link: Link,
    run: str,
    *,
    output: Format,
    report_to: Callable[[str], None] = put,
    forecast: Forecast | None = None,
) -> int:
    """What came of a run that ended: metrics, tasks and how good its forecast was, as data; reasons, log ends and the
    next command as narration.
    """
    fields = read_run(link, run)
    views = read_views(link, run)
    try:
        if output == "json":
            told = whole_object(fields, views)
            put_json(told if forecast is None else {**told, **_scored_object(forecast, fields)})
        else:
            stream = sys.stdout if report_to is put else sys.stderr

            def paint(text: str, style: str) -> str:
                return styled(text, style, stream)

            lines = [*metrics_lines(fields, paint), "", *task_lines(views, paint, ROWS_SHOWN)]
            if forecast is not None:
                lines += ["", *score_lines(score(forecast, fields), paint)]
            report_to("\n".join(lines))
    except BrokenPipeError:
        silence_stdout()  # nobody reads the report; the exit code still tells how the run ended
    _tell_failures(link, run, views)
    _tell_next(run, views)
    return STATUS_CODES.get(fields["status"], 1)


def _scored_object(forecast: Forecast, fields: Mapping[str, Any]) -> dict[str, object]:
    return {"forecast": forecast_object(forecast), "score": score_object(score(forecast, fields))}


def _tell_failures(link: Link, run: str, views: Sequence[TaskView]) -> None:
    failed = [view for view in views if view.status == "FAILED"]
    for view in failed[:FAILURES_SHOWN]:
        narrate("")
        for line in reason_lines(view):
            narrate(styled(harmless(line), "red", sys.stderr))
        LogFollower(link, run, view.name, view.attempt, "task", "0-0").wait_for_the_rest()
        lines = last_lines(link, run, view.name, view.attempt, "task", LOG_LINES)
        if lines:
            narrate(f"the end of its log (helios logs {run} {view.name}):")
            for line in lines:
                narrate(f"  | {harmless(line)}")
    if len(failed) > FAILURES_SHOWN:
        narrate(f"… and {len(failed) - FAILURES_SHOWN:,} more failed tasks: helios show {run}")


def _tell_next(run: str, views: Sequence[TaskView]) -> None:
    narrate("")
    if any(view.outputs for view in views):
        narrate(f"outputs: helios artifacts {run}, and with --to DIR they are fetched")
    failed = next((view.name for view in views if view.status == "FAILED"), None)
    narrate(f"next: helios logs {run} {failed}" if failed else f"next: helios show {run}")
