"""What Redis says of all of Helios, for whoever scrapes a collector: streams, replicas, nodes' caches.

Read now and then by a loop of its own, so that a scrape waits for nobody. Every collector reads the same, so these are
taken once and never added up (helios/measures.py). What is too old to be true is not served.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import ResponseError

from helios import measures
from helios.heartbeat import live_services
from helios.keys import (
    COLLECTOR_GROUP,
    CONTROLS,
    JOBRUNNER_GROUP,
    NODES,
    SUBMISSIONS,
    SUBMITTER_GROUP,
    all_partitions,
    node_cache,
    without_partition,
)
from helios.measures import Labels, Shared
from helios.settings import Settings
from helios.wire import Command, send
from services.scrape import Encode

log = structlog.get_logger()

READ_SECONDS = 5.0
"""How often it is read."""
TRUE_SECONDS = 30.0
"""What is older is not served."""
NODES_AT_MOST = 500
"""So many nodes have series of their own, those heard of last; all are counted."""
NODE_ALIVE_MS = 60_000
SERVICES = (SUBMITTER_GROUP, JOBRUNNER_GROUP, COLLECTOR_GROUP)

NODE_FIELDS: dict[str, Shared] = {
    "blobs": measures.NODE_BLOBS,
    "bytes": measures.NODE_BYTES,
    "limitBytes": measures.NODE_LIMIT,
    "freeBytes": measures.NODE_FREE,
    "evictedBlobs": measures.NODE_EVICTED,
    "evictedBytes": measures.NODE_EVICTED_BYTES,
    "scrubbedBytes": measures.NODE_SCRUBBED,
    "corruptBlobs": measures.NODE_CORRUPT,
    "seededBytes": measures.NODE_SEEDED,
    "seedWastedBytes": measures.NODE_WASTED,
}
"""Of what is kept of a node: which field is which metric."""

Found = dict[Shared, dict[Labels, float]]


class SharedFigures:
    """Reads the figures, and has them for the scrape as they were read last."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.partitions = all_partitions(settings.partitions)
        self.families: list[Metric] = []
        self.read_at: float | None = None
        self.up: bool | None = None
        """Whether Redis answered the last time; None before it was asked."""
        self.encoders: dict[str, Encode] = {}
        """The formats that were asked for."""
        self.texts: dict[str, bytes] = {}

    def look_if_asked(self) -> None:
        """The same once somebody scrapes: to read it takes a scan of Redis's keys."""
        if self.encoders:
            self.look()

    def look(self) -> None:
        """Read anew. Raises redis.RedisError."""
        try:
            found = self._found()
        except redis.RedisError:
            self.up = False
            self.texts.clear()
            raise
        self.read_at = time.time()
        found[measures.CLUSTER_AT] = {(): self.read_at}
        self.families = [family_of(measure, values) for measure, values in found.items()]
        self.up = True
        # Here and not at the scrape: with many nodes it takes longer than a scrape should.
        self.texts.update({kind: encode(self) for kind, encode in self.encoders.items()})

    def rendered(self, kind: str, encode: Encode) -> bytes:
        """The text that is ready, or made now the first time that this format is asked for."""
        self.encoders[kind] = encode
        if not self.is_true():
            return encode(self)
        known = self.texts.get(kind)
        if known is None:
            known = self.texts[kind] = encode(self)
        return known

    def is_true(self) -> bool:
        return self.read_at is not None and time.time() - self.read_at < TRUE_SECONDS

    def collect(self) -> Iterable[Metric]:
        if self.up is not None:
            yield family_of(measures.CLUSTER_UP, {(): float(self.up)})
        if self.is_true():
            yield from self.families

    def _found(self) -> Found:
        found: Found = {}
        self._streams(found)
        self._keys(found)
        self._replicas(found)
        self._memory(found)
        self._nodes(found)
        return found

    def _streams(self, found: Found) -> None:
        """Entries are deleted when they are acknowledged, so those that are not in hand were not read yet."""
        streams = self._read_by()
        replies = send(
            self.client,
            [command for stream, group in streams for command in (("XLEN", stream), ("XPENDING", stream, group))],
        )
        now_ms = time.time() * 1000
        lag, pending, oldest = (
            found.setdefault(each, {})
            for each in (measures.CLUSTER_LAG, measures.CLUSTER_PENDING, measures.CLUSTER_OLDEST)
        )
        for place, (stream, group) in enumerate(streams):
            length, in_hand = replies[place * 2 : place * 2 + 2]
            held, first = (0, None) if isinstance(in_hand, ResponseError) else (int(in_hand[0]), in_hand[1])
            labels = (without_partition(stream), group)
            unread = 0 if isinstance(length, ResponseError) else max(0, int(length) - held)
            lag[labels] = lag.get(labels, 0) + unread
            pending[labels] = pending.get(labels, 0) + held
            age = max(0.0, now_ms - int(str(first).partition("-")[0])) / 1000 if first else 0.0
            oldest[labels] = max(oldest.get(labels, 0.0), age)

    def _read_by(self) -> list[tuple[str, str]]:
        """Every work stream, and the group that reads it."""
        streams = [(SUBMISSIONS, SUBMITTER_GROUP), (CONTROLS, SUBMITTER_GROUP)]
        for keys in self.partitions:
            streams += [(stream, JOBRUNNER_GROUP) for stream in (*keys.ready_streams, keys.cancelled)]
            streams += [(stream, COLLECTOR_GROUP) for stream in (keys.checks, keys.launched, keys.settled)]
            streams.append((keys.finished, SUBMITTER_GROUP))
        return streams

    def _keys(self, found: Found) -> None:
        """What can be counted in all partitions by one command each."""
        lengths: list[tuple[Shared, str, str]] = []
        for keys in self.partitions:
            lengths += [
                (measures.CLUSTER_DEAD, "XLEN", keys.dead),
                (measures.CLUSTER_JOBS, "XLEN", keys.launched),
                (measures.CLUSTER_RUNS, "ZCARD", keys.active),
                (measures.CLUSTER_STORED, "ZCARD", keys.runs),
            ]
        replies = send(self.client, [(command, key) for _, command, key in lengths])
        for (measure, _, _), reply in zip(lengths, replies, strict=True):
            values = found.setdefault(measure, {(): 0})
            values[()] += 0 if isinstance(reply, ResponseError) else int(reply)
        sizes: list[Any] = send(
            self.client, [("ZRANGE", keys.log_sizes, 0, -1, "WITHSCORES") for keys in self.partitions]
        )
        total = sum(float(score) for each in sizes if not isinstance(each, ResponseError) for score in each[1::2])
        found[measures.CLUSTER_LOG_BYTES] = {(): total}

    def _replicas(self, found: Found) -> None:
        alive = live_services(self.client)
        for measure, beats in (
            (measures.CLUSTER_REPLICAS, alive),
            (measures.CLUSTER_WAITING, [beat for beat in alive if beat.get("waitsFor")]),
        ):
            values = found[measure] = {(service,): 0.0 for service in SERVICES}
            for beat in beats:
                if (beat["service"],) in values:
                    values[beat["service"],] += 1

    def _memory(self, found: Found) -> None:
        info: Any = self.client.info("memory")  # pyright: ignore[reportUnknownMemberType] -- stubs
        found[measures.CLUSTER_MEMORY] = {(): float(info.get("used_memory", 0))}
        found[measures.CLUSTER_MEMORY_LIMIT] = {(): float(info.get("maxmemory", 0))}

    def _nodes(self, found: Found) -> None:
        now_ms = time.time() * 1000
        listed, alive = send(
            self.client,
            [
                ("ZRANGE", NODES, 0, NODES_AT_MOST - 1, "REV", "WITHSCORES"),
                ("ZRANGE", NODES, f"{now_ms - NODE_ALIVE_MS:.0f}", "+inf", "BYSCORE"),
            ],
        )
        for reply in (listed, alive):
            if isinstance(reply, ResponseError):
                raise reply
        found[measures.CLUSTER_NODES] = {(): float(len(alive))}
        names: Sequence[str] = listed[::2]
        found[measures.NODE_HEARD] = {
            (name,): max(0.0, now_ms - float(score)) / 1000 for name, score in zip(names, listed[1::2], strict=True)
        }
        commands: list[Command] = [("HMGET", node_cache(name), *NODE_FIELDS) for name in names]
        for name, values in zip(names, send(self.client, commands), strict=True):
            if isinstance(values, ResponseError):
                continue
            for measure, text in zip(NODE_FIELDS.values(), values, strict=True):
                if text is not None and str(text).isdecimal():
                    found.setdefault(measure, {})[name,] = float(text)


def family_of(measure: Shared, values: dict[Labels, float]) -> Metric:
    kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    family = kind(measure.name, measure.help, labels=measure.labels)
    for labels, number in values.items():
        family.add_metric(labels, number)
    return family
