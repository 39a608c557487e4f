"""Repairs what Redis lost: work whose record asks for an entry that no stream holds any more.

A last second of the append-only file that a crash took away, a stream that somebody deleted: either leaves a task that
waits for a message which will never come. Such a message is sent again; if it was not lost after all, the fence makes
the second one change nothing. What is missing is repaired only when it is missing twice in a row, since an entry may be
on its way while this looks.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import redis
import structlog
from redis.exceptions import ResponseError

from helios.keys import PRIORITIES, Keys, all_partitions
from helios.logged import about_entry
from helios.records import END_COUNTERS
from helios.transitions import NAMES_IN_A_CALL, commit, pipelined, queue_again

log = structlog.get_logger()

EVERY_SECONDS = 30.0
ENTRIES_AT_MOST = 50_000
"""A stream longer than this is busy, not lost; the look at it is left for the next time."""


STATE = ("status", "attempt", "settled", "children", "job", "checking", "priority")


class Missing(NamedTuple):
    """An entry that should be there: its stream and its fields."""

    stream: str
    fields: tuple[tuple[str, str], ...]


def wanted(keys: Keys, run: str, task: str, state: Iterable[str | None]) -> Missing | None:
    """The entry that a task in this state waits for. `state` are the values of STATE."""
    status, attempt, settled, children, job, checking, priority = state
    named = (("run", run), ("task", task), ("attempt", attempt or ""))
    if status == "QUEUED":
        return Missing(keys.checks if checking == attempt else keys.ready_of(priority), named)
    if status == "RUNNING":
        return Missing(keys.launched, (*named, ("job", job or "")))
    if settled == "0" and (status == "FAILED" or (status == "SUCCEEDED" and children)):
        return Missing(keys.finished, named)
    return None


class Reconciler:
    """Compares records with streams; keeps in mind what was missing the last time."""

    def __init__(self, client: redis.Redis, partitions: int) -> None:
        self.client = client
        self.partitions = partitions
        self.suspected: set[Missing] = set()
        self.behind: set[str] = set()
        """Runs with tasks that wait for room in the line, seen in the look that goes on."""

    def look(self) -> int:
        """One pass over the runs that have not ended; returns how many entries were sent again."""
        missing: set[Missing] = set()
        repaired = 0
        for keys in all_partitions(self.partitions):
            self.behind = set()
            of_one = self._missing(keys)
            self._repair(keys, of_one & self.suspected)
            missing |= of_one - self.suspected
            repaired += len(of_one & self.suspected)
        self.suspected = missing
        return repaired

    def _repair(self, keys: Keys, lost: set[Missing]) -> None:
        """Send what is lost again; what may run joins those of its run that stand in line, and the line is mended."""
        lines: dict[str, list[tuple[str, str]]] = {run: [] for run in self.behind}
        for each in sorted(lost):
            with about_entry(each.stream, "", fields := dict(each.fields)):
                log.warning("an entry was lost and is sent again", stream=each.stream, job=fields.get("job"))
            if each.stream in keys.ready_streams:
                lines.setdefault(fields["run"], []).append((fields["task"], fields["attempt"]))
            else:
                self.client.xadd(each.stream, {**fields})
        calls = [
            queue_again(keys, run=run, lost=tasks[start : start + NAMES_IN_A_CALL])
            for run, tasks in lines.items()
            for start in range(0, len(tasks) or 1, NAMES_IN_A_CALL)
        ]
        for result in commit(self.client, calls):
            if isinstance(result, ResponseError):
                log.error("a run's line cannot be mended", error=str(result))

    def _missing(self, keys: Keys) -> set[Missing]:
        expected: set[Missing] = set()
        runs: Any = self.client.zrange(keys.active, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- no stub
        for run in runs:
            expected |= self._expected(keys, run)
        for stream in {each.stream for each in expected}:
            if self.client.xlen(stream) > ENTRIES_AT_MOST:
                expected = {each for each in expected if each.stream != stream}
                continue
            entries: Any = self.client.xrange(stream)
            # Only the fields that name the attempt: an entry of a Job that was refused also says why.
            expected -= {
                Missing(stream, tuple((name, text) for name, text in fields.items() if name != "refused"))
                for _, fields in entries
            }
        return expected

    def _expected(self, keys: Keys, run: str) -> set[Missing]:
        names: Any = self.client.lrange(keys.task_names(run), 0, -1)
        pipeline = pipelined(self.client)
        pipeline.hmget(keys.run(run), "taskCount", *END_COUNTERS, "onExit")
        for priority in PRIORITIES:
            pipeline.lrange(keys.backlog(run, priority), 0, -1)
        for name in names:
            pipeline.hmget(keys.task(run, name), *STATE)
        counts, *rest = pipeline.execute(raise_on_error=False)
        backlogs, states = rest[: len(PRIORITIES)], rest[len(PRIORITIES) :]
        behind = {name for backlog in backlogs if not isinstance(backlog, ResponseError) for name in backlog}
        if behind:
            self.behind.add(run)
        found = {
            each
            for name, state in zip(names, states, strict=True)
            if not isinstance(state, ResponseError)
            and not (name in behind and state[0] == "QUEUED")
            and (each := wanted(keys, run, name, state))
        }
        if isinstance(counts, ResponseError):
            return found
        *counts, on_exit = counts
        left = _left(counts)
        last: Any = states[names.index(on_exit)] if on_exit in names else None
        last = None if isinstance(last, ResponseError) else last
        if left == 0 or (last and _has_ended(last)):
            found.add(Missing(keys.settled, (("run", run),)))
        elif left == 1 and last and last[0] == "WAITING":
            # All others have ended, so its first attempt should be in line.
            found.add(Missing(keys.ready_of(last[-1]), (("run", run), ("task", on_exit), ("attempt", "1"))))
        return found


def _left(counts: list[str | None]) -> int | None:
    """How many tasks have not ended, by taskCount and the END_COUNTERS; None where a counter is damaged."""
    try:
        total, *ended = (int(count or 0) for count in counts)
    except ValueError:
        return None
    return total - sum(ended) if counts[0] is not None else None


def _has_ended(state: list[str | None]) -> bool:
    """Whether an onExit task in this state, values of STATE, came to an end of its own: then its run is over, whatever
    its counters say.
    """
    status, _, settled, *_ = state
    return status == "SUCCEEDED" or (status == "FAILED" and settled == "1")
