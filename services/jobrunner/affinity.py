"""Which nodes a task's Job is to prefer: those that hold the bytes of its inputs, unless they are loaded already.

Rule: a preference is advice to the scheduler and never a requirement, and whatever cannot be known gives none. The
functions decide and do no I/O; `Affinity` reads what they go by, in one pipeline for a batch once its inputs are known.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import redis
import structlog

from helios.dag import ExternalInput, Task, TaskInput
from helios.keys import NODES, keys_of_run, node_blobs, node_cache, source_known
from helios.settings import Settings
from helios.wire import Command, send
from services.jobrunner.jobs import Preference, WantedJob

log = structlog.get_logger()

WORTH_BYTES = 1024**2
"""Less than this is brought sooner than a busy node gets round to a task."""

POD_BYTES = 16 * 1024**2
"""A pod more than on the emptiest node weighs as much as this many bytes: at 1 Gbit/s they take 0.13 s, and what a node
does for a pod beside the task's own command takes its processors longer."""

FEW_PODS = 4
"""A node with so many pods may be preferred whatever the others have."""

FAIR_SHARES = 1.5
"""Above that no node is preferred that would have more than this many times the average node's pods."""

NODES_NAMED = 4
"""Nodes that a Job names at most, best first."""

HEARD_SECONDS = 60.0
"""A node whose keeper has not spoken for longer is left out."""

NODES_SECONDS = 2.0
"""So long the list of nodes is good for; it changes when a node joins or dies."""

MADE_SECONDS = 60.0
"""So long an output counts as held by the node that made it, whatever the inventory says: its keeper may tell later."""

UNCOUNTED_SECONDS = 5.0
"""From a Job's creation until its pod is surely among those that the collector counts on its node."""

LOOKS_AT_MOST = 50_000
"""Blobs times nodes that are asked about for a batch; above that the smallest blobs are left out."""

HOSTNAME = "kubernetes.io/hostname"

Inputs = Mapping[str, int]
"""Bytes by digest; what is there twice is brought once."""


def preferences(inputs: Inputs, holds: Mapping[str, Set[str]], loads: Mapping[str, float]) -> tuple[Preference, ...]:
    """The nodes that a task is to prefer, best first. `holds` are the digests on each node, `loads` its pods.

    A node is worth the bytes that it holds and the poorest node does not, less POD_BYTES for each pod more than on the
    emptiest. It is not named where it is worth less than WORTH_BYTES, or would have more than its share of all pods.
    """
    if len(loads) < 2 or sum(inputs.values()) < WORTH_BYTES:
        return ()
    held = {node: sum(size for digest, size in inputs.items() if digest in holds.get(node, ())) for node in loads}
    poorest = min(held.values())
    if max(held.values()) - poorest < WORTH_BYTES:
        return ()
    emptiest = min(loads.values())
    room = max(FEW_PODS, FAIR_SHARES * (sum(loads.values()) + 1) / len(loads))
    worth = {
        node: held[node] - poorest - POD_BYTES * (load - emptiest) for node, load in loads.items() if load + 1 <= room
    }
    best = sorted((node for node in worth if worth[node] >= WORTH_BYTES), key=lambda node: (-worth[node], node))
    # The scheduler scales weights so that the best node's is 100: only how they compare means anything.
    return tuple(Preference(node, max(1, round(100 * worth[node] / worth[best[0]]))) for node in best[:NODES_NAMED])


def place(
    tasks: Iterable[Inputs], holds: Mapping[str, Set[str]], loads: dict[str, float]
) -> list[Sequence[Preference]]:
    """What each of the tasks is to prefer, one after the other: each counts in `loads` where it will probably go."""
    placed: list[Sequence[Preference]] = []
    for inputs in tasks:
        preferred = preferences(inputs, holds, loads)
        loads[preferred[0].node if preferred else min(loads, key=lambda node: (loads[node], node))] += 1
        placed.append(preferred)
    return placed


def largest(tasks: Iterable[Inputs], count: int) -> list[str]:
    """The digests of the `count` largest blobs that any of the tasks needs."""
    sizes = {digest: size for inputs in tasks for digest, size in inputs.items()}
    return list(sizes) if len(sizes) <= count else sorted(sizes, key=lambda digest: -sizes[digest])[:count]


class _Blob(msgspec.Struct):
    """An output of a record, or what is known of a source. `node`: where it was made just now."""

    bytes: int
    sha256: str
    name: str = ""
    node: str = ""


class _Record(msgspec.Struct):
    """Of an attempt's record what says which blobs it made, where, and when in epoch milliseconds."""

    node: str = ""
    publishedAt: int | None = None
    outputs: Sequence[_Blob] = ()


_record_decoder = msgspec.json.Decoder(_Record)
_source_decoder = msgspec.json.Decoder(_Blob)


class _Place(NamedTuple):
    """Where Redis says which blob an input is: in the record of the task that made it, or by its source."""

    key: str
    output: str | None


class Affinity:
    """Gives each Job of a batch its preference. For one thread."""

    def __init__(self, client: redis.Redis, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.partitions = settings.partitions
        self.store = urlsplit(settings.s3_endpoint).netloc
        self.clock = clock
        self.nodes: list[str] = []
        self.nodes_until = 0.0
        self.uncounted: deque[tuple[float, str]] = deque()
        """Where Jobs of the last moments will probably run, and when: the collector's count may lack their pods."""

    def preferring(self, jobs: Sequence[WantedJob]) -> list[WantedJob]:
        """The same Jobs, with what they prefer. Costs nothing where no Job has inputs, or there is one node."""
        try:
            if not any(_asks(job) for job in jobs) or len(self._live_nodes()) < 2:
                return list(jobs)
            wanted, made = self._inputs(jobs)
            digests = largest(wanted, max(1, LOOKS_AT_MOST // len(self.nodes)))
            if not digests:
                return list(jobs)
            holds, loads = self._state(digests)
            for digest, node in made.items():
                holds.get(node, set()).add(digest)
        except redis.RedisError as error:
            log.warning("Jobs get no preference for a node", error=str(error))
            return list(jobs)
        before = dict(loads)
        placed = place(wanted, holds, loads)
        now = self.clock()
        for node, load in loads.items():
            self.uncounted.extend([(now, node)] * int(load - before[node]))
        return [job._replace(prefers=tuple(preferred)) for job, preferred in zip(jobs, placed, strict=True)]

    def _live_nodes(self) -> list[str]:
        now = self.clock()
        if now >= self.nodes_until:
            since = int((time.time() - HEARD_SECONDS) * 1000)
            (found,) = send(self.client, [("ZRANGE", NODES, since, "+inf", "BYSCORE")])
            if isinstance(found, redis.RedisError):
                raise found
            self.nodes, self.nodes_until = list(found), now + NODES_SECONDS
        return self.nodes

    def _inputs(self, jobs: Sequence[WantedJob]) -> tuple[list[Inputs], dict[str, str]]:
        """What each Job needs, as far as it is known and worth anything; and which node made it just now, by digest."""
        places = [[self._place(job, each) for each in job.task.inputs] if _asks(job) else [] for job in jobs]
        keys = {place.key: place for of_one in places for place in of_one}
        replies = send(self.client, [_question(place) for place in keys.values()])
        known = {key: _blobs(reply, place) for (key, place), reply in zip(keys.items(), replies, strict=True)}
        wanted: list[Inputs] = []
        made: dict[str, str] = {}
        for of_one in places:
            blobs = [known[place.key].get(place.output or "") for place in of_one]
            inputs = {blob.sha256: blob.bytes for blob in blobs if blob is not None}
            wanted.append(inputs if sum(inputs.values()) >= WORTH_BYTES else {})
            made |= {blob.sha256: blob.node for blob in blobs if blob is not None and blob.node}
        return wanted, made

    def _place(self, job: WantedJob, each: TaskInput | ExternalInput) -> _Place:
        if isinstance(each, TaskInput):
            return _Place(keys_of_run(job.run, self.partitions).task(job.run, each.from_task), each.name)
        # As the collector spells a source, from the same setting.
        return _Place(source_known(f"{self.store}/{each.bucket}/{each.key}"), None)

    def _state(self, digests: Sequence[str]) -> tuple[dict[str, set[str]], dict[str, float]]:
        """Which of the blobs each node holds, and its pods."""
        commands: list[Command] = []
        for node in self.nodes:
            commands += [("HMGET", node_blobs(node), *digests), ("HGET", node_cache(node), "pods")]
        replies = send(self.client, commands)
        while self.uncounted and self.uncounted[0][0] < self.clock() - UNCOUNTED_SECONDS:
            self.uncounted.popleft()
        holds: dict[str, set[str]] = {}
        loads: dict[str, float] = {}
        for node, blobs, pods in zip(self.nodes, replies[::2], replies[1::2], strict=True):
            there: list[str | None] = [] if isinstance(blobs, redis.RedisError) else blobs
            holds[node] = {digest for digest, size in zip(digests, there, strict=False) if size is not None}
            loads[node] = float(pods) if isinstance(pods, str) and pods.isdecimal() else 0.0
        for _, node in self.uncounted:
            if node in loads:
                loads[node] += 1
        return holds, loads


def _asks(job: WantedJob) -> bool:
    """Whether it matters to the Job where it runs, and is not decided already."""
    task: Task = job.task
    return bool(task.inputs) and job.cache_enabled and HOSTNAME not in task.node_selector


def _question(place: _Place) -> Command:
    return ("GET", place.key) if place.output is None else ("HGET", place.key, "record")


def _blobs(reply: Any, place: _Place) -> dict[str, _Blob]:
    """By output, or the one of a source; nothing for what is not there or not understood."""
    if not isinstance(reply, str):
        return {}
    try:
        if place.output is None:
            return {"": _source_decoder.decode(reply)}
        record = _record_decoder.decode(reply)
    except msgspec.DecodeError:
        return {}
    just_now = (record.publishedAt or 0) > (time.time() - MADE_SECONDS) * 1000
    for each in record.outputs:
        each.node = record.node if just_now else ""
    return {each.name: each for each in record.outputs}
