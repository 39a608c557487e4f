"""The critical path of a run: which tasks it waited for, and in which phase of each. No I/O happens here.

A task's part of the path goes from when it was queued to when the next one was, all by the Redis server's clock, so the
parts add up to the run. What it went to within the task is helios/phases.py's.
"""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise

import msgspec

from helios.phases import PHASES, Timed, attempt_phases, launched_at, within
from helios.records import MISS_CAUSES, TaskView

_WAITED = (*MISS_CAUSES, "coalesced")
"""Causes with which an input had to be waited for: that it was coalesced says that another task was bringing it."""


class Step(msgspec.Struct, frozen=True):
    """One task of the path; its phases add up to `ms`."""

    task: str
    status: str
    attempt: int
    node: str
    ms: int
    phases: Mapping[str, int | None]
    skewMs: int
    skipped: bool


class AllCached(msgspec.Struct, frozen=True):
    """The run if every input had been in the cache, and every task had waited for a place as long as it did.

    `missed` tasks have inputs that were not; of `unknown` ones of them it is not known what that took, and it stays in.
    """

    ms: int
    path: Sequence[str]
    missed: int
    unknown: int


class CriticalPath(msgspec.Struct, frozen=True):
    """`ms` goes from the run's start to its end, or to now; `allCached` is None while it goes on."""

    ms: int
    path: Sequence[Step]
    allCached: AllCached | None


def critical_path(tasks: Sequence[Timed], *, started_at: int, ended_at: int | None, now_ms: int) -> CriticalPath:
    """All times are epoch milliseconds of the Redis server's clock.

    Of a run that goes on the path so far is that to the task under way that was queued first.
    """
    until = ended_at if ended_at is not None else now_ms
    named = {each.view.name: each for each in tasks}
    ends = {name: end for name, each in named.items() if (end := _end(each.view, until)) is not None}
    chain = _chain(named, ends, started_at)
    begins = [started_at]
    for before, name in pairwise(chain):
        view = named[name].view
        # What a later attempt says is when that was queued.
        begins.append(ends[before] if view.attempt > 1 else within(view.queuedTime, ends[before], ends[name]))
    steps: list[Step] = []
    for place, name in enumerate(chain):
        following = begins[place + 1] if place + 1 < len(chain) else until
        settles = place + 1 == len(chain) or named[chain[place + 1]].view.attempt <= 1
        steps.append(_step(named[name], begins[place], ends[name], following, settles=settles))
    cached = _all_cached(named, ends, started_at, until) if ended_at is not None else None
    return CriticalPath(until - started_at, steps, cached)


def _end(view: TaskView, until: int) -> int | None:
    """When a task that had an attempt ended, or now; None for one that never had its turn."""
    if view.status in ("QUEUED", "RUNNING"):
        return until
    if view.status in ("SUCCEEDED", "FAILED") or (view.status == "CANCELLED" and launched_at(view) is not None):
        return min(view.endTime, until) if view.endTime is not None else None
    return None


def _chain(named: Mapping[str, Timed], ends: Mapping[str, int], started_at: int) -> list[str]:
    """From a root to the task that the run waited for last, each with the one above it that ended last."""
    going_on = [name for name in ends if named[name].view.status in ("QUEUED", "RUNNING")]
    if going_on:
        last = min(going_on, key=lambda name: named[name].view.queuedTime or started_at)
    elif ends:
        last = max(ends, key=lambda name: ends[name])
    else:
        return []
    return _back_from(last, named, ends)


def _back_from(last: str, named: Mapping[str, Timed], ends: Mapping[str, int]) -> list[str]:
    chain = [last]
    while above := [name for name in named[chain[-1]].parents if name in ends]:
        chain.append(max(above, key=lambda name: ends[name]))
    return chain[::-1]


def _step(each: Timed, begin: int, end: int, following: int, *, settles: bool) -> Step:
    """`begin` to `following` is the task's part of the path. Not `settles`: that is in the next one's `earlier`."""
    view = each.view
    queued = within(view.queuedTime, begin, end) if view.attempt > 1 else begin
    phases, skew = attempt_phases(each, queued, end)
    phases |= {
        "earlier": queued - begin if view.attempt > 1 else None,
        "settle": following - end if settles and view.endTime is not None else None,
    }
    ordered = {name: phases.get(name) for name in PHASES}
    return Step(
        view.name, view.status, view.attempt, view.node, following - begin, ordered, skew, view.skipped is not None
    )


def _all_cached(named: Mapping[str, Timed], ends: Mapping[str, int], started_at: int, until: int) -> AllCached:
    """Every task takes as long after the last one above it as it did, but for what its misses took to fetch."""
    shorter: dict[str, int] = {}
    missed = unknown = 0
    for name in TopologicalSorter({name: named[name].parents for name in ends}).static_order():
        if name not in ends:
            continue
        above = [parent for parent in named[name].parents if parent in ends]
        ready = max((ends[parent] for parent in above), default=started_at)
        gain: int | None = 0
        if _missed(named[name].view):
            missed += 1
            gain = _gain(named[name], within(named[name].view.queuedTime, ready, ends[name]), ends[name])
            unknown += gain is None
        took = max(0, ends[name] - ready - (gain or 0))
        shorter[name] = max((shorter[parent] for parent in above), default=0) + took
    if not shorter:
        return AllCached(until - started_at, [], 0, 0)
    last = max(shorter, key=lambda name: shorter[name])
    rest = until - max(ends.values())
    return AllCached(shorter[last] + rest, _back_from(last, named, shorter), missed, unknown)


def _missed(view: TaskView) -> bool:
    """Whether it waited for bytes of an input, or may have: its account is lost."""
    if view.inputs:
        return any(each.cause in _WAITED for each in view.inputs)
    return view.cache in ("Miss", "Partial", "Unknown") or (view.cache == "N/A" and view.cacheMissBytes > 0)


def _gain(each: Timed, queued: int, end: int) -> int | None:
    """What its fetch would have been shorter by: what its misses took, as far as its hits did not take as long. None
    where that is not known."""
    phases, _ = attempt_phases(each, queued, end)
    fetch, inputs = phases.get("fetch"), each.view.inputs
    if fetch is None or not all(one.source for one in inputs):
        return None
    if not inputs and each.view.cache in ("Partial", "Unknown"):
        return None
    # Inputs are brought side by side, so neither those nor these take longer than one after the other.
    hits = sum(one.ms for one in inputs if one.cause not in _WAITED)
    waited = sum(one.ms for one in inputs if one.cause in _WAITED)
    gain = max(0, fetch - hits)
    return min(gain, waited) if inputs else gain
