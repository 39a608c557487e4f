"""Answers without an end of their own: the events feed, and a task's log as it grows.

Rule: a client that does not read is not waited for (gate.py bounds every send), one that is gone is noticed at once,
and what is kept for one is a page. When this process is to end, events end in good order, since their clients come back
with their place; a log is broken off, so that nobody takes what arrived for the whole.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import redis
from starlette.types import Receive, Scope, Send

from helios.keys import Keys
from helios.task_logs import (
    WATCHED_SECONDS,
    Step,
    has_job,
    is_over,
    last_lines,
    lines_after,
    note_watched,
    task_state,
)
from services.api.asking import Asking
from services.api.feed import Bell, Place, now_of, place_of, read_page
from services.api.shapes import LogQuery

KEEP_ALIVE_SECONDS = 15.0
"""A feed without news says so often that it is there, and where its client is."""
RECONNECT_MS = 2_000
AWAY_SECONDS = 1.0
LOG_POLL_SECONDS = 0.25
WRAP_UP_SECONDS = 15.0
"""A task ends when its outputs are stored; the rest of its log is read up to some seconds later."""

Found = TypeVar("Found")
InThread = Callable[[Callable[[], Found]], Awaitable[Found]]


class Broken(Exception):
    """The answer cannot be completed, and its client must see that."""


class Stream:
    """An ASGI answer that is made piece by piece."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str) -> None:
        self.pieces = pieces
        self.media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        try:
            async with anyio.create_task_group() as group:

                async def leave_when_gone() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(leave_when_gone)
                async with contextlib.aclosing(self.pieces):
                    await self._send(send)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as several:
            # What went wrong is known by its kind; a group has the one that the stream raised.
            if len(several.exceptions) == 1:
                raise several.exceptions[0] from None
            raise

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", self.media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with contextlib.suppress(Broken):
            async for piece in self.pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def in_thread(call: Callable[[], Found], limiter: anyio.CapacityLimiter) -> Found:
    return await anyio.to_thread.run_sync(call, limiter=limiter)


class Following:
    """Makes the pieces. `draining` is set when this process is to end."""

    def __init__(self, asking: Asking, bell: Bell, draining: asyncio.Event, limiter: anyio.CapacityLimiter) -> None:
        self.asking = asking
        self.bell = bell
        self.draining = draining
        self.limiter = limiter

    async def start_of(self, last_id: str | None) -> Place:
        """Where a client begins: after what it has, or with what is to come. Raises Refused."""
        if last_id:
            return place_of(last_id, len(self.asking.partitions))
        return await in_thread(lambda: now_of(self.asking.client, self.asking.partitions), self.limiter)

    async def events(self, place: Place, run: str | None) -> AsyncGenerator[bytes, None]:
        asking = self.asking
        # The place is told at once: who is cut off before the first event must not begin anew.
        yield b"retry: %d\n%s" % (RECONNECT_MS, _told(place))
        while not self.draining.is_set():
            news = self.bell.news
            try:
                read = partial(read_page, asking.client, asking.partitions, place, run)
                page = await in_thread(read, self.limiter)
            except redis.RedisError:
                await self._wait(self.draining, AWAY_SECONDS)
                continue
            place = page.place
            if page.text:
                yield page.text
            if not page.is_full and not await self._wait(news, KEEP_ALIVE_SECONDS):
                yield _told(place)

    async def _wait(self, for_what: asyncio.Event, seconds: float) -> bool:
        """Until that, or until this process is to end; False if neither came in time."""
        waits = [asyncio.ensure_future(each.wait()) for each in {for_what, self.draining}]
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for each in waits:
                each.cancel()

    async def log(self, run: str, task: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """The lines of a log. Raises Broken where it stops before its end."""
        keys, client = self.asking.keys(run), self.asking.client
        attempt = query.attempt
        current = (await in_thread(lambda: task_state(client, keys, run, task), self.limiter))[1]
        reader = LogReader(client, keys, run, task, attempt or max(1, current), query.step)
        if not query.follow:
            await self._wrapped_up(reader)
        if query.tail is not None:
            yield await in_thread(lambda: reader.end(query.tail or 0), self.limiter)
        while True:
            text, is_full, is_complete = await in_thread(partial(reader.more, watches=query.follow), self.limiter)
            if text:
                yield text
            if is_full:
                continue
            if not query.follow or (is_complete and attempt is not None):
                return
            if is_complete:
                _, current, settled = await in_thread(lambda: task_state(client, keys, run, task), self.limiter)
                if current > reader.attempt:
                    reader = LogReader(client, keys, run, task, reader.attempt + 1, query.step)
                    continue
                if settled:
                    return
            if self.draining.is_set():
                raise Broken
            await self._wait(self.draining, LOG_POLL_SECONDS)

    async def _wrapped_up(self, reader: "LogReader") -> None:
        """Of an attempt that is over: until its whole log is there, or that takes too long."""
        with anyio.move_on_after(WRAP_UP_SECONDS):
            while await in_thread(reader.waits_for_wrap_up, self.limiter) and not self.draining.is_set():
                await self._wait(self.draining, LOG_POLL_SECONDS)


def _told(place: Place) -> bytes:
    """An id without an event: clients note it."""
    return b"id: %s\n\n" % ",".join(place).encode()


class LogReader:
    """One attempt's log, from the line `last` on. Plain synchronous code."""

    def __init__(self, client: redis.Redis, keys: Keys, run: str, task: str, attempt: int, step: Step) -> None:
        self.client = client
        self.keys = keys
        self.run, self.task, self.attempt = run, task, attempt
        self.stream = keys.log(run, task, attempt, step)
        self.last = "0-0"
        self.watched = 0

    def end(self, lines: int) -> bytes:
        """So many lines from the end of what is there; what follows them is next."""
        found = last_lines(self.client, self.stream, max(1, lines))
        self.last = found[-1][0] if found else "0-0"
        return _text(found) if lines else b""

    def more(self, *, watches: bool) -> tuple[bytes, bool, bool]:
        """The next lines; whether there are more; and whether none can follow."""
        if watches and self.watched % (WATCHED_SECONDS // 2 * 4) == 0:
            note_watched(self.client, self.keys, self.run)
        self.watched += 1
        # Asked before the lines are read: what was written before the end is among them.
        is_complete = not watches or (self._is_over() and not self._has_job())
        found = lines_after(self.client, self.stream, self.last)
        if found:
            self.last = found[-1][0]
        return _text(found), bool(found), is_complete

    def waits_for_wrap_up(self) -> bool:
        return self._is_over() and self._has_job()

    def _is_over(self) -> bool:
        return is_over(self.client, self.keys, self.run, self.task, self.attempt)

    def _has_job(self) -> bool:
        return has_job(self.client, self.keys, self.run, self.task, self.attempt)


def _text(lines: list[tuple[str, str]]) -> bytes:
    """As the task wrote it, whether it is UTF-8 or not."""
    return b"".join(line.encode("utf-8", "surrogateescape") + b"\n" for _, line in lines)
