"""What is known of a run while it goes: a snapshot, moved on by events. No I/O happens here.

A Job that exists is still queued here: its pod waits for a place until it fetches.

Rule: a task only moves forward, by attempt and then by stage. So an event that the snapshot holds already, or that is
read twice after a reconnect, changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from helios.events import (
    AnyEvent,
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

SNAPSHOT_FIELDS = (
    "status",
    "attempt",
    "phase",
    "settled",
    "cache",
    "hitBytes",
    "missBytes",
    "launchedAt",
    "endedAt",
    "cause",
)

_STAGES = {"WAITING": 0, "QUEUED": 1, "RUNNING": 2}
_PHASES = {"Fetching": 3, "Running": 4, "Publishing": 5}
ENDED = 6
SETTLED = 7


class TaskProgress(msgspec.Struct):
    """One task. Times are epoch milliseconds of the Redis server's clock."""

    name: str
    status: str = "WAITING"
    attempt: int = 0
    stage: int = 0
    phase: str = ""
    cache: str = ""
    hit_bytes: int = 0
    miss_bytes: int = 0
    began_at: int | None = None
    """When its pod was first seen at work; None if it was over before that."""
    ended_at: int | None = None
    reason: str = ""

    @property
    def is_settled(self) -> bool:
        return self.stage == SETTLED or self.status == "SUCCEEDED"


class RunProgress:
    """All tasks of one run."""

    def __init__(self, run: str, names: Sequence[str]) -> None:
        self.run = run
        self.tasks = {name: TaskProgress(name) for name in names}
        self.counts: Counter[str] = Counter({"WAITING": len(names)})
        self.ended = False

    def add(self, names: Iterable[str]) -> None:
        """Tasks that the run has got; those that are known already stay as they are."""
        new = [name for name in names if name not in self.tasks]
        self.tasks |= {name: TaskProgress(name) for name in new}
        self.counts["WAITING"] += len(new)

    def _put_back(self, name: str) -> None:
        """The task has made others, and waits for them now."""
        task = self.tasks.get(name)
        if task is not None and task.stage == 1:
            self.counts[task.status] -= 1
            self.counts["WAITING"] += 1
            task.status, task.attempt, task.stage = "WAITING", 0, 0

    def load(self, name: str, values: Sequence[str | None]) -> TaskProgress | None:
        """Take over what Redis holds of a task, the values of SNAPSHOT_FIELDS. Returns the task if that was news."""
        status, attempt, phase, settled, cache, hit, miss, launched, ended, cause = values
        if status is None:
            return None
        stage = _STAGES.get(status, SETTLED if settled == "1" else ENDED)
        if status == "RUNNING":
            stage = _PHASES.get(phase or "", stage)
            status = "QUEUED" if stage == _STAGES["RUNNING"] else status
        task = self._move(name, status, int(attempt or 0), stage)
        if task is None:
            return None
        task.phase = phase or "" if status == "RUNNING" else ""
        if task.began_at is None and status == "RUNNING":
            task.began_at = int(launched) if launched else None  # the nearest that is known
        if stage >= ENDED:
            task.cache, task.ended_at = cache or "", int(ended) if ended else None
            task.hit_bytes, task.miss_bytes = int(hit or 0), int(miss or 0)
        if status == "UPSTREAM_FAILED":
            task.reason = f"{cause} failed"
        return task

    def apply(self, event: AnyEvent, at: int) -> list[TaskProgress]:
        """Move on by an event of this run; returns the tasks that changed."""
        match event:
            case TasksAdded(by=by, tasks=names):
                self.add(names)
                self._put_back(by)
                return []
            case TasksQueued(attempt=attempt, tasks=names):
                return self._move_all(names, "QUEUED", attempt, 1)
            case TaskLaunched(task=name, attempt=attempt):
                task = self._move(name, "QUEUED", attempt, _STAGES["RUNNING"])
            case TaskPhase(task=name, attempt=attempt, phase=phase) if phase in _PHASES:
                task = self._move(name, "RUNNING", attempt, _PHASES[phase])
                if task is not None:
                    task.phase = phase
                    task.began_at = task.began_at or at
            case TaskEnded(task=name, attempt=attempt, status=status):
                task = self._move(name, status, attempt, ENDED)
                if task is not None:
                    task.cache, task.ended_at, task.reason = event.cache, at, event.reason or ""
                    if event.skipped is not None:
                        task.reason = event.skipped.words()
                    task.hit_bytes, task.miss_bytes = event.cacheHitBytes, event.cacheMissBytes
            case TaskFailed(task=name, attempt=attempt):
                task = self._move(name, "FAILED", attempt, SETTLED)
                if task is not None:
                    task.ended_at = task.ended_at or at
            case TasksUpstreamFailed(tasks=names, cause=cause):
                changed = self._move_all(names, "UPSTREAM_FAILED", None, SETTLED)
                for each in changed:
                    each.reason = f"{cause} failed"
                return changed
            case TasksCancelled(tasks=names):
                changed = self._move_all(names, "CANCELLED", None, SETTLED)
                for each in changed:
                    each.ended_at = at
                return changed
            case RunEnded():
                self.ended = True
                return []
            case _:
                return []
        return [task] if task is not None else []

    def _move_all(self, names: Iterable[str], status: str, attempt: int | None, stage: int) -> list[TaskProgress]:
        moved = (self._move(name, status, attempt, stage) for name in names)
        return [task for task in moved if task is not None]

    def _move(self, name: str, status: str, attempt: int | None, stage: int) -> TaskProgress | None:
        """Flip a task if that is a step forward. Without an attempt the current one is meant."""
        task = self.tasks.get(name)
        if task is None:
            return None
        attempt = task.attempt if attempt is None else attempt
        if (attempt, stage) <= (task.attempt, task.stage):
            return None
        if attempt > task.attempt:
            task.cache, task.hit_bytes, task.miss_bytes, task.reason = "", 0, 0, ""
            task.began_at = task.ended_at = None
        self.counts[task.status] -= 1
        self.counts[status] += 1
        task.status, task.attempt, task.stage, task.phase = status, attempt, stage, ""
        return task
