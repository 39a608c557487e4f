"""`helios cancel`: asks for a run's end, and waits a moment for it."""

import time
from typing import Any

from cli.connection import Link, connected
from cli.failure import SUCCEEDED
from cli.lookup import find_run
from cli.output import narrate
from cli.submission import cancel as ask
from cli.submission import why_idle
from helios.records import ENDED

PATIENCE_SECONDS = 10.0


def cancel(run: str, /) -> int:
    """Cancel a run: what waits never starts, what runs is ended.

    Parameters
    ----------
    run
        The run's id, or @latest.
    """
    with connected() as link:
        found = find_run(link, run)
        status = status_of(link, found)
        if status in ENDED:
            narrate(f"run {found} has ended already: {status}")
            return SUCCEEDED
        ask(link, found)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while status not in ENDED and time.monotonic() < deadline:
            time.sleep(0.05)
            status = status_of(link, found)
        if status in ENDED:
            narrate(f"run {found}: {status}")
        else:
            why = why_idle(link, "submitter", "jobrunner", "collector")
            narrate(f"run {found}: the cancellation is on its way{f', but {why}' if why else ''}")
            narrate(f"  next: helios show {found}")
        return SUCCEEDED


def status_of(link: Link, run: str) -> str:
    status: Any = link.client.hget(link.keys(run).run(run), "status")
    return status or ""
