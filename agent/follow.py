"""What a keeper does with the rest of the cluster, beside its rounds: telling, asking, and seeding once."""

import threading
from collections.abc import Sequence

from agent.collector import Collector
from agent.frozen import TYPE_CHECKING
from agent.logs import Log, one_line
from agent.seed import Seeding
from agent.settings import SyncSettings
from agent.store import Store
from agent.sync import Sync
from agent.web import Web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from agent.sync import Changes

    class Followed(Protocol):
        """A keeper, as far as it is followed from here."""

        @property
        def deltas(self) -> Changes: ...
        def state(self) -> Mapping[str, int]: ...


_VIEW = "seed"
"""A Store belongs to a job; this one never makes its view."""


class Follower:
    """One node's. `round` goes with every round of the keeper, `needed` with its evictions; neither raises."""

    def __init__(self, settings: SyncSettings, log: Log) -> None:
        web = Web()
        collector = Collector(web, settings.endpoint, settings.key, settings.node)
        self._log = log
        self._seeding = Seeding(settings, collector, Store(settings.cache_dir, _VIEW), web, log)
        self._sync = Sync(collector, settings.url, log, told=self._seed)

    def start(self) -> None:
        self._sync.start()

    def round(self, keeper: "Followed") -> None:
        try:
            state = keeper.state()
            self._seeding.begin(state)
            self._sync.round(keeper.deltas, {**state, **self._seeding.look()})
        except OSError as error:
            self._log.line(f"This node's state is not told: {one_line(str(error.strerror))}")

    def needed(self, digests: Sequence[str]) -> set[str] | None:
        """Which of these blobs tasks still need; None when nobody says so in time."""
        return self._sync.needed(digests)

    def _seed(self) -> None:
        # Not in the thread that tells: it may take minutes, and a node that tells nothing counts as lost.
        threading.Thread(target=self._seeding.bring, name="seed", daemon=True).start()
