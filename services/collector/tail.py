"""From a pod's logs to the run's log streams.

A line's entry id follows from its place in the log, so that a repeated delivery adds nothing twice.
"""

from collections import deque
from typing import Any, NamedTuple

import redis
from redis.exceptions import ResponseError

from helios.keys import Keys
from helios.localjobs import STEPS
from helios.messages import Launched
from helios.transitions import pipelined
from services.collector.loglines import (
    LINES_KEPT,
    PAGES_AT_ONCE,
    TAIL_BYTES,
    WATCHED_BYTES,
    LogLine,
    LogPart,
    shortened,
)
from services.collector.pods import Pods

LINE_COST_BYTES = 32
"""What Redis needs for a line beside its text."""
BLOCK_BYTES = WATCHED_BYTES // 16


class _Block(NamedTuple):
    """Lines that are trimmed together, from the id `first` on."""

    first: str
    bytes: int


class LogTail:
    """How far each step's log of one pod has been copied."""

    def __init__(self, keys: Keys, launched: Launched) -> None:
        self.launched = launched
        self.streams: dict[str, str] = {
            step: keys.log(launched.run, launched.task, launched.attempt, step) for step in STEPS
        }
        self.reached: dict[str, int] = dict.fromkeys(STEPS, 0)
        self.blocks: dict[str, deque[_Block]] = {step: deque() for step in STEPS}
        self.sizes = keys.log_sizes
        self.is_followed = False
        """Somebody reads along: what was there at the last copy has been copied."""

    def copy(self, client: redis.Redis, pods: Pods, *, watched: bool, final: bool) -> None:
        """Copy what is new: fetch's log always, the others while somebody follows the run and at the end."""
        steps = [step for step in STEPS if step == "fetch" or watched or final]
        for page in range(PAGES_AT_ONCE + 1):
            parts: dict[str, LogPart] = {}
            for step in steps:
                # After so many pages of very short lines the rest is skipped, but for its end.
                followed = (self.is_followed or step == "fetch") and page < PAGES_AT_ONCE
                parts[step] = pods.lines(self.launched.job, step, self.reached[step], final=final, followed=followed)
            self._add(client, parts)
            steps = [step for step in steps if parts[step].more]
            if not steps:
                break
        self.is_followed = watched

    def _add(self, client: redis.Redis, parts: dict[str, LogPart]) -> None:
        if any(part.lines for part in parts.values()):
            pipeline = pipelined(client)
            grown = 0
            for step, part in parts.items():
                followed = self.is_followed or step == "fetch"
                lines = shortened(part.lines, WATCHED_BYTES if followed else TAIL_BYTES)
                for line in lines:
                    fields = {"line": line.text}
                    pipeline.xadd(self.streams[step], fields, id=line.id, maxlen=LINES_KEPT, approximate=True)
                    grown += self._note(step, line)
                dropped, oldest = self._excess(step)
                if dropped:
                    pipeline.xtrim(self.streams[step], minid=oldest, approximate=True)
                    grown -= dropped
            pipeline.zincrby(self.sizes, grown, self.launched.run)
            results: list[Any] = pipeline.execute(raise_on_error=False)
            for result in results:
                if isinstance(result, Exception) and not _repeated(result):
                    raise result
        for step, part in parts.items():
            self.reached[step] = part.reached

    def _note(self, step: str, line: LogLine) -> int:
        """Count the line, as so many bytes, to the last block or to a new one."""
        size = len(line.text.encode()) + LINE_COST_BYTES
        blocks = self.blocks[step]
        if blocks and blocks[-1].bytes < BLOCK_BYTES:
            blocks[-1] = _Block(blocks[-1].first, blocks[-1].bytes + size)
        else:
            blocks.append(_Block(line.id, size))
        return size

    def _excess(self, step: str) -> tuple[int, str]:
        """What the oldest blocks have too many bytes, and the first id that stays."""
        blocks = self.blocks[step]
        kept = sum(block.bytes for block in blocks)
        dropped = 0
        while len(blocks) > 1 and kept - dropped > WATCHED_BYTES:
            dropped += blocks.popleft().bytes
        return dropped, blocks[0].first if blocks else ""


def _repeated(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller than" in str(error)
