"""What Redis keeps of a task and a run, decoded once here for everyone who reads it.

A task's record is a hash; what its attempt reported is one JSON field of it, `record`. The run hash holds strings only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import redis
from redis.exceptions import ResponseError

from helios.dag_params import recorded_params
from helios.events import Producer
from helios.keys import Keys
from helios.podwire import Stored
from helios.wire import hash_values

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "REJECTED")
"""The states in which a run stays."""

HIT_CAUSES = ("cached", "coalesced", "warm")
MISS_CAUSES = ("never-here", "evicted", "changed", "corrupt", "disabled", "cache-fault")
"""Why an input was taken from the cache, or was not."""

SOURCES = ("cache", "peer", "store")
"""Where an input's bytes came from: this node, another one, the object store."""

END_COUNTERS = ("taskSucceeded", "taskFailed", "taskUpstreamFailed", "taskCancelled")
"""How tasks ended; together they come to taskCount when the run is settled."""

RUN_COUNTERS = (
    *END_COUNTERS,
    "taskSkipped",
    "cacheHitTasks",
    "cachePartialTasks",
    "cacheMissTasks",
    "cacheHitBytes",
    "cacheMissBytes",
)
"""What the scripts count while a run goes on; the fold of its tasks must come to the same."""

RUN_ACCOUNT = ("cacheFetchMs", "cacheSavedMs", "cachePeerBytes", "cacheStoreBytes")
"""What a run's inputs took, and what its hits saved; where its missed bytes came from. Folded when it ends, and not
counted live. Missed bytes beyond those of peers and store are of an account that does not say where from."""

RUN_NUMBERS = ("startTime", "endTime", "durationMs", "taskCount", *RUN_COUNTERS, *RUN_ACCOUNT)
"""Fields of the run hash that hold numbers; times in epoch milliseconds of the Redis server's clock."""

TASK_FIELDS = (
    "status",
    "attempt",
    "settled",
    "queuedAt",
    "launchedAt",
    "endedAt",
    "node",
    "cause",
    "record",
    "earlierHitBytes",
    "earlierMissBytes",
    "earlierFetchMs",
    "earlierSavedMs",
    "earlierPeerBytes",
    "earlierStoreBytes",
    "waitsFor",
    "grown",
)


class InputRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input of an attempt: hit when its cause is cached, coalesced or warm. The rest is as in podwire.FetchedInput;
    records of earlier versions lack it.
    """

    name: str
    bytes: int
    cause: str
    source: str = ""
    ms: int = 0
    savedMs: int = 0
    sha256: str = ""
    version: str = ""
    detail: str = ""


class OutputRecord(msgspec.Struct, frozen=True):
    """One stored output. `key` is its place in the artifact bucket; `archive`: a folder, stored as a tar."""

    name: str
    bytes: int
    sha256: str
    key: str = ""
    archive: bool = False
    stored: Stored | None = None


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an attempt that ended. Times are epoch milliseconds on the node's clock."""

    exitCode: int | None = None
    reason: str | None = None
    node: str = ""
    cache: str = "N/A"
    cacheHitBytes: int = 0
    cacheMissBytes: int = 0
    fetchMs: int = 0
    """What its inputs took, each for itself, added up; they are brought side by side."""
    savedMs: int = 0
    """What its hits saved, added up in the same way."""
    peerBytes: int = 0
    storeBytes: int = 0
    """Missed bytes by where they came from; both 0 where only a short account is left."""
    fetchElapsedMs: int | None = None
    """How long fetch was at work in all."""
    inputs: Sequence[InputRecord] = ()
    outputs: Sequence[OutputRecord] = ()
    cpuMs: int | None = None
    peakMemoryBytes: int | None = None
    fetchedAt: int | None = None
    startedAt: int | None = None
    finishedAt: int | None = None
    publishedAt: int | None = None
    skipped: Producer | None = None
    """It did not run: these are the outputs of that task."""


class TaskView(msgspec.Struct, kw_only=True):
    """A task as readers see it; what is not known yet is None. Its outcome is that of its last attempt that ended; its
    bytes, and what they took and saved, are those of all of them."""

    name: str
    status: str
    attempt: int = 0
    node: str = ""
    cache: str = "N/A"
    cacheHitBytes: int = 0
    cacheMissBytes: int = 0
    fetchMs: int = 0
    savedMs: int = 0
    peerBytes: int = 0
    storeBytes: int = 0
    fetchElapsedMs: int | None = None
    """Of the last attempt that ended, as the inputs are."""
    inputs: Sequence[InputRecord] = ()
    queuedTime: int | None = None
    startTime: int | None = None
    endTime: int | None = None
    exitCode: int | None = None
    reason: str | None = None
    outputs: Sequence[OutputRecord] = ()
    cpuMs: int | None = None
    peakMemoryBytes: int | None = None
    fetchedAt: int | None = None
    startedAt: int | None = None
    finishedAt: int | None = None
    publishedAt: int | None = None
    """These four are by the node's clock: when its inputs were there, when its command ran, when all was stored."""
    skipped: Producer | None = None
    """It succeeded without running: that task's success stands for it."""
    made: int | None = None
    """It has no container: so many tasks were made for the items of its list, and it ends with them."""


_attempt_decoder = msgspec.json.Decoder(AttemptRecord)


def decode_attempt(text: str | bytes) -> AttemptRecord:
    """Raises msgspec.DecodeError."""
    return _attempt_decoder.decode(text)


def task_view(name: str, values: Sequence[str | None]) -> TaskView:
    """A task from the values of TASK_FIELDS. A record that cannot be read leaves the task Unknown, never raises."""
    status, attempt, _, queued, launched, ended, node, cause, record, *earlier, waits_for, grown = values
    hits, misses, fetch_ms, saved_ms, peer_bytes, store_bytes = (_number(each) or 0 for each in earlier)
    view = TaskView(
        name=name,
        status=status or "UNKNOWN",
        attempt=_number(attempt) or 0,
        node=node or "",
        cacheHitBytes=hits,
        cacheMissBytes=misses,
        fetchMs=fetch_ms,
        savedMs=saved_ms,
        peerBytes=peer_bytes,
        storeBytes=store_bytes,
        queuedTime=_number(queued),
        startTime=_number(launched),
        endTime=_number(ended),
        made=_number(grown),
    )
    if view.status in ("WAITING", "QUEUED", "RUNNING"):
        view.endTime = None
        if view.status != "RUNNING":
            view.startTime = None
        if view.status == "QUEUED" and waits_for:
            view.reason = f"waits for {waits_for}, which does the same work"
        return view
    if status == "UPSTREAM_FAILED":
        view.reason = f"upstream task {cause!r} failed"
    if record is None:
        return view
    try:
        known = decode_attempt(record)
    except msgspec.DecodeError:
        view.cache = "Unknown"
        view.reason = "the record of its last attempt is unreadable"
        return view
    for field in ("cache", "inputs", "outputs", "exitCode", "reason", "fetchElapsedMs"):
        setattr(view, field, getattr(known, field))
    if view.status in ("SUCCEEDED", "FAILED"):
        # Else the record is of an earlier attempt, whose account was added when the next one was queued.
        for field in ("cacheHitBytes", "cacheMissBytes", "fetchMs", "savedMs", "peerBytes", "storeBytes"):
            setattr(view, field, getattr(view, field) + getattr(known, field))
    view.cpuMs, view.peakMemoryBytes = known.cpuMs, known.peakMemoryBytes
    for field in ("fetchedAt", "startedAt", "finishedAt", "publishedAt"):
        setattr(view, field, getattr(known, field))
    view.node = known.node or view.node
    if view.status == "SUCCEEDED":
        view.skipped = known.skipped
    return view


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def read_tasks(client: redis.Redis, keys: Keys, run: str, names: Iterable[str]) -> list[TaskView]:
    """The named tasks of a run. One whose key has the wrong type comes back with status UNKNOWN."""
    wanted = list(names)
    views: list[TaskView] = []
    for start in range(0, len(wanted), 1000):
        chunk = wanted[start : start + 1000]
        found = hash_values(client, [keys.task(run, name) for name in chunk], TASK_FIELDS)
        for name, values in zip(chunk, found, strict=True):
            if isinstance(values, ResponseError):
                views.append(TaskView(name=name, status="UNKNOWN", cache="Unknown", reason=str(values)))
            else:
                views.append(task_view(name, values))
    return views


def run_numbers(fields: Mapping[str, str]) -> dict[str, Any]:
    """The run hash with its numbers as numbers, switches as booleans, lists and `params` as such; names unchanged."""
    shown: dict[str, Any] = dict(fields)
    for name in RUN_NUMBERS:
        if name in shown:
            shown[name] = int(shown[name])
    for name in ("cacheEnabled", "memoize"):
        if name in shown:
            shown[name] = shown[name] == "true"
    if "params" in shown:
        shown["params"] = recorded_params(shown["params"])
    for name in ("problems", "warnings"):
        if name in shown:
            shown[name] = str(shown[name]).splitlines()
    return shown
