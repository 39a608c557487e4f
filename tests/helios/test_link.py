"""How a process meets Redis again after its connections fell silent: it waits once, whatever the number of those."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from helios.keys import Keys
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS, Inbox
from helios.worker import Stop, work
from tests.faulty_link import Fault, FaultyLink, long
from tests.redis_servers import Valkey
from tests.waiting import wait_until

TIMEOUT_SECONDS = 1.5
"""In place of the ten seconds that a read takes at most; above the second that it blocks."""
CONNECTIONS = 8


@pytest.fixture
def link(shared_valkey: Valkey) -> Iterator[FaultyLink]:
    with FaultyLink(("127.0.0.1", shared_valkey.port)) as link:
        yield link


def all_at_once(what: Callable[[], object], number: int) -> None:
    """Call `what` in so many threads, none of which goes on before all have begun."""
    barrier = threading.Barrier(number)
    with ThreadPoolExecutor(number) as threads:
        for done in [threads.submit(lambda: (barrier.wait(), what())) for _ in range(number)]:
            done.result()


@pytest.mark.alone
def test_connections_that_fell_silent_together_are_given_up_together(link: FaultyLink) -> None:
    """The loop notices first; whoever uses another connection of the process later has no wait of its own."""
    options = {**CLIENT_OPTIONS, "socket_timeout": TIMEOUT_SECONDS}
    client = redis.Redis(port=link.port, **options)
    box = Inbox(client, group="g", consumer="c", streams=[Keys(0).ready], batch_entries=1, lease_seconds=60)
    turns: list[int] = []
    stop = Stop()
    for connection in [client.connection_pool.get_connection() for _ in range(CONNECTIONS)]:
        client.connection_pool.release(connection)
    assert link.connections_made == CONNECTIONS
    thread = threading.Thread(
        target=work,
        args=(box, lambda _entries: ()),
        kwargs={"settings": Settings(), "stop": stop, "on_turn": lambda: turns.append(1)},
    )
    thread.start()
    try:
        wait_until("the loop turns", lambda: len(turns) >= 2)
        link.on(Fault.HALF_OPEN)
        link.heal()
        before = len(turns)
        wait_until("the loop has noticed and goes on", lambda: len(turns) >= before + 2)
        began = time.monotonic()
        all_at_once(client.ping, CONNECTIONS)
        assert time.monotonic() - began < TIMEOUT_SECONDS / 2
    finally:
        stop.event.set()
        thread.join()


@long
def test_a_redis_that_answers_no_connection_is_waited_for_as_long_as_stated(link: FaultyLink) -> None:
    client = redis.Redis(port=link.port, **CLIENT_OPTIONS)
    link.on(Fault.SILENT)
    began = time.monotonic()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert time.monotonic() - began < CLIENT_OPTIONS["socket_connect_timeout"] + 1
    link.heal()
    assert client.ping()
