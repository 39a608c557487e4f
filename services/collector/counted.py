"""Counts attempts and runs that ended: how often, where their time went, and what the cache did.

Rule: whoever committed an end counts it, once, after Redis took it. What is committed and not counted, because the
process died or the reply was lost in between, is not made up for: metrics are estimates, and records are exact.
"""

import time
from collections.abc import Mapping, Sequence

from helios.measures import (
    ATTEMPTS,
    CACHE_BYTES,
    CACHE_INPUTS,
    INPUT_BYTES,
    RUN,
    RUNS,
    SAVED_SECONDS,
    SERVED,
    STAGE,
)
from helios.phases import MOMENTS, Moments, Timed, attempt_phases
from helios.records import HIT_CAUSES, MISS_CAUSES, SOURCES, InputRecord, TaskView
from services.collector.outcome import Ended

TIMES = ("queuedAt", "launchedAt", *MOMENTS)
"""Fields of a task's record that say where its attempt's time went."""

_CAUSES = frozenset((*HIT_CAUSES, *MISS_CAUSES))
_STATUSES = ("SUCCEEDED", "FAILED", "CANCELLED")
_OUTCOMES = ("Hit", "Partial", "Miss", "N/A", "Unknown")


def count_end(ended: Ended, times: Sequence[str | None], *, local: bool) -> None:
    """An attempt that this process has just ended; `times`: when its run began, which is when its first tasks were
    queued, and the values of TIMES.
    """
    if not SERVED.is_set():
        return
    outcome = "disrupted" if ended.disrupted else "succeeded" if ended.status == "SUCCEEDED" else "failed"
    ATTEMPTS.add((outcome,))
    stages = stages_of(ended, [_number(each) for each in times], int(time.time() * 1000), local=local)
    STAGE.observe_all([((stage,), ms / 1000) for stage, ms in stages.items() if ms is not None])
    if ended.record.inputs:
        _count_inputs(ended.record.node, ended.record.inputs)
        SAVED_SECONDS.add((), ended.record.savedMs / 1000)


def count_skip() -> None:
    ATTEMPTS.add(("skipped",))


def stages_of(ended: Ended, times: Sequence[int | None], now_ms: int, *, local: bool) -> dict[str, int | None]:
    """Milliseconds by stage; nothing of an attempt whose records say nothing of its start."""
    began, queued, launched, *moments = times
    queued = began if queued is None else queued
    if queued is None:
        return {}
    record = ended.record
    view = TaskView(
        name="",
        status=ended.status,
        node=record.node,
        queuedTime=queued,
        startTime=launched,
        fetchElapsedMs=record.fetchElapsedMs,
        fetchedAt=record.fetchedAt,
        startedAt=record.startedAt,
        finishedAt=record.finishedAt,
        publishedAt=record.publishedAt,
    )
    stages, _ = attempt_phases(Timed(view, moments=Moments(*moments), local=local), queued, max(now_ms, queued))
    return stages


def _count_inputs(node: str, inputs: Sequence[InputRecord]) -> None:
    causes: dict[tuple[str, str], list[int]] = {}
    sources: dict[tuple[str], int] = {}
    for each in inputs:
        cause = each.cause if each.cause in _CAUSES else "unknown"
        counted = causes.setdefault((node, cause), [0, 0])
        counted[0] += 1
        counted[1] += each.bytes
        source = (each.source if each.source in SOURCES else "unknown",)
        sources[source] = sources.get(source, 0) + each.bytes
    CACHE_INPUTS.add_all([(labels, number) for labels, (number, _) in causes.items()])
    CACHE_BYTES.add_all([(labels, size) for labels, (_, size) in causes.items()])
    INPUT_BYTES.add_all(sources.items())


def count_run(final: Mapping[str, str], run: Mapping[str, str]) -> None:
    """A run that this process has just ended: its final fields, and those that it had before."""
    status, cache = final["status"], final["cacheHit"]
    RUNS.add((status if status in _STATUSES else "other", cache if cache in _OUTCOMES else "other"))
    started = _number(run.get("startTime"))
    if started is not None:
        RUN.observe((status,), max(0.0, time.time() - started / 1000))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
