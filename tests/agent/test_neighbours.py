"""Nodes that take blobs from each other: one brings from the store, the others from it, and on any doubt the store."""

import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import agent.neighbours
import agent.store
from agent.blobs import BlobServer
from agent.pace import Backoff
from agent.store import Origin, Store
from agent.web import SILENCE_SECONDS
from helios.grants import blob_url, output_url
from tests.agent.conftest import Node, ObjectStore, PodEndpoint, wait_until

KEY = "the keepers' key"
BIG = 70 * 1024 * 1024
"""More than one range."""


class Neighbourhood:
    """Two nodes with a cache and a keeper each, and an endpoint that knows what they were told to have."""

    def __init__(self, root: Path, endpoint: PodEndpoint) -> None:
        self.root = root
        self.endpoint = endpoint
        self.doors: dict[str, BlobServer] = {}
        for name in ("n1", "n2"):
            store = Store(str(root / name / "cache"), "keep")
            store.prepare()
            store.drop_view()
            self.doors[name] = BlobServer(store, KEY, "127.0.0.1", 0)
            self.doors[name].start()
        endpoint.locate = self.locate
        self.flights: dict[str, str] = {}
        self.lock = threading.Lock()

    def close(self) -> None:
        for door in self.doors.values():
            door.close()

    def node(self, name: str, job: str) -> Node:
        return Node(self.root / name / job, self.endpoint, self.root / name / "cache", job, name)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.doors[name].port}"

    def digest_of(self, version: str | None) -> str | None:
        found = [each["sha256"] for _, each in self.endpoint.brought if version and each["version"] == version]
        return found[-1] if found else None

    def locate(self, node: str, lacking: dict[str, Any]) -> dict[str, Any]:
        digest = lacking["sha256"] or self.digest_of(lacking["version"])
        holders = {name for name, each in self.endpoint.brought if each["sha256"] == digest and name != node}
        peers = [
            {"node": name, "url": blob_url(self.url(name), KEY, digest or "", int(time.time()) + 60)}
            for name in sorted(holders)
        ]
        with self.lock:
            flies = self.flights.setdefault(lacking["version"] or lacking["sha256"], node)
        return {"name": lacking["name"], "sha256": digest, "peers": peers, "wait": not peers and flies != node}


@pytest.fixture
def nodes(tmp_path: Path, endpoint: PodEndpoint) -> Iterator[Neighbourhood]:
    neighbourhood = Neighbourhood(tmp_path, endpoint)
    yield neighbourhood
    neighbourhood.close()


def account(manifest: dict[str, Any]) -> tuple[Any, ...]:
    (brought,) = manifest["inputs"]
    return brought["source"], brought["cause"], brought.get("detail", "")


@pytest.mark.parametrize("size", [0, 5, BIG])
def test_a_second_node_takes_an_object_from_the_first(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood, size: int
) -> None:
    data = os.urandom(size)
    digest = store.put("bucket/x", data)
    endpoint.add_input("x", "bucket/x")
    first, second = nodes.node("n1", "a"), nodes.node("n2", "b")
    assert account(first.fetch()) == ("store", "never-here", "")
    asked = store.count("GET", "bucket/x")
    assert account(second.fetch()) == ("peer", "never-here", "from node n1")
    assert store.count("GET", "bucket/x") == asked
    assert second.read("x") == data
    assert [name for name, each in endpoint.brought if each["sha256"] == digest] == ["n1", "n2"]
    assert account(nodes.node("n2", "c").fetch())[:2] == ("cache", "cached")


def test_of_two_nodes_that_lack_it_at_once_one_asks_the_store(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood
) -> None:
    store.put("bucket/x", b"x" * 100_000)
    endpoint.add_input("x", "bucket/x")
    half_way = threading.Event()
    store.faults["bucket/x"].append(("hold", half_way))
    found: dict[str, tuple[Any, ...]] = {}

    def fetch(name: str) -> None:
        found[name] = account(nodes.node(name, name).fetch())

    threads = [threading.Thread(target=fetch, args=(name,)) for name in ("n1", "n2")]
    for thread in threads:
        thread.start()
    wait_until(lambda: endpoint.asked.count("/v1/locate") >= 3, "the second waits for the first")
    half_way.set()
    for thread in threads:
        thread.join(60)
    assert sorted(source for source, _, _ in found.values()) == ["peer", "store"]
    assert store.count("GET", "bucket/x") == 1


def gone(nodes: Neighbourhood, digest: str) -> None:
    nodes.doors["n1"].close()
    del digest


def evicted(nodes: Neighbourhood, digest: str) -> None:
    (nodes.root / "n1/cache/blobs/sha256" / digest[:2] / digest).unlink()


def tampered(nodes: Neighbourhood, digest: str) -> None:
    """Other bytes under the same name, size and seal."""
    blob = nodes.root / "n1/cache/blobs/sha256" / digest[:2] / digest
    seal = blob.stat().st_mtime_ns
    blob.chmod(0o644)
    blob.write_bytes(b"y" * blob.stat().st_size)
    blob.chmod(0o444)
    os.utime(blob, ns=(seal, seal))


def touched(nodes: Neighbourhood, digest: str) -> None:
    os.utime(nodes.root / "n1/cache/blobs/sha256" / digest[:2] / digest)


def refused(nodes: Neighbourhood, digest: str) -> None:
    del digest
    locate = nodes.endpoint.locate
    assert locate is not None

    def other_key(node: str, lacking: dict[str, Any]) -> dict[str, Any]:
        answer = locate(node, lacking)
        return {**answer, "peers": [{**each, "url": each["url"][:-4] + "0000"} for each in answer["peers"]]}

    nodes.endpoint.locate = other_key


def silent_endpoint(nodes: Neighbourhood, digest: str) -> None:
    del digest
    nodes.endpoint.script["/v1/locate"] = [404]


@pytest.mark.parametrize("fault", [gone, evicted, tampered, touched, refused, silent_endpoint])
def test_on_any_doubt_the_store_gives_it(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood, fault: Callable[[Neighbourhood, str], None]
) -> None:
    digest = store.put("bucket/x", b"x" * 1000)
    endpoint.add_input("x", "bucket/x")
    nodes.node("n1", "a").fetch()
    fault(nodes, digest)
    second = nodes.node("n2", "b")
    assert account(second.fetch()) == ("store", "never-here", "")
    assert second.read("x") == b"x" * 1000


@pytest.mark.alone
def test_a_peer_that_takes_a_connection_and_says_nothing_is_soon_left(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a keeper that hangs does, or a node whose kernel still answers. Far from the patience with the store."""
    store.put("bucket/x", b"x" * 1000)
    endpoint.add_input("x", "bucket/x")
    nodes.node("n1", "a").fetch()
    monkeypatch.setattr(agent.neighbours, "SILENT_SECONDS", 0.2)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(nodes, "url", lambda _: f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert account(nodes.node("n2", "b").fetch()) == ("store", "never-here", "")
    assert time.monotonic() - began < SILENCE_SECONDS / 2


def test_a_peer_that_failed_once_is_not_tried_for_the_next_input(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood
) -> None:
    for name in ("x", "y"):
        store.put(f"bucket/{name}", name.encode() * 100)
        endpoint.add_input(name, f"bucket/{name}")
    nodes.node("n1", "a").fetch()
    nodes.doors["n1"].close()
    second = nodes.node("n2", "b")
    manifest = second.fetch()
    assert {each["source"] for each in manifest["inputs"]} == {"store"}
    assert 1 <= sum("Taking" in line for line in second.lines) <= 2


def test_content_that_is_here_under_another_name_is_a_hit(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood
) -> None:
    """The same bytes as of another object: only another node knows that this version holds them."""
    store.put("bucket/x", b"same")
    store.put("bucket/y", b"same")
    endpoint.add_input("x", "bucket/x")
    nodes.node("n1", "a").fetch()
    endpoint.inputs.clear()
    endpoint.add_input("y", "bucket/y")
    nodes.node("n2", "b").fetch()
    reader = nodes.node("n1", "c")
    assert account(reader.fetch()) == ("cache", "cached", "")
    assert reader.read("y") == b"same"
    assert endpoint.brought[-1][0] == "n1", "others do not wait for its flight"


def test_an_output_streamed_to_the_keeper_is_warm_for_the_next_task(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood
) -> None:
    """As on Kubernetes, where publish may not write the cache."""
    expires = int(time.time()) + 60
    endpoint.keeper_url = output_url(nodes.url("n1"), KEY, "r", "t", 0, expires)
    endpoint.add_output("out")
    maker = nodes.node("n1", "maker")
    data = os.urandom(3_000_000)
    (maker.artifacts / "out").write_bytes(data)
    maker.task_ended()
    assert maker.publish(sees_cache=False).good
    assert endpoint.reports[0]["outputs"][0]["warm"] is True
    endpoint.outputs.clear()
    digest = hashlib.sha256(data).hexdigest()
    endpoint.add_input("in", "bucket/runs/r/t/0/pod/out", sha256=digest, bytes=len(data), headUrl=None)
    child = nodes.node("n1", "child")
    assert account(child.fetch()) == ("cache", "warm", "")
    assert child.read("in") == data
    assert store.count("GET", "bucket/runs/r/t/0/pod/out") == 0


@pytest.mark.parametrize("what", ["another attempt's", "expired", "nobody listens"])
def test_an_output_that_the_keeper_does_not_take_is_stored_all_the_same(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood, what: str
) -> None:
    now = int(time.time())
    url = output_url(nodes.url("n1"), KEY, "r", "t", 0, now + (-1 if what == "expired" else 60))
    if what == "another attempt's":
        url = url.replace("attempt=0", "attempt=1")
    if what == "nobody listens":
        nodes.doors["n1"].close()
    endpoint.keeper_url = url
    endpoint.add_output("out")
    maker = nodes.node("n1", "maker")
    maker.compress = False
    (maker.artifacts / "out").write_bytes(b"x" * 3_000_000)
    maker.task_ended()
    assert maker.publish(sees_cache=False).good
    assert endpoint.reports[0]["outputs"][0]["warm"] is False
    assert store.objects["bucket/runs/r/t/0/pod/out"] == b"x" * 3_000_000
    assert list((nodes.root / "n1/cache/tmp").iterdir()) == []


def test_an_upload_that_is_repeated_is_cached_whole(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood
) -> None:
    endpoint.keeper_url = output_url(nodes.url("n1"), KEY, "r", "t", 0, int(time.time()) + 60)
    endpoint.add_output("out")
    store.faults["bucket/runs/r/t/0/pod/out"] += [503, 503]
    maker = nodes.node("n1", "maker")
    (maker.artifacts / "out").write_bytes(b"again" * 300_000)
    maker.task_ended()
    assert maker.publish(sees_cache=False).good
    digest = endpoint.reports[0]["outputs"][0]["sha256"]
    assert endpoint.reports[0]["outputs"][0]["warm"] is True
    assert (nodes.root / "n1/cache/blobs/sha256" / digest[:2] / digest).read_bytes() == b"again" * 300_000
    wait_until(lambda: not list((nodes.root / "n1/cache/tmp").iterdir()), "nothing is left of the tries")


def test_a_hit_tells_what_it_saved(store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood) -> None:
    store.put("bucket/x", b"x" * 2_000_000)
    endpoint.add_input("x", "bucket/x")
    held = threading.Event()
    store.faults["bucket/x"].append(lambda: held.wait(0.2))
    endpoint.locate = None
    (missed,) = nodes.node("n1", "a").fetch()["inputs"]
    (hit,) = nodes.node("n1", "b").fetch()["inputs"]
    assert missed["ms"] >= 200
    assert missed["ms"] >= hit["savedMs"]
    assert hit["ms"] + hit["savedMs"] >= 200
    rate = Store(str(nodes.root / "n1/cache"), "c").bytes_per_second()
    assert rate is not None
    assert 2_000_000 / 60 < rate < 10_000_000


def test_an_empty_blob_is_given_like_any_other(nodes: Neighbourhood) -> None:
    """The connection stays good for the next one."""
    digest = hashlib.sha256(b"").hexdigest()
    cache = Store(str(nodes.root / "n1/cache"), "test")
    with cache.own_part(0) as (part, lock):
        cache.admit(part, lock, digest, 0, Origin("output", None))
    url = urlsplit(blob_url(nodes.url("n1"), KEY, digest, int(time.time()) + 60))
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    for _ in range(2):
        connection.request("GET", f"{url.path}?{url.query}")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_others_on_a_node_bear_that_it_waits_for_another_node(
    store: ObjectStore, endpoint: PodEndpoint, nodes: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a large blob takes, none of them goes around the cache meanwhile."""
    monkeypatch.setattr(agent.store, "LOCK_PATIENCE_SECONDS", 3.0)
    # Asked often: each time the others see that it goes on.
    monkeypatch.setattr(agent.neighbours, "Backoff", lambda first, _: Backoff(first, 0.2))
    store.put("bucket/x", b"x" * 100_000)
    endpoint.add_input("x", "bucket/x")
    half_way = threading.Event()
    store.faults["bucket/x"].append(("hold", half_way))
    found: dict[str, tuple[Any, ...]] = {}

    def fetch(name: str, job: str) -> None:
        found[job] = account(nodes.node(name, job).fetch())

    threads = [threading.Thread(target=fetch, args=(f"n{job[0]}", job)) for job in ("1-a", "2-a", "2-b")]
    threads[0].start()
    wait_until(lambda: store.count("GET", "bucket/x") == 1, "the first node brings it")
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: endpoint.asked.count("/v1/locate") >= 45, "the other node waits for longer than a lock is")
    half_way.set()
    for thread in threads:
        thread.join(60)
    assert found["1-a"][:2] == ("store", "never-here")
    assert sorted((found["2-a"][:2], found["2-b"][:2])) == [("cache", "coalesced"), ("peer", "never-here")]
    assert store.count("GET", "bucket/x") == 1
    assert list((nodes.root / "n2/cache/tmp").iterdir()) == []


def test_a_keeper_that_stops_gives_what_it_has_begun_and_begins_no_more(nodes: Neighbourhood) -> None:
    """Whoever is in the middle of a blob gets all of it; whoever comes later has the store."""
    content = os.urandom(BIG)
    digest = hashlib.sha256(content).hexdigest()
    store = Store(str(nodes.root / "n1" / "cache"), "keep")
    with store.own_part(BIG) as (part, lock):
        part.write_at(0, memoryview(content))
        store.admit(part, lock, digest, BIG, Origin("output", None))
    url = urlsplit(blob_url(nodes.url("n1"), KEY, digest, int(time.time()) + 60))
    reader = http.client.HTTPConnection("127.0.0.1", nodes.doors["n1"].port, timeout=20)
    reader.request("GET", f"{url.path}?{url.query}")
    answer = reader.getresponse()
    got = answer.read(1024)
    drained = threading.Thread(target=nodes.doors["n1"].drain, args=(20.0,))
    drained.start()
    wait_until(lambda: not _listens(nodes.doors["n1"].port), "the port is closed")
    assert drained.is_alive(), "it waits for the one who reads"
    got += answer.read()
    reader.close()
    drained.join(60)
    assert not drained.is_alive()
    assert hashlib.sha256(got).hexdigest() == digest


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_an_agent_tells_what_it_waits_for(tmp_path: Path) -> None:
    """Without a grant: kubelet's probe has none."""
    words = ["kubelet"]
    door = BlobServer(Store(str(tmp_path / "cache"), "keep"), KEY, "127.0.0.1", 0, lambda: words[0])
    door.start()

    def asked() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert asked() == (503, b"kubelet")
    words[0] = ""
    assert asked() == (200, b"")
    door.close()
