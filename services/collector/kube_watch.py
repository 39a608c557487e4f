"""Keeps a copy of some Kubernetes objects up to date: list, watch from there, list again.

Rule: the copy is never behind for longer than RELIST_SECONDS, whatever a watch fails to say; and when it has not been
kept up for SILENCE_SECONDS at most, `live_for` says so, so that nobody takes silence for news.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from services.collector.kube_api import Api, ApiAway, ApiRefused
from services.collector.kube_objects import ApiStatus, Job, Listed, Node, Pod, Versioned, WatchLine

log = structlog.get_logger()

RELIST_SECONDS = 300
WATCH_SECONDS = 8
"""The API server is asked to end each watch after this. Nothing but a bookmark a minute need come on one that is open,
so a shorter one is the only sign of life that can be counted on."""
SILENCE_SECONDS = 12.0
"""A watch that neither says anything nor ends is dead: its connection was lost without a word."""
LOST_SECONDS = 30.0
"""A watch that has been away for so long is a trouble; a shorter gap is made good without anybody's noticing."""
PAGE_ITEMS = 500
BACKOFF_SECONDS = (0.1, 0.3, 1, 2, 5)
STEADY_SECONDS = 10
"""A watch that lasted for so long was well; what ends it then is a new trouble."""
LINE_BYTES = 16 * 1024**2

Kind = TypeVar("Kind", Pod, Job, Node)

_lists = msgspec.json.Decoder(Listed)
_watch_lines = msgspec.json.Decoder(WatchLine)
_statuses = msgspec.json.Decoder(ApiStatus)
_versions = msgspec.json.Decoder(Versioned)


class Expired(Exception):
    """The API server no longer knows the version we want to go on from: HTTP 410."""


class Mirror(Generic[Kind]):
    """The copy: written by the thread that watches, and read as changes by the one that asks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, Kind] = {}
        self.changed: dict[str, Kind | None] = {}

    def put(self, found: Kind) -> None:
        with self.lock:
            self.objects[found.metadata.name] = self.changed[found.metadata.name] = found

    def drop(self, name: str) -> None:
        with self.lock:
            if self.objects.pop(name, None) is not None:
                self.changed[name] = None

    def replace(self, found: list[Kind]) -> None:
        """What a complete list says: whatever is not on it was deleted."""
        listed = {each.metadata.name: each for each in found}
        with self.lock:
            for name in self.objects.keys() - listed.keys():
                self.changed[name] = None
            for name, each in listed.items():
                known = self.objects.get(name)
                if known is None or known.metadata.resourceVersion != each.metadata.resourceVersion:
                    self.changed[name] = each
            self.objects = listed

    def get(self, name: str) -> Kind | None:
        return self.objects.get(name)

    def names(self) -> list[str]:
        with self.lock:
            return list(self.objects)

    def drain(self) -> dict[str, Kind | None]:
        """Objects that changed since the last call, by name; None for one that is gone."""
        if not self.changed:
            return {}
        with self.lock:
            changed, self.changed = self.changed, {}
        return changed


class Watch(Generic[Kind]):
    """One kind of object under one path."""

    def __init__(
        self,
        api: Api,
        path: str,
        kind: type[Kind],
        *,
        selector: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api = api
        self.path = path
        self.clock = clock
        self.query = {"labelSelector": selector} if selector else {}
        self.decoder = msgspec.json.Decoder(kind)
        self.mirror: Mirror[Kind] = Mirror()
        self.synced = False
        """A complete list has been read."""
        self.live_since: float | None = None
        self.lost_at = clock()
        self.stopped = threading.Event()

    def trouble(self) -> str:
        """Why what it shows is not to be gone by; empty when it is, or may be again at any moment."""
        if not self.synced:
            return f"the first list of {self.path}"
        if self.live_since is None and self.clock() - self.lost_at > LOST_SECONDS:
            return f"the watch of {self.path}, which the API server does not serve"
        return ""

    def live_for(self, seconds: float) -> bool:
        """Whether the watch has been live for so long: then what it says is how things are."""
        since = self.live_since
        return since is not None and self.clock() - since >= seconds

    def run(self) -> None:
        """Until stopped. No fault ends it; each is waited out."""
        trouble = 0
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                self._follow(self._list(), began + RELIST_SECONDS)
            except (Expired, ApiAway, ApiRefused, msgspec.DecodeError, UnicodeError, RecursionError) as error:
                if time.monotonic() - began > STEADY_SECONDS:
                    trouble = 0
                trouble = self._wait(trouble, error)

    def stop(self) -> None:
        self.stopped.set()

    def _wait(self, trouble: int, error: Exception) -> int:
        if self.live_since is not None:
            self.lost_at = self.clock()
        self.live_since = None
        seconds = BACKOFF_SECONDS[min(trouble, len(BACKOFF_SECONDS) - 1)]
        log.warning("the API server cannot be watched", path=self.path, error=str(error), retry_in_seconds=seconds)
        self.stopped.wait(seconds)
        return trouble + 1

    def _list(self) -> str:
        """Read everything anew; returns the version from which a watch goes on."""
        found: list[Kind] = []
        page = ""
        while True:
            query = {**self.query, "limit": str(PAGE_ITEMS), **({"continue": page} if page else {})}
            try:
                listed = _lists.decode(self.api.get(self.path, query))
            except ApiRefused as error:
                if error.status == 410 and page:
                    raise Expired(str(error)) from error
                raise
            found += [each for item in listed.items or () if (each := self._decoded(item)) is not None]
            page = listed.metadata.next_page
            if not page:
                break
        self.mirror.replace(found)
        self.synced = True
        self._alive()
        return listed.metadata.resourceVersion

    def _follow(self, version: str, until: float) -> None:
        """Watch from `version` on, through any number of broken connections; what else goes wrong, a new list cures."""
        trouble = 0
        while not self.stopped.is_set() and time.monotonic() < until:
            began = time.monotonic()
            try:
                for line in self._lines(version, max(1, min(WATCH_SECONDS, int(until - began)))):
                    version = self._apply(line) or version
                    trouble = 0
            except ApiRefused as error:
                if error.status == 410:
                    raise Expired(str(error)) from error
                raise
            except ApiAway as error:
                trouble = self._wait(trouble, error)
            else:
                if time.monotonic() - began < 1:  # a server that hangs up at once is not asked in a tight loop
                    self.stopped.wait(BACKOFF_SECONDS[min(trouble, len(BACKOFF_SECONDS) - 1)])
                    trouble += 1

    def _lines(self, version: str, seconds: int) -> Iterator[WatchLine]:
        query = {
            **self.query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        with self.api.stream(self.path, query, silence_seconds=SILENCE_SECONDS) as chunks:
            self._alive()
            rest = b""
            for chunk in chunks:
                *complete, rest = (rest + chunk).split(b"\n")
                if len(rest) > LINE_BYTES:
                    raise ApiAway("a line of the watch has no end")
                for line in complete:
                    if line.strip():
                        yield _watch_lines.decode(line)
                if self.stopped.is_set():
                    return

    def _apply(self, line: WatchLine) -> str:
        """Take in one event; returns the version it brings us to, if it says."""
        if line.type == "ERROR":
            status = _statuses.decode(line.object)
            if status.code == 410:
                raise Expired(status.message)
            raise ApiRefused(status.code, status.message)
        if line.type in ("ADDED", "MODIFIED"):
            found = self._decoded(line.object)
            if found is not None:
                self.mirror.put(found)
                return found.metadata.resourceVersion
        known = _versions.decode(line.object).metadata
        if line.type == "DELETED":
            self.mirror.drop(known.name)
        return known.resourceVersion

    def _decoded(self, item: msgspec.Raw) -> Any:
        """An object that cannot be read says nothing to us; the others go on."""
        try:
            return self.decoder.decode(item)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            log.error("an object cannot be read", path=self.path, error=str(error))
            return None

    def _alive(self) -> None:
        if self.live_since is None:
            self.live_since = self.clock()
