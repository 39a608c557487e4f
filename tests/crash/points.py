"""Counts the calls that this process makes, and kills it with SIGKILL at one of them.

It sits below everything of ours: where redis-py puts bytes on a socket, where urllib3 (the API server and the object
store, of the services) and http.client (of the agent) send a request. Every call is first written down in a ledger, a
line each, so that whoever started the process knows how many there were and at which one it died.

Three points: `before` any call, no byte has left; of calls that may change something also `sent`, all bytes have left
and no reply was read, and `after`, the reply was read and nobody has looked at it. (After a call that changes nothing
is the same as before the next one of its thread.) Commands of one pipeline leave together and are one call. What
redis-py sends by itself on a new connection is none: it says nothing of ours.

What is watched is imported only then: where the agent is started there is no redis-py.
"""

import http.client
import os
import re
import signal
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

POINTS = ("before", "sent", "after")

READS = frozenset(
    [
        "EXISTS",
        "GET",
        "HGET",
        "HGETALL",
        "HMGET",
        "LRANGE",
        "TYPE",
        "XINFO",
        "XLEN",
        "XPENDING",
        "XRANGE",
        "XREADGROUP",
        "XREVRANGE",
        "ZCARD",
        "ZRANGE",
        "ZSCORE",
        "SCAN",
        "PING",
        "TTL",
        "MGET",
        "STRLEN",
    ]
)
"""Commands that change nothing but for XREADGROUP, which moves entries into its consumer's pending list; before the
reader's next call they are there, and it has done nothing with them.
"""

_COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n(?:\$40\r\n([0-9a-f]{40})\r\n)?")


class Plan(NamedTuple):
    """The n-th call (but for `before`: of those that may change something), counted from 1, and the point of it."""

    at: int
    point: str


class Ledger:
    """The calls of this process, by client: redis, kubernetes, s3, endpoint."""

    def __init__(self, file: str, plan: Plan | None) -> None:
        self.fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.plan = plan
        self.lock = threading.Lock()
        self.calls = 0
        self.changes = 0

    def begin(self, client: str, words: str, *, changes: bool) -> "InFlight":
        with self.lock:
            self.calls += 1
            self.changes += changes
            call = InFlight(self, self.calls, self.changes if changes else 0)
            os.write(self.fd, f"{client} {'w' if changes else 'r'} {words}\n".encode())
            call.reach("before")
        return call

    def die(self, point: str) -> None:
        os.write(self.fd, f"killed {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


class InFlight(NamedTuple):
    ledger: Ledger
    call: int
    change: int
    """Its number among the calls that may change something; 0 for one that cannot."""

    def reach(self, point: str) -> None:
        plan = self.ledger.plan
        number = self.call if point == "before" else self.change
        if plan is not None and plan.point == point and plan.at == number:
            self.ledger.die(point)


def watch_redis(ledger: Ledger) -> None:
    import redis.connection

    import helios.transitions

    scripts = {
        each.sha.encode(): each.name
        for each in vars(helios.transitions).values()
        if isinstance(each, helios.transitions.Script)
    }
    connection: Any = redis.connection.AbstractConnection
    pool: Any = redis.connection.ConnectionPool
    send, on_connect, release = connection.send_packed_command, connection.on_connect_check_health, pool.release
    greeting = threading.local()

    def greeted(self: Any, *args: Any, **options: Any) -> None:
        greeting.now = True
        try:
            on_connect(self, *args, **options)
        finally:
            greeting.now = False

    def sent(self: Any, command: Any, check_health: bool = True) -> None:
        if getattr(greeting, "now", False):
            send(self, command, check_health)
            return
        names = _names(command, scripts)
        changes = not all(name in READS for name, _ in names)
        words = ",".join(script or name for name, script in names[:6])
        self.crash_call = ledger.begin("redis", words, changes=changes)
        send(self, command, check_health)
        self.crash_call.reach("sent")

    def released(self: Any, connection: Any) -> None:
        # All replies were read by now; nobody has them yet.
        call = getattr(connection, "crash_call", None)
        connection.crash_call = None
        if call is not None:
            call.reach("after")
        release(self, connection)

    connection.send_packed_command = sent
    connection.on_connect_check_health = greeted
    pool.release = released


def _names(command: Any, scripts: Mapping[bytes, str]) -> list[tuple[str, str]]:
    """Each command's name, and its script's where it runs one."""
    pieces = [command] if isinstance(command, str | bytes) else command
    packed = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    return [
        (match[1].decode().upper(), scripts.get(match[2], "") if match[2] else "")
        for match in _COMMAND.finditer(packed)
    ]


def watch_urllib3(ledger: Ledger, clients: Mapping[int, str]) -> None:
    """`clients`: who listens on a port of this machine."""
    import urllib3.connection
    import urllib3.connectionpool

    pool: Any = urllib3.connectionpool.HTTPConnectionPool
    connection: Any = urllib3.connection.HTTPConnection
    request, getresponse = pool._make_request, connection.getresponse

    def requested(self: Any, conn: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        client = clients[self.port]
        call = conn.crash_call = ledger.begin(client, f"{method} {_place(url)}", changes=method not in ("GET", "HEAD"))
        answer = request(self, conn, method, url, *args, **options)
        call.reach("after")
        return answer

    def answered(self: Any) -> Any:
        self.crash_call.reach("sent")
        return getresponse(self)

    pool._make_request = requested
    connection.getresponse = answered


def watch_http_client(ledger: Ledger, clients: Mapping[int, str]) -> None:
    """For the agent, which has nothing but the standard library."""
    connection: Any = http.client.HTTPConnection
    putrequest, getresponse = connection.putrequest, connection.getresponse

    def requested(self: Any, method: str, url: str, *args: Any, **options: Any) -> None:
        client = clients[self.port]
        self.crash_call = ledger.begin(client, f"{method} {_place(url)}", changes=method not in ("GET", "HEAD"))
        putrequest(self, method, url, *args, **options)

    def answered(self: Any) -> Any:
        self.crash_call.reach("sent")
        answer = getresponse(self)
        self.crash_call.reach("after")
        return answer

    connection.putrequest = requested
    connection.getresponse = answered


def _place(url: str) -> str:
    """The path, without what differs from run to run."""
    return re.sub(r"\d{13}-\d+", "<run>", url.partition("?")[0])[:80]
