"""Which blobs the tasks of active runs still need: what keepers must not evict, and what a new node should bring first.

It follows from the records. A look at all of them costs time, so it is kept for as long as it took, many times over; a
task that was queued since is not in it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import ExternalInput, Input
from helios.keys import Keys, all_partitions, run_score, source_known
from helios.podwire import SourceKnown, Stored
from helios.records import OutputRecord, decode_attempt
from helios.wire import hash_values
from services.collector.locate import read_sources
from services.collector.nodes import ask

log = structlog.get_logger()

AT_ONCE = 1_000
"""Keys that are read in one round trip."""
RUNS_AT_MOST = 1_000
INPUTS_AT_MOST = 500_000
"""Of more active work the oldest runs count. What is not counted may be evicted, and is then fetched again."""
KEPT_TIMES_COST = 10.0
KEPT_SECONDS = (1.0, 60.0)
"""At least and at most."""

T = TypeVar("T")
Place = tuple[str, str]
"""Bucket and key."""


class Need(msgspec.Struct):
    """One blob, by how many tasks it is needed, and an object that holds it."""

    sha256: str
    bytes: int
    place: Place
    stored: Stored | None = None
    queued: int = 0
    waiting: int = 0
    running: int = 0


class _Task(msgspec.Struct, frozen=True):
    name: str
    inputs: Sequence[Input] = ()


class _Dag(msgspec.Struct, frozen=True):
    """What of a stored DAG matters here."""

    tasks: Sequence[_Task]


class _Run:
    """What of a run cannot change any more, and is read once: who wants what, and the outputs that exist."""

    def __init__(self, keys: Keys, run: str, tasks: dict[str, Sequence[Input]]) -> None:
        self.keys = keys
        self.run = run
        self.tasks = tasks
        """Those that have inputs and have not succeeded."""
        self.outputs: dict[str, dict[str, OutputRecord]] = {}

    def inputs(self) -> int:
        return sum(map(len, self.tasks.values()))


_dag_decoder = msgspec.json.Decoder(_Dag)
_STILL_NEEDS = ("QUEUED", "WAITING", "RUNNING")


class Demand:
    """The demand of all active runs. Safe from many threads; one looks, the others take what was seen last."""

    def __init__(
        self,
        client: redis.Redis,
        partitions: int,
        bucket: str,
        source: Callable[[str, str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.partitions = partitions
        self.bucket = bucket
        self.source = source
        self.clock = clock
        self.lock = threading.Lock()
        self.runs: dict[str, _Run] = {}
        self.needs: dict[str, Need] = {}
        self.good_until = 0.0

    def current(self) -> dict[str, Need]:
        """By digest. May be as old as it is costly to see."""
        if self.clock() < self.good_until or not self.lock.acquire(blocking=self.good_until == 0.0):
            return self.needs
        try:
            began = self.clock()
            if began >= self.good_until:
                self.needs = self._look()
                took = self.clock() - began
                least, most = KEPT_SECONDS
                self.good_until = began + took + min(most, max(least, KEPT_TIMES_COST * took))
            return self.needs
        finally:
            self.lock.release()

    def needed(self, digests: Iterable[str]) -> list[str]:
        """Those of the blobs that some task still needs, in their order."""
        needs = self.current()
        return [digest for digest in digests if digest in needs]

    def _look(self) -> dict[str, Need]:
        needs: dict[str, Need] = {}
        outside: dict[tuple[str, str], list[str]] = {}
        for run in self._active():
            open_tasks = self._open_tasks(run)
            self._read_outputs(run, open_tasks)
            for name, status in open_tasks.items():
                for each in run.tasks[name]:
                    if isinstance(each, ExternalInput):
                        outside.setdefault((each.bucket, each.key), []).append(status)
                    elif (output := run.outputs.get(each.from_task, {}).get(each.name)) is not None:
                        _count(needs, output.sha256, output.bytes, (self.bucket, output.key), output.stored, [status])
        for place, known in self._known(list(outside)).items():
            _count(needs, known.sha256, known.bytes, place, None, outside[place])
        return needs

    def _active(self) -> list[_Run]:
        """The oldest active runs that use the cache, as many as count."""
        found: list[tuple[Keys, str]] = []
        for keys in all_partitions(self.partitions):
            ids = ask(self.client, [("ZRANGE", keys.active, 0, RUNS_AT_MOST - 1)])[0]
            found += [(keys, run) for run in ids]
        found.sort(key=lambda each: run_score(each[1]))
        runs: dict[str, _Run] = {}
        inputs = 0
        for keys, run in found[:RUNS_AT_MOST]:
            known = self.runs.get(run) or self._opened(keys, run)
            inputs += known.inputs()
            if inputs > INPUTS_AT_MOST:
                log.warning("not all active runs count as demand", runs=len(found), counted=len(runs))
                break
            runs[run] = known
        self.runs = runs
        return list(runs.values())

    def _opened(self, keys: Keys, run: str) -> _Run:
        tasks: Sequence[_Task] = ()
        try:
            uses_cache, text = ask(self.client, [("HGET", keys.run(run), "cacheEnabled"), ("GET", keys.dag(run))])
            if uses_cache == "true" and text is not None:
                tasks = _dag_decoder.decode(text).tasks
        except (ResponseError, msgspec.DecodeError) as error:
            log.warning("a run does not count as demand", run=run, error=str(error))
        return _Run(keys, run, {task.name: task.inputs for task in tasks if task.inputs})

    def _open_tasks(self, run: _Run) -> dict[str, str]:
        """The status of each task that still needs its inputs; those that ended well are forgotten."""
        names = list(run.tasks)
        found: dict[str, str] = {}
        for some in _in_parts(names):
            replies = hash_values(self.client, [run.keys.task(run.run, name) for name in some], ("status",))
            for name, reply in zip(some, replies, strict=True):
                status = "" if isinstance(reply, ResponseError) else reply[0]
                if status in _STILL_NEEDS:
                    found[name] = status
                elif status == "SUCCEEDED":
                    del run.tasks[name]
        return found

    def _read_outputs(self, run: _Run, names: Iterable[str]) -> None:
        """The outputs that the tasks take, as far as they exist."""
        makers = {each.from_task for name in names for each in run.tasks[name] if not isinstance(each, ExternalInput)}
        for some in _in_parts(sorted(makers - run.outputs.keys())):
            replies = hash_values(self.client, [run.keys.task(run.run, name) for name in some], ("status", "record"))
            for name, reply in zip(some, replies, strict=True):
                if isinstance(reply, ResponseError) or reply[0] != "SUCCEEDED" or reply[1] is None:
                    continue
                with contextlib.suppress(msgspec.DecodeError):
                    run.outputs[name] = {output.name: output for output in decode_attempt(reply[1]).outputs}

    def _known(self, places: Sequence[Place]) -> dict[Place, SourceKnown]:
        found: dict[Place, SourceKnown] = {}
        for some in _in_parts(places):
            sources = [self.source(*place) for place in some]
            known = read_sources(sources, ask(self.client, [("MGET", *map(source_known, sources))])[0])
            found |= {place: known[source] for place, source in zip(some, sources, strict=True) if source in known}
        return found


def _count(
    needs: dict[str, Need], sha256: str, size: int, place: Place, stored: Stored | None, statuses: Iterable[str]
) -> None:
    need = needs.get(sha256)
    if need is None:
        need = needs[sha256] = Need(sha256, size, place, stored)
    for status in statuses:
        if status == "QUEUED":
            need.queued += 1
        elif status == "WAITING":
            need.waiting += 1
        else:
            need.running += 1


def _in_parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
