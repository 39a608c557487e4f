"""Other nodes' caches: who has a blob, who is bringing it, and getting it from there.

Nothing here can fail an input. An endpoint that does not say, a keeper that does not answer, bytes of another digest:
each leads to the store.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Sequence

from agent.download import DownloadFailed, Link, PartFile, Wanted, download
from agent.endpoint import Endpoint, EndpointError, Located, Peer
from agent.frozen import Frozen
from agent.logs import Log, one_line
from agent.names import escape
from agent.pace import Backoff, Every
from agent.web import Web

RENEW_SECONDS = 6.0
"""A flight that nobody renews is given up by the endpoint after 20 s."""
PATIENCE_SECONDS = 60.0
"""So long another node's flight is waited for, and longer for a blob that takes longer even on a slow line."""
SLOW_BYTES_PER_SECOND = 5_000_000
SILENT_SECONDS = 5.0
"""A keeper that says nothing for so long is left: the store is not far."""


class Lacking(Frozen):
    """An input that is not in this node's cache."""

    name: str
    size: int
    version: str | None
    """Of an external object."""
    sha256: str | None

    def document(self, sha256: str | None = None) -> dict[str, object]:
        return {"name": self.name, "bytes": self.size, "version": self.version, "sha256": sha256 or self.sha256}


class Found:
    """What the endpoint knows of an input. Whoever brings it says so in `brought`: its digest."""

    def __init__(self, sha256: str | None, peers: Sequence[Peer]) -> None:
        self.sha256 = sha256
        self.peers = peers
        self.brought: str | None = None


class Neighbours:
    """Asks for one attempt; safe to use from many threads."""

    def __init__(self, endpoint: Endpoint, log: Log) -> None:
        self._endpoint = endpoint
        self._web = Web(SILENT_SECONDS)
        self._log = log
        self._shunned: set[str] = set()
        """Nodes whose keeper failed once: no other input of this task tries it again."""

    @contextlib.contextmanager
    def asking(self, lacking: Lacking, waiting: Callable[[], object]) -> Generator[Found]:
        """Asks who has it, and waits while another node brings it, calling `waiting` every second at least. If it is
        this node's to bring, that is kept known meanwhile. Afterwards others are told of what was brought.
        """
        located = self._settled(lacking, waiting)
        found = Found(None, ()) if located is None else Found(located.sha256, self._peers(located))
        over = threading.Event()
        if located is not None and not located.peers and not located.wait:
            threading.Thread(target=self._renew, args=(lacking, over), daemon=True).start()
        try:
            yield found
        finally:
            over.set()
            if located is not None and found.brought is not None:
                with contextlib.suppress(EndpointError):
                    self._endpoint.brought(lacking.document(found.brought))

    def close(self) -> None:
        """Keeps no connection any longer."""
        self._web.close()

    def download(self, peer: Peer, wanted: Wanted, part: PartFile, coming: Callable[[int], object]) -> bool:
        """Whether the peer gave the bytes of the wanted digest. SinkFault passes through."""
        self._log.line(f"Taking {escape(wanted.name)} from node {one_line(peer.node)}")
        try:
            link = Link(peer.url, lambda: peer.url)
            download(self._web, link, wanted, part, self._log, coming=coming, doubtful=True)
        except DownloadFailed as failure:
            self._shunned.add(peer.node)
            self._log.line(f"Node {one_line(peer.node)} does not give {escape(wanted.name)}: {failure}")
            return False
        return True

    def _settled(self, lacking: Lacking, waiting: Callable[[], object]) -> Located | None:
        """The endpoint's word once nobody else is bringing it; None when it has none."""
        deadline = time.monotonic() + PATIENCE_SECONDS + lacking.size / SLOW_BYTES_PER_SECOND
        backoff, progress = Backoff(0.05, 1.0), Every(10.0)
        while True:
            try:
                located = self._endpoint.locate(lacking.document())
            except EndpointError as failure:
                self._log.line(f"Not known who else has {escape(lacking.name)}: {one_line(str(failure))}")
                return None
            if not located.wait or time.monotonic() > deadline:
                return located
            waiting()
            if progress.due():
                self._log.line(f"Waiting for {escape(lacking.name)}, which another node brings from the store")
            backoff.pause()

    def _renew(self, lacking: Lacking, over: threading.Event) -> None:
        while not over.wait(RENEW_SECONDS):
            with contextlib.suppress(EndpointError):
                self._endpoint.locate(lacking.document())

    def _peers(self, located: Located) -> Sequence[Peer]:
        return [peer for peer in located.peers if peer.node not in self._shunned]
