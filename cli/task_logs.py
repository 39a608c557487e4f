"""A task's log as the collector keeps it: one stream for each attempt and step."""

import time
from collections.abc import Callable
from typing import Any, Literal

import redis

from cli.connection import Link
from helios.keys import Keys

Step = Literal["fetch", "task", "publish"]

READ_BLOCK_MS = 500
WATCHED_SECONDS = 10
LINES_READ = 1_000
WRAP_UP_SECONDS = 15.0
"""A task ends when its outputs are stored; its pod ends, and the rest of its log is read, up to some seconds later."""
WRAP_UP_POLL_SECONDS = 0.1


def last_lines(link: Link, run: str, task: str, attempt: int, step: str, limit: int) -> list[str]:
    """The end of a log."""
    found: Any = link.client.xrevrange(link.keys(run).log(run, task, attempt, step), count=limit)
    return [fields.get("line", "") for _, fields in reversed(found)]


def all_lines(stream: str, client: redis.Redis, write: Callable[[str], None], last: str = "0-0") -> str:
    """Write the log after the line `last`, a page at a time; returns the id of the last line, to follow from."""
    while True:
        page: Any = client.xrange(stream, min=f"({last}", count=LINES_READ)
        for entry, fields in page:
            write(fields.get("line", ""))
            last = entry
        if len(page) < LINES_READ:
            return last


class LogFollower:
    """One attempt's log, line by line as it grows."""

    def __init__(self, link: Link, run: str, task: str, attempt: int, step: str, last: str) -> None:
        self.link = link
        self.keys: Keys = link.keys(run)
        self.run, self.task, self.attempt = run, task, attempt
        self.stream = self.keys.log(run, task, attempt, step)
        self.last = last
        self.watched_until = 0.0

    def read(self, write: Callable[[str], None], block_ms: int = READ_BLOCK_MS) -> None:
        """Write what is new, waiting a moment for it. The collector copies live only while somebody says to watch."""
        if time.monotonic() >= self.watched_until - WATCHED_SECONDS / 2:
            self.link.client.set(self.keys.watched(self.run), "1", ex=WATCHED_SECONDS)
            self.watched_until = time.monotonic() + WATCHED_SECONDS
        page: Any = self.link.client.xread({self.stream: self.last}, count=LINES_READ, block=block_ms)
        for entry, fields in page[0][1] if page else ():
            write(fields.get("line", ""))
            self.last = entry

    def read_rest(self, write: Callable[[str], None]) -> None:
        """Write what is left of a log that is complete."""
        self.last = all_lines(self.stream, self.link.client, write, self.last)

    def wait_for_the_rest(self, seconds: float = WRAP_UP_SECONDS) -> bool:
        """Of an attempt that is over: until its whole log is there. False when it is not over, or takes too long."""
        deadline = time.monotonic() + seconds
        while self._is_over():
            if not self._has_job():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(WRAP_UP_POLL_SECONDS)
        return False

    def is_complete(self) -> bool:
        """Whether no line can follow: the attempt is over, and its Job is wrapped up, which copies the log first."""
        return self._is_over() and not self._has_job()

    def _is_over(self) -> bool:
        """Whether the attempt has ended, or is not known any more."""
        state: Any = self.link.client.hmget(self.keys.task(self.run, self.task), "status", "attempt")
        if state[0] is None:
            return True
        current = int(state[1] or 0)
        if current == self.attempt:
            return state[0] not in ("WAITING", "QUEUED", "RUNNING")
        return current > self.attempt

    def _has_job(self) -> bool:
        start = "-"
        while True:
            page: Any = self.link.client.xrange(self.keys.launched, min=start, count=LINES_READ)
            for entry, fields in page:
                if (fields.get("run"), fields.get("task")) == (self.run, self.task) and fields.get("attempt") == str(
                    self.attempt
                ):
                    return True
                start = f"({entry}"
            if len(page) < LINES_READ:
                return False
