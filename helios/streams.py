"""Reading work streams through a consumer group: new entries, one's own unfinished ones, and those of the dead.

Rule: nothing is acknowledged here; only the script that applies an entry's effect does that. All three kinds of entry
meet the same handler.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from helios.keys import without_partition
from helios.losses import Loss, newest_id, note_loss, order
from helios.measures import ENTRIES, ENTRIES_AGAIN
from helios.transitions import commit_one, hand_back, renew, take, tidy_consumers

CONSUMER_DEAD_AFTER_MS = 3_600_000
"""A consumer that asked for nothing for so long is not coming back under its name."""

HANDED_BACK = "handed-back"
"""The consumer, which nobody is, that has what others had in hand when they stopped."""

LOOP_SILENT_SECONDS = 120.0
"""A loop that has not come round for so long does not work, whatever it is at."""

READ_BLOCK_MS = 1_000
"""A read waits this long for an entry; a stop signal is obeyed at its end."""

LOOKS_IN_A_LEASE = 6
"""How often the entries of the dead are looked for. What a peer takes over is to move again within 5 s of the end of a
lease of 15 s; the pause between two looks is half of that.
"""

PENDING_PAGE = 1_000

NO_CLOCKS_ID = (10**14, 0)
"""Ids from here on (the year 5138) were made up by whoever added the entry, and say nothing about what is lost."""

BACKOFF_SECONDS = (0.05, 0.2, 0.5, 1, 2, 4)

CLIENT_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "surrogateescape",
    "protocol": 2,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "retry": Retry(NoBackoff(), 0),
}
"""How every process of ours makes its client.

No client retries: redis-py's default ones turn one lost reply to a bare XADD into two entries. The socket timeout is
well above READ_BLOCK_MS, because a shorter one makes a blocking read loop for ever. What a user sends need not be
UTF-8.
"""


class Entry(msgspec.Struct, kw_only=True):
    """One stream entry in this consumer's hands. `deliveries` counts how often anyone was handed it."""

    stream: str
    id: str
    fields: dict[str, str]
    deliveries: int = 1
    tries: int = 0
    """How often this process put it off; unlike `deliveries`, that does not count against it."""


class Redelivery(NamedTuple):
    """An entry that was delivered before and is not finished; its fields are read when its turn comes."""

    deliveries: int
    stream: str
    id: str


class Inbox:
    """One consumer of one group over some streams.

    Entries that were delivered before come one at a time, those with the fewest deliveries first, and each counts as
    delivered again only when its turn comes. So an entry that kills its consumer takes nothing else down with it.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        group: str,
        consumer: str,
        streams: Sequence[str],
        batch_entries: int,
        lease_seconds: float,
        put_off_at_most: int | None = None,
    ) -> None:
        """Above `put_off_at_most` entries that are put off nothing more is taken in hand; a batch, unless given."""
        self.client = client
        self.group = group
        self.consumer = consumer
        self.streams = list(streams)
        self.batch_entries = batch_entries
        self.lease_seconds = lease_seconds
        self.put_off_at_most = put_off_at_most
        self.groups_exist = False
        self.history_unread = True
        """Whether what this consumer has in hand must be asked for: at the start, and after each lost connection."""
        self.newest: dict[str, str] = {}
        """Of each stream the newest id that this consumer was handed."""
        self.again: list[Redelivery] = []
        self.later: list[tuple[float, Entry]] = []
        self.was_put_off = False
        """What was read last had been put off: others have their turn now, however much of it is due again."""
        self.held: Collection[tuple[str, str]] = ()
        """Stream and id of entries that the handler keeps in hand, and renews, beyond a turn."""
        self.failed: set[tuple[str, str]] = set()
        """Stream and id of entries whose handling failed, and that wait for their next delivery."""
        self.closed: Collection[str] = ()
        """Streams of which nothing new is taken in hand just now; never all of them."""
        self.next_reclaim = 0.0
        self.turned = time.monotonic()
        """When its loop came round last."""

    def trouble(self) -> str:
        """Why its loop cannot work; empty when it can."""
        if not self.groups_exist:
            return f"the group {self.group}, which is not made yet"
        silent = time.monotonic() - self.turned
        return f"the loop over {self.streams[0]}, silent for {silent:.0f} s" if silent > LOOP_SILENT_SECONDS else ""

    def read(self, block_ms: int = READ_BLOCK_MS) -> list[Entry]:
        """The next entries to handle, none after `block_ms`. Raises redis.RedisError when Redis cannot be read.

        After such an error the consumer's own pending entries are read again, since a reply may have been lost.
        """
        try:
            if not self.groups_exist:
                self._create_groups()
            if self.history_unread:
                self._look_for_loss()
                self._repeat(self._own_history())
                self.history_unread = False
            if time.monotonic() >= self.next_reclaim:
                self._renew_later()
                self._repeat(self._abandoned())
                self.next_reclaim = time.monotonic() + self.lease_seconds / LOOKS_IN_A_LEASE
            now = time.monotonic()
            if not self.was_put_off and (due := self._due(now)):
                self.was_put_off = True
                return due
            self.was_put_off = False
            if self.later:
                soonest = min(due for due, _ in self.later)
                block_ms = min(block_ms, max(1, int((soonest - now) * 1000)))
            if len(self.later) >= (self.put_off_at_most or self.batch_entries):
                time.sleep(block_ms / 1000)  # nothing more is taken in hand while so much is put off
                return []
            while self.again:
                entry = self._take(self.again.pop(0))
                if entry is not None:
                    return [entry]
            new = self._new(block_ms)
            for stream, number in Counter(entry.stream for entry in new).items():
                ENTRIES.add((without_partition(stream),), number)
            return new
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.groups_exist = False
            self.history_unread = True
            return []
        except redis.RedisError:
            self.history_unread = True
            raise

    def put_off(self, entry: Entry) -> None:
        """Handle the entry again soon, after a delay that grows with its tries, with what else is due by then; others
        go on meanwhile.
        """
        delay = BACKOFF_SECONDS[min(entry.tries, len(BACKOFF_SECONDS) - 1)]
        entry.tries += 1
        self.later.append((time.monotonic() + delay, entry))

    def _due(self, now: float) -> list[Entry]:
        """Takes what is put off and due, a batch at most."""
        due: list[Entry] = []
        left: list[tuple[float, Entry]] = []
        for at, entry in self.later:
            if at <= now and len(due) < self.batch_entries:
                due.append(entry)
            else:
                left.append((at, entry))
        self.later[:] = left
        return due

    def renew(self, stream: str, entries: Sequence[str]) -> set[str]:
        """Keep entries in hand beyond the lease; returns those that are still this consumer's."""
        if not entries:
            return set()
        try:
            return set(
                commit_one(self.client, renew(stream, group=self.group, consumer=self.consumer, entries=entries)) or []
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.groups_exist = False
            return set()

    def leave(self, client: redis.Redis | None = None, *, unfinished: bool = False) -> int:
        """Hand back what this consumer has in hand, so that nobody waits for its lease, and take it, and those long
        dead, off the groups' lists. Returns how many entries that were. Safe to repeat; `client`: another way to Redis.

        `unfinished`: its loop is at work still, so any of them may be what it hangs on, and the delivery counts.
        """
        given = 0
        way = client or self.client
        for stream in self.streams:
            try:
                given += commit_one(
                    way,
                    hand_back(
                        stream,
                        group=self.group,
                        consumer=self.consumer,
                        heir=HANDED_BACK,
                        idle_ms=CONSUMER_DEAD_AFTER_MS,
                        page=PENDING_PAGE,
                        all_count=unfinished,
                        counting=[entry for failed_in, entry in self.failed if failed_in == stream],
                    ),
                )
                commit_one(
                    way,
                    tidy_consumers(
                        stream, group=self.group, leaving=self.consumer, dead_after_ms=CONSUMER_DEAD_AFTER_MS
                    ),
                )
            except ResponseError:
                continue
            except redis.RedisError:
                break  # or else every stream would wait for an answer, while whoever stops us has no patience
        return given

    def _renew_later(self) -> None:
        """What is put off stays with this consumer, or else every replica in turn would count a delivery of it."""
        for stream in {entry.stream for _, entry in self.later}:
            kept = self.renew(stream, [entry.id for _, entry in self.later if entry.stream == stream])
            self.later = [(due, entry) for due, entry in self.later if entry.stream != stream or entry.id in kept]

    def _create_groups(self) -> None:
        for stream in self.streams:
            try:
                self.client.xgroup_create(stream, self.group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        self.groups_exist = True

    def _new(self, block_ms: int, entries_at_most: int | None = None) -> list[Entry]:
        """`entries_at_most`: of each stream; a batch unless given."""
        found: list[tuple[str, list[tuple[str, dict[str, str]]]]] = self.client.xreadgroup(  # pyright: ignore[reportAssignmentType] -- the stubs mix in async
            self.group,
            self.consumer,
            {stream: ">" for stream in self.streams if stream not in self.closed},
            count=entries_at_most or self.batch_entries,
            block=block_ms,
        )
        new = [
            Entry(stream=stream, id=entry, fields=fields)
            for stream, entries in found or []
            for entry, fields in entries
        ]
        for entry in new:
            if order(entry.id) < NO_CLOCKS_ID:
                self.newest[entry.stream] = max(entry.id, self.newest.get(entry.stream, "0-0"), key=order)
        return new

    def _look_for_loss(self) -> None:
        for stream, newest in list(self.newest.items()):
            found = newest_id(self.client, stream)
            if found is not None and order(found) < order(newest):
                note_loss(self.client, Loss(stream, found, newest))
                self.newest[stream] = found

    def _repeat(self, found: list[Redelivery]) -> None:
        """Queue what is not in hand already."""
        known = {(entry.stream, entry.id) for entry in (*self.again, *(entry for _, entry in self.later))}
        known |= set(self.held)
        self.again += [each for each in found if (each.stream, each.id) not in known]
        self.again.sort(key=lambda each: each.deliveries)

    def _own_history(self) -> list[Redelivery]:
        """What this consumer was handed before and has not finished: after a restart, or after a lost reply."""
        return self._pending(consumername=self.consumer)

    def _abandoned(self) -> list[Redelivery]:
        """Entries that nobody has touched for a lease, whoever holds them."""
        return self._pending(idle=int(self.lease_seconds * 1000))

    def _pending(self, **which: Any) -> list[Redelivery]:
        """Looks only: the count of deliveries stays, and so does the owner."""
        found: list[Redelivery] = []
        for stream in self.streams:
            start = "-"
            while True:
                rows: Any = self.client.xpending_range(stream, self.group, start, "+", PENDING_PAGE, **which)
                found += [Redelivery(row["times_delivered"], stream, row["message_id"]) for row in rows]
                if len(rows) < PENDING_PAGE:
                    break
                start = f"({rows[-1]['message_id']}"
        return found

    def _take(self, each: Redelivery) -> Entry | None:
        """Have the entry delivered to this consumer; None if it is finished or another has it in hand."""
        taken: Any = commit_one(
            self.client,
            take(
                each.stream,
                group=self.group,
                consumer=self.consumer,
                entry=each.id,
                lease_ms=int(self.lease_seconds * 1000),
            ),
        )
        if not taken:
            return None
        self.failed.discard((each.stream, each.id))
        counted = (without_partition(each.stream),)
        ENTRIES.add(counted)
        ENTRIES_AGAIN.add(counted)
        deliveries, flat = taken
        return Entry(
            stream=each.stream,
            id=each.id,
            fields=dict(zip(flat[::2], flat[1::2], strict=True)),
            deliveries=deliveries,
        )
