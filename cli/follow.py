"""Follows one run to its end: the events feed, over a snapshot that is taken anew after every gap.

Rule: no read is cut short, so nothing is half-read; whoever follows asks again, and may stop in between.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from cli.connection import Link, regain
from cli.failure import CommandFailed
from cli.lookup import task_names
from cli.run_progress import SNAPSHOT_FIELDS, RunProgress, TaskProgress
from helios.events import decode_event
from helios.records import ENDED
from helios.transitions import pipelined

BLOCK_MS = 250
"""A read waits this long; Ctrl-C is obeyed at its end."""
EVENTS_READ = 2_000
CHECK_SECONDS = 2.0
"""After so long without news the run's record itself is asked."""
SILENCE_SECONDS = 30.0
"""After so long without news a snapshot is taken: the feed is written after the fact, and may lack an entry."""
NAMES_READ = 1_000


class Follower:
    """A run's progress, as far as it was read."""

    def __init__(self, link: Link, run: str) -> None:
        self.link = link
        self.run = run
        self.keys = link.keys(run)
        self.progress = RunProgress(run, [])
        self.status = "RUNNING"
        self.started_at: int | None = None
        self._last: str | None = None
        self._check_at = 0.0
        self._news_at = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def read(self, block_ms: int = BLOCK_MS) -> list[TaskProgress]:
        """Wait a moment for news; returns the tasks that changed, each once."""
        try:
            if self._last is None:
                changed = self._snapshot()
            else:
                changed = self._events(block_ms)
                if self.progress.ended or time.monotonic() >= self._check_at:
                    self._check()
                if self.ended and not self.progress.ended:  # its end is known, but not yet how its tasks ended
                    changed = list({task.name: task for task in (*changed, *self._snapshot())}.values())
        except (redis.ConnectionError, redis.TimeoutError) as error:
            regain(self.link, error)
            self._last = None
            return []
        now = time.monotonic()
        if changed:
            self._news_at = now
        elif now > self._news_at + SILENCE_SECONDS:
            self._news_at, self._last = now, None
        return changed

    def _snapshot(self) -> list[TaskProgress]:
        """The run's own record is read before its tasks': where that has ended, so have all of these."""
        self._check()
        newest: Any = self.link.client.xrevrange(self.keys.events, count=1)
        last = newest[0][0] if newest else "0-0"
        self.progress.add(task_names(self.link, self.run))
        changed: list[TaskProgress] = []
        names = list(self.progress.tasks)
        for start in range(0, len(names), NAMES_READ):
            chunk = names[start : start + NAMES_READ]
            pipeline = pipelined(self.link.client)
            for name in chunk:
                pipeline.hmget(self.keys.task(self.run, name), SNAPSHOT_FIELDS)
            found: list[Any] = pipeline.execute(raise_on_error=False)
            for name, values in zip(chunk, found, strict=True):
                if isinstance(values, redis.ResponseError):
                    continue
                if isinstance(values, Exception):
                    raise values
                task = self.progress.load(name, values)
                if task is not None and task.stage > 0:
                    changed.append(task)
        self._last = last
        return changed

    def _events(self, block_ms: int) -> list[TaskProgress]:
        assert self._last is not None
        page: Any = self.link.client.xread({self.keys.events: self._last}, count=EVENTS_READ, block=block_ms)
        entries: Sequence[tuple[str, dict[str, str]]] = page[0][1] if page else ()
        if not entries:
            return []
        self._check_at = min(self._check_at, time.monotonic() + CHECK_SECONDS)
        if len(entries) == EVENTS_READ and self._was_trimmed(entries[0][0]):
            return self._snapshot()
        self._last = entries[-1][0]
        changed: dict[str, TaskProgress] = {}
        for entry, fields in entries:
            text = fields.get("event", "")
            if self.run not in text:
                continue
            try:
                event = decode_event(text.encode("utf-8", "surrogateescape"))
            except (msgspec.DecodeError, UnicodeError):
                continue
            if event.run == self.run:
                for task in self.progress.apply(event, int(entry.partition("-")[0])):
                    changed[task.name] = task
        return list(changed.values())

    def _was_trimmed(self, first_read: str) -> bool:
        """Whether the feed lost entries between the last one read and the first of this page: then it begins there."""
        oldest: Any = self.link.client.xrange(self.keys.events, count=1)
        return bool(oldest) and _order(oldest[0][0]) >= _order(first_read)

    def _check(self) -> None:
        self._check_at = time.monotonic() + CHECK_SECONDS
        found: Any = self.link.client.hmget(self.keys.run(self.run), "status", "startTime")
        if found[0] is None:
            raise CommandFailed(
                f"the record of run {self.run} is gone", hint="`helios runs` lists those that are kept; helios doctor"
            )
        self.status = found[0]
        self.started_at = int(found[1]) if found[1] else None


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)
