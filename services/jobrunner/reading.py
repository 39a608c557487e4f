"""Ready attempts by priority: the next batch holds the most urgent first, and something of every class that waits.

Of sixteen places the first right to one is low's and to three normal's; what a class has no use for goes to the most
urgent that has. So high gets at least three quarters of what there is, and nobody nothing.
"""

from collections import Counter
from collections.abc import Sequence

import redis
from redis.exceptions import ResponseError

from helios.keys import JOBRUNNER_GROUP, PRIORITIES, Keys
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import commit, read_ready

TURN = ("high", "high", "high", "normal") * 3 + ("high", "high", "high", "low")
"""Whose right each place is, over and over."""


def shares(first: int, places: int) -> list[int]:
    """How many of the next places are each class's, in the order of PRIORITIES; `first` counts those given before."""
    whole, rest = divmod(places, len(TURN))
    given = Counter(TURN[(first + place) % len(TURN)] for place in range(rest))
    return [given[priority] + whole * TURN.count(priority) for priority in PRIORITIES]


class ReadyInbox(Inbox):
    """The jobrunner's consumer of the ready streams of all partitions."""

    def __init__(self, client: redis.Redis, settings: Settings, partitions: Sequence[Keys]) -> None:
        super().__init__(
            client,
            group=JOBRUNNER_GROUP,
            consumer=settings.replica,
            streams=[stream for keys in partitions for stream in keys.ready_streams],
            batch_entries=settings.batch_entries,
            lease_seconds=settings.lease_seconds,
        )
        self.partitions = partitions
        self.given = 0
        """Places that were given so far."""
        self.is_calm = False
        """There was less than one turn's worth the last time, so that it does not matter whose right a place is."""

    def _new(self, block_ms: int, entries_at_most: int | None = None) -> list[Entry]:
        """Waits only when nothing is there; what comes first is then taken, whatever its class."""
        found = [] if self.is_calm else self._by_class()
        if not found:
            found = super()._new(block_ms, min(self.batch_entries, entries_at_most or len(TURN)))
        self.is_calm = len(found) < min(self.batch_entries, len(TURN))
        return found

    def _by_class(self) -> list[Entry]:
        """At most a batch of each partition."""
        calls = [
            read_ready(
                keys.ready_streams,
                group=self.group,
                consumer=self.consumer,
                entries=self.batch_entries,
                shares=shares(self.given, self.batch_entries),
            )
            for keys in self.partitions
        ]
        entries: list[Entry] = []
        failed: ResponseError | None = None
        for keys, reply in zip(self.partitions, commit(self.client, calls), strict=True):
            if isinstance(reply, ResponseError):
                failed = failed or reply
                continue
            streams = keys.ready_streams
            handed: list[tuple[int, str, list[str]]] = reply
            entries += [
                Entry(stream=streams[number - 1], id=entry, fields=dict(zip(flat[::2], flat[1::2], strict=True)))
                for number, entry, flat in handed
            ]
        if failed is not None and not entries:
            raise failed
        self.given = (self.given + len(entries)) % len(TURN)
        return entries
