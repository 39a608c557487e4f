"""The link that breaks on demand does what its faults say, against a server that answers each line."""

import contextlib
import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faulty_link import Fault, FaultyLink, Plan
from tests.waiting import wait_until


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Lines)
        self.heard: list[bytes] = []
        self.ended = 0


class _Lines(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            for line in self.rfile:
                self.server.heard.append(line)
                self.wfile.write(b"answer to " + line)
        self.server.ended += 1


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def link(server: _Server) -> Iterator[FaultyLink]:
    with FaultyLink(("127.0.0.1", server.server_address[1]), seed=3) as link:
        yield link


def connect(link: FaultyLink, timeout: float = 60) -> socket.socket:
    return socket.create_connection(link.address, timeout=timeout)


def ask(connection: socket.socket, line: bytes = b"one\n") -> bytes:
    connection.sendall(line)
    return connection.recv(1000)


def test_a_link_without_faults_passes_everything_and_ends_with_either_side(link: FaultyLink, server: _Server) -> None:
    with connect(link) as client:
        assert ask(client) == b"answer to one\n"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    wait_until("the server sees the end", lambda: server.ended == 1)
    wait_until("the link forgets the connection", lambda: link.open_connections == 0)
    assert not link.counts


@pytest.mark.parametrize(
    ("fault", "heard"),
    [(Fault.RESET_REQUEST, []), (Fault.RESET_SENT, [b"one\n"]), (Fault.RESET_REPLY, [b"one\n"])],
)
def test_a_reset_comes_where_its_name_says(link: FaultyLink, server: _Server, fault: Fault, heard: list[bytes]) -> None:
    link.once(fault)
    with connect(link) as client, pytest.raises(ConnectionResetError):
        ask(client)
    wait_until("what was sent has come", lambda: server.heard == heard)
    with connect(link) as client:
        assert ask(client, b"two\n") == b"answer to two\n"
    assert server.heard == [*heard, b"two\n"]
    assert link.counts == {fault: 1}


def test_a_reply_is_cut_in_the_middle_and_ends_in_order(link: FaultyLink) -> None:
    link.once(Fault.CUT_REPLY)
    with connect(link) as client:
        client.sendall(b"one\n")
        with client.makefile("rb") as file:
            assert file.read() == b"answer "


def test_a_half_open_connection_stays_silent_for_good(link: FaultyLink, server: _Server) -> None:
    with connect(link) as old:
        assert ask(old) == b"answer to one\n"
        link.on(Fault.HALF_OPEN)
        with connect(link) as new:
            wait_until("both are half open", lambda: link.counts == {Fault.HALF_OPEN: 2})
            for client in (old, new):
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    ask(client, b"two\n")
            link.heal()
            with pytest.raises(TimeoutError):
                ask(old, b"three\n")
    assert server.heard == [b"one\n"]
    assert link.counts == {Fault.HALF_OPEN: 2}
    with connect(link) as client:
        assert ask(client, b"four\n") == b"answer to four\n"
    wait_until("the server is told of the old one's end", lambda: server.ended >= 2)


def test_refused_and_unanswered_connections(link: FaultyLink) -> None:
    with connect(link) as old:
        assert ask(old) == b"answer to one\n"
        link.on(Fault.REFUSE)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                connect(link)
        with pytest.raises(ConnectionResetError):
            old.recv(10)
    link.heal()
    with connect(link) as client:
        assert ask(client)
    link.on(Fault.SILENT)
    with pytest.raises(TimeoutError):
        connect(link, 0.3)
    link.heal()
    with connect(link) as client:
        assert ask(client)


def test_delays_and_bandwidth_take_their_time(link: FaultyLink) -> None:
    link.on(Fault.DELAY, seconds=0.05)
    with connect(link) as client:
        began = time.monotonic()
        assert ask(client) == b"answer to one\n"
        assert time.monotonic() - began >= 0.1
    link.heal()
    link.on(Fault.BANDWIDTH, bytes_per_second=20_000)
    with connect(link) as client, client.makefile("rb") as file:
        began = time.monotonic()
        client.sendall(b"x" * 4000 + b"\n")
        assert len(file.readline()) == 4001 + len(b"answer to ")
        assert time.monotonic() - began >= 0.35
    assert link.counts == {Fault.DELAY: 1, Fault.BANDWIDTH: 1}


def test_a_random_plan_injects_faults_and_leaves_a_healthy_link(link: FaultyLink) -> None:
    plan = Plan(quiet_seconds=(0.0, 0.02), fault_seconds=(0.01, 0.05), share=0.5, delay_seconds=0.001)
    draw = random.Random(1)

    def once() -> bool:
        with contextlib.suppress(OSError), connect(link, 0.05) as client:
            ask(client, b"%d\n" % draw.randrange(1000))
        return len(link.counts) == len(Fault)

    with link.wander(plan):
        wait_until("every fault has hit", once)
    with connect(link) as client:
        assert ask(client, b"well\n") == b"answer to well\n"
