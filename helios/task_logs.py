"""A task's log as the collector keeps it: one stream for each attempt and step."""

from collections.abc import Iterator
from typing import Any, Literal

import redis

from helios.keys import Keys

Step = Literal["fetch", "task", "publish"]

WATCHED_SECONDS = 10
LINES_READ = 1_000


def note_watched(client: redis.Redis, keys: Keys, run: str) -> None:
    """The collector copies a log live only while somebody says, every few seconds, that it is watched."""
    client.set(keys.watched(run), "1", ex=WATCHED_SECONDS)


def lines_after(client: redis.Redis, stream: str, last: str) -> list[tuple[str, str]]:
    """The next lines with their ids, at most LINES_READ."""
    page: Any = client.xrange(stream, min=f"({last}", count=LINES_READ)
    return [(entry, fields.get("line", "")) for entry, fields in page]


def last_lines(client: redis.Redis, stream: str, limit: int) -> list[tuple[str, str]]:
    """The end of a log, with ids."""
    page: Any = client.xrevrange(stream, count=limit) if limit else []
    return [(entry, fields.get("line", "")) for entry, fields in reversed(page)]


def task_state(client: redis.Redis, keys: Keys, run: str, task: str) -> tuple[str, int, bool]:
    """Status, current attempt, and whether no attempt follows. A task that is not known (any more) is UNKNOWN."""
    state: Any = client.hmget(keys.task(run, task), "status", "attempt", "settled")
    return state[0] or "UNKNOWN", int(state[1] or 0), state[2] == "1" or state[0] in ("SUCCEEDED", None)


def is_over(client: redis.Redis, keys: Keys, run: str, task: str, attempt: int) -> bool:
    """Whether the attempt has ended, or is not known any more."""
    status, current, _ = task_state(client, keys, run, task)
    if status == "UNKNOWN":
        return True
    if current == attempt:
        return status not in ("WAITING", "QUEUED", "RUNNING")
    return current > attempt


def has_job(client: redis.Redis, keys: Keys, run: str, task: str, attempt: int) -> bool:
    """Whether the attempt's pod is not wrapped up yet, which copies the rest of its log."""
    wanted = (run, task, str(attempt))
    return any(
        (fields.get("run"), fields.get("task"), fields.get("attempt")) == wanted for fields in _launched(client, keys)
    )


def _launched(client: redis.Redis, keys: Keys) -> Iterator[dict[str, str]]:
    start = "-"
    while True:
        page: Any = client.xrange(keys.launched, min=start, count=LINES_READ)
        for entry, fields in page:
            yield fields
            start = f"({entry}"
        if len(page) < LINES_READ:
            return
