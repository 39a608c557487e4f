"""A TCP proxy on loopback in front of one address, with faults that a test switches on and off while it runs.

    with FaultyLink(("127.0.0.1", server.port), seed=7) as link:
        client = redis.Redis(port=link.port)
        link.once(Fault.RESET_REPLY)            # the next reply is lost, and its connection reset
        link.on(Fault.DELAY, seconds=0.05, jitter=0.05)
        link.heal()
        print(link.counts)                      # {"reset_reply": 1, "delay": 3}

It knows no protocol: a request is what a client sends in one piece, a reply what the upstream sends in one piece. Its
kernel answers TCP keepalives whatever the fault, so only a client's own timeouts notice `HALF_OPEN` and `SILENT`.
All work is done by one thread with an event loop; every method may be called from any thread, and what it asks for is
in force when it returns.
"""

import asyncio
import contextlib
import enum
import os
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self, TypeVar

import pytest

T = TypeVar("T")

long = pytest.mark.skipif(not os.environ.get("HELIOS_LONG"), reason="it takes long; `make test-links` runs it")
"""Marks what shows a stated time again, at another place, or takes a random course."""

CHUNK = 64 * 1024
"""The most that passes in one piece, in bytes."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: closing the socket sends RST, not FIN."""


class Fault(enum.StrEnum):
    """What can be wrong with the link. The first five hit single messages or connections, and may hit only a share."""

    RESET_REQUEST = "reset_request"
    """The request never reaches the upstream: its connection is reset."""
    RESET_SENT = "reset_sent"
    """The request reaches the upstream, and both sides are reset at once."""
    RESET_REPLY = "reset_reply"
    """The upstream has answered, the client is reset and never hears it."""
    CUT_REPLY = "cut_reply"
    """Half of a reply arrives, then the connection ends in order (FIN)."""
    HALF_OPEN = "half_open"
    """Connections stay and nothing passes, in neither direction, no FIN. A connection that was hit never recovers."""
    DELAY = "delay"
    """Everything comes later, by `seconds` and up to `jitter` more."""
    BANDWIDTH = "bandwidth"
    """Each direction of each connection passes `bytes_per_second`."""
    REFUSE = "refuse"
    """New connections are refused (ECONNREFUSED), and those there are were reset when it began."""
    SILENT = "silent"
    """New connections are not even refused: their SYN is not answered. Those there are go half open."""


SHARED = frozenset({Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY, Fault.HALF_OPEN})


@dataclass
class _Setting:
    """A fault that is on: how often it hits (1.0: always), how many more times at most (None: without end)."""

    share: float = 1.0
    left: int | None = None
    seconds: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float = 0.0


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    upstream: socket.socket | None = None
    dead: bool = False
    """Half open: what comes is swallowed, and no end is passed on."""
    ended: bool = False
    hit: set[Fault] = field(default_factory=set[Fault])
    """The faults of the whole connection that were counted for it already."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])


class FaultyLink:
    """See the module. `counts` says how often each fault hit: messages for resets and cuts, connections for the rest
    (REFUSE and SILENT: how often they were switched on, since the kernel does not tell whom they met)."""

    def __init__(self, upstream: tuple[str, int], *, seed: int = 0, port: int = 0) -> None:
        self.upstream = upstream
        """Where new connections go; it may be changed at any time (a server that came back elsewhere)."""
        self.counts: Counter[str] = Counter()
        self.connections_made = 0
        """How many connections clients have made through the link."""
        self.bytes_passed = 0
        self._random = random.Random(seed)
        self._settings: dict[Fault, _Setting] = {}
        self._connections: set[_Connection] = set()
        self._fillers: list[socket.socket] = []
        # Keeps the port while nobody listens: the kernel refuses what comes then.
        self._holder = _bound(port)
        self.port: int = self._holder.getsockname()[1]
        self._listener = self._listen()
        self._loop = asyncio.new_event_loop()
        self._accepting: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._thread.start()
        self._call(self._accept_again)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that clients connect to."""
        return "127.0.0.1", self.port

    @property
    def open_connections(self) -> int:
        """How many connections the link has now, dead ones included."""
        return self._call(lambda: len(self._connections))

    def on(
        self,
        fault: Fault,
        *,
        share: float = 1.0,
        seconds: float = 0.0,
        jitter: float = 0.0,
        bytes_per_second: float = 0.0,
    ) -> None:
        """Switch `fault` on until `off` or `heal`. A share below 1 (messages: per message, HALF_OPEN: per message
        that passes) is drawn from the link's seeded generator; with 1, HALF_OPEN hits all connections there are."""
        if share < 1 and fault not in SHARED:
            raise ValueError(f"{fault} has no share")
        setting = _Setting(share, None, seconds, jitter, bytes_per_second)
        self._call(lambda: self._switch_on(fault, setting))

    def once(self, fault: Fault, times: int = 1) -> None:
        """Let `fault` hit the next `times` messages (HALF_OPEN: the connections of those messages)."""
        if fault not in SHARED:
            raise ValueError(f"{fault} is no fault of single messages")
        self._call(lambda: self._settings.__setitem__(fault, _Setting(left=times)))

    def off(self, fault: Fault) -> None:
        """Switch `fault` off. Connections that went half open stay so while their client holds on to them."""
        self._call(lambda: self._switch_off(fault))

    def heal(self) -> None:
        """Switch all faults off."""
        self._call(lambda: [self._switch_off(fault) for fault in list(self._settings)])

    def reset_all(self) -> int:
        """Reset every connection there is, once, and say how many those were."""
        return self._call(self._reset_all)

    def close(self) -> None:
        """End the link and all its connections."""
        if self._thread.is_alive():
            self._call(self._end_all)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
            self._holder.close()

    @contextlib.contextmanager
    def wander(self, plan: "Plan") -> Iterator[None]:
        """Follow a random plan while the block runs; the link is healed when it ends."""
        following = asyncio.run_coroutine_threadsafe(self._follow(plan), self._loop)
        try:
            yield
        finally:
            following.cancel()
            self.heal()

    # Everything below runs in the loop's thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, what: Callable[[], T]) -> T:
        async def do() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    async def _follow(self, plan: "Plan") -> None:
        while True:
            await asyncio.sleep(self._random.uniform(*plan.quiet_seconds))
            fault = self._random.choice(plan.faults)
            setting = _Setting(
                share=plan.share if fault in SHARED and fault is not Fault.HALF_OPEN else 1.0,
                seconds=plan.delay_seconds,
                jitter=plan.delay_seconds,
                bytes_per_second=plan.bytes_per_second,
            )
            self._switch_on(fault, setting)
            await asyncio.sleep(self._random.uniform(*plan.fault_seconds))
            self._switch_off(fault)

    def _switch_on(self, fault: Fault, setting: _Setting) -> None:
        self._switch_off(fault)
        if fault in (Fault.REFUSE, Fault.SILENT):
            self._switch_off(Fault.SILENT if fault is Fault.REFUSE else Fault.REFUSE)
        self._settings[fault] = setting
        if fault is Fault.HALF_OPEN and setting.share >= 1:
            self._kill_all()
        elif fault is Fault.REFUSE:
            self.counts[fault] += 1
            self._stop_accepting()
            self._listener.close()
            self._reset_all(Fault.REFUSE)
        elif fault is Fault.SILENT:
            self.counts[fault] += 1
            self._stop_accepting()
            self._listener.close()
            self._kill_all()
            self._listener = self._listen(backlog=0)
            self._fill_backlog()

    def _switch_off(self, fault: Fault) -> None:
        if self._settings.pop(fault, None) is None:
            return
        if fault in (Fault.REFUSE, Fault.SILENT):
            for filler in self._fillers:
                filler.close()
            self._fillers.clear()
            self._listener.close()
            self._listener = self._listen()
            self._accept_again()
        if fault in (Fault.HALF_OPEN, Fault.SILENT):
            for connection in list(self._connections):
                if connection.dead and connection.ended:
                    self._end(connection)

    def _fill_backlog(self) -> None:
        """Leave no room in the listener's queue, whereupon the kernel drops what asks for a connection."""
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self.address)
            self._fillers.append(filler)

    def _listen(self, backlog: int = 512) -> socket.socket:
        listener = _bound(self.port)
        listener.setblocking(False)
        listener.listen(backlog)
        return listener

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            if self._listener.fileno() >= 0:
                self._loop.remove_reader(self._listener)
            self._accepting = None

    def _accept_again(self) -> None:
        if self._accepting is None:
            self._accepting = self._loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections_made += 1
            connection = _Connection(client)
            self._connections.add(connection)
            half_open = self._settings.get(Fault.HALF_OPEN)
            if half_open is not None and half_open.left is None and half_open.share >= 1:
                self._kill(connection)
            connection.tasks.append(self._loop.create_task(self._serve(connection)))

    async def _serve(self, connection: _Connection) -> None:
        upstream = socket.socket()
        upstream.setblocking(False)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.upstream = upstream
        if not connection.dead:
            try:
                await self._loop.sock_connect(upstream, self.upstream)
            except OSError:
                self._end(connection, reset=True)
                return
            connection.tasks.append(self._loop.create_task(self._pass(connection, upstream, connection.client)))
        await self._pass(connection, connection.client, upstream)

    async def _pass(self, connection: _Connection, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes from `source` until the connection ends or a fault ends it."""
        replies = target is connection.client
        try:
            while True:
                data = await self._loop.sock_recv(source, CHUNK)
                if connection.dead:
                    if data:
                        continue
                    self._gone(connection, by_client=not replies)
                    return
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    if connection.ended:
                        self._end(connection)
                    connection.ended = True
                    return
                if await self._deliver(connection, data, target, replies):
                    return
        except OSError:
            if connection.dead:
                self._gone(connection, by_client=not replies)
            else:
                self._end(connection, reset=True)

    def _gone(self, connection: _Connection, *, by_client: bool) -> None:
        """A half-open connection was given up. The client never hears of it; the upstream does when the link is well
        again, as it would by its keepalives.
        """
        if by_client and not (Fault.HALF_OPEN in self._settings or Fault.SILENT in self._settings):
            self._end(connection, reset=True)
        connection.ended = connection.ended or by_client

    async def _deliver(self, connection: _Connection, data: bytes, target: socket.socket, replies: bool) -> bool:
        """Pass one message on, with the faults that are on; True if that was the connection's end."""
        if self._hits(Fault.HALF_OPEN):
            self._kill(connection)
            return False
        await self._slow_down(connection, len(data))
        if connection.dead:
            return False
        if replies:
            if self._hits(Fault.RESET_REPLY):
                self.counts[Fault.RESET_REPLY] += 1
                self._end(connection, reset=True)
                return True
            if self._hits(Fault.CUT_REPLY):
                self.counts[Fault.CUT_REPLY] += 1
                await self._loop.sock_sendall(target, data[: len(data) // 2])
                self._end(connection)
                return True
        elif self._hits(Fault.RESET_REQUEST):
            self.counts[Fault.RESET_REQUEST] += 1
            self._end(connection, reset=True)
            return True
        await self._send(connection, data, target)
        if not replies and self._hits(Fault.RESET_SENT):
            self.counts[Fault.RESET_SENT] += 1
            self._end(connection, reset=True)
            return True
        return False

    async def _slow_down(self, connection: _Connection, size: int) -> None:
        delay = self._settings.get(Fault.DELAY)
        if delay is not None:
            self._count_connection(connection, Fault.DELAY)
            await asyncio.sleep(delay.seconds + self._random.uniform(0, delay.jitter))

    async def _send(self, connection: _Connection, data: bytes, target: socket.socket) -> None:
        """Send at the link's bandwidth, which is looked at anew ten times a second."""
        position = 0
        while position < len(data) and not connection.dead:
            limit = self._settings.get(Fault.BANDWIDTH)
            if limit is None:
                piece = data[position:]
            else:
                self._count_connection(connection, Fault.BANDWIDTH)
                piece = data[position : position + max(1, int(limit.bytes_per_second / 10))]
                await asyncio.sleep(len(piece) / limit.bytes_per_second)
            await self._loop.sock_sendall(target, piece)
            self.bytes_passed += len(piece)
            position += len(piece)

    def _count_connection(self, connection: _Connection, fault: Fault) -> None:
        if fault not in connection.hit:
            connection.hit.add(fault)
            self.counts[fault] += 1

    def _hits(self, fault: Fault) -> bool:
        setting = self._settings.get(fault)
        if setting is None or setting.left == 0:
            return False
        if setting.share < 1 and self._random.random() >= setting.share:
            return False
        if setting.left is not None:
            setting.left -= 1
        return True

    def _kill(self, connection: _Connection) -> None:
        if not connection.dead:
            connection.dead = True
            self._count_connection(connection, Fault.HALF_OPEN)

    def _kill_all(self) -> None:
        for connection in self._connections:
            self._kill(connection)

    def _reset_all(self, fault: Fault | None = None) -> int:
        connections = list(self._connections)
        for connection in connections:
            self._end(connection, reset=True)
        if fault is None and connections:
            self.counts["reset_all"] += len(connections)
        return len(connections)

    def _end(self, connection: _Connection, *, reset: bool = False) -> None:
        self._connections.discard(connection)
        current = asyncio.current_task()
        for task in connection.tasks:
            if task is not current:
                task.cancel()
        for side in (connection.client, connection.upstream):
            if side is None or side.fileno() < 0:
                continue
            self._loop.remove_reader(side)
            self._loop.remove_writer(side)
            if reset:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            side.close()

    def _end_all(self) -> None:
        self._stop_accepting()
        self._listener.close()
        for filler in self._fillers:
            filler.close()
        for connection in list(self._connections):
            self._end(connection, reset=True)


def _bound(port: int) -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held


@dataclass(frozen=True)
class Plan:
    """A random plan: quiet for a while, then one of `faults` for a while, again and again, from the link's seed."""

    faults: tuple[Fault, ...] = tuple(Fault)
    quiet_seconds: tuple[float, float] = (0.5, 2.0)
    fault_seconds: tuple[float, float] = (0.1, 1.0)
    share: float = 0.3
    """How many of the messages resets and cuts hit while they are on."""
    delay_seconds: float = 0.1
    """A delay lasts this long and up to twice as long."""
    bytes_per_second: float = 64 * 1024
