"""How many runs may be open at once, and how full Redis may be for another: beyond that submissions wait in the stream.

They wait rather than being refused, since whoever sends ten thousand DAGs wants ten thousand runs; what is refused
instead, by Redis itself, is a submission for which there is no memory left.
"""

import time
from collections.abc import Callable
from typing import Any

import redis
import structlog
from redis.exceptions import ResponseError

from helios.heartbeat import Heartbeat
from helios.keys import SUBMISSIONS, all_partitions
from helios.settings import Settings
from helios.streams import Inbox
from helios.wire import send

log = structlog.get_logger()

CLOSED_LOOK_MS = 100
"""So often is looked whether there is room again."""
MEMORY_SECONDS = 0.5
"""What is known of Redis's memory is good for so long: a few runs of the largest size fit into what is left."""


class Admission:
    """Opens and closes the way of submissions into one inbox. Its controls always pass."""

    def __init__(
        self,
        client: redis.Redis,
        inbox: Inbox,
        settings: Settings,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.inbox = inbox
        self.settings = settings
        self.heartbeat = heartbeat
        self.clock = clock
        self.reason = ""
        """Why submissions wait; empty while they do not."""
        self.memory: tuple[float, int] = (0.0, 0)
        """Until when it is good, and percent of maxmemory that are in use."""

    def turn(self) -> int | None:
        """To be called before each read; how long that may wait, in milliseconds. Raises redis.RedisError."""
        reason = self._look()
        if reason != self.reason:
            log.info("submissions", waiting_because=reason or None)
            self.heartbeat.say("waits", reason)
        self.reason = reason
        self.inbox.closed = {SUBMISSIONS} if reason else set()
        return CLOSED_LOOK_MS if reason else None

    def _look(self) -> str:
        counts = send(self.client, [("ZCARD", keys.active) for keys in all_partitions(self.settings.partitions)])
        runs = sum(count for count in counts if not isinstance(count, ResponseError))
        if runs >= self.settings.runs_active:
            return f"{runs:,} runs are open, and HELIOS_RUNS_ACTIVE is {self.settings.runs_active:,}"
        # Without an open run nothing would ever make room, so then one is opened however full Redis is.
        if runs and (used := self._memory_percent()) >= self.settings.redis_full_percent < 100:
            return (
                f"Redis's memory is {used} % full, and HELIOS_REDIS_FULL_PERCENT is {self.settings.redis_full_percent}"
            )
        return ""

    def _memory_percent(self) -> int:
        until, used = self.memory
        if self.clock() >= until:
            used = self._used_percent()
            self.memory = (self.clock() + MEMORY_SECONDS, used)
        return used

    def _used_percent(self) -> int:
        try:
            info: Any = self.client.info("memory")  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
        except ResponseError as error:
            if self.memory[0] == 0.0:
                log.warning("Redis does not say how full it is, so that does not count", error=str(error))
            return 0
        limit = int(info.get("maxmemory") or 0)
        return int(info["used_memory"]) * 100 // limit if limit else 0
