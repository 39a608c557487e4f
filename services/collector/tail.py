"""From a pod's log files to the run's log streams.

A line's entry id is the byte offset at which it starts, so that a repeated delivery adds nothing twice.
"""

from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import ResponseError

from helios.keys import Keys
from helios.localjobs import STEPS
from helios.messages import Launched
from helios.transitions import pipelined
from services.collector.pods import Pods

LINES_KEPT = 5_000
LINE_BYTES = 4_096
"""The beginning of a longer line is kept, and it says how much was cut."""
TAIL_BYTES = 1024 * 1024
"""Of a log that is longer than this and that nobody followed, the end is kept."""
PAGES_AT_ONCE = 16
"""A log that is followed is copied in pages of TAIL_BYTES, so that a burst of this many is not skipped."""

Line = tuple[int, str]
"""The offset at which a line starts, and its text."""


class LogTail:
    """How far each step's log of one pod has been copied."""

    def __init__(self, keys: Keys, launched: Launched) -> None:
        self.launched = launched
        self.streams: dict[str, str] = {
            step: keys.log(launched.run, launched.task, launched.attempt, step) for step in STEPS
        }
        self.offsets: dict[str, int] = dict.fromkeys(STEPS, 0)
        self.is_followed = False
        """Somebody reads along: what was there at the last copy has been copied."""

    def copy(self, client: redis.Redis, pods: Pods, *, watched: bool, final: bool) -> None:
        """Copy what is new: fetch's log always, the others while somebody follows the run and at the end."""
        for step in STEPS:
            if step == "fetch" or watched or final:
                self._copy_step(client, pods, step, final)
        self.is_followed = watched

    def _copy_step(self, client: redis.Redis, pods: Pods, step: str, final: bool) -> None:
        length = pods.log_bytes(self.launched.job, step)
        if length <= self.offsets[step]:
            return
        is_followed = self.is_followed or step == "fetch"
        if is_followed and length - self.offsets[step] <= PAGES_AT_ONCE * TAIL_BYTES:
            for _ in range(PAGES_AT_ONCE if final else 1):
                text = pods.log(self.launched.job, step, self.offsets[step], TAIL_BYTES)
                is_last = self.offsets[step] + len(text) >= length
                lines, reached = lines_of(text, self.offsets[step], ends=final and is_last)
                self._add(client, step, lines, reached)
                if is_last and reached >= length:
                    return
            if not final:
                return
        self._skip_to_the_end(client, pods, step, length, final)

    def _skip_to_the_end(self, client: redis.Redis, pods: Pods, step: str, length: int, final: bool) -> None:
        """Copy the last lines only, and say how much is left out before them."""
        start = max(self.offsets[step], length - TAIL_BYTES)
        text = pods.log(self.launched.job, step, start, TAIL_BYTES)
        if start > self.offsets[step]:
            first, newline, text = text.partition(b"\n")
            start += len(first) + len(newline)
        lines, reached = lines_of(text, start, ends=final, limit=None)
        if len(lines) > LINES_KEPT:
            lines = lines[1 - LINES_KEPT :]
        skipped = (lines[0][0] if lines else reached) - self.offsets[step]
        if skipped:
            lines.insert(0, (self.offsets[step], f"[HELIOS] {skipped} bytes of this log are not kept"))
        self._add(client, step, lines, reached)

    def _add(self, client: redis.Redis, step: str, lines: Sequence[Line], reached: int) -> None:
        if lines:
            pipeline = pipelined(client)
            for at, line in lines:
                pipeline.xadd(self.streams[step], {"line": line}, id=f"{at + 1}-0", maxlen=LINES_KEPT, approximate=True)
            results: list[Any] = pipeline.execute(raise_on_error=False)
            for result in results:
                if isinstance(result, Exception) and not _repeated(result):
                    raise result
        self.offsets[step] = reached


def lines_of(text: bytes, at: int, *, ends: bool, limit: int | None = LINES_KEPT) -> tuple[list[Line], int]:
    """The lines of a text that starts at the offset `at`, and the offset that is reached with them. `ends`: a last line
    without an end is one all the same.
    """
    complete, newline, rest = text.rpartition(b"\n")
    found: list[Line] = []
    lines = complete.split(b"\n") if newline else []
    for line in lines if limit is None else lines[:limit]:
        found.append((at, readable(line)))
        at += len(line) + 1
    if limit is not None and len(lines) > limit:
        return found, at
    if rest and (ends or len(rest) > LINE_BYTES):
        found.append((at, readable(rest)))
        at += len(rest)
    return found, at


def readable(line: bytes) -> str:
    line = line.rstrip(b"\r")
    text = line[:LINE_BYTES].decode("utf-8", "replace")
    return text if len(line) <= LINE_BYTES else f"{text} … {len(line) - LINE_BYTES:,} bytes cut"


def _repeated(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller than" in str(error)
