"""Progress as lines, where there is no terminal: one for each change of state, or a summary where tasks are many."""

import time

from cli.figures import duration, size
from cli.output import narrate
from cli.run_progress import ENDED, RunProgress, TaskProgress

TASKS_TOLD_ONE_BY_ONE = 200
SUMMARY_SECONDS = 2.0


class PlainProgress:
    """Writes to stderr."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self._told: dict[str, tuple[int, str]] = {}
        self._next_summary = 0.0
        self._summary = ""

    def show(self, progress: RunProgress, changed: list[TaskProgress]) -> None:
        few = len(progress.tasks) <= TASKS_TOLD_ONE_BY_ONE
        for task in changed:
            state = (task.attempt, task.status)
            if self._told.get(task.name) == state:
                continue
            self._told[task.name] = state
            if few or task.status in ("FAILED", "UPSTREAM_FAILED"):
                narrate(task_line(task))
        if not few and time.monotonic() >= self._next_summary:
            self._summarise(progress)

    def close(self) -> None:
        if len(self.progress.tasks) > TASKS_TOLD_ONE_BY_ONE:
            self._summarise(self.progress)

    def _summarise(self, progress: RunProgress) -> None:
        self.progress = progress
        self._next_summary = time.monotonic() + SUMMARY_SECONDS
        text = counts_text(progress)
        if text != self._summary:
            self._summary = text
            narrate(text)


def task_line(task: TaskProgress) -> str:
    """`split  SUCCEEDED  attempt 1  Miss  567 KB missed  120 ms`."""
    parts = [f"{task.name}  {task.status}"]
    if task.attempt > 1:
        parts.append(f"attempt {task.attempt}")
    parts += outcome_parts(task)
    if task.reason:
        parts.append(task.reason)
    return "  ".join(parts)


def outcome_parts(task: TaskProgress) -> list[str]:
    """What an ended attempt's cache and time came to."""
    if task.stage < ENDED:
        return []
    parts: list[str] = []
    if task.cache and task.cache != "N/A":
        parts.append(task.cache)
    if task.hit_bytes:
        parts.append(f"{size(task.hit_bytes)} from the cache")
    if task.miss_bytes:
        parts.append(f"{size(task.miss_bytes)} downloaded")
    if task.began_at is not None and task.ended_at is not None:
        parts.append(duration(task.ended_at - task.began_at))
    return parts


def counts_text(progress: RunProgress) -> str:
    """`812 of 10,000 tasks done: 810 succeeded, 2 failed, 64 running, 9,124 waiting`."""
    counts = progress.counts
    words = (
        ("SUCCEEDED", "succeeded"),
        ("FAILED", "failed"),
        ("UPSTREAM_FAILED", "not started because of a failure"),
        ("CANCELLED", "cancelled"),
        ("RUNNING", "running"),
        ("QUEUED", "queued"),
        ("WAITING", "waiting"),
    )
    done = sum(counts[status] for status, _ in words[:4])
    parts = ", ".join(f"{counts[status]:,} {word}" for status, word in words if counts[status])
    return f"{done:,} of {len(progress.tasks):,} tasks done: {parts}"
