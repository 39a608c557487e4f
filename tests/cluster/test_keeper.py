"""The keeper on two real nodes: what a full cache lets go of and what not, and blobs that rot."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.caches import MIB, Object, gate, holds, inputs, keepers_with, new_keeper, reader, told
from tests.cluster.dags import dag, on, script
from tests.cluster.installed import Installed
from tests.waiting import wait_until


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
    # Blobs of tasks that were over between two looks count as in use until the collector was asked.
    wait_until("one is evicted", lambda: told(helios, "node1")["evictedBlobs"] > before, 90)
    wait_until("the inventory lost one", lambda: any(not holds(helios, "node1", each.sha256) for each in objects), 90)
    wait_until("the limit is kept", lambda: told(helios, "node1")["bytes"] <= 40 * MIB, 90)
    # Which one goes is the keeper's choice: it weighs size, price and time since use, and these are nearly equal.
    lost = next(each for each in objects if not holds(helios, "node1", each.sha256))
    again = helios.succeed(dag("filling", reader(helios, "again", lost, **on("node1"))))
    gone = inputs(again, "again")[lost.name]
    assert gone["cause"] == "evicted", gone
    assert "to make room" in gone["detail"]


def test_a_blob_that_a_waiting_task_needs_is_kept_though_it_is_the_oldest(
    helios: Installed, strict_keepers: None, tmp_path: Path
) -> None:
    needed, *others = [Object(helios, tmp_path, 12 * MIB) for _ in range(5)]
    with gate() as (wait, opened):
        waiting = reader(helios, "later", needed, depends_on=["blocker"], **on("node1"))
        run = helios.submit(dag("later", script(helios, "blocker", wait, **on("node2")), waiting))
        helios.at_work(run, 1)
        # Only now: of a cache that is full already it might go before anybody needs it.
        helios.succeed(dag("first", reader(helios, "read", needed, **on("node1"))))
        before = told(helios, "node1")["evictedBlobs"]
        for n, each in enumerate(others):
            helios.succeed(dag("filling", reader(helios, f"read{n}", each, **on("node1"))))
        wait_until("others are evicted", lambda: told(helios, "node1")["evictedBlobs"] > before, 90)
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
    new_keeper(helios, "node2")  # which begins to read at once; one that has read all rests for an hour
    wait_until("the keeper found it", lambda: told(helios, "node2")["corruptBlobs"] > before, 120)
    assert not file.exists()
    again = helios.succeed(dag("rot", reader(helios, "again", each, **on("node2"))))
    assert inputs(again, "again")[each.name]["cause"] == "corrupt"
