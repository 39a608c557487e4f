"""The pod endpoint and clients that are slow, fall silent or send for ever: nobody else waits for them."""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
import redis

from helios.settings import Settings
from services.collector import listener
from services.collector.__main__ import Endpoint
from services.collector.endpoint import BODY_BYTES, PodEndpoint
from services.collector.store import Store
from tests.faulty_link import Fault, FaultyLink
from tests.redis_servers import free_port
from tests.waiting import wait_until

ANSWER_SECONDS = 15
"""Half of what the endpoint waits for one that does not go on."""
UNFINISHED = b"POST /v1/result HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{"


class Serving:
    def __init__(self, client: redis.Redis) -> None:
        self.port = free_port()
        settings = Settings(token_key="k", s3_endpoint="http://127.0.0.1:9", s3_access_key="a", s3_secret_key="s")
        self.endpoint = Endpoint(PodEndpoint(client, Store(settings), settings), f"127.0.0.1:{self.port}")
        self.endpoint.start()
        self.opened: list[socket.socket] = []

    def connect(self, source: str = "127.0.0.1", port: int = 0) -> socket.socket:
        found = socket.create_connection(("127.0.0.1", port or self.port), ANSWER_SECONDS, source_address=(source, 0))
        self.opened.append(found)
        return found

    def answers(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=ANSWER_SECONDS) as answer:
            return json.load(answer) == {"ok": True}

    def close(self) -> None:
        for each in self.opened:
            each.close()
        self.endpoint.close()


@pytest.fixture
def serving(valkey: redis.Redis) -> Iterator[Serving]:
    found = Serving(valkey)
    yield found
    found.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTT", UNFINISHED], ids=["nothing", "half a line", "half a body"])
def test_hundreds_of_clients_that_do_not_go_on_hold_up_nobody(serving: Serving, sent: bytes) -> None:
    """As many pods as a cluster has keep a connection while their tasks run; a task may open some for its own ends."""
    for _ in range(300):
        serving.connect().sendall(sent)
    assert serving.answers()
    assert not any(map(is_closed, serving.opened))


def test_a_request_that_does_not_end_is_ended(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """However busily it comes: a byte now and then is no reason to wait."""
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 1.0)
    began = time.monotonic()
    slow = serving.connect()
    slow.sendall(UNFINISHED)

    def sends_on() -> bool:
        try:
            slow.sendall(b" ")
        except OSError:
            return True
        return is_closed(slow)

    wait_until("the slow request is ended", sends_on)
    assert time.monotonic() - began >= 1
    assert serving.answers()


def test_a_connection_that_asks_nothing_is_ended(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "IDLE_SECONDS", 1.0)
    idle = serving.connect()
    wait_until("the idle connection is ended", lambda: is_closed(idle))
    assert serving.answers()


def test_a_client_whose_connection_is_half_open_takes_no_place_for_long(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node died, say: no word comes from it any more, and no end."""
    with FaultyLink(("127.0.0.1", serving.port)) as link:
        serving.connect(port=link.port).sendall(UNFINISHED)
        channels = serving.endpoint.server.active_channels
        wait_until("its request has begun", lambda: any(each.request for each in list(channels.values())))
        link.on(Fault.HALF_OPEN)
        monkeypatch.setattr(listener, "REQUEST_SECONDS", 1.0)
        wait_until("the endpoint has let go of it", lambda: not channels)


def test_what_is_sent_for_ever_is_refused_at_its_limit(serving: Serving) -> None:
    """A body without an end, and a header without one: a piece of either is taken, and the connection is closed."""
    for head, piece in (
        (
            b"POST /v1/result HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n" + b"x" * 65536 + b"\r\n",
        ),
        (b"GET /healthz HTTP/1.1\r\n", b"X-Endless: " + b"x" * 4000 + b"\r\n"),
    ):
        endless = serving.connect()
        endless.sendall(head)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 4 * BODY_BYTES:
                endless.sendall(piece)
                sent += len(piece)
        assert sent < 2 * BODY_BYTES
    assert serving.answers()


def test_who_takes_most_connections_loses_them_first(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine that opens ever more connections ends its own, and never those of the others."""
    monkeypatch.setattr(listener, "CONNECTIONS_AT_MOST", 40)
    honest = [serving.connect("127.0.0.1") for _ in range(10)]
    for each in honest:
        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n")
    greedy = [serving.connect("127.0.0.2") for _ in range(100)]
    for each in greedy[-20:]:
        each.sendall(UNFINISHED)
    wait_until("those above the limit are ended", lambda: sum(map(is_closed, greedy)) >= 70)
    for each in honest:
        each.sendall(b"\r\n")
        assert each.recv(100).startswith(b"HTTP/1.1 200")
    assert sum(map(is_closed, greedy)) <= 90


def test_bodies_under_way_take_so_much_together_and_no_more(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNDER_WAY_BYTES", 1024**2)
    head = b"POST /v1/result HTTP/1.1\r\nHost: h\r\nContent-Length: 16000000\r\n\r\n"
    small = serving.connect()
    small.sendall(head + b"x" * 1000)
    for _ in range(4):
        with contextlib.suppress(ConnectionError):  # one may be ended while it is still sending
            serving.connect().sendall(head + b"x" * 900_000)
    wait_until("the largest are ended", lambda: sum(map(is_closed, serving.opened[1:])) >= 3)
    assert not is_closed(small)
    assert serving.answers()
