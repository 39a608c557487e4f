"""What a notice of an ended run says, and who wants one. docs/notifications.md documents the shape.

Rule: names are added, never renamed or removed. A notice holds what `helios show` shows of the run, without what users
wrote into it themselves: no parameters, no command, no environment, no output. Its size is bounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis
from redis.exceptions import ResponseError

from helios.dag import Notify
from helios.keys import Keys
from helios.records import TaskView, read_tasks
from helios.run_object import readable, run_object
from helios.wire import hash_values

FAILED_TASKS = 20
REASON_CHARACTERS = 500
STATUSES_AT_A_TIME = 1_000
LEFT_OUT = ("params", "problems", "warnings")
"""Of the run's object."""

_notify_decoder = msgspec.json.Decoder(tuple[Notify, ...])


def notify_of(text: str | None) -> tuple[Notify, ...]:
    """Whom a run's record says to tell. Raises msgspec.DecodeError."""
    return _notify_decoder.decode(text) if text else ()


def due_numbers(text: str | None, status: str) -> list[int]:
    """Which entries of a run's `notify` want to know of this end. None of a record that cannot be read: that must not
    keep a run from its end.
    """
    try:
        return [number for number, each in enumerate(notify_of(text)) if {"ended", status.lower()} & set(each.on)]
    except (msgspec.DecodeError, UnicodeEncodeError):
        return []


def notice_body(client: redis.Redis, keys: Keys, run: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Of a run that ended. Raises redis.RedisError, and ValueError for a record that is damaged."""
    shown = {name: value for name, value in run_object(fields).items() if name not in LEFT_OUT}
    shown["reason"] = _bounded(shown["reason"])
    failed = _failed_tasks(client, keys, run) if shown["taskFailed"] else ()
    return {
        "event": str(shown["status"]).lower(),
        "run": shown,
        "failedTasks": [_task(each) for each in failed],
        "failedTasksOmitted": max(0, int(shown["taskFailed"]) - len(failed)),
    }


def _task(view: TaskView) -> dict[str, Any]:
    return {
        "name": view.name,
        "attempt": view.attempt,
        "node": view.node,
        "exitCode": view.exitCode,
        "reason": _bounded(view.reason),
    }


def _bounded(reason: str | None) -> str | None:
    if reason is None:
        return None
    text = readable(reason)
    return text if len(text) <= REASON_CHARACTERS else f"{text[: REASON_CHARACTERS - 1]}…"


def _failed_tasks(client: redis.Redis, keys: Keys, run: str) -> Sequence[TaskView]:
    """The first of those that failed themselves, in the order of the DAG."""
    names: list[str] = client.lrange(keys.task_names(run), 0, -1)  # pyright: ignore[reportAssignmentType] -- stubs
    failed: list[str] = []
    for start in range(0, len(names), STATUSES_AT_A_TIME):
        some = names[start : start + STATUSES_AT_A_TIME]
        found = hash_values(client, [keys.task(run, name) for name in some], ("status",))
        failed += [
            name
            for name, values in zip(some, found, strict=True)
            if not isinstance(values, ResponseError) and values[0] == "FAILED"
        ]
        if len(failed) >= FAILED_TASKS:
            break
    return read_tasks(client, keys, run, failed[:FAILED_TASKS])
