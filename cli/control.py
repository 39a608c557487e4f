"""What the commands for schedules and for triggers share: asking the submitter for a change, and their last run."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import redis

from cli.connection import Link
from cli.failure import UNREACHABLE, CommandFailed
from cli.submission import why_idle
from helios.keys import CONTROLS

ANSWER_SECONDS = 15.0


def ask(
    link: Link,
    fields: Mapping[str, str | bytes],
    answer_key: Callable[[str], str],
    command: Literal["schedule", "trigger"],
) -> None:
    """Send a control and wait for its answer; raises CommandFailed unless that is `ok`. `answer_key`: of an entry."""
    try:
        entry: Any = link.client.xadd(CONTROLS, {**fields})
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise CommandFailed(
            f"the connection was lost while that was sent ({error}), so it may be done or not",
            hint=f"look with `helios {command}`",
            code=UNREACHABLE,
        ) from None
    deadline = time.monotonic() + ANSWER_SECONDS
    while (answer := link.client.get(answer_key(entry))) is None:
        if time.monotonic() > deadline:
            why = why_idle(link, "submitter")
            raise CommandFailed(
                f"nobody has answered within {ANSWER_SECONDS:.0f} s{f': {why}' if why else ''}",
                hint=f"it waits in the stream and is done when a submitter comes to it; helios {command}",
                code=UNREACHABLE,
            )
        time.sleep(0.02)
    if answer != "ok":
        raise CommandFailed(str(answer), hint=f"`helios {command}` lists those that there are")


def last_run(link: Link, run: str) -> tuple[str, str]:
    """The run that a submission became, and its status, empty if it is forgotten or there was none."""
    if not run:
        return "", ""
    status, first = link.client.hmget(link.keys(run).run(run), "status", "aliasOf")
    if first:
        run = str(first)
        status: Any = link.client.hget(link.keys(run).run(run), "status")
    return run, str(status or "")
