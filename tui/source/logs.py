"""One step's log, as it is and as it grows, for a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from cli.connection import Link, reaching, trouble_of
from cli.task_logs import LogFollower, all_lines
from helios.task_logs import LINES_READ
from tui.model.log_lines import LogState

BATCH_SECONDS = 0.1
"""Lines are handed over no more often than this, however fast they come."""
RETRY_SECONDS = 1.0
BLOCK_MS = 250

Take = Callable[[list[str], LogState], None]
"""Called with lines that are new, and how the log stands; with no lines, when only that has changed."""


class LogReader:
    """Reads one attempt's log of one step until it is complete, or until it is stopped."""

    def __init__(self, link: Link, run: str, task: str, attempt: int, step: str) -> None:
        self.link = link
        self.run, self.task = run, task
        self.follower = LogFollower(link, run, task, attempt, step, "0-0")
        self._stopping = threading.Event()

    @property
    def is_stopped(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    def read_all(self, take: Take) -> None:
        """Returns when no line can follow."""
        while not self._stopping.is_set():
            try:
                if self._read_some(take):
                    return
            except redis.RedisError as error:
                take([], LogState("lost", trouble_of(self.link, error)))
                self._stopping.wait(RETRY_SECONDS)

    def _read_some(self, take: Take) -> bool:
        lines: list[str] = []
        complete = self.follower.is_complete() or self._never_starts()
        if complete:
            self.follower.read_rest(lines.append)
        else:
            began = time.monotonic()
            self.follower.read(lines.append, BLOCK_MS)
            while len(lines) % LINES_READ == 0 and lines and not self._stopping.is_set():
                before = len(lines)
                self.follower.read(lines.append, 1)
                if len(lines) == before:
                    break
            self._stopping.wait(max(0.0, BATCH_SECONDS - (time.monotonic() - began)))
        if self._stopping.is_set():
            return True
        take(lines, self._state(complete))
        return complete

    def _state(self, complete: bool) -> LogState:
        if not complete:
            return LogState("following")
        if self.follower.last != "0-0":
            return LogState("complete")
        keys = self.link.keys(self.run)
        found: Any = self.link.client.hmget(keys.run(self.run), "status", "logsDropped")
        if found[0] is None:
            return LogState("gone")
        if found[1]:
            return LogState("dropped")
        return LogState("unstarted" if self._never_starts() else "complete")

    def _never_starts(self) -> bool:
        """Whether the task has ended without this attempt."""
        keys = self.link.keys(self.run)
        found: Any = self.link.client.hmget(keys.task(self.run, self.task), "status", "attempt")
        return found[0] in ("UPSTREAM_FAILED", "CANCELLED") and int(found[1] or 0) < self.follower.attempt


def whole_log(link: Link, run: str, task: str, attempt: int, step: str) -> list[str]:
    """Every line that is kept, not only those that a screen holds. Raises CommandFailed."""
    lines: list[str] = []
    with reaching(link.settings, embedded=link.stack is not None):
        all_lines(link.keys(run).log(run, task, attempt, step), link.client, lines.append)
    return lines
