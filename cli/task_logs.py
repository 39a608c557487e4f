"""A task's log as the collector keeps it: one stream for each attempt and step."""

import time
from collections.abc import Callable
from typing import Any

import redis

from cli.connection import Link
from helios.keys import Keys
from helios.task_logs import LINES_READ, WATCHED_SECONDS, has_job, is_over, lines_after, note_watched
from helios.task_logs import last_lines as end_of

READ_BLOCK_MS = 500
WRAP_UP_SECONDS = 15.0
"""A task ends when its outputs are stored; its pod ends, and the rest of its log is read, up to some seconds later."""
WRAP_UP_POLL_SECONDS = 0.1


def last_lines(link: Link, run: str, task: str, attempt: int, step: str, limit: int) -> list[str]:
    """The end of a log."""
    return [line for _, line in end_of(link.client, link.keys(run).log(run, task, attempt, step), limit)]


def all_lines(stream: str, client: redis.Redis, write: Callable[[str], None], last: str = "0-0") -> str:
    """Write the log after the line `last`, a page at a time; returns the id of the last line, to follow from."""
    while True:
        page = lines_after(client, stream, last)
        for entry, line in page:
            write(line)
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
            note_watched(self.link.client, self.keys, self.run)
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
        return is_over(self.link.client, self.keys, self.run, self.task, self.attempt)

    def _has_job(self) -> bool:
        return has_job(self.link.client, self.keys, self.run, self.task, self.attempt)
