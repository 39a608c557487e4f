"""The runs table as a fold of the events feed over a snapshot.

Rule: each row knows the last event that it holds, so an event that is read twice, or that the snapshot held already,
changes nothing; folding from any snapshot on gives the same rows.
"""

from collections.abc import Mapping

import msgspec

from helios.events import AnyEvent


class RunRow(msgspec.Struct):
    """One run. Times are epoch milliseconds of the Redis server's clock."""

    run: str
    dag: str = ""
    status: str = "RUNNING"
    """RUNNING, SUCCEEDED, FAILED, CANCELLED or REJECTED."""
    started_at: int | None = None
    ended_at: int | None = None
    cache_enabled: bool = True
    cache_hit: str = "N/A"
    """Hit, Partial, Miss, N/A or Unknown; of a run that goes on, from the tasks that succeeded so far."""
    tasks: int = 0
    succeeded: int = 0
    failed: int = 0
    """Failed for good, or never started because a task above failed."""
    cancelled: int = 0
    nodes: tuple[str, ...] = ()
    hit_bytes: int = 0
    miss_bytes: int = 0
    """Both are what was known at the last look at the run's record; the feed does not move them."""
    reason: str = ""
    problems: int = 0

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    def duration_ms(self, now_ms: int) -> int | None:
        """How long it took, or has taken until now; None for a rejected one."""
        raise NotImplementedError


class Averages(msgspec.Struct, frozen=True):
    """Of finished, successful runs: how many, and their average duration. `gain` is the share of the non-cached average
    that the cache saves, from 1 down; None unless both sides have runs."""

    cached: int = 0
    cached_ms: float | None = None
    non_cached: int = 0
    non_cached_ms: float | None = None
    gain: float | None = None


class Runs:
    """All runs known, and which of them changed since they were last taken."""

    def __init__(self) -> None:
        self.rows: dict[str, RunRow] = {}
        self.unread: set[str] = set()
        """Runs whose record must be read (again): they ended, or the feed told of them without saying enough."""

    def load(self, run: str, fields: Mapping[str, str] | None, as_of: str) -> None:
        """Take over the run hash as it was when `as_of` was the newest event; None where there is none any more."""
        raise NotImplementedError

    def apply(self, event: AnyEvent, entry: str) -> None:
        """Move on by an event; `entry` is its id in the feed."""
        raise NotImplementedError

    def take_changed(self) -> set[str]:
        """Ids of the runs that changed, or went, since the last call."""
        raise NotImplementedError

    def averages(self) -> Averages:
        raise NotImplementedError

    def last_ended(self) -> RunRow | None:
        """The run that ended last."""
        raise NotImplementedError
