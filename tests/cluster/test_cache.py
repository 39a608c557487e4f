"""The nodes' caches on two real nodes: where bytes come from, and where tasks run.

Only on a cluster of the tests' own. Each test puts objects of its own into the store, so that none finds what another
has cached.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.caches import (
    MIB,
    NODES,
    Object,
    gate,
    holds,
    inputs,
    keepers_speak,
    new_keeper,
    reader,
    task_of,
    told,
)
from tests.cluster.dags import Task, dag, on, script
from tests.cluster.installed import TASKS, Installed
from tests.cluster.kubectl import Kubectl
from tests.cluster.store_link import StoreLink
from tests.waiting import wait_until

OVERHEAD = 1.1
"""Headers of packets, and small requests beside the one that is counted."""


@pytest.fixture(autouse=True)
def whole(helios: Installed) -> Iterator[None]:
    if helios.cluster.home is None:
        pytest.skip("this cluster is not ours to break")
    keepers_speak(helios)
    yield
    helios.wait_ready()


@pytest.fixture
def link(helios: Installed) -> Iterator[StoreLink]:
    found = StoreLink(helios)
    with found.counted():
        yield found


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
    wait_until("the inventory has it", lambda: holds(helios, "node2", each.sha256), 90)
    keeper = helios.pid(helios.keeper("node2"))
    os.kill(keeper, signal.SIGSTOP)
    try:
        run = helios.succeed(dag("silent", reader(helios, "second", each, **on("node1"))))
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
        new_keeper(helios, "node2", with_empty_cache=True)
        wait_until("the node brought it", lambda: holds(helios, "node2", each.sha256), 90)
        opened.set()
        found = helios.end_of(run)
    assert inputs(found, "later")[each.name]["cause"] in ("cached", "warm")
    wait_until("that is told", lambda: told(helios, "node2")["seededBytes"] - before >= each.size, 90)
    assert link.sent()["node2"] - sent < each.size / 10


# Isolation.


@contextmanager
def isolated(helios: Installed) -> Iterator[None]:
    """k8s/overlays/isolated over what is installed; afterwards as it was."""

    def settle() -> None:
        helios.wait_ready()
        helios.wait_agents()
        keepers_speak(helios)

    Kubectl(None).run("apply", "--kustomize", str(helios.folder / "overlays" / "isolated"), seconds=120)
    settle()
    try:
        yield
    finally:
        helios.apply()
        settle()


def test_a_namespace_with_a_cache_of_its_own_finds_nothing_that_is_in_the_shared_one(
    helios: Installed, tmp_path: Path
) -> None:
    """Else how soon its task starts would tell what another tenant has read."""
    if helios.form != "init":
        pytest.skip("overlays/isolated is of the pods that mount the cache themselves")
    each = Object(helios, tmp_path, 8 * MIB)

    def read() -> tuple[str, str]:
        found = inputs(helios.succeed(dag("tenant", reader(helios, "read", each, **on("node1")))), "read")[each.name]
        return found["cause"], found["source"]

    assert read() == ("never-here", "store")
    assert read() == ("cached", "cache")
    with isolated(helios):
        assert read() == ("never-here", "store")
        assert read() == ("cached", "cache")
        own = helios.cache_folder("node1") / "namespaces" / TASKS / "blobs" / "sha256" / each.sha256[:2]
        assert [path.name for path in own.iterdir()] == [each.sha256]
    assert read() == ("cached", "cache")
