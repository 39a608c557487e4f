"""One run's tasks as a fold of the events feed over a snapshot, with the times of each stage.

Rule: a task only moves forward, by attempt and then by stage (helios/transitions), so whatever is read twice changes
nothing. What only the record of an ended attempt says, inputs with causes, outputs, exit code, is read when it ends.
"""

from collections.abc import Iterable, Sequence

import msgspec

from helios.events import (
    AnyEvent,
    Producer,
    RunAccepted,
    RunEnded,
    TaskEnded,
    TaskFailed,
    TaskLaunched,
    TaskPhase,
    TasksAdded,
    TasksCancelled,
    TasksQueued,
    TasksUpstreamFailed,
)
from helios.records import MISS_CAUSES, TaskView

WAITING, QUEUED, LAUNCHED, PENDING, FETCHING, RUNNING, PUBLISHING, ENDED, SETTLED = range(9)
"""How far an attempt is."""

_PHASES = {"Pending": PENDING, "Fetching": FETCHING, "Running": RUNNING, "Publishing": PUBLISHING}

PHASE_FIELDS = ("fetchingAt", "runningAt", "publishingAt")
"""The fields of a task's record that say when its current attempt began a phase."""


class TaskRow(msgspec.Struct):
    """One task's last attempt. Times are epoch milliseconds; None where the stage was not reached or not seen."""

    name: str
    parents: tuple[str, ...] = ()
    status: str = "WAITING"
    """WAITING, QUEUED, RUNNING, SUCCEEDED, FAILED, UPSTREAM_FAILED, CANCELLED or UNKNOWN."""
    attempt: int = 0
    stage: int = WAITING
    phase: str = ""
    """Of a running one: '' (its Job exists), Pending, Fetching, Running or Publishing."""
    node: str = ""
    cache: str = "N/A"
    hit_bytes: int = 0
    miss_bytes: int = 0
    queued_at: int | None = None
    launched_at: int | None = None
    fetching_at: int | None = None
    running_at: int | None = None
    publishing_at: int | None = None
    ended_at: int | None = None
    reason: str = ""
    skipped: Producer | None = None
    """It succeeded without running: that task's success stands for it."""
    view: TaskView | None = None
    """The record of the last attempt that ended, once it is read: inputs with causes, outputs, exit code, CPU, peak."""

    @property
    def ended(self) -> bool:
        return self.status not in ("WAITING", "QUEUED", "RUNNING")


class Span(msgspec.Struct, frozen=True):
    """A stretch of one stage on the time axis; `stage` is queued, starting, fetching, running or publishing."""

    stage: str
    begin: int
    end: int


def spans(row: TaskRow, now_ms: int) -> list[Span]:
    """The row's stages in order, without gaps or overlaps, up to its end or to now."""
    first = row.queued_at if row.queued_at is not None else row.launched_at
    if first is None:
        return []
    end = row.ended_at if row.ended and row.ended_at is not None else now_ms
    end = max(end, first)
    begins = [
        ("queued", row.queued_at),
        ("starting", row.launched_at),
        ("fetching", row.fetching_at),
        ("running", row.running_at),
        ("publishing", row.publishing_at),
    ]
    found: list[Span] = []
    earliest = first
    reached: list[tuple[str, int]] = []
    for stage, begin in begins:
        if begin is not None:
            earliest = min(end, max(earliest, begin))
            reached.append((stage, earliest))
    for index, (stage, begin) in enumerate(reached):
        until = reached[index + 1][1] if index + 1 < len(reached) else end
        if until > begin or index == len(reached) - 1:
            found.append(Span(stage, begin, until))
    return found


def causes(row: TaskRow) -> list[tuple[str, str, int]]:
    """Name, cause and bytes of each input that missed; empty while they are not known."""
    inputs = row.view.inputs if row.view is not None else ()
    return [(each.name, each.cause, each.bytes) for each in inputs if each.cause in MISS_CAUSES]


class Board:
    """All tasks of one run, in the order of its DAG, and which of them changed."""

    def __init__(self, run: str, parents: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.run = run
        self.rows = {name: TaskRow(name, tuple(above)) for name, above in parents}
        self.unread: set[str] = set()
        """Tasks whose record must be read."""
        self.started_at: int | None = None
        self.ended_at: int | None = None
        self.is_outgrown = False
        """Whether the run has got tasks that are not here: then it is to be opened anew."""
        self._changed: set[str] = set(self.rows)

    def load(self, view: TaskView, phase: str, phase_times: Sequence[int | None]) -> None:
        """Take over a task's record; phase_times are when the current attempt began to fetch, run and publish."""
        self.unread.discard(view.name)
        row = self.rows.get(view.name)
        if row is None:
            return
        stage = _stage(view.status, phase)
        if (view.attempt, stage) < (row.attempt, min(row.stage, ENDED)):
            return  # what was folded since says more
        if view.attempt > row.attempt:
            _begin_attempt(row, view.attempt)
        settled = row.stage == SETTLED
        row.status, row.stage = view.status, SETTLED if settled else stage
        row.phase = phase if view.status == "RUNNING" else ""
        row.node, row.cache = view.node or row.node, view.cache
        row.hit_bytes, row.miss_bytes = view.cacheHitBytes, view.cacheMissBytes
        row.queued_at = view.queuedTime or row.queued_at
        if row.queued_at is None and not row.parents and view.attempt <= 1:
            row.queued_at = self.started_at  # a root is queued by the script that opens the run
        launched, fetching, running, publishing = _times_of_attempt(view, phase_times)
        row.launched_at = launched or row.launched_at
        row.fetching_at = fetching or row.fetching_at
        row.running_at = running or row.running_at
        row.publishing_at = publishing or row.publishing_at
        row.ended_at, row.reason, row.skipped = view.endTime, view.reason or "", view.skipped
        if row.ended:
            row.view = view
            _take_node_times(row, view)
        self._changed.add(row.name)

    def apply(self, event: AnyEvent, entry: str) -> None:
        """Move on by an event of this run; `entry` is its id in the feed."""
        self.apply_at(event, int(entry.partition("-")[0]))

    def apply_at(self, event: AnyEvent, at: int) -> None:
        if event.run != self.run:
            return
        match event:
            case TasksAdded(tasks=names):
                self.is_outgrown |= any(name not in self.rows for name in names)
            case TasksQueued(attempt=attempt, tasks=names):
                for row in self._move(names, "QUEUED", attempt, QUEUED):
                    row.queued_at = at
            case TaskLaunched(task=name, attempt=attempt):
                for row in self._move([name], "RUNNING", attempt, LAUNCHED):
                    row.launched_at = at
            case TaskPhase(task=name, attempt=attempt, phase=phase) if phase in _PHASES:
                for row in self._move([name], "RUNNING", attempt, _PHASES[phase]):
                    row.phase, row.node = phase, event.node or row.node
                    match phase:
                        case "Fetching":
                            row.fetching_at = at
                        case "Running":
                            row.running_at = at
                        case "Publishing":
                            row.publishing_at = at
                        case _:
                            pass
            case TaskEnded(task=name, attempt=attempt, status=status):
                for row in self._move([name], status, attempt, ENDED):
                    row.ended_at, row.node, row.cache = at, event.node or row.node, event.cache
                    row.hit_bytes, row.miss_bytes = event.cacheHitBytes, event.cacheMissBytes
                    row.reason, row.skipped = event.reason or "", event.skipped
                    self.unread.add(name)
            case TaskFailed(task=name, attempt=attempt):
                for row in self._move([name], "FAILED", attempt, SETTLED):
                    row.ended_at = row.ended_at or at
                    self.unread.add(name)
            case TasksUpstreamFailed(tasks=names, cause=cause):
                for row in self._move(names, "UPSTREAM_FAILED", None, SETTLED):
                    row.ended_at, row.reason = at, f"upstream task {cause!r} failed"
            case TasksCancelled(tasks=names):
                for row in self._move(names, "CANCELLED", None, SETTLED):
                    row.ended_at = at
                    if row.attempt > 1:
                        self.unread.add(row.name)  # its outcome is that of the attempt before
            case RunAccepted():
                self.started_at = self.started_at or at
            case RunEnded():
                self.ended_at = at
                self.doubt()
            case _:
                pass

    def doubt(self) -> None:
        """Have the records read of all tasks that did not end, since the feed may lack an event."""
        self.unread.update(name for name, row in self.rows.items() if not row.ended)

    def _move(self, names: Iterable[str], status: str, attempt: int | None, stage: int) -> list[TaskRow]:
        """The rows for which this is a step forward, flipped. Without an attempt the current one is meant."""
        moved: list[TaskRow] = []
        for name in names:
            row = self.rows.get(name)
            if row is None:
                continue
            number = row.attempt if attempt is None else attempt
            if (number, stage) <= (row.attempt, row.stage):
                continue
            if number > row.attempt:
                _begin_attempt(row, number)
            row.status, row.stage, row.phase = status, stage, ""
            self._changed.add(name)
            moved.append(row)
        return moved

    def take_changed(self) -> set[str]:
        """Names of the tasks that changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed


def _begin_attempt(row: TaskRow, attempt: int) -> None:
    """Forget what the attempt before was; its record stays, as the last that ended."""
    row.attempt, row.cache, row.hit_bytes, row.miss_bytes, row.reason = attempt, "N/A", 0, 0, ""
    row.queued_at = row.launched_at = row.fetching_at = row.running_at = row.publishing_at = row.ended_at = None


def _stage(status: str, phase: str) -> int:
    match status:
        case "WAITING":
            return WAITING
        case "QUEUED":
            return QUEUED
        case "RUNNING":
            return _PHASES.get(phase, LAUNCHED)
        case "UPSTREAM_FAILED" | "CANCELLED":
            return SETTLED
        case _:
            return ENDED


def _times_of_attempt(view: TaskView, phase_times: Sequence[int | None]) -> list[int | None]:
    """When the attempt was launched and began to fetch, run and publish.

    A retry's record keeps the times of the attempt before until it is launched itself, which one that is cancelled may
    never be.
    """
    launched, queued = view.startTime, view.queuedTime
    if launched is None or (queued is not None and launched < queued):
        return [None] * 4
    return [launched, *phase_times]


def _take_node_times(row: TaskRow, view: TaskView) -> None:
    """The record's times are by the node's clock, and exact where the feed's are those of a look once a second.

    They are taken only where they lie within the attempt as Redis saw it: a node whose clock is off tells nothing.
    """
    begin, end = row.launched_at or row.queued_at, row.ended_at
    if begin is None or end is None or view.status not in ("SUCCEEDED", "FAILED"):
        return

    def within(time: int | None) -> int | None:
        return time if time is not None and begin - 1000 <= time <= end + 1000 else None

    started, finished = within(view.startedAt), within(view.finishedAt)
    if started is not None:
        row.running_at = started
        if row.fetching_at is not None and row.fetching_at > started:
            row.fetching_at = begin
    if finished is not None:
        row.publishing_at = finished if view.outputs else None
