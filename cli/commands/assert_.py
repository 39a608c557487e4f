"""`helios assert`: whether a run kept to what is expected of it, as an exit code."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import redis
from cyclopts import Parameter

from cli.commands.runs import paint
from cli.conditions import Wanted, condition_lines, condition_object, conditions, share_of
from cli.connection import ALL, REDIS, Link, connected, regain
from cli.failure import RUN_FAILED, SUCCEEDED, USAGE, CommandFailed
from cli.figures import bytes_of, seconds_of
from cli.lookup import find_run
from cli.output import Format, narrate, put, put_json
from cli.run_object import read_run
from helios.records import ENDED

LOOK_SECONDS = 0.1
Value = TypeVar("Value")


def assert_(
    run: str,
    /,
    *,
    hit_bytes: str | None = None,
    max_miss_bytes: str | None = None,
    max_duration: str | None = None,
    skipped: int | None = None,
    status: Literal["SUCCEEDED", "FAILED", "CANCELLED", "REJECTED"] = "SUCCEEDED",
    wait: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Check that a run kept to what is expected of it: exit code 0 if every condition holds, 1 if not.

    Parameters
    ----------
    run
        The run's id, or @latest.
    hit_bytes
        At least this share of its inputs' bytes came from the node's cache: 0.8 or 80%.
    max_miss_bytes
        At most so many bytes of inputs were missed: 10GB.
    max_duration
        It took no longer: 90s, 5m.
    skipped
        At least so many tasks were skipped, because an earlier success stood for them.
    status
        How it ended.
    wait
        Wait for its end; without it a run that goes on is exit code 2.
    output
        table for people, json for one object.
    """
    wanted = Wanted(
        status=status,
        hit_bytes=_read("--hit-bytes", hit_bytes, share_of),
        max_miss_bytes=_read("--max-miss-bytes", max_miss_bytes, bytes_of),
        max_duration_seconds=_read("--max-duration", max_duration, seconds_of),
        skipped=skipped,
    )
    with connected(ALL if wait else REDIS) as link:
        found = find_run(link, run)
        state = _status(link, found, wait=wait)
        if state not in ENDED:
            raise CommandFailed(
                f"run {found} has not ended: it is {state}", hint="--wait waits for its end", code=USAGE
            )
        results = conditions(read_run(link, found), wanted)
    holds = all(each.holds for each in results)
    if output == "json":
        put_json({"dagId": found, "holds": holds, "conditions": [condition_object(each) for each in results]})
    else:
        put("\n".join(condition_lines(results, paint)))
    if not holds:
        narrate(f"  next: helios show {found}, or helios why {found} TASK")
    return SUCCEEDED if holds else RUN_FAILED


def _read(option: str, text: str | None, reader: Callable[[str], Value]) -> Value | None:
    if text is None:
        return None
    try:
        return reader(text)
    except ValueError as error:
        raise CommandFailed(f"{option}: {error}", hint="helios assert --help") from None


def _status(link: Link, run: str, *, wait: bool) -> str:
    while True:
        try:
            status: Any = link.client.hget(link.keys(run).run(run), "status")
        except (redis.ConnectionError, redis.TimeoutError) as error:
            regain(link, error)
            continue
        if not wait or status in ENDED or status is None:
            return status or "no longer kept"
        time.sleep(LOOK_SECONDS)
