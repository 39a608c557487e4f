"""What a keeper does with the rest of the cluster, beside its rounds: telling, asking, giving, and seeding once."""

import threading
from collections.abc import Callable, Sequence

from agent.blobs import BlobServer
from agent.collector import Collector, CollectorAway
from agent.frozen import TYPE_CHECKING
from agent.logs import Log, one_line
from agent.seed import Seeding
from agent.settings import SyncSettings
from agent.store import Store
from agent.sync import Sync
from agent.web import Web

if TYPE_CHECKING:
    from agent.keep import Keeper

VIEWS_AT_ONCE = 1_000
_VIEW = "seed"
"""A Store belongs to a job; this one never makes its view."""


class Follower:
    """One node's. `round` goes with every round of the keeper, `needed` with its evictions; neither raises."""

    def __init__(self, settings: SyncSettings, log: Log) -> None:
        web = Web()
        collector = Collector(web, settings.endpoint, settings.key, settings.node)
        self._settings = settings
        self._log = log
        self._store = Store(settings.cache_dir, _VIEW)
        self._seeding = Seeding(settings, collector, self._store, web, log)
        self._sync = Sync(collector, log, told=self._seed)
        self._collector = collector
        self.waits_for: Callable[[], str] = lambda: ""
        """What this node's agent cannot work without and has not; empty when it is ready."""
        self._server: BlobServer | None = None
        self._started = False
        self._asking = threading.Lock()
        """Held while it is asked whose pods are over."""
        self._over: dict[str, tuple[int, int]] = {}

    def round(self, keeper: "Keeper") -> None:
        """The first one finds the cache ready: only then is it told of, and given from."""
        try:
            self._start()
            state = keeper.state()
            self._seeding.begin(state)
            self._sync.round(keeper.deltas, {**state, **self._seeding.look()}, self._url())
            keeper.note_over(self._over)
            if keeper.unheld and self._asking.acquire(blocking=False):
                threading.Thread(target=self._ask_over, args=(keeper.unheld,), name="views", daemon=True).start()
        except OSError as error:
            self._log.line(f"This node's state is not told: {one_line(str(error))}")

    def needed(self, digests: Sequence[str]) -> set[str] | None:
        """Which of these blobs tasks still need; None when nobody says so in time."""
        return self._sync.needed(digests)

    def drain(self, seconds: float) -> None:
        """Gives no more, and lets those whom it gives to end within so long."""
        if self._server is not None:
            self._server.drain(seconds)

    def close(self) -> None:
        """Gives no more and tells no more."""
        self._sync.close()
        if self._server is not None:
            self._server.close()
            self._server = None

    def _ask_over(self, views: dict[str, tuple[int, int]]) -> None:
        """A round does not wait for the answer: the next one has it."""
        try:
            found = self._collector.call("/v1/views", {"views": list(views)[:VIEWS_AT_ONCE]}).get("over")
            over = found if isinstance(found, list) else []
            self._over = {name: views[name] for name in over if isinstance(name, str) and name in views}
        except CollectorAway:
            pass  # they stay for longer
        finally:
            self._asking.release()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._sync.start()
        bind = self._settings.bind
        if bind is None or self._server is not None:
            return
        try:
            self._server = BlobServer(self._store, self._settings.key, *bind, lambda: self.waits_for())
        except OSError as error:  # tried again in the next round; until then nobody is sent here
            self._log.line(f"Other nodes cannot fetch from here: {bind[0]}:{bind[1]}: {error.strerror}")
            return
        self._server.start()

    def _url(self) -> str:
        """Where other nodes reach it; empty as long as they do not."""
        return self._settings.url if self._server is not None else ""

    def _seed(self) -> None:
        # Not in the thread that tells: it may take minutes, and a node that tells nothing counts as lost.
        threading.Thread(target=self._seeding.bring, name="seed", daemon=True).start()
