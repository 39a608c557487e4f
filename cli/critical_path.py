"""The critical path of a run: which tasks it waited for, and in which phase of each. No I/O happens here.

A task's part of the path goes from when it was queued to when the next one was, all by the Redis server's clock, so the
parts add up to the run. Within it some times are the node's. They are taken as they are where they lie between launch
and end as Redis saw them; where they do not, the two clocks differ, and they are shifted together by the least that
puts them there: `skewMs`. A difference that is smaller than the waits around it does not show, and moves time between
`pull` and `publish`. How long fetch was at work is a difference of one clock, and needs no other.

Rule: a phase that is not known is None, and PHASES says where its time is then; nothing is guessed.
"""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import NamedTuple

import msgspec

from helios.records import MISS_CAUSES, TaskView

PHASES = {
    "earlier": "attempts before the last, with the waits between them",
    "queue": "queued, until its Job is made",
    "create": "until its pod is seen; not known of a pod that is at work when it is first seen: then in the next",
    "schedule": "until its pod has a node; where that was not seen, in pull",
    "pull": "until fetch is at work, and from its end to the command: images are pulled, containers start",
    "fetch": "inputs brought; where it is not known, in pull",
    "run": "the command",
    "publish": "outputs stored, and the end made known; where it is not known, in run",
    "settle": "until the next task of the path is queued, or the run is over",
}
"""The parts of a task's time, in order."""

MOMENTS = ("pendingAt", "scheduledAt", "fetchingAt", "runningAt", "publishingAt")
"""Fields of a task's record that say when its current attempt was seen in a phase, or with a node, by the Redis
server's clock."""

CLOCKS_DIFFER_MS = 1_000
"""Node times may be whole seconds; what they overlap the attempt by more than this cannot be its."""


_WAITED = (*MISS_CAUSES, "coalesced")
"""Causes with which an input had to be waited for: that it was coalesced says that another task was bringing it."""


class Moments(NamedTuple):
    """A task's MOMENTS; None where one was not seen."""

    pending: int | None = None
    scheduled: int | None = None
    fetching: int | None = None
    running: int | None = None
    publishing: int | None = None


class Timed(msgspec.Struct, frozen=True):
    """One task to be looked at."""

    view: TaskView
    parents: Sequence[str] = ()
    moments: Moments = Moments()
    local: bool = False
    """It is processes of this machine: what they wait for is a place, and no image."""


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
        begins.append(ends[before] if view.attempt > 1 else _within(view.queuedTime, ends[before], ends[name]))
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
    if view.status in ("SUCCEEDED", "FAILED") or (view.status == "CANCELLED" and _launched(view) is not None):
        return min(view.endTime, until) if view.endTime is not None else None
    return None


def _launched(view: TaskView) -> int | None:
    """A retry's record keeps the launch of the attempt before, until it has one of its own."""
    launched, queued = view.startTime, view.queuedTime
    return None if launched is None or (queued is not None and launched < queued) else launched


def _within(time: int | None, low: int, high: int) -> int:
    return low if time is None else max(low, min(time, high))


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
    queued = _within(view.queuedTime, begin, end) if view.attempt > 1 else begin
    phases, skew = _attempt(each, queued, end)
    phases |= {
        "earlier": queued - begin if view.attempt > 1 else None,
        "settle": following - end if settles and view.endTime is not None else None,
    }
    ordered = {name: phases.get(name) for name in PHASES}
    return Step(
        view.name, view.status, view.attempt, view.node, following - begin, ordered, skew, view.skipped is not None
    )


def _attempt(each: Timed, queued: int, end: int) -> tuple[dict[str, int | None], int]:
    """The phases of the last attempt, which add up to `end` - `queued`, and the shift of the node's clock."""
    view, moments = each.view, each.moments
    launched = _launched(view)
    if launched is None or view.skipped is not None:  # it was looked whether it may be skipped, and no more
        return {"queue": end - queued}, 0
    launched = _within(launched, queued, end)
    began, finished, skew = _command_times(each, launched, end)
    found: dict[str, int | None] = {"queue": launched - queued}
    at_work = began if began is not None else end
    seen = launched
    if moments.pending is not None:
        seen = _within(moments.pending, launched, at_work)
        found["create"] = seen - launched
    fetch = _fetch_ms(each, seen, at_work)
    if fetch is not None:
        found["fetch"] = fetch
    for name, ms in _start(each, seen, at_work - seen - (fetch or 0)).items():
        found[name] = (found.get(name) or 0) + ms
    if began is not None:
        found["run"] = (finished if finished is not None else end) - began
    if finished is not None:
        found["publish"] = end - finished
    return found, skew


def _fetch_ms(each: Timed, seen: int, at_work: int) -> int | None:
    """How long fetch was at work, which lies between the other two."""
    view, moments = each.view, each.moments
    over = view.status in ("SUCCEEDED", "FAILED")
    if over and view.fetchElapsedMs is not None:
        return min(view.fetchElapsedMs, at_work - seen)
    if moments.fetching is None:
        return None
    took, after = at_work - _within(moments.fetching, seen, at_work), 0
    if over and not each.local and view.fetchedAt is not None and view.startedAt is not None:
        # Its container's end may be a whole second, so this much at least came after it.
        after = max(0, view.startedAt - view.fetchedAt - CLOCKS_DIFFER_MS)
    return max(0, took - after)


def _start(each: Timed, seen: int, ms: int) -> dict[str, int]:
    """What `ms` were spent on, in which neither fetch nor the command was at work, from `seen` on."""
    moments = each.moments
    if each.local:
        return {"create" if moments.pending is None else "queue": ms}
    if moments.scheduled is not None:
        scheduled = _within(moments.scheduled, seen, seen + ms) - seen
        return {"schedule": scheduled, "pull": ms - scheduled}
    if each.view.node or moments.fetching is not None:
        return {"pull": ms}
    # There was no node the last time that it was looked at, or never a pod.
    return {"schedule" if moments.pending is not None else "create": ms}


def _command_times(each: Timed, launched: int, end: int) -> tuple[int | None, int | None, int]:
    """When the command began and ended by the Redis server's clock, and by how much the node's was shifted for that."""
    view, moments = each.view, each.moments
    began, finished = view.startedAt, view.finishedAt
    if view.status not in ("SUCCEEDED", "FAILED") or began is None:
        began, finished, skew = moments.running, moments.publishing, 0
    else:
        last = max(time for time in (began, finished, view.publishedAt) if time is not None)
        if last - began > end - launched + CLOCKS_DIFFER_MS:
            began, finished, skew = moments.running, moments.publishing, 0
        else:
            skew = launched - began if began < launched else min(0, end - last)
    if began is None:
        return None, None, skew
    began = _within(began + skew, launched, end)
    return began, None if finished is None else _within(finished + skew, began, end), skew


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
            gain = _gain(named[name], _within(named[name].view.queuedTime, ready, ends[name]), ends[name])
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
    phases, _ = _attempt(each, queued, end)
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
