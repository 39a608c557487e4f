"""Bringing one input of a task into its artifacts folder, through the node's cache.

What this node lacks comes from another node that has it, and from the store if no node has, or on any doubt. Of all
nodes that lack a blob one brings it from the store, the others wait for it (agent.neighbours).

Everything the cache cannot do is done without it: a CacheFault makes an input a miss with the cause `cache-fault`,
downloaded straight into the artifacts folder. Only the endpoint, the store and the artifacts folder can fail it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence

from agent import logs, place
from agent.archive import ArchiveRefused
from agent.documents import Json
from agent.download import DownloadFailed, Link, ObjectChanged, ObjectMissing, PartFile, SinkFault, Wanted, download
from agent.endpoint import Endpoint, Peer
from agent.frozen import Frozen
from agent.logs import Log
from agent.manifest import InputOutcome
from agent.names import HELIOS_FOLDER, escape, parts_of
from agent.neighbours import Lacking, Neighbours
from agent.pace import Backoff
from agent.plan import Plan, PlannedInput, PlanRefused
from agent.progress import GIVEN_UP, Progress
from agent.settings import FetchSettings
from agent.store import Absent, CacheFault, Identity, Linked, Origin, Store
from agent.web import Web, WebError

HEAD_TRIES = 8
TURN_SECONDS = 5.0
"""Whoever waits for a turn to download shows this often that it is not dead."""


class InputFailed(Exception):
    """An input could not be brought; the message names it."""


class _Known(Frozen):
    """What is known of an object before it is brought: its identity if it is external, else its digest."""

    identity: Identity | None
    etag: str | None
    sha256: str | None
    size: int


class Bringer:
    """Brings inputs, one by one or side by side, while `open_cache` is entered."""

    def __init__(
        self,
        settings: FetchSettings,
        log: Log,
        web: Web,
        endpoint: Endpoint,
        progress: Progress,
        downloads: threading.Semaphore | None,
        *,
        cache_enabled: bool,
        locate: bool,
    ) -> None:
        """`locate`: the endpoint knows of other nodes' caches."""
        self._progress = progress
        self._downloads = downloads
        self._settings = settings
        self._log = log
        self._web = web
        self._endpoint = endpoint
        self._cache_enabled = cache_enabled
        self._store: Store | None = None
        self._store_fault = ""
        self._neighbours = Neighbours(endpoint, log) if locate else None
        self._began: dict[str, float] = {}
        self._owner = settings.volume.user if settings.volume is not None else None

    @contextlib.contextmanager
    def open_cache(self) -> Generator[None]:
        """The cache, if it is on; the job's view is held meanwhile."""
        with contextlib.ExitStack() as held:
            if self._cache_enabled:
                store = Store(self._settings.cache_dir, self._settings.job)
                try:
                    held.enter_context(store.filling())
                    self._store = store
                except CacheFault as fault:
                    self._store_fault = str(fault)
            if self._neighbours is not None:
                held.callback(self._neighbours.close)
            yield

    def bring(self, item: PlannedInput) -> InputOutcome:
        """Brings one input and says in the log and in its answer what it was. Raises InputFailed."""
        self._began[item.name] = time.monotonic()
        if self._owner is not None and parts_of(item.name)[0] == HELIOS_FOLDER:
            raise InputFailed(f"input {escape(item.name)}: {HELIOS_FOLDER}/ is not the task's own")
        if self._progress.given_up:
            raise InputFailed(f"input {escape(item.name)}: {GIVEN_UP}")
        try:
            outcome = self._bring_unchanged(item)
        except ObjectMissing:
            raise InputFailed(f"input {escape(item.name)}: no object at s3://{_location(item.source)}") from None
        except DownloadFailed as failure:
            where = f"s3://{_location(item.source)}"
            raise InputFailed(f"input {escape(item.name)} from {where}: {failure}") from None
        except (SinkFault, OSError) as failure:
            words = failure.strerror if isinstance(failure, OSError) else failure
            raise InputFailed(f"input {escape(item.name)}: writing to the artifacts folder: {words}") from None
        except ArchiveRefused as refusal:
            raise InputFailed(f"input {escape(item.name)}: its archive is refused: {refusal}") from None
        self._progress.brought(outcome.name, outcome.size)
        self._log.line(logs.outcome(outcome.name, outcome.hit, outcome.cause, outcome.size))
        return outcome

    def _bring_unchanged(self, item: PlannedInput) -> InputOutcome:
        """An external object that changes under the download is looked at once more and begun again."""
        link = Link(item.url, lambda: self._fresh(item).url)
        try:
            return self._bring_known(item, self._look(item), link)
        except ObjectChanged:
            if item.head_url is None:
                raise
            self._log.line(f"Input {escape(item.name)} changed at its source meanwhile; starting again")
            return self._bring_known(item, self._look(item), link)

    def _bring_known(self, item: PlannedInput, known: _Known, link: Link) -> InputOutcome:
        if not self._cache_enabled:
            return self._bring_directly(item, known, link, "disabled")
        try:
            if self._store is None:
                raise CacheFault(self._store_fault)
            return self._bring_cached(self._store, item, known, link)
        except CacheFault as fault:
            self._log.line(f"Cache bypassed for {escape(item.name)}: {logs.one_line(str(fault))}")
            return self._bring_directly(item, known, link, "cache-fault")

    def _bring_cached(self, store: Store, item: PlannedInput, known: _Known, link: Link) -> InputOutcome:
        digest, found = self._find(store, item, known)
        if isinstance(found, Linked) and digest is not None:
            return self._hit(store, item, known, digest, found, "cached")
        with store.single_flight(_flight_key(known, digest)) as (waited, lock):
            # Only now is it certain who repairs or downloads: what was missing or broken before the lock may be in
            # place after it.
            digest, found = self._find(store, item, known)
            if isinstance(found, Linked) and digest is not None:
                return self._hit(store, item, known, digest, found, "coalesced" if waited else "cached")
            assert isinstance(found, Absent)
            if found.cause == "corrupt" and digest is not None:
                store.quarantine(digest)
            if self._neighbours is None:
                return self._bring_from_store(store, item, known, link, found, lock)
            return self._bring_from_anyone(store, item, known, link, found, lock, self._neighbours)

    def _bring_from_anyone(
        self,
        store: Store,
        item: PlannedInput,
        known: _Known,
        link: Link,
        missing: Absent,
        lock: str,
        neighbours: Neighbours,
    ) -> InputOutcome:
        """From a node that has it, else from the store, on behalf of all nodes that lack it."""
        lacking = Lacking(item.name, known.size, known.identity.version if known.identity else None, known.sha256)
        with neighbours.asking(lacking, lambda: store.stir(lock)) as found:
            if known.sha256 is None and found.sha256 is not None:
                # Another node knows this version: its content may be here under another name.
                linked = store.link(found.sha256, known.size, item.name, read_through=item.verify == "always")
                if isinstance(linked, Linked):
                    self._remember(store, known, found.sha256)
                    found.brought = found.sha256  # nobody needs to wait for this node
                    return self._hit(store, item, known, found.sha256, linked, "cached")
            outcome = None
            if found.sha256 is not None and found.peers:
                outcome = self._bring_from_peers(
                    store, item, known, found.sha256, missing, lock, neighbours, found.peers
                )
            if outcome is None:
                outcome = self._bring_from_store(store, item, known, link, missing, lock)
            found.brought = outcome.sha256
            return outcome

    def _bring_from_peers(
        self,
        store: Store,
        item: PlannedInput,
        known: _Known,
        digest: str,
        missing: Absent,
        lock: str,
        neighbours: Neighbours,
        peers: Sequence[Peer],
    ) -> InputOutcome | None:
        """None when none of them gives it: the store does."""
        for peer in peers:
            with self._turn(lambda: store.stir(lock)), store.part(lock, known.size) as part:
                wanted = Wanted(item.name, known.size, None, digest, None)
                if not neighbours.download(peer, wanted, part, self._progress.coming(wanted)):
                    continue
                linked = store.keep(part, lock, digest, known.size, item.name, Origin("peer", None))
            self._remember(store, known, digest)
            self._place(store, item, linked)
            detail = f"{missing.detail}, from node {peer.node}" if missing.detail else f"from node {peer.node}"
            return self._outcome(item, known, missing.cause, digest, "peer", detail)
        return None

    def _bring_from_store(
        self, store: Store, item: PlannedInput, known: _Known, link: Link, missing: Absent, lock: str
    ) -> InputOutcome:
        self._log.line(logs.miss(item.name))
        wanted = Wanted(item.name, known.size, known.etag, known.sha256, item.stored)
        with self._turn(lambda: store.stir(lock)), store.part(lock, known.size) as part:
            began = time.monotonic()
            digest = download(
                self._web, link, wanted, part, self._log, self._settings.lib_dir, self._progress.coming(wanted)
            )
            ms = int((time.monotonic() - began) * 1000)
            linked = store.keep(part, lock, digest, known.size, item.name, Origin("store", ms))
        store.note_download(known.size, ms)
        self._remember(store, known, digest)
        self._place(store, item, linked)
        return self._outcome(item, known, missing.cause, digest, "store", missing.detail)

    def _remember(self, store: Store, known: _Known, digest: str) -> None:
        if known.identity is not None:
            store.remember(known.identity, digest)

    def _find(self, store: Store, item: PlannedInput, known: _Known) -> tuple[str | None, Linked | Absent]:
        digest = known.sha256
        if known.identity is not None:
            digest = store.recall(known.identity)
            if digest is None:
                before = store.other_version(known.identity)
                if before is None:
                    return None, Absent("never-here", "")
                return None, Absent("changed", f"was {before}" if before else "")
        assert digest is not None
        return digest, store.link(digest, known.size, item.name, read_through=item.verify == "always")

    def _hit(
        self, store: Store, item: PlannedInput, known: _Known, digest: str, linked: Linked, cause: str
    ) -> InputOutcome:
        self._place(store, item, linked)
        self._log.line(logs.hit(item.name, linked.path))
        content = store.content(digest) or {}
        if cause == "cached" and content.get("origin") == "output":
            cause = "warm"
        return self._outcome(item, known, cause, digest, "cache", "", _bringing_ms(store, content, known.size))

    def _place(self, store: Store, item: PlannedInput, linked: Linked) -> None:
        artifacts = self._settings.artifacts
        try:
            if item.archive:
                place.unpack(artifacts, item.name, linked.path, self._owner)
            elif item.mode == "copy":
                place.copy(artifacts, item.name, linked.path, self._owner)
            else:
                place.link(artifacts, item.name, self._as_the_task_sees(item.name, linked), self._owner)
                return
        except OSError as failure:
            # Whichever side failed, the way around the cache is the next thing to try, and it names the artifacts
            # folder if that is it.
            raise CacheFault(f"placing: {failure.strerror}") from failure
        store.unlink(item.name)

    @contextlib.contextmanager
    def _turn(self, waiting: Callable[[], object]) -> Generator[None]:
        """One of the downloads that may be under way at once; `waiting` is called every now and then until then."""
        if self._downloads is None:
            yield
            return
        while not self._downloads.acquire(timeout=TURN_SECONDS):
            waiting()
        try:
            yield
        finally:
            self._downloads.release()

    def _as_the_task_sees(self, name: str, linked: Linked) -> str:
        volume = self._settings.volume
        if volume is None:
            return linked.path
        up = "../" * (len(parts_of(name)) - 1)
        return f"{up}{volume.view_link}/{name}"

    def _bring_directly(self, item: PlannedInput, known: _Known, link: Link, cause: str) -> InputOutcome:
        self._log.line(logs.miss(item.name))
        artifacts = self._settings.artifacts
        wanted = Wanted(item.name, known.size, known.etag, known.sha256, item.stored)
        target: contextlib.AbstractContextManager[PartFile]
        if item.archive:
            target = place.direct_archive(artifacts, item.name, self._owner)
        else:
            target = place.direct(artifacts, item.name, self._owner, writable=item.mode == "copy")
        with self._turn(lambda: None), target as part:
            digest = download(
                self._web, link, wanted, part, self._log, self._settings.lib_dir, self._progress.coming(wanted)
            )
        return self._outcome(item, known, cause, digest, "store")

    def _outcome(
        self,
        item: PlannedInput,
        known: _Known,
        cause: str,
        digest: str,
        source: str,
        detail: str = "",
        bringing_ms: int = 0,
    ) -> InputOutcome:
        """`bringing_ms`: what it would have taken to bring it anew, for a hit."""
        ms = int((time.monotonic() - self._began[item.name]) * 1000)
        return InputOutcome(
            name=item.name,
            size=known.size,
            hit=source == "cache",
            cause=cause,
            sha256=digest,
            source=source,
            ms=ms,
            saved_ms=max(0, bringing_ms - ms),
            version=known.identity.version if known.identity is not None else None,
            detail=detail,
        )

    def _look(self, item: PlannedInput) -> _Known:
        """An external object's version and size, by HEAD; another task's output is known from the plan."""
        if item.head_url is None:
            assert item.size is not None
            return _Known(None, None, item.sha256, item.size)
        link = Link(item.head_url, lambda: self._fresh(item).head_url or "")
        backoff = Backoff(0.1, 5.0)
        trouble = ""
        for _ in range(HEAD_TRIES):
            url = link.url()
            try:
                with self._web.request("HEAD", url, {}) as response:
                    status = response.status
                    if status == 200:
                        etag, version = response.header("ETag"), response.header("x-amz-version-id")
                        length = response.header("Content-Length") or ""
                        return _seen(item, etag, version, length)
                trouble = f"HTTP {status}"
            except WebError as error:
                trouble, status = str(error), 0
            if status == 404:
                raise ObjectMissing("no object")
            if status == 403:
                link.renew(url)
            elif 400 <= status < 500 and status not in (408, 429):
                break
            backoff.pause()
        raise DownloadFailed(f"the store does not describe it: {trouble}")

    def _fresh(self, item: PlannedInput) -> PlannedInput:
        plan: Plan = self._endpoint.plan()
        for fresh in plan.inputs:
            if fresh.name == item.name and fresh.source == item.source:
                return fresh
        raise PlanRefused(f"input {escape(item.name)} is no longer in the plan")


def _seen(item: PlannedInput, etag: str | None, version: str | None, length: str) -> _Known:
    if not length.isdigit() or not (etag or version):
        raise DownloadFailed("the store gives neither its size nor its version")
    named = f"version {version}" if version and version != "null" else f"etag {etag}"
    return _Known(Identity(item.source, named, int(length)), etag, item.sha256, int(length))


def _bringing_ms(store: Store, content: Mapping[str, Json], size: int) -> int:
    """What it took to bring this very blob, else what its size takes at the rate of late; 0 where neither is known."""
    ms = content.get("ms")
    if isinstance(ms, int):
        return ms
    rate = store.bytes_per_second()
    return int(size / rate * 1000) if rate is not None else 0


def _flight_key(known: _Known, digest: str | None) -> str:
    if digest is not None:
        return f"content\n{digest}"
    assert known.identity is not None
    return known.identity.key()


def _location(source: str) -> str:
    """bucket/key of endpoint/bucket/key, on one line."""
    pieces = source.split("://")[-1].split("/", 1)
    return logs.one_line(pieces[1] if len(pieces) == 2 else source)
