"""The agent's way to the pod endpoint and to a real S3 leads through links that break: fetch brings every byte, publish
stores every output, and each report is delivered.
"""

import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from minio import Minio

from agent import download as download_module
from agent import endpoint as endpoint_module
from agent import web as web_module
from agent.web import WHOLE_BYTES, Web
from tests.agent.conftest import both_forms
from tests.faulty_link import Fault, FaultyLink, long

LOSSES = (Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY)
BIG = 3 << 20


@pytest.fixture
def to_store(real_s3: Any, endpoint: Any) -> Iterator[FaultyLink]:
    """Plans name URLs that lead through it."""
    host, _, port = real_s3.endpoint.partition(":")
    with FaultyLink((host, int(port)), seed=2) as link:
        signer = Minio(f"127.0.0.1:{link.port}", access_key="helios", secret_key="helios-secret", secure=False)

        def sign(method: str, key: str) -> str:
            bucket, _, name = key.partition("/")
            return signer.get_presigned_url(method, bucket, name)

        endpoint.make_url = sign
        yield link


@pytest.fixture
def to_endpoint(endpoint: Any) -> Iterator[FaultyLink]:
    with FaultyLink(("127.0.0.1", endpoint.port), seed=3) as link:
        endpoint.port = link.port
        yield link


@pytest.fixture
def inputs(real_s3: Any, endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small one, and one that comes in ranges; the outputs have the same names and contents."""
    monkeypatch.setattr(download_module, "RANGED_FROM", 1 << 20)
    monkeypatch.setattr(download_module, "WINDOW", 1 << 20)
    contents = {"small": os.urandom(1000), "big": os.urandom(BIG)}
    for name, data in contents.items():
        real_s3.client.put_object("corpora", f"in-{name}", io.BytesIO(data), len(data))
        endpoint.add_input(name, f"corpora/in-{name}")
        endpoint.add_output(f"out-{name}", "corpora")
    return contents


def pass_through(node: Any, s3: Any, contents: dict[str, bytes]) -> None:
    """An attempt from its inputs to its outputs."""
    manifest = node.fetch()
    assert "error" not in manifest or manifest["error"] is None
    for name, data in contents.items():
        assert node.read(name) == data
        (node.artifacts / f"out-{name}").write_bytes(data)
    node.task_ended()
    outcome = node.publish()
    assert outcome.reason is None
    for name, data in contents.items():
        assert s3.client.get_object("corpora", f"runs/r/t/0/pod/out-{name}").data == data
    stored = {output.name: output.sha256 for output in outcome.outputs}
    assert stored == {f"out-{name}": hashlib.sha256(data).hexdigest() for name, data in contents.items()}


@both_forms
@pytest.mark.parametrize("fault", LOSSES)
def test_an_attempt_ends_well_though_messages_to_the_store_and_the_endpoint_are_lost(
    fault: Fault,
    to_store: FaultyLink,
    to_endpoint: FaultyLink,
    inputs: dict[str, bytes],
    node: Any,
    real_s3: Any,
    endpoint: Any,
) -> None:
    """Each way loses the first messages of each kind that come after it was switched on, and some later ones."""
    for link in (to_store, to_endpoint):
        link.once(fault, 2)
    pass_through(node, real_s3, inputs)
    assert to_store.counts == to_endpoint.counts == {fault: 2}
    assert endpoint.reports, "the report was delivered"


@pytest.mark.alone
@pytest.mark.parametrize("way", ["to_store", "to_endpoint"])
def test_a_way_that_falls_silent_is_noticed_in_time(
    way: str,
    request: pytest.FixtureRequest,
    inputs: dict[str, bytes],
    make_node: Callable[..., Any],
    real_s3: Any,
    to_store: FaultyLink,
    to_endpoint: FaultyLink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is under way and all that is kept dies at once, and is given up at once, not one after the other."""
    silence = 1.5
    monkeypatch.setattr(web_module, "SILENCE_SECONDS", silence)
    monkeypatch.setattr(endpoint_module, "SILENCE_SECONDS", silence)
    link: FaultyLink = request.getfixturevalue(way)
    link.once(Fault.HALF_OPEN, 2)
    began = time.monotonic()
    pass_through(make_node(), real_s3, inputs)
    assert link.counts == {Fault.HALF_OPEN: 2}
    assert silence <= time.monotonic() - began < 3 * silence + 5


@long
def test_a_slow_and_late_way_is_borne(
    to_store: FaultyLink, to_endpoint: FaultyLink, inputs: dict[str, bytes], node: Any, real_s3: Any
) -> None:
    """Nothing is given up that moves."""
    to_store.on(Fault.BANDWIDTH, bytes_per_second=2 << 20)
    to_endpoint.on(Fault.DELAY, seconds=0.1, jitter=0.1)
    pass_through(node, real_s3, inputs)
    assert to_store.counts[Fault.BANDWIDTH] >= 2
    assert to_endpoint.counts[Fault.DELAY] >= 1


@pytest.mark.alone
def test_of_connections_that_were_kept_and_fell_silent_one_is_waited_for(
    endpoint: Any, to_endpoint: FaultyLink
) -> None:
    web = Web(1.0)
    url = f"{endpoint.url}/none"
    opened = [web.request("GET", url, {}) for _ in range(4)]
    for response in opened:
        response.read(1000)
        response.close()
    assert to_endpoint.open_connections == 4
    to_endpoint.on(Fault.HALF_OPEN)
    to_endpoint.heal()
    began = time.monotonic()
    for _ in range(4):
        with web.request("GET", url, {}) as response:
            assert response.read(1000)
    assert 1 <= time.monotonic() - began < 2
    web.close()


def test_small_bodies_follow_each_other_on_one_connection(to_store: FaultyLink, real_s3: Any, endpoint: Any) -> None:
    web, sizes = Web(), [1, WHOLE_BYTES, 0, WHOLE_BYTES + 1, WHOLE_BYTES + 1]
    urls = [endpoint.sign("PUT", f"corpora/{number}") for number in range(len(sizes))]
    before = to_store.connections_made
    for number, size in enumerate(sizes):
        halves = (memoryview(os.urandom(half)) for half in (size // 2, size - size // 2))
        with web.upload("PUT", urls[number], {}, size, halves) as response:
            assert (response.status, response.read(1000)) == (200, b"")
        assert real_s3.client.stat_object("corpora", str(number)).size == size
    assert to_store.connections_made - before == 3
    web.close()


def test_a_machine_that_is_gone_is_noticed_by_the_kernel(endpoint: Any) -> None:
    """However long the answer to a request may take: what a link of the tests' own cannot show."""
    sending = Web().sending("PUT", f"{endpoint.url}/none", {}, 1)
    sock = sending._connection.sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle, between, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + between * count <= 30
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
    sending.close()
