"""Log lines that a node's agent sends of the steps that it does: they go where those go that are read from pods."""

import redis

from helios.keys import Keys
from helios.podwire import Lines
from helios.tokens import Attempt
from helios.transitions import add_lines, commit_one
from services.collector.loglines import LINES_KEPT, WATCHED_BYTES, readable
from services.collector.tail import LINE_COST_BYTES

LATE_LINES_MS = 60_000
"""So long after an attempt's end its log still takes lines: those that its agent had not sent before it reported."""


def take_lines(client: redis.Redis, keys: Keys, attempt: Attempt, sent: Lines) -> bool:
    """False when the attempt is over for longer than that."""
    call = add_lines(
        keys,
        run=attempt.run,
        task=attempt.task,
        attempt=attempt.attempt,
        step=sent.step,
        before=sent.after,
        lines=[_one_line(line) for line in sent.lines],
        moment_ms=LATE_LINES_MS,
        bytes_kept=WATCHED_BYTES,
        lines_kept=LINES_KEPT,
        line_cost_bytes=LINE_COST_BYTES,
    )
    return bool(commit_one(client, call))


def _one_line(text: str) -> str:
    return readable(" ".join(text.splitlines()).encode("utf-8", "replace"))
