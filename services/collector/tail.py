"""From a pod's log files to the run's log streams.

A line's entry id is the byte offset at which it starts, so that a repeated delivery adds nothing twice.
"""

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
TAIL_BYTES = 256 * 1024
"""Of a log that is longer than this and that nobody followed, the end is kept."""


class LogTail:
    """How far each step's log of one pod has been copied."""

    def __init__(self, keys: Keys, launched: Launched) -> None:
        self.launched = launched
        self.streams: dict[str, str] = {
            step: keys.log(launched.run, launched.task, launched.attempt, step) for step in STEPS
        }
        self.offsets: dict[str, int] = dict.fromkeys(STEPS, 0)

    def copy(self, client: redis.Redis, pods: Pods, *, watched: bool, final: bool) -> None:
        """Copy what is new: fetch's log always, the others while somebody follows the run and at the end."""
        reached: dict[str, int] = {}
        found: list[tuple[str, int, str]] = []
        for step in STEPS:
            if step == "fetch" or watched or final:
                lines, reached[step] = self._lines(pods, step, final)
                found += [(step, offset, line) for offset, line in lines]
        if not found:
            return
        pipeline = pipelined(client)
        for step, offset, line in found:
            pipeline.xadd(self.streams[step], {"line": line}, id=f"{offset + 1}-0", maxlen=LINES_KEPT, approximate=True)
        results: list[Any] = pipeline.execute(raise_on_error=False)
        for result in results:
            if isinstance(result, Exception) and not _repeated(result):
                raise result
        self.offsets.update(reached)

    def _lines(self, pods: Pods, step: str, final: bool) -> tuple[list[tuple[int, str]], int]:
        """New lines with their offsets, and the offset that is reached once they are copied."""
        length = pods.log_bytes(self.launched.job, step)
        offset = self.offsets[step]
        if length <= offset:
            return [], offset
        found: list[tuple[int, str]] = []
        skipped = 0
        if length - offset > TAIL_BYTES:
            skipped = length - TAIL_BYTES - offset
        text = pods.log(self.launched.job, step, offset + skipped, TAIL_BYTES)
        if skipped:
            first, newline, rest = text.partition(b"\n")
            skipped += len(first) + len(newline)
            found.append((offset, f"[HELIOS] {skipped} bytes of this log are not kept"))
            text = rest
        at = offset + skipped
        complete, newline, rest = text.rpartition(b"\n")
        for line in complete.split(b"\n") if newline else ():
            found.append((at, _readable(line)))
            at += len(line) + 1
        if rest and (final or len(rest) > LINE_BYTES):
            found.append((at, _readable(rest)))
            at += len(rest)
        return found, at


def _readable(line: bytes) -> str:
    return line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r")


def _repeated(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller than" in str(error)
