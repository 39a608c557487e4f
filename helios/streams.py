"""Reading work streams through a consumer group: new entries, one's own unfinished ones, and those of the dead.

Rule: nothing is acknowledged here; only the script that applies an entry's effect does that. All three kinds of entry
meet the same handler.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from helios.transitions import commit_one, renew

READ_BLOCK_MS = 2_000
"""A read waits this long for an entry; a stop signal is obeyed at its end."""

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

No client retries: redis-py's default ones turn one lost reply to a bare XADD into two entries. The socket timeout is well
above READ_BLOCK_MS, because a shorter one makes a blocking read loop for ever. What a user sends need not be UTF-8.
"""


class Entry(msgspec.Struct, kw_only=True):
    """One stream entry in this consumer's hands. `deliveries` counts how often anyone was handed it."""

    stream: str
    id: str
    fields: dict[str, str]
    deliveries: int = 1
    tries: int = 0
    """How often this process put it off; unlike `deliveries`, that does not count against it."""


class Inbox:
    """One consumer of one group over some streams.

    Entries that were delivered before come one at a time, so that an entry which kills its consumer cannot take a whole
    batch down with it again and again.
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
    ) -> None:
        self.client = client
        self.group = group
        self.consumer = consumer
        self.streams = list(streams)
        self.batch_entries = batch_entries
        self.lease_seconds = lease_seconds
        self.groups_exist = False
        self.history_unread = True
        self.again: list[Entry] = []
        self.later: list[tuple[float, Entry]] = []
        self.next_reclaim = 0.0

    def read(self, block_ms: int = READ_BLOCK_MS) -> list[Entry]:
        """The next entries to handle, none after `block_ms`. Raises redis.RedisError when Redis cannot be read.

        After such an error the consumer's own pending entries are read again, since a reply may have been lost on its way.
        """
        try:
            if not self.groups_exist:
                self._create_groups()
            if self.history_unread:
                self.again += self._own_history()
                self.history_unread = False
            if time.monotonic() >= self.next_reclaim:
                self.again += self._reclaim()
                self.next_reclaim = time.monotonic() + self.lease_seconds / 3
            if self.again:
                return [self.again.pop(0)]
            now = time.monotonic()
            for position, (due, entry) in enumerate(self.later):
                if due <= now:
                    del self.later[position]
                    return [entry]
                block_ms = min(block_ms, max(1, int((due - now) * 1000)))
            if len(self.later) >= self.batch_entries:
                time.sleep(block_ms / 1000)  # nothing more is taken in hand while so much is put off
                return []
            return self._new(block_ms)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.groups_exist = False
            return []
        except redis.RedisError:
            self.history_unread = True
            raise

    def put_off(self, entry: Entry) -> None:
        """Handle the entry again soon, after a delay that grows with its tries; others go on meanwhile."""
        delay = BACKOFF_SECONDS[min(entry.tries, len(BACKOFF_SECONDS) - 1)]
        entry.tries += 1
        self.later.append((time.monotonic() + delay, entry))

    def renew(self, stream: str, entries: Sequence[str]) -> set[str]:
        """Keep entries in hand beyond the lease; returns those that are still this consumer's."""
        if not entries:
            return set()
        return set(
            commit_one(self.client, renew(stream, group=self.group, consumer=self.consumer, entries=entries)) or []
        )

    def _create_groups(self) -> None:
        for stream in self.streams:
            try:
                self.client.xgroup_create(stream, self.group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        self.groups_exist = True

    def _new(self, block_ms: int) -> list[Entry]:
        found: Any = self.client.xreadgroup(
            self.group,
            self.consumer,
            dict.fromkeys(self.streams, ">"),
            count=self.batch_entries,
            block=block_ms,
        )
        return [
            Entry(stream=stream, id=entry, fields=fields)
            for stream, entries in found or []
            for entry, fields in entries
        ]

    def _own_history(self) -> list[Entry]:
        """What this consumer was handed before and has not finished: after a restart, or after a lost reply."""
        known = self._in_hand()
        found: list[Entry] = []
        for stream in self.streams:
            start = "0"
            while True:
                page: Any = self.client.xreadgroup(self.group, self.consumer, {stream: start}, count=self.batch_entries)
                entries = page[0][1] if page else []
                if not entries:
                    break
                counts = self._deliveries(stream, entries[0][0], entries[-1][0], len(entries))
                found += [
                    Entry(stream=stream, id=entry, fields=fields, deliveries=counts.get(entry, 2))
                    for entry, fields in entries
                    if fields and (stream, entry) not in known
                ]
                start = entries[-1][0]
        return found

    def _reclaim(self) -> list[Entry]:
        """Entries that nobody has touched for a lease, whoever holds them."""
        found: list[Entry] = []
        known = self._in_hand()
        lease_ms = int(self.lease_seconds * 1000)
        for stream in self.streams:
            start = "0-0"
            while True:
                reply: Any = self.client.xautoclaim(
                    stream, self.group, self.consumer, lease_ms, start_id=start, count=self.batch_entries
                )
                start, entries = reply[0], reply[1]
                if entries:
                    counts = self._deliveries(stream, entries[0][0], entries[-1][0], len(entries))
                    found += [
                        Entry(stream=stream, id=entry, fields=fields, deliveries=counts.get(entry, 2))
                        for entry, fields in entries
                        if fields and (stream, entry) not in known
                    ]
                if start == "0-0":
                    break
        return found

    def _in_hand(self) -> set[tuple[str, str]]:
        return {(entry.stream, entry.id) for entry in (*self.again, *(entry for _, entry in self.later))}

    def _deliveries(self, stream: str, first: str, last: str, count: int) -> dict[str, int]:
        rows: Any = self.client.xpending_range(stream, self.group, first, last, count * 2, consumername=self.consumer)
        return {row["message_id"]: row["times_delivered"] for row in rows}
