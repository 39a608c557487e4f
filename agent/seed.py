# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH116
"""Bringing to a node that joins what queued work will need most, before it asks; and counting what that was in vain.

It happens once in a cache's life, when the keeper first finds it empty, and one blob after another, so that fetches
have most of the line. What it brought and nobody used within a day, or that was evicted unused, was wasted.
"""

import os
import threading
import time
from collections.abc import Mapping

from agent.collector import Collector, CollectorAway
from agent.documents import Json
from agent.download import DownloadFailed, Link, SinkFault, Wanted, download
from agent.folders import write_whole
from agent.frozen import Frozen
from agent.logs import Log, one_line
from agent.names import is_digest
from agent.plan import Stored
from agent.saved import read_saved, whole
from agent.settings import FREE_SHARE, SyncSettings
from agent.store import CacheFault, Origin, Store
from agent.web import Web

USED_WITHIN_SECONDS = 86_400.0
_SAVED = "seeded.json"
_BLOBS_AT_MOST = 256
"""So many fit into what is saved of them."""


class _Blob(Frozen, secret=("peers", "url")):
    """A blob to bring, and where from."""

    digest: str
    size: int
    peers: list[str]
    """Of nodes that have it."""
    url: str
    """Of its object in the store."""
    stored: Stored | None
    """How it lies there, where the object is not the content."""


class Seeding:
    """One cache's. `begin` and `look` are for the thread that goes round, `bring` for any other."""

    def __init__(self, settings: SyncSettings, collector: Collector, store: Store, web: Web, log: Log) -> None:
        self._settings = settings
        self._collector = collector
        self._store = store
        self._web = web
        self._log = log
        self._lock = threading.Lock()
        self._room = 0
        """Bytes it may bring; 0 unless the cache was found new."""
        saved = read_saved(f"{settings.cache_dir}/{_SAVED}")
        self._began = bool(saved)
        self._seeded = whole(saved, "seededBytes")
        self._wasted = whole(saved, "wastedBytes")
        self._unused: dict[str, tuple[int, int, int]] = _unused_of(saved)
        """Digest to (bytes, ctime in ns when it was brought, epoch seconds then)."""

    def begin(self, state: Mapping[str, int]) -> None:
        """Decides, once, by how the cache was found."""
        if self._began:
            return
        self._began = True
        if state.get("blobs", 0) == 0:
            self._room = self._budget(state)
        self._save()

    def bring(self) -> None:
        """Brings what the collector names, if the cache is new. Whatever fails is left to the tasks that want it."""
        room, self._room = self._room, 0
        if room <= 0:
            return
        try:
            blobs = _blobs_of(self._collector.call("/v1/seed", {"budgetBytes": room}))
        except CollectorAway as away:
            self._log.line(f"Not known what queued work needs: {one_line(str(away))}")
            return
        for blob in blobs:
            if blob.size > room:
                continue
            try:
                if self._bring(blob):
                    room -= blob.size
            except (CacheFault, SinkFault, OSError) as fault:
                self._log.line(f"Seeding ends early: {one_line(str(fault))}")
                return
        self._log.line(f"Seeded {len(self._unused)} blobs, {self._seeded} bytes")

    def look(self) -> dict[str, int]:
        """What was brought and what of it was in vain, in bytes, as of now."""
        with self._lock:
            before = len(self._unused)
            now = time.time()
            for digest, (size, ctime_ns, at) in list(self._unused.items()):
                used = self._is_used(digest, ctime_ns)
                if used is None or (not used and now - at > USED_WITHIN_SECONDS):
                    self._wasted += size
                elif not used:
                    continue
                del self._unused[digest]
            changed = len(self._unused) != before
            counters = {"seededBytes": self._seeded, "seedWastedBytes": self._wasted}
        if changed:
            self._save()
        return counters

    def _budget(self, state: Mapping[str, int]) -> int:
        disk = os.statvfs(self._settings.cache_dir)
        floor = self._settings.free_bytes
        if floor is None:
            floor = int(disk.f_blocks * disk.f_frsize * FREE_SHARE)
        room = disk.f_bavail * disk.f_frsize - floor
        if limit := state.get("limitBytes", 0):
            room = min(room, limit - state.get("bytes", 0))
        return max(0, min(self._settings.seed_bytes, room // 2))

    def _bring(self, blob: _Blob) -> bool:
        """Whether it was brought. Raises CacheFault, SinkFault or OSError when this cache takes no more."""
        with self._store.single_flight(f"content\n{blob.digest}") as (_, lock):
            if os.access(self._path(blob.digest), os.F_OK):  # a task was quicker
                return False
            for url in (*blob.peers, blob.url):
                stored = blob.stored if url == blob.url else None
                with self._store.part(lock, blob.size) as part:
                    began = time.monotonic()
                    try:
                        wanted = Wanted("a seed", blob.size, None, blob.digest, stored)
                        link = Link(url, lambda url=url: url)
                        doubtful = url != blob.url
                        download(self._web, link, wanted, part, self._log, self._settings.lib_dir, doubtful=doubtful)
                    except DownloadFailed as failure:
                        self._log.line(f"A blob is not seeded from there: {failure}")
                        continue
                    # Of a peer it would say nothing of what it takes to bring it from the store.
                    ms = int((time.monotonic() - began) * 1000) if url == blob.url else None
                    self._store.admit(part, lock, blob.digest, blob.size, Origin("seed", ms))
                self._store.settle(blob.digest)
                self._note(blob)
                return True
        return False

    def _note(self, blob: _Blob) -> None:
        ctime_ns = os.stat(self._path(blob.digest), follow_symlinks=False).st_ctime_ns
        with self._lock:
            self._seeded += blob.size
            self._unused[blob.digest] = (blob.size, ctime_ns, int(time.time()))
        self._save()

    def _is_used(self, digest: str, ctime_ns: int) -> bool | None:
        """None when it is not there. A link to it is a use, and so was one that is gone, which left its time."""
        try:
            found = os.stat(self._path(digest), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_nlink > 1 or found.st_ctime_ns != ctime_ns

    def _path(self, digest: str) -> str:
        return f"{self._settings.cache_dir}/blobs/sha256/{digest[:2]}/{digest}"

    def _save(self) -> None:
        import json

        with self._lock:
            document = {
                "v": 1,
                "seededBytes": self._seeded,
                "wastedBytes": self._wasted,
                "unused": {digest: list(seen) for digest, seen in self._unused.items()},
            }
        try:
            write_whole(f"{self._settings.cache_dir}/{_SAVED}", json.dumps(document).encode(), 0o600)
        except OSError as error:  # it is for people, and comes again
            self._log.line(f"What was seeded is not written down: {error.strerror}")


def _blobs_of(answer: Mapping[str, Json]) -> list[_Blob]:
    """What makes no sense is left out."""
    listed = answer.get("blobs")
    read = (
        [_blob(each) for each in listed[:_BLOBS_AT_MOST] if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    return [blob for blob in read if blob is not None]


def _blob(each: Mapping[str, Json]) -> _Blob | None:
    digest, size, url, peers, lies = (each.get(name) for name in ("sha256", "bytes", "url", "peers", "stored"))
    if not isinstance(digest, str) or not is_digest(digest) or not isinstance(url, str):
        return None
    if not isinstance(size, int) or size < 0:
        return None
    stored: Stored | None = None
    if isinstance(lies, dict):
        codec, packed = lies.get("codec"), lies.get("bytes")
        if not isinstance(codec, str) or not isinstance(packed, int):
            return None
        stored = Stored(codec, packed)
    urls = [peer.get("url") for peer in peers if isinstance(peer, dict)] if isinstance(peers, list) else []
    return _Blob(digest, size, [each for each in urls if isinstance(each, str)], url, stored)


def _unused_of(saved: Mapping[str, Json]) -> dict[str, tuple[int, int, int]]:
    listed = saved.get("unused")
    found: dict[str, tuple[int, int, int]] = {}
    for digest, seen in listed.items() if isinstance(listed, dict) else ():
        if isinstance(seen, list) and len(seen) == 3:
            size, ctime_ns, at = seen
            if isinstance(size, int) and isinstance(ctime_ns, int) and isinstance(at, int):
                found[digest] = (size, ctime_ns, at)
    return found
