"""Reads one run's tasks: their records, and who waits for whom."""

from collections.abc import Iterable
from typing import Any

import msgspec
import redis

from helios.dag import Dag
from helios.keys import Keys
from helios.records import TASK_FIELDS, TaskView, task_view
from helios.wire import send
from tui.model.tasks import PHASE_FIELDS, Board

NAMES_READ = 1_000

_dag_decoder = msgspec.json.Decoder(Dag)

ReadRow = tuple[TaskView, str, list[int | None]]
"""A task's record, the phase of its attempt, and when the attempt began to fetch, run and publish."""


def open_board(client: redis.Redis, keys: Keys, run: str) -> Board:
    """The run's tasks as they are now; without any where the run is not kept, or was rejected."""
    text, names, times = send(
        client,
        [
            ("GET", keys.dag(run)),
            ("LRANGE", keys.task_names(run), 0, -1),
            ("HMGET", keys.run(run), "startTime", "endTime"),
        ],
    )
    above = _parents(text) if isinstance(text, str) else {}
    listed: list[str] = names if isinstance(names, list) else []  # pyright: ignore[reportUnknownVariableType] -- what Redis answers
    board = Board(run, [(name, above.get(name, ())) for name in listed])
    if not isinstance(times, Exception):
        board.started_at, board.ended_at = (int(each) if each and each.isdecimal() else None for each in times)
    for row in read_rows(client, keys, run, listed):
        board.load(*row)
    return board


def _parents(text: str) -> dict[str, tuple[str, ...]]:
    try:
        dag = _dag_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return {}
    return dag.after()


def read_rows(client: redis.Redis, keys: Keys, run: str, names: Iterable[str]) -> list[ReadRow]:
    """The records of the named tasks; one whose key has the wrong type comes back with status UNKNOWN."""
    wanted = list(names)
    found: list[ReadRow] = []
    for start in range(0, len(wanted), NAMES_READ):
        chunk = wanted[start : start + NAMES_READ]
        replies = send(
            client, [("HMGET", keys.task(run, name), *TASK_FIELDS, "phase", *PHASE_FIELDS) for name in chunk]
        )
        found += [_row(name, values) for name, values in zip(chunk, replies, strict=True)]
    return found


def _row(name: str, values: Any) -> ReadRow:
    if isinstance(values, redis.ResponseError):
        return TaskView(name=name, status="UNKNOWN", cache="Unknown", reason=str(values)), "", [None] * 3
    phase, *times = values[len(TASK_FIELDS) :]
    moments = [int(each) if each and each.isdecimal() else None for each in times]
    return task_view(name, values[: len(TASK_FIELDS)]), phase or "", moments
