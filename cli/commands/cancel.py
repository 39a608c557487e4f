"""`helios cancel`: asks for a run's end, and waits a moment for it."""

import time
from typing import Annotated, Any

from cyclopts import Parameter

from cli.connection import Link, connected
from cli.failure import SUCCEEDED
from cli.lookup import find_run
from cli.output import narrate
from cli.submission import cancel as ask
from cli.submission import why_idle
from helios.records import ENDED

PATIENCE_SECONDS = 10.0


def cancel(run: str, /, *, on_exit: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Cancel a run: what waits never starts, what runs is ended. Its onExit task runs all the same.

    Parameters
    ----------
    run
        The run's id, or @latest.
    on_exit
        End the onExit task too, or keep it from starting.
    """
    with connected() as link:
        found = find_run(link, run)
        status = status_of(link, found)
        if status in ENDED:
            narrate(f"run {found} has ended already: {status}")
            return SUCCEEDED
        ask(link, found, on_exit=on_exit)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while status not in ENDED and time.monotonic() < deadline:
            if not on_exit and exit_task_of(link, found):
                break
            time.sleep(0.05)
            status = status_of(link, found)
        if status in ENDED:
            narrate(f"run {found}: {status}")
        elif not on_exit and (task := exit_task_of(link, found)):
            narrate(f"run {found}: its other tasks have ended, and its onExit task {task} goes on")
            narrate(f"  to end that too: helios cancel {found} --on-exit")
        else:
            why = why_idle(link, "submitter", "jobrunner", "collector")
            narrate(f"run {found}: the cancellation is on its way{f', but {why}' if why else ''}")
            narrate(f"  next: helios show {found}")
        return SUCCEEDED


def exit_task_of(link: Link, run: str) -> str | None:
    """The run's onExit task if nothing else of it is left."""
    found: Any = link.client.hmget(link.keys(run).run(run), "onExit", "exitStatus")
    task, told = found
    return task if told else None


def status_of(link: Link, run: str) -> str:
    status: Any = link.client.hget(link.keys(run).run(run), "status")
    return status or ""
