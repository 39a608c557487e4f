"""From a pod's logs to the run's log streams.

A line's entry id follows from its place in the log, so that a repeated delivery adds nothing twice.
"""

from typing import Any

import redis
from redis.exceptions import ResponseError

from helios.keys import Keys
from helios.localjobs import STEPS
from helios.messages import Launched
from helios.transitions import pipelined
from services.collector.loglines import LogLine
from services.collector.pods import Pods

LINES_KEPT = 5_000


class LogTail:
    """How far each step's log of one pod has been copied."""

    def __init__(self, keys: Keys, launched: Launched) -> None:
        self.launched = launched
        self.streams: dict[str, str] = {
            step: keys.log(launched.run, launched.task, launched.attempt, step) for step in STEPS
        }
        self.reached: dict[str, int] = dict.fromkeys(STEPS, 0)

    def copy(self, client: redis.Redis, pods: Pods, *, watched: bool, final: bool) -> None:
        """Copy what is new: fetch's log always, the others while somebody follows the run and at the end."""
        reached: dict[str, int] = {}
        found: list[tuple[str, LogLine]] = []
        for step in STEPS:
            if step == "fetch" or watched or final:
                part = pods.lines(self.launched.job, step, self.reached[step], final=final)
                reached[step] = part.reached
                found += [(step, line) for line in part.lines]
        if not found:
            return
        pipeline = pipelined(client)
        for step, line in found:
            pipeline.xadd(self.streams[step], {"line": line.text}, id=line.id, maxlen=LINES_KEPT, approximate=True)
        results: list[Any] = pipeline.execute(raise_on_error=False)
        for result in results:
            if isinstance(result, Exception) and not _repeated(result):
                raise result
        self.reached.update(reached)


def _repeated(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller than" in str(error)
