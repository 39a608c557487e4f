"""The nodes' caches on two real nodes: what goes and what stays, where bytes come from, and where tasks run.

Only on a cluster of the tests' own. Each test puts objects of its own into the store, so that none finds what another
has cached.
"""

import hashlib
import os
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from helios.keys import node_blobs, node_cache
from tests.cluster.dags import Task, dag, on, script
from tests.cluster.installed import Installed, Run
from tests.cluster.store_link import StoreLink
from tests.waiting import wait_until

MIB = 1024**2
NODES = ("node1", "node2")
OVERHEAD = 1.1
"""Headers of packets, and small requests beside the one that is counted."""
TASKS_NETWORK = "10.250.0.1"
"""Where pods reach what a test serves."""


@pytest.fixture(autouse=True)
def whole(helios: Installed) -> Iterator[None]:
    if helios.cluster.home is None:
        pytest.skip("this cluster is not ours to break")
    yield
    helios.wait_ready()
    keepers_speak(helios)


@pytest.fixture
def link(helios: Installed) -> Iterator[StoreLink]:
    found = StoreLink(helios)
    with found.counted():
        yield found


class Object:
    """An object of random bytes in the store."""

    def __init__(self, helios: Installed, folder: Path, size: int) -> None:
        self.size = size
        self.name = uuid.uuid4().hex
        content = random.Random(self.name).randbytes(size)
        self.sha256 = hashlib.sha256(content).hexdigest()
        file = folder / self.name
        file.write_bytes(content)
        self.uri = f"s3://cachetest/{self.name}"
        done = helios.helios("put", "--make-bucket", str(file), self.uri)
        assert done.returncode == 0, done.stderr
        file.unlink()

    @property
    def needed(self) -> dict[str, str]:
        """As an input."""
        return {"uri": self.uri, "as": self.name}


def reader(helios: Installed, name: str, *objects: Object, **more: Any) -> Task:
    """A task that succeeds if every byte of the objects is right."""
    checks = "\n".join(f"echo '{each.sha256}  {each.name}' | sha256sum -c" for each in objects)
    return script(helios, name, checks, inputs=[each.needed for each in objects], **more)


def inputs(run: Run, task: str) -> dict[str, dict[str, Any]]:
    """A task's inputs by their names."""
    return {each["name"]: each for each in task_of(run, task)["inputs"]}


def task_of(run: Run, task: str) -> dict[str, Any]:
    return next(each for each in run["tasks"] if each["name"] == task)


def told(helios: Installed, node: str) -> Mapping[str, int]:
    """What a node's keeper said last, its numbers only."""
    with helios.redis() as client:
        fields: dict[str, str] = client.hgetall(node_cache(node))  # pyright: ignore[reportAssignmentType] -- stubs
    return Counter({name: int(value) for name, value in fields.items() if value.isdecimal()})


def holds(helios: Installed, node: str, digest: str) -> bool:
    """Whether the inventory says so."""
    with helios.redis() as client:
        return client.hget(node_blobs(node), digest) is not None


def keepers_speak(helios: Installed) -> None:
    """Until the inventories are those of keepers that run now, and say where they listen."""

    def look() -> bool:
        with helios.redis() as client:
            return all(client.hget(node_cache(node), "url") for node in NODES)

    wait_until("both keepers are heard of", look, 60)


@contextmanager
def keepers_with(helios: Installed, **settings: str) -> Iterator[None]:
    """Keepers that are told these settings; afterwards as they were."""

    def tell(*assignments: str) -> None:
        helios.tasks.run("set", "env", "daemonset/helios-cache", "--containers=keep", *assignments)
        helios.rollout("daemonset/helios-cache", helios.tasks, 120)

    tell(*(f"{name}={value}" for name, value in settings.items()))
    try:
        keepers_speak(helios)
        yield
    finally:
        tell(*(f"{name}-" for name in settings))


@contextmanager
def gate() -> Iterator[tuple[str, threading.Event]]:
    """A shell command that waits until the event is set, for tasks to wait on the test."""
    opened = threading.Event()

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if opened.is_set() else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((TASKS_NETWORK, 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"until wget -q -O /dev/null http://{TASKS_NETWORK}:{server.server_port}/; do sleep 0.2; done", opened
    finally:
        opened.set()
        server.shutdown()
        server.server_close()


# The keeper.


@pytest.fixture(scope="module")
def strict_keepers(helios: Installed) -> Iterator[None]:
    """A small cache, looked after all the time, and read through as fast as it can be."""
    if helios.cluster.home is None:
        pytest.skip("this cluster is not ours to break")
    settings = {"HELIOS_CACHE_LIMIT_BYTES": str(40 * MIB), "HELIOS_KEEP_SECONDS": "1", "HELIOS_SCRUB_MB_PER_S": "100"}
    with keepers_with(helios, **settings):
        yield


def test_a_full_cache_lets_go_of_blobs_and_a_later_miss_says_so(
    helios: Installed, strict_keepers: None, tmp_path: Path
) -> None:
    before = told(helios, "node1")["evictedBlobs"]
    objects = [Object(helios, tmp_path, 16 * MIB) for _ in range(3)]
    for n, each in enumerate(objects):
        helios.succeed(dag("filling", reader(helios, f"read{n}", each, **on("node1"))))
    wait_until("one is evicted", lambda: told(helios, "node1")["evictedBlobs"] > before, 30)
    wait_until("the inventory lost one", lambda: sum(holds(helios, "node1", each.sha256) for each in objects) < 3)
    assert told(helios, "node1")["bytes"] <= 40 * MIB
    again = helios.succeed(dag("filling", reader(helios, "again", *objects[:2], **on("node1"))))
    causes = {name: each["cause"] for name, each in inputs(again, "again").items()}
    assert "evicted" in causes.values(), causes
    gone = next(each for each in inputs(again, "again").values() if each["cause"] == "evicted")
    assert "to make room" in gone["detail"]


def test_a_blob_that_a_waiting_task_needs_is_kept_though_it_is_the_oldest(
    helios: Installed, strict_keepers: None, tmp_path: Path
) -> None:
    needed, *others = [Object(helios, tmp_path, 12 * MIB) for _ in range(5)]
    helios.succeed(dag("first", reader(helios, "read", needed, **on("node1"))))
    with gate() as (wait, opened):
        waiting = reader(helios, "later", needed, depends_on=["blocker"], **on("node1"))
        run = helios.submit(dag("later", script(helios, "blocker", wait, **on("node2")), waiting))
        helios.at_work(run, 1)
        before = told(helios, "node1")["evictedBlobs"]
        for n, each in enumerate(others):
            helios.succeed(dag("filling", reader(helios, f"read{n}", each, **on("node1"))))
        wait_until("others are evicted", lambda: told(helios, "node1")["evictedBlobs"] > before, 30)
        opened.set()
        found = helios.end_of(run)
    assert inputs(found, "later")[needed.name]["cause"] == "cached"


def test_a_blob_that_rotted_is_found_by_the_keeper_and_brought_again(
    helios: Installed, strict_keepers: None, tmp_path: Path
) -> None:
    """Size and times are as they were, so that only reading it shows it."""
    each = Object(helios, tmp_path, 8 * MIB)
    helios.succeed(dag("rot", reader(helios, "read", each, **on("node2"))))
    file = helios.cache_folder("node2") / "blobs" / "sha256" / each.sha256[:2] / each.sha256
    times = file.stat()
    before = told(helios, "node2")["corruptBlobs"]
    with file.open("r+b") as blob:
        blob.seek(4 * MIB)
        byte = blob.read(1)
        blob.seek(4 * MIB)
        blob.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    wait_until("the keeper found it", lambda: told(helios, "node2")["corruptBlobs"] > before, 60)
    assert not file.exists()
    again = helios.succeed(dag("rot", reader(helios, "again", each, **on("node2"))))
    assert inputs(again, "again")[each.name]["cause"] == "corrupt"


# Warming and affinity.


def producer(helios: Installed, size: int, node: str) -> Task:
    return script(helios, "make", f"head -c {size} /dev/urandom > data", outputs=["data"], **on(node))


DATA = {"fromTask": "make", "name": "data"}


def consumer(helios: Installed, name: str, size: int, **more: Any) -> Task:
    return script(helios, name, f'test "$(wc -c < data)" = {size}', inputs=[DATA], **more)


@pytest.mark.parametrize("node", NODES)
def test_a_child_on_its_producers_node_hits_on_the_very_first_run(
    helios: Installed, link: StoreLink, node: str
) -> None:
    size = 32 * MIB
    before = link.sent()[node]
    run = helios.succeed(dag("warm", producer(helios, size, node), consumer(helios, "use", size, **on(node))))
    found = inputs(run, "use")["data"]
    assert (found["cause"], found["source"], found["bytes"]) == ("warm", "cache", size)
    assert run["cacheMissBytes"] == 0
    assert link.sent()[node] - before < size / 10


@pytest.mark.parametrize("node", NODES)
def test_children_run_where_their_input_was_made(helios: Installed, link: StoreLink, node: str) -> None:
    """Three that nothing else holds anywhere: by chance all three would be there one time in eight."""
    size = 64 * MIB
    children = [consumer(helios, f"use{n}", size) for n in range(3)]
    before = link.sent()[node]
    run = helios.succeed(dag("near", producer(helios, size, node), *children))
    assert {task["node"] for task in run["tasks"]} == {node}
    assert run["cacheMissBytes"] == 0
    assert link.sent()[node] - before < size / 10


def test_a_wide_fan_out_uses_both_nodes(helios: Installed) -> None:
    size, width = 32 * MIB, 20
    children = [consumer(helios, f"use{n}", size) for n in range(width)]
    run = helios.succeed(dag("wide", producer(helios, size, "node1"), *children))
    where = Counter(task["node"] for task in run["tasks"][1:])
    assert width * 0.2 <= where["node1"] <= width * 0.8, where


def test_a_nodes_selector_is_obeyed_whatever_the_input_would_prefer(helios: Installed) -> None:
    size = 32 * MIB
    helios.services.run("label", "node", "node2", "helios.test/only=here", "--overwrite")
    try:
        use = consumer(helios, "use", size, nodeSelector={"helios.test/only": "here"})
        run = helios.succeed(dag("held", producer(helios, size, "node1"), use))
    finally:
        helios.services.run("label", "node", "node2", "helios.test/only-")
    assert task_of(run, "use")["node"] == "node2"


# Peers.


def test_a_second_node_takes_a_blob_from_the_first_and_the_store_serves_it_once(
    helios: Installed, link: StoreLink, tmp_path: Path
) -> None:
    each = Object(helios, tmp_path, 32 * MIB)
    before = link.sent()
    first = helios.succeed(dag("peers", reader(helios, "first", each, **on("node2"))))
    second = helios.succeed(dag("peers", reader(helios, "second", each, **on("node1"))))
    assert inputs(first, "first")[each.name]["source"] == "store"
    found = inputs(second, "second")[each.name]
    assert (found["source"], found["cause"]) == ("peer", "never-here")
    sent = {node: after - before[node] for node, after in link.sent().items()}
    assert each.size <= sent["node2"] <= each.size * OVERHEAD
    assert sent["node1"] < each.size / 10


def test_tasks_that_start_together_on_both_nodes_take_a_blob_from_the_store_once(
    helios: Installed, link: StoreLink, tmp_path: Path
) -> None:
    each = Object(helios, tmp_path, 64 * MIB)
    before = sum(link.sent().values())
    readers = [reader(helios, f"read{n}", each, **on(NODES[n % 2])) for n in range(6)]
    run = helios.succeed(dag("together", *readers))
    sources = Counter(inputs(run, f"read{n}")[each.name]["source"] for n in range(6))
    assert sources["store"] == 1, sources
    assert sum(link.sent().values()) - before <= each.size * OVERHEAD


def test_a_keeper_that_does_not_answer_costs_no_task(helios: Installed, tmp_path: Path) -> None:
    """It is stopped, not gone: connections to it are taken by the kernel and stay silent, which is the worst."""
    each = Object(helios, tmp_path, 16 * MIB)
    helios.succeed(dag("silent", reader(helios, "first", each, **on("node2"))))
    wait_until("the inventory has it", lambda: holds(helios, "node2", each.sha256))
    keeper = helios.pid(helios.keeper("node2"))
    os.kill(keeper, signal.SIGSTOP)
    try:
        run = helios.succeed(dag("silent", reader(helios, "second", each, **on("node1"))), deadline_seconds=60)
    finally:
        os.kill(keeper, signal.SIGCONT)
    found = inputs(run, "second")[each.name]
    assert found["source"] == "store"
    assert task_of(run, "second")["attempt"] == 1


# Seeding.


def test_a_node_that_joins_brings_what_waiting_tasks_need_before_they_run(
    helios: Installed, link: StoreLink, tmp_path: Path
) -> None:
    each = Object(helios, tmp_path, 24 * MIB)
    helios.succeed(dag("known", reader(helios, "first", each, **on("node1"))))
    with gate() as (wait, opened):
        later = reader(helios, "later", each, depends_on=["blocker"], **on("node2"))
        run = helios.submit(dag("joining", script(helios, "blocker", wait, **on("node1")), later))
        helios.at_work(run, 1)
        before, sent = told(helios, "node2")["seededBytes"], link.sent()["node2"]
        rejoin(helios, "node2")
        wait_until("the node brought it", lambda: holds(helios, "node2", each.sha256), 90)
        opened.set()
        found = helios.end_of(run)
    assert inputs(found, "later")[each.name]["cause"] in ("cached", "warm")
    assert told(helios, "node2")["seededBytes"] - before >= each.size
    assert link.sent()["node2"] - sent < each.size / 10


def rejoin(helios: Installed, node: str) -> None:
    """As a new node would: its keeper starts anew and finds an empty folder."""
    pod = helios.keeper(node)
    for path in helios.cache_folder(node).iterdir():
        path.rename(path.with_name(f"before-{path.name}"))
    helios.tasks.delete("pod", pod["metadata"]["name"])
    helios.rollout("daemonset/helios-cache", helios.tasks, 120)
