"""What a forecast goes by, gathered: earlier runs, external objects, the nodes' caches, and what is remembered."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from cli.connection import Link
from cli.differences import Side
from cli.forecast import Forecast, Remembered, Source, Speed, World, foresee, slots_seen, store_rate
from cli.history import earlier_runs, read_side
from cli.local_cache import NODE as LOCAL_NODE
from cli.local_cache import LocalCache
from cli.object_store import store_client
from helios.dag import Dag, ExternalInput, Task, grown
from helios.dag_names import image_digest
from helios.dag_problem import DagInvalid
from helios.events import Producer
from helios.keys import NODES, image_known, memo, node_blobs, source_known
from helios.memo import memo_key, memo_of, why_not
from helios.podwire import SourceKnown
from helios.transitions import pipelined

RUNS = 5
"""Earlier runs that a forecast goes by: for times, a few; for contents, the newest."""
RUNS_LOOKED_AT = 20
HEARD_SECONDS = 60.0
"""A node whose keeper has not spoken for longer is taken for gone."""
HEADS = 16
"""Objects that are looked at side by side."""
UNKNOWN_SLOTS = 16
"""Tasks at once where neither this machine nor an earlier run tells."""
ASKED = 2_000
"""Blobs asked for in one round trip."""

_source_decoder = msgspec.json.Decoder(SourceKnown)


def prospect(link: Link, dag: Dag, *, cache_enabled: bool, memoize: bool) -> Forecast:
    """The forecast of a run of the DAG as things stand."""
    past = list(_past(link, dag.dag_name))
    dag = _grown_as_before(dag, past)
    uris = sorted({each.uri for task in dag.tasks for each in task.inputs if isinstance(each, ExternalInput)})
    nodes = nodes_heard(link)
    local = LocalCache(link.stack.home.cache) if link.stack is not None else None
    sources = look_at(link, uris, local)
    holders = Holders(link, nodes, local)
    holders.ask({source.sha256 for source in sources.values()} | _digests(past))
    world = World(
        sources=sources,
        past=past,
        nodes=[LOCAL_NODE] if local is not None else nodes,
        holders=holders,
        remembered=Memory(link),
        warms=_warms(past),
    )
    rate = store_rate(past) or (local.store_rate() if local is not None else None)
    speed = Speed(slots=_slots(link, past), store=rate)
    return foresee(dag, world, cache_enabled=cache_enabled, memoize=memoize, speed=speed)


def _grown_as_before(dag: Dag, past: Sequence[Side]) -> Dag:
    """The DAG with the tasks that its lists made the last time, which is as good a guess as any."""
    for task in dag.tasks:
        items = next((side.lists[task.name] for side in past if task.name in side.lists), None)
        if task.for_each is not None and items is not None:
            with suppress(DagInvalid):
                dag = grown(dag, task.name, items)
    return dag


def _past(link: Link, dag_name: str) -> Iterator[Side]:
    """The newest runs of the DAG that succeeded, and a few others where there are too few."""
    runs = earlier_runs(link, dag_name)[:RUNS_LOOKED_AT]
    pipeline = pipelined(link.client)
    for run in runs:
        pipeline.hget(link.keys(run).run(run), "status")
    statuses: list[Any] = pipeline.execute(raise_on_error=False) if runs else []
    pairs = list(zip(runs, statuses, strict=True))
    good = [run for run, status in pairs if status == "SUCCEEDED"]
    others = [run for run, status in pairs if status in ("FAILED", "CANCELLED")]
    chosen = set((good + others)[:RUNS])
    for run in runs:
        if run in chosen:
            yield read_side(link, run)


def _digests(past: Sequence[Side]) -> set[str]:
    """Whatever an earlier run brought or made: what the new one may need again."""
    return {
        digest
        for side in past
        for view in side.tasks.values()
        for digest in (*(each.sha256 for each in view.inputs), *(each.sha256 for each in view.outputs))
    }


def _warms(past: Sequence[Side]) -> bool:
    """Whether outputs are left in their node's cache: unless the newest run that could tell had none of them so."""
    for side in past:
        causes = {each.cause for view in side.tasks.values() for each in view.inputs if not each.version}
        if "warm" in causes:
            return True
        if "never-here" in causes and side.cache_enabled:
            return False
    return True


def _slots(link: Link, past: Sequence[Side]) -> int:
    """How many tasks run at once: in local mode by this machine's processors, else as many as were seen to."""
    if link.stack is not None:
        return link.settings.local_slots or 2 * (os.cpu_count() or 1)
    return max((slots_seen(side) for side in past), default=0) or UNKNOWN_SLOTS


# External objects.


def look_at(link: Link, uris: Sequence[str], local: LocalCache | None) -> dict[str, Source]:
    """Each object's version by a HEAD, and its digest where a node has brought that version."""
    if not uris:
        return {}
    store = store_client(link.settings)
    with ThreadPoolExecutor(min(HEADS, len(uris)), "heads") as pool:
        seen = dict(zip(uris, pool.map(_head, repeat(store), uris), strict=True))
    place = urlsplit(link.settings.s3_endpoint).netloc
    pipeline = pipelined(link.client)
    for uri in uris:
        pipeline.get(source_known(f"{place}/{uri.removeprefix('s3://')}"))
    for uri, text in zip(uris, pipeline.execute(raise_on_error=False), strict=True):
        known, source, digest = _known(text), seen[uri], ""
        if known is not None and (known.version, known.bytes) == (source.version, source.bytes):
            digest = known.sha256
        elif local is not None and source.bytes is not None:
            digest = local.digest_of(f"{place}/{uri.removeprefix('s3://')}", source.version, source.bytes)
        seen[uri] = msgspec.structs.replace(source, sha256=digest)
    return seen


def _head(store: Minio, uri: str) -> Source:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        found = store.stat_object(bucket, key)
    except S3Error as error:
        if error.code in ("NoSuchKey", "NoSuchBucket", "NoSuchObject"):
            return Source(missing=True)
        return Source(trouble=f"the object store does not show {uri}: {error.code}")
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
        return Source(trouble=f"the object store cannot be asked: {type(error).__name__}")
    version = found.version_id if found.version_id not in (None, "", "null") else None
    return Source(bytes=found.size, version=f"version {version}" if version else f'etag "{found.etag}"')


def _known(text: Any) -> SourceKnown | None:
    try:
        return _source_decoder.decode(text) if isinstance(text, str) else None
    except msgspec.DecodeError:
        return None


# The nodes' caches.


def nodes_heard(link: Link) -> list[str]:
    """The nodes whose keeper has spoken lately."""
    found: Any = link.client.zrange(NODES, 0, -1, withscores=True)  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
    since = (time.time() - HEARD_SECONDS) * 1000
    return sorted(node for node, at in found if at >= since)


class Holders:
    """Which nodes have a blob: by the inventories in Redis, or in local mode by the folder of this machine's cache, of
    which the inventory hears only with the keeper's next round.
    """

    def __init__(self, link: Link, nodes: Sequence[str], local: LocalCache | None) -> None:
        self.link = link
        self.nodes = nodes
        self.local = local
        self.known: dict[str, tuple[str, ...]] = {}

    def __call__(self, digest: str) -> Sequence[str]:
        if digest not in self.known:
            self.ask((digest,))
        return self.known.get(digest, ())

    def ask(self, digests: Iterable[str]) -> None:
        """Ask for many together."""
        new = [digest for digest in digests if digest and digest not in self.known]
        if self.local is not None:
            self.known.update((digest, (LOCAL_NODE,) if self.local.has(digest) else ()) for digest in new)
            return
        for start in range(0, len(new), ASKED):
            chunk = new[start : start + ASKED]
            pipeline = pipelined(self.link.client)
            for node in self.nodes:
                pipeline.hmget(node_blobs(node), chunk)
            replies: list[Any] = pipeline.execute(raise_on_error=False) if self.nodes else []
            having: dict[str, list[str]] = {digest: [] for digest in chunk}
            for node, sizes in zip(self.nodes, replies, strict=True):
                if isinstance(sizes, Exception):
                    continue
                for digest, size in zip(chunk, sizes, strict=True):
                    if size is not None:
                        having[digest].append(node)
            self.known.update((digest, tuple(found)) for digest, found in having.items())


# Memoized tasks.


class Memory:
    """What stands for memoized tasks, as the collector would find it; that the outputs are still stored it checks."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.now_ms = int(time.time() * 1000)

    def __call__(self, task: Task, digests: Mapping[str, str]) -> Remembered | str:
        why = "which image its tag stands for is not known: none ran under it"
        for image in self._images(task.image):
            fields: Any = self.link.client.hgetall(memo(memo_key(task, image, digests)))
            known = memo_of(fields)
            assert task.memoize is not None
            why = why_not(known, task.memoize, self.now_ms)
            if not why:
                return Remembered(Producer(known.run, known.task), known.outputs)
        return why

    def _images(self, reference: str) -> list[str]:
        """What the image counts as. Which launcher runs tasks is not known here, so the reference itself is tried too:
        where tasks run without their image it counts as that.
        """
        if self.link.stack is not None:
            return [reference]
        found: Any = image_digest(reference) or self.link.client.get(image_known(reference))
        return [found, reference] if found else [reference]
