"""What clients of the pod endpoint may take: connections, time and memory. None of them can hold up the others.

waitress reads requests in its one loop and hands each to a thread only when it is complete, so a slow client costs a
connection and what it has sent, but no thread. Rule: whatever a client does not do in time ends its own connection;
and where there is too much of something, he who has most of it gives way.
"""

import time
from collections import Counter
from typing import Any, NamedTuple

import structlog
from waitress.channel import HTTPChannel

log = structlog.get_logger()

CONNECTIONS_AT_MOST = 800
"""Above this, the client with the most connections loses the one that has been without a request for longest. A process
has 1024 descriptors where nothing else is set."""
REQUEST_SECONDS = 30.0
"""A request must be complete so long after its first byte, and an answer read so long after its own."""
IDLE_SECONDS = 60.0
"""A connection on which nothing is asked for so long is closed; whoever still wants it makes another."""
UNDER_WAY_BYTES = 256 * 1024**2
"""What incomplete requests may have sent together; above that the largest are ended."""
BUFFER_BYTES = 64 * 1024
"""What of a request's body is kept in memory; the rest goes to a temporary file."""
CLIENTS_TOLD = 5

OPTIONS: dict[str, Any] = {
    # The limit here is the guard's; waitress would let new clients wait until old ones leave by themselves.
    "connection_limit": 2**20,
    "channel_timeout": 2**20,
    "cleanup_interval": 1,
    "asyncore_use_poll": True,  # select() fails above descriptor 1023
    "inbuf_overflow": BUFFER_BYTES,
    "backlog": 1024,
}
"""How the server is made that a Guard watches."""


class _UnderWay(NamedTuple):
    """A request that is incomplete, or None for an answer that is not read yet, and since when."""

    request: Any
    since: float


class Guard:
    """Admits connections and ends them. Everything here runs in the server's own loop."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.under_way: dict[Any, _UnderWay] = {}
        self.ended: Counter[tuple[str, str]] = Counter()
        """Connections by client and reason, since they were last told of."""
        server.channel_class = self.admit
        server.maintenance = self.look

    def admit(self, server: Any, connection: Any, address: Any, adjustments: Any, map: Any) -> HTTPChannel:
        """Take a connection that was accepted, at the cost of another one where there are too many."""
        channels = [each for each in server.active_channels.values() if not each.will_close]
        if len(channels) >= CONNECTIONS_AT_MOST:
            self._make_room(channels)
        return HTTPChannel(server, connection, address, adjustments, map=map)

    def look(self, _now: float) -> None:
        """Called about once a second."""
        now = time.monotonic()
        under_way: dict[Any, _UnderWay] = {}
        for channel in self.server.active_channels.values():
            if channel.requests or channel.will_close:
                continue  # being answered
            if channel.request is not None or channel.total_outbufs_len:
                known = self.under_way.get(channel)
                if known is None or known.request is not channel.request:
                    known = _UnderWay(channel.request, now)
                under_way[channel] = known
                if now - known.since > REQUEST_SECONDS:
                    self._end(channel, "a request or the reading of its answer takes too long")
            elif time.time() - channel.last_activity > IDLE_SECONDS:
                channel.will_close = True
        self.under_way = under_way
        self._bound_bytes()
        self._tell()

    def _bound_bytes(self) -> None:
        sizes = {
            channel: known.request.body_bytes_received
            for channel, known in self.under_way.items()
            if known.request is not None
        }
        total = sum(sizes.values())
        for channel in sorted(sizes, key=lambda each: sizes[each], reverse=True):
            if total <= UNDER_WAY_BYTES:
                return
            total -= sizes[channel]
            self._end(channel, "requests under way have sent too much together")

    def _make_room(self, channels: list[Any]) -> None:
        held = Counter(each.addr[0] for each in channels)
        waiting = [each for each in channels if not each.requests]
        if waiting:
            victim = max(waiting, key=lambda each: (held[each.addr[0]], -each.last_activity))
            self._end(victim, "there are too many connections")

    def _end(self, channel: Any, why: str) -> None:
        channel.will_close = True
        self.ended[channel.addr[0], why] += 1

    def _tell(self) -> None:
        """The worst only: who opens thousands of connections must not fill the log, too."""
        for (client, why), connections in self.ended.most_common(CLIENTS_TOLD):
            log.warning("connections of a client are ended", client=client, connections=connections, reason=why)
        self.ended.clear()
