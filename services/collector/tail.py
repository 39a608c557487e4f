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
from services.collector.loglines import LINES_KEPT, PAGES_AT_ONCE, LogPart
from services.collector.pods import Pods


class LogTail:
    """How far each step's log of one pod has been copied."""

    def __init__(self, keys: Keys, launched: Launched) -> None:
        self.launched = launched
        self.streams: dict[str, str] = {
            step: keys.log(launched.run, launched.task, launched.attempt, step) for step in STEPS
        }
        self.reached: dict[str, int] = dict.fromkeys(STEPS, 0)
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
            for step, part in parts.items():
                for line in part.lines:
                    fields = {"line": line.text}
                    pipeline.xadd(self.streams[step], fields, id=line.id, maxlen=LINES_KEPT, approximate=True)
            results: list[Any] = pipeline.execute(raise_on_error=False)
            for result in results:
                if isinstance(result, Exception) and not _repeated(result):
                    raise result
        for step, part in parts.items():
            self.reached[step] = part.reached


def _repeated(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller than" in str(error)
