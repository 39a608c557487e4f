"""Sees what users' own commands do to the ingress streams: everybody who may submit may XADD with any option.

`MAXLEN` throws away submissions that nobody has read: they cannot be brought back, but it is said. The highest id there
can be leaves room for no other: that is said, and the stream is made anew as soon as it is empty. Neither touches
another stream.
"""

import redis
import structlog

from helios.keys import SUBMITTER_GROUP
from helios.losses import LAST_ID, Loss, note_loss
from helios.transitions import commit_one, ingress_state, reopen_ingress

log = structlog.get_logger()


class IngressWatch:
    """Looks before each read: the read itself covers up the traces."""

    def __init__(self, client: redis.Redis, streams: tuple[str, ...]) -> None:
        self.client = client
        self.streams = streams
        self.missing: dict[str, int] = {}
        """Of each stream how many entries were found missing the last time."""
        self.full: set[str] = set()

    def look(self) -> None:
        """Raises redis.RedisError."""
        for stream in self.streams:
            found = commit_one(self.client, ingress_state(stream, group=SUBMITTER_GROUP))
            if found:
                self._look_at(stream, *found)

    def _look_at(
        self, stream: str, added: int, read: int, length: int, pending: int, newest: str, delivered: str
    ) -> None:
        # What was added was read, or is there and unread.
        missing = max(0, added - read - (length - pending)) if read >= 0 else 0
        before, self.missing[stream] = self.missing.get(stream, 0), missing
        if missing > before:
            note_loss(self.client, Loss(stream, delivered, newest, entries=missing - before))
        if newest != LAST_ID:
            self.full.discard(stream)
            return
        if stream not in self.full:
            self.full.add(stream)
            log.error(
                "a stream takes no more entries, because one was added with the highest id there can be: "
                "it is made anew once all of it is handled",
                stream=stream,
            )
        if length == 0 and commit_one(self.client, reopen_ingress(stream, last=LAST_ID)):
            log.warning("a stream that took no more entries is made anew", stream=stream)
