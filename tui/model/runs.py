"""The runs table as a fold of the events feed over a snapshot.

Rule: each row knows the last event that it holds, so an event that is read twice, or that the snapshot held already,
changes nothing; folding from any snapshot on gives the same rows.
"""

from collections.abc import Mapping

import msgspec

from helios.events import (
    AnyEvent,
    RunAccepted,
    RunEnded,
    RunRejected,
    TaskEnded,
    TaskFailed,
    TasksAdded,
    TasksCancelled,
    TasksUpstreamFailed,
)

Place = tuple[int, int]
"""An entry's id in the feed, as numbers."""

COUNTING = (TaskEnded, TaskFailed, TasksUpstreamFailed, TasksCancelled)
"""Events that go with a change of the run's counters."""

RUN_FIELDS = (
    *("dagName", "status", "startTime", "endTime", "cacheEnabled", "cacheHit", "taskCount"),
    *("taskSucceeded", "taskFailed", "taskUpstreamFailed", "taskCancelled"),
    *("cacheHitTasks", "cachePartialTasks", "cacheMissTasks", "nodes", "cacheHitBytes", "cacheMissBytes"),
    *("reason", "problems", "cacheSavedMs"),
)
"""The fields of the run hash that a row is made of, in the order in which `Runs.load_values` takes them."""


def place_of(entry: str) -> Place:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence or 0)


class RunRow(msgspec.Struct):
    """One run. Times are epoch milliseconds of the Redis server's clock."""

    run: str
    dag: str = ""
    status: str = "RUNNING"
    """RUNNING, SUCCEEDED, FAILED, CANCELLED or REJECTED."""
    started_at: int | None = None
    ended_at: int | None = None
    cache_enabled: bool = True
    cache_hit: str = "N/A"
    """Hit, Partial, Miss, N/A or Unknown; of a run that goes on, from the tasks that succeeded so far."""
    tasks: int = 0
    succeeded: int = 0
    failed: int = 0
    """Failed for good, or never started because a task above failed."""
    cancelled: int = 0
    nodes: tuple[str, ...] = ()
    hit_bytes: int = 0
    miss_bytes: int = 0
    """Both are what was known at the last look at the run's record; the feed does not move them."""
    saved_ms: int = 0
    """What its hits would have taken to download; known once it has ended."""
    reason: str = ""
    problems: int = 0
    outcomes: tuple[int, int, int] = (0, 0, 0)
    """Tasks that succeeded as Hit, Partial and Miss."""
    as_of: Place = (0, 0)
    """The last event that the row holds."""

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    def duration_ms(self, now_ms: int) -> int | None:
        """How long it took, or has taken until now; None for a rejected one."""
        if self.started_at is None or self.status == "REJECTED":
            return None
        end = self.ended_at if self.ended_at is not None else now_ms
        return max(0, end - self.started_at)


class Averages(msgspec.Struct, frozen=True):
    """Of finished, successful runs: how many, and their average duration. `gain` is the share of the non-cached average
    that the cache saves, from 1 down; None unless both sides have runs."""

    cached: int = 0
    cached_ms: float | None = None
    non_cached: int = 0
    non_cached_ms: float | None = None
    gain: float | None = None


class _Sums:
    """Successful runs with the cache on, or off: their number and what they took together."""

    def __init__(self) -> None:
        self.runs = 0
        self.ms = 0

    def add(self, duration_ms: int, sign: int) -> None:
        self.runs += sign
        self.ms += sign * duration_ms

    @property
    def average(self) -> float | None:
        return self.ms / self.runs if self.runs else None


class Runs:
    """All runs known, and which of them changed since they were last taken."""

    def __init__(self) -> None:
        self.rows: dict[str, RunRow] = {}
        self.unread: set[str] = set()
        """Runs whose record must be read (again): they ended, or the feed told of them without saying enough."""
        self._changed: set[str] = set()
        self._sums = {True: _Sums(), False: _Sums()}
        self._last_ended: str | None = None

    def load(self, run: str, fields: Mapping[str, str] | None, as_of: str) -> None:
        """Take over the run hash as it was when `as_of` was the newest event; None where there is none any more."""
        self.load_values(run, [None if fields is None else fields.get(name) for name in RUN_FIELDS], place_of(as_of))

    def load_values(self, run: str, values: "list[str | None]", as_of: Place) -> None:
        """The same from the values of RUN_FIELDS. A record without a status is none: the run is forgotten."""
        self.unread.discard(run)
        if values[1] is None:
            self.forget(run)
            return
        known = self.rows.get(run)
        if known is not None and known.as_of > as_of:
            return  # what was folded since says more
        self._put(_row(run, values, as_of))

    def distrust(self) -> None:
        """Before a snapshot: a server that was away may have come back with less than was folded, and it is right."""
        for row in self.rows.values():
            row.as_of = (0, 0)

    def forget(self, run: str) -> None:
        row = self.rows.pop(run, None)
        if row is not None:
            self._count(row, -1)
            self._changed.add(run)
            if self._last_ended == run:
                ended = (each for each in self.rows.values() if each.ended_at is not None)
                last = max(ended, key=lambda each: each.ended_at or 0, default=None)
                self._last_ended = last.run if last is not None else None

    def apply(self, event: AnyEvent, entry: str) -> None:
        """Move on by an event; `entry` is its id in the feed."""
        self.apply_at(event, place_of(entry))

    def apply_at(self, event: AnyEvent, at: Place) -> None:
        row = self.rows.get(event.run)
        if row is None:
            if isinstance(event, RunAccepted | RunRejected):
                self._put(_opened(event, at))
            if not isinstance(event, RunAccepted):
                self.unread.add(event.run)
            return
        if at <= row.as_of:
            return
        row.as_of = at
        if row.ended:
            if isinstance(event, COUNTING):
                self.unread.add(row.run)  # a run that was failed as a whole ends before its tasks do
            return
        if not _fold(row, event):
            return
        if isinstance(event, TaskFailed):
            # Of a run that was cancelled the task counts as cancelled, and its cache outcome counts now: the event
            # tells neither, so the record is read.
            self.unread.add(row.run)
        if isinstance(event, RunEnded):
            self._count(row, -1)
            row.status, row.ended_at = event.status, at[0]
            self._count(row, 1)
            self.unread.add(row.run)
        self._changed.add(row.run)

    def _put(self, row: RunRow) -> None:
        former = self.rows.get(row.run)
        if former is not None:
            self._count(former, -1)
        self.rows[row.run] = row
        self._count(row, 1)
        self._changed.add(row.run)

    def _count(self, row: RunRow, sign: int) -> None:
        took = row.duration_ms(0) if row.ended_at is not None else None
        if row.status == "SUCCEEDED" and took is not None:
            self._sums[row.cache_enabled].add(took, sign)
        if sign > 0 and row.ended_at is not None:
            last = self.rows.get(self._last_ended or "")
            if last is None or (last.ended_at or 0, last.run) <= (row.ended_at, row.run):
                self._last_ended = row.run

    def take_changed(self) -> set[str]:
        """Ids of the runs that changed, or went, since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def averages(self) -> Averages:
        cached, other = self._sums[True], self._sums[False]
        gain = None
        if cached.average is not None and other.average:
            gain = 1 - cached.average / other.average
        return Averages(cached.runs, cached.average, other.runs, other.average, gain)

    def last_ended(self) -> RunRow | None:
        """The run that ended last."""
        return self.rows.get(self._last_ended or "")


def _row(run: str, values: "list[str | None]", as_of: Place) -> RunRow:
    (dag, status, start, end, cache, hit, tasks, succeeded, failed, upstream, cancelled, *rest) = values
    hits, partials, misses, nodes, hit_bytes, miss_bytes, reason, problems, saved = rest
    row = RunRow(
        run=run,
        dag=dag or "",
        status=status or "RUNNING",
        started_at=_number(start) if start else None,
        ended_at=_number(end) if end else None,
        cache_enabled=cache == "true",
        tasks=_number(tasks),
        succeeded=_number(succeeded),
        failed=_number(failed) + _number(upstream),
        cancelled=_number(cancelled),
        nodes=tuple(sorted(nodes.split(","))) if nodes else (),
        hit_bytes=_number(hit_bytes),
        miss_bytes=_number(miss_bytes),
        saved_ms=_number(saved),
        reason=reason or "",
        problems=len(problems.splitlines()) if problems else 0,
        outcomes=(_number(hits), _number(partials), _number(misses)),
        as_of=as_of,
    )
    row.cache_hit = hit if row.ended and hit else _outcome(row)
    return row


def _opened(event: RunAccepted | RunRejected, at: Place) -> RunRow:
    if isinstance(event, RunRejected):
        return RunRow(event.run, event.dag, "REJECTED", problems=event.problems, as_of=at)
    return RunRow(event.run, event.dag, started_at=at[0], cache_enabled=event.cacheEnabled, tasks=event.tasks, as_of=at)


def _fold(row: RunRow, event: AnyEvent) -> bool:
    """Count what the script counted that wrote the event; False where that changes nothing of the row."""
    match event:
        case TaskEnded(status="SUCCEEDED", cache=cache, node=node):
            row.succeeded += 1
            hit, partial, miss = row.outcomes
            row.outcomes = (hit + (cache == "Hit"), partial + (cache == "Partial"), miss + (cache == "Miss"))
            row.cache_hit = _outcome(row)
            _note_node(row, node)
        case TaskEnded(node=node):
            return _note_node(row, node)
        case TaskFailed():
            row.failed += 1
        case TasksUpstreamFailed(tasks=names):
            row.failed += len(names)
        case TasksCancelled(tasks=names):
            row.cancelled += len(names)
        case TasksAdded(tasks=names):
            row.tasks += len(names)
        case RunEnded():
            pass
        case _:
            return False
    return True


def _note_node(row: RunRow, node: str) -> bool:
    if not node or node in row.nodes:
        return False
    row.nodes = tuple(sorted((*row.nodes, node)))
    return True


def _outcome(row: RunRow) -> str:
    """Hit, Partial or Miss from the tasks so far, as the run's final outcome is folded from all of them."""
    found = [word for word, count in zip(("Hit", "Partial", "Miss"), row.outcomes, strict=True) if count]
    if not row.cache_enabled or not found:
        return "N/A"
    return found[0] if len(found) == 1 else "Partial"


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
