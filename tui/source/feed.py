"""Follows Redis: a snapshot of all runs, then the events feed, in one thread. Who shows something takes what changed.

Rule: `lock` is held while the models are moved on and while they are read; nobody waits for Redis while holding it.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis

from cli.connection import Link, rejoin_stack, trouble_of
from cli.failure import CommandFailed
from helios.events import AnyEvent, RunEnded, decode_event
from helios.keys import Keys, all_partitions, keys_of_run
from helios.wire import Command, send
from tui.model.connection import Connection
from tui.model.runs import RUN_FIELDS, Place, Runs, place_of
from tui.model.tasks import Board
from tui.source.board import open_board, read_rows

ENTRIES_READ = 1_000
BLOCK_MS = 150
GATHER_SECONDS = 0.08
"""After a read that did not fill up, so that events which trickle in are taken together."""
RUNS_READ = 500
LOOK_AGAIN_SECONDS = 30.0
"""The records of runs that go on are read so often: the feed is written after the fact, and may lack an entry."""
FORGOTTEN_SECONDS = 5.0
"""Runs that Redis keeps no longer are looked for no more often than this."""
BACKOFF_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0)
REJOIN_SECONDS = 30.0
STOP_SECONDS = 0.5

_RUN_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class FeedTrimmed(Exception):
    """The feed lost entries that were not read yet, so only a snapshot can tell how things are."""


def _wall_clock_ms() -> int:
    return int(time.time() * 1000)


class Feed:
    """Runs, and the tasks of the run that is watched, as they are now."""

    def __init__(
        self,
        link: Link,
        clock: Callable[[], int] = _wall_clock_ms,
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        self.link = link
        self.clock = clock
        self.look_again_seconds = look_again_seconds
        self.lock = threading.Lock()
        self.runs = Runs()
        self.board: Board | None = None
        self.connection = Connection()
        self.clock_offset_ms = 0
        """What to add to this machine's clock for that of the Redis server."""
        self._wanted: str | None = None
        self._last: dict[str, str] = {}
        """Of each partition's feed the last entry that was read."""
        self._look_again_at = 0.0
        self._prune_at = 0.0
        self._may_be_forgotten = False
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow. A feed is started once."""
        self._thread = threading.Thread(target=self._follow, name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it is done within half a second, or when what it waits for gives up."""
        self._stopping.set()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def reconnect_now(self) -> None:
        """Try again at once, instead of when the wait is over."""
        self._hurry.set()

    def watch(self, run: str | None) -> None:
        """Fill `board` with this run's tasks from now on; it is None until the first look at them is complete."""
        with self.lock:
            self._wanted = run
            if self.board is not None and self.board.run != run:
                self.board = None

    def now_ms(self) -> int:
        """The Redis server's time."""
        return self.clock() + self.clock_offset_ms

    # The thread.

    def _follow(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                if failures:
                    self._find_stack()
                self._snapshot()
                while not self._stopping.is_set():
                    self._read()
                    failures = 0
            except FeedTrimmed:
                continue
            except redis.RedisError as error:
                self._lose(trouble_of(self.link, error), failures)
            except CommandFailed as failure:
                self._lose(f"{failure.message}; {failure.hint}", failures)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the screen must say so and stay alive
                self._lose(f"a fault of Helios itself: {type(error).__name__}: {error}", failures)
            failures += 1

    def _lose(self, trouble: str, failures: int) -> None:
        """Say that the connection is lost, and wait before the next try."""
        if self._stopping.is_set():
            return
        former, now = self.connection, self.clock()
        wait = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
        since = former.since_ms if former.state == "lost" else now
        self.connection = Connection("lost", since, now + int(wait * 1000), trouble)
        self._hurry.wait(wait)
        self._hurry.clear()

    def _find_stack(self) -> None:
        """Where the embedded stack is used and its Redis is gone, find it again, started anew if need be."""
        stack = self.link.stack
        if stack is None or self._stopping.is_set():
            return
        try:
            self._answer([("TIME",)])
        except (redis.ConnectionError, redis.TimeoutError):
            rejoin_stack(self.link, stack, REJOIN_SECONDS)

    @property
    def _partitions(self) -> list[Keys]:
        return all_partitions(self.link.settings.partitions)

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        return send(self.link.client, commands)

    def _snapshot(self) -> None:
        """All runs that are kept, newest first; events from here on are what `_read` reads."""
        self._take_time()
        self._last = dict(self._newest_entries())
        found = self._kept_runs()
        if self.connection.state == "loading":
            self.connection = Connection("loading", total=len(found))
        kept = set(found)
        with self.lock:
            for run in [run for run in self.runs.rows if run not in kept]:
                self.runs.forget(run)
            self.runs.distrust()
        for start in range(0, len(found), RUNS_READ):
            if self._stopping.is_set():
                return
            self._load(found[start : start + RUNS_READ])
            if self.connection.state == "loading":
                self.connection = msgspec.structs.replace(self.connection, loaded=min(len(found), start + RUNS_READ))
        if self._wanted is not None:
            self._open_board()
        self._look_again_at = time.monotonic() + self.look_again_seconds
        self.connection = Connection("live", self.clock())

    def _take_time(self) -> None:
        before = self.clock()
        seconds, micros = self._answer([("TIME",)])
        self.clock_offset_ms = int(seconds) * 1000 + int(micros) // 1000 - (before + self.clock()) // 2

    def _answer(self, command: list[Command]) -> Any:
        return self._answers(command)[0]

    def _answers(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._send(commands)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies

    def _newest_entries(self) -> list[tuple[str, str]]:
        keys = [each.events for each in self._partitions]
        replies = self._answers([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in keys])
        return [(key, reply[0][0] if reply else "0-0") for key, reply in zip(keys, replies, strict=True)]

    def _kept_runs(self) -> list[str]:
        replies = self._answers([("ZRANGE", each.runs, 0, -1) for each in self._partitions])
        runs = [run for reply in replies for run in reply if _RUN_ID.fullmatch(run)]
        return sorted(runs, key=place_of, reverse=True)

    def _load(self, runs: Sequence[str]) -> None:
        """Read records, each together with the newest event that they can hold: one transaction for each partition."""
        by_partition: dict[str, list[str]] = {}
        for run in runs:
            by_partition.setdefault(self._keys(run).events, []).append(run)
        for events, together in by_partition.items():
            commands: list[Command] = [("MULTI",), ("XREVRANGE", events, "+", "-", "COUNT", 1)]
            commands += [("HMGET", self._keys(run).run(run), *RUN_FIELDS) for run in together]
            reply = self._send([*commands, ("EXEC",)])[-1]
            if isinstance(reply, redis.ResponseError):
                raise reply
            newest, *records = reply
            as_of: Place = place_of(newest[0][0]) if isinstance(newest, list) and newest else (0, 0)
            with self.lock:
                for run, values in zip(together, records, strict=True):
                    if isinstance(values, redis.ResponseError):
                        self.runs.unread.discard(run)  # the key is damaged; helios doctor says so
                    else:
                        self.runs.load_values(run, values, as_of)

    def _keys(self, run: str) -> Keys:
        return keys_of_run(run, self.link.settings.partitions)

    def _read(self) -> None:
        """Wait a moment for events, fold them, and read what they say should be read."""
        if self._wanted is not None and (self.board is None or self.board.is_outgrown):
            self._open_board()
        reply = self._answer(
            [("XREAD", "COUNT", ENTRIES_READ, "BLOCK", BLOCK_MS, "STREAMS", *self._last, *self._last.values())]
        )
        full = False
        for stream, entries in reply or ():
            if len(entries) >= ENTRIES_READ:
                full = True
                self._check_trimmed(stream, entries[0][0])
            events = _decoded(entries)
            with self.lock:
                self._fold(events)
            self._last[stream] = entries[-1][0]
        self._read_unread()
        now = time.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + self.look_again_seconds
            with self.lock:
                self.runs.unread.update(run for run, row in self.runs.rows.items() if not row.ended)
                if self.board is not None:
                    self.board.doubt()
            self._may_be_forgotten = True
        if self._may_be_forgotten and now >= self._prune_at:
            self._prune_at = now + FORGOTTEN_SECONDS
            self._may_be_forgotten = False
            self._forget_the_gone()
        if not full:
            self._stopping.wait(GATHER_SECONDS)

    def _fold(self, events: Sequence[tuple[Place, AnyEvent]]) -> None:
        runs, board = self.runs, self.board
        for place, event in events:
            runs.apply_at(event, place)
            if isinstance(event, RunEnded):
                self._may_be_forgotten = True
            if board is not None and event.run == board.run:
                board.apply_at(event, place[0])

    def _check_trimmed(self, stream: str, first_read: str) -> None:
        """Whether the feed lost entries between the last one read and the first of this page: then it begins there."""
        oldest = self._answer([("XRANGE", stream, "-", "+", "COUNT", 1)])
        if self._last[stream] != "0-0" and oldest and place_of(oldest[0][0]) >= place_of(first_read):
            raise FeedTrimmed

    def _read_unread(self) -> None:
        with self.lock:
            runs = list(self.runs.unread)
            board = self.board
            tasks = list(board.unread) if board is not None else []
        for start in range(0, len(runs), RUNS_READ):
            self._load(runs[start : start + RUNS_READ])
        if board is not None and tasks:
            rows = read_rows(self.link.client, self._keys(board.run), board.run, tasks)
            with self.lock:
                for row in rows:
                    board.load(*row)
                run = self.runs.rows.get(board.run)
                if run is not None and board.ended_at is None:
                    board.ended_at = run.ended_at

    def _forget_the_gone(self) -> None:
        kept = set(self._kept_runs())
        with self.lock:
            for run in [run for run, row in self.runs.rows.items() if row.ended and run not in kept]:
                self.runs.forget(run)

    def _open_board(self) -> None:
        """Events that were read before are in the records; those after are folded, and a task only moves forward."""
        run = self._wanted
        if run is None:
            return
        board = open_board(self.link.client, self._keys(run), run)
        with self.lock:
            if self._wanted == run:
                self.board = board


def _decoded(entries: Sequence[Any]) -> list[tuple[Place, AnyEvent]]:
    """Entries of the feed as events; what is none is passed over."""
    found: list[tuple[Place, AnyEvent]] = []
    for entry, fields in entries:
        try:
            event = decode_event(fields[1])
        except (msgspec.DecodeError, UnicodeError, IndexError, TypeError):
            continue
        found.append((place_of(entry), event))
    return found
