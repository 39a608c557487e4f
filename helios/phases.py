"""What the time of one attempt went to, from what Redis and its node say of it. No I/O happens here.

Some times are the node's. They are taken as they are where they lie between launch and end as Redis saw them; where
they do not, the two clocks differ, and they are shifted together by the least that puts them there. A difference that
is smaller than the waits around it does not show, and moves time between `pull` and `publish`. How long fetch was at
work is a difference of one clock, and needs no other.

Rule: a phase that is not known is None or missing, and PHASES says where its time is then; nothing is guessed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from helios.records import TaskView

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


def launched_at(view: TaskView) -> int | None:
    """A retry's record keeps the launch of the attempt before, until it has one of its own."""
    launched, queued = view.startTime, view.queuedTime
    return None if launched is None or (queued is not None and launched < queued) else launched


def within(time: int | None, low: int, high: int) -> int:
    return low if time is None else max(low, min(time, high))


def attempt_phases(each: Timed, queued: int, end: int) -> tuple[dict[str, int | None], int]:
    """The phases of the last attempt, which add up to `end` - `queued`, and the shift of the node's clock."""
    view, moments = each.view, each.moments
    launched = launched_at(view)
    if launched is None or view.skipped is not None or view.made is not None:  # it was looked at, and no more
        return {"queue": end - queued}, 0
    launched = within(launched, queued, end)
    began, finished, skew = _command_times(each, launched, end)
    found: dict[str, int | None] = {"queue": launched - queued}
    at_work = began if began is not None else end
    seen = launched
    if moments.pending is not None:
        seen = within(moments.pending, launched, at_work)
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
    took, after = at_work - within(moments.fetching, seen, at_work), 0
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
        scheduled = within(moments.scheduled, seen, seen + ms) - seen
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
    began = within(began + skew, launched, end)
    return began, None if finished is None else within(finished + skew, began, end), skew
