"""The cache serves whole, checked blobs or says why not, also across crashes, full disks, evictions and many fetchers
at once.
"""

import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import store as module
from agent.stamp import Seal, durable_ns, pending_ns, read_seal
from agent.store import Store

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(
    digest=digests, other=digests, boot=st.uuids().map(str), elsewhere=st.uuids().map(str), stray=st.integers(0, 2**62)
)
def test_a_seal_is_good_only_for_its_digest_and_its_boot(
    digest: str, other: str, boot: str, elsewhere: str, stray: int
) -> None:
    assert read_seal(durable_ns(digest), digest, boot) is Seal.DURABLE
    assert read_seal(pending_ns(digest, boot), digest, boot) is Seal.PENDING
    if boot != elsewhere:
        assert read_seal(pending_ns(digest, boot), digest, elsewhere) is Seal.PENDING_ELSEWHERE
        assert read_seal(pending_ns(digest, boot), digest, None) is Seal.PENDING_ELSEWHERE
    if other != digest:
        assert read_seal(durable_ns(other), digest, boot) not in (Seal.DURABLE, Seal.PENDING)
    assert read_seal(stray, digest, boot) in (Seal.BROKEN, Seal.PENDING_ELSEWHERE)


def outcomes(manifest: dict[str, Any]) -> list[str]:
    return [item["cause"] for item in manifest["inputs"]]


def test_a_blob_pending_since_before_a_power_loss_is_read_through_before_it_is_used(
    store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes it safe not to wait for the disk: a hole that the crash left is found, a whole blob is kept and sealed
    for good.
    """
    whole, holed = store.put("bucket/whole", b"w" * 9000), store.put("bucket/holed", b"h" * 9000)
    endpoint.add_input("whole", "bucket/whole")
    endpoint.add_input("holed", "bucket/holed")
    before = make_node("before")
    before.fetch()
    blob = before.blob(holed)
    seal = blob.stat().st_mtime_ns
    blob.chmod(0o644)
    blob.write_bytes(b"h" * 4096 + bytes(9000 - 4096))
    os.utime(blob, ns=(seal, seal))
    monkeypatch.setattr(module, "boot_id", lambda: "another-boot")
    after = make_node("after")
    assert outcomes(after.fetch()) == ["cached", "corrupt"]
    assert after.read("holed") == b"h" * 9000
    assert after.blob(whole).stat().st_mtime_ns == durable_ns(whole)


def test_without_a_boot_id_every_blob_is_synced_and_sealed_durable(
    store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "boot_id", lambda: None)
    digest = store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.fetch()
    assert node.blob(digest).stat().st_mtime_ns == durable_ns(digest)
    assert outcomes(make_node("b").fetch()) == ["cached"]


def test_settling_seals_a_pending_blob_durable_and_never_a_touched_one(
    store: Any, endpoint: Any, make_node: Any
) -> None:
    digest = store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.fetch()
    cache = Store(str(node.cache), "a")
    assert cache.settle(digest)
    assert not cache.settle(digest)
    assert outcomes(make_node("b").fetch()) == ["cached"]
    os.utime(node.blob(digest))
    assert not cache.settle(digest)
    assert outcomes(make_node("c").fetch()) == ["corrupt"]


def test_a_full_cache_disk_is_bypassed(
    store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 25, ENOSPC: a miss with the cause cache-fault, and every byte correct."""
    store.put("bucket/x", b"x" * 5000)
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    real = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        if "/cache/tmp/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert outcomes(node.fetch()) == ["cache-fault"]
    assert node.read("x") == b"x" * 5000
    assert list((node.cache / "tmp").iterdir()) == []
    assert any("No space left on device" in line for line in node.lines)
    monkeypatch.undo()
    assert outcomes(make_node("b").fetch()) == ["never-here"]


def test_a_full_artifacts_folder_fails_with_its_name(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("bucket/x", b"x" * 5000)
    endpoint.add_input("x", "bucket/x")

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    manifest = node.fetch()
    assert manifest["error"] == "input 'x': writing to the artifacts folder: No space left on device"


def test_a_download_that_would_fill_the_disk_is_not_begun(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 2**60)
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    assert outcomes(node.fetch()) == ["cache-fault"]
    assert store.count("GET", "bucket/x") == 1


def test_a_holder_that_makes_no_progress_is_bypassed(
    store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_PATIENCE_SECONDS", 0.1)
    digest = store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x", sha256=digest, bytes=1, headUrl=None)
    node = make_node("a")
    cache = Store(str(node.cache), "holder")
    cache.prepare()
    with cache.single_flight(f"content\n{digest}"):
        assert outcomes(node.fetch()) == ["cache-fault"]
    assert node.read("x") == b"x"
    assert any("made no progress" in line for line in node.lines)


def fetch_at_once(nodes: list[Any]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(lambda node: node.fetch(), nodes))


def test_fifty_fetchers_of_one_blob_download_it_once(
    store: Any, endpoint: Any, make_node: Any, wait_until: Any
) -> None:
    """FAULTS 25: the download is held until all are there, so that the others really wait for it."""
    data = os.urandom(200_000)
    store.put("bucket/x", data)
    everybody = threading.Event()
    store.faults["bucket/x"] = [("hold", everybody)]
    endpoint.add_input("x", "bucket/x")
    nodes = [make_node(f"job-{number}") for number in range(50)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch_at_once, nodes)
        wait_until(lambda: store.count("HEAD", "bucket/x") == 50, "all fetchers have looked")
        everybody.set()
        found = sorted(outcomes(manifest)[0] for manifest in running.result(60))
    assert found.count("never-here") == 1
    assert set(found) <= {"never-here", "coalesced", "cached"}
    assert store.count("GET", "bucket/x") == 1
    assert all(node.read("x") == data for node in nodes)
    assert list((nodes[0].cache / "tmp").iterdir()) == []


def test_when_the_holder_is_killed_one_of_the_waiting_takes_over(
    store: Any, endpoint: Any, make_node: Any, wait_until: Any
) -> None:
    data = os.urandom(200_000)
    digest = store.put("bucket/x", data)
    never = threading.Event()
    store.faults["bucket/x"] = [("hold", never)]
    endpoint.add_input("x", "bucket/x", sha256=digest, bytes=len(data), headUrl=None)
    holder = make_node("holder").start("fetch")
    wait_until(lambda: store.count("GET", "bucket/x") == 1, "the holder downloads")
    nodes = [make_node(f"job-{number}") for number in range(12)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch_at_once, nodes)
        wait_until(lambda: endpoint.asked.count("/v1/plan") == 13, "all waiters have their plan")
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        found = [outcomes(manifest)[0] for manifest in running.result(60)]
    never.set()
    assert found.count("never-here") == 1
    assert store.count("GET", "bucket/x") == 2
    assert all(node.read("x") == data for node in nodes)


def test_an_eviction_at_any_moment_costs_a_download_and_never_a_byte(store: Any, endpoint: Any, make_node: Any) -> None:
    data = os.urandom(50_000)
    digest = store.put("bucket/x", data)
    endpoint.add_input("x", "bucket/x")
    nodes = [make_node(f"job-{number}") for number in range(40)]
    stop = threading.Event()

    def evict() -> None:
        while not stop.is_set():
            nodes[0].blob(digest).unlink(missing_ok=True)

    evictor = threading.Thread(target=evict)
    evictor.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            manifests = list(pool.map(lambda node: node.fetch(), nodes))
    finally:
        stop.set()
        evictor.join()
    assert all(manifest["ok"] for manifest in manifests)
    assert {outcomes(manifest)[0] for manifest in manifests} <= {"never-here", "evicted", "cached", "coalesced"}
    assert all(node.read("x") == data for node in nodes)


def test_a_ref_that_a_crash_left_empty_is_no_ref(store: Any, endpoint: Any, make_node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.fetch()
    for ref in (node.cache / "refs").iterdir():
        ref.write_bytes(b"")
    assert outcomes(make_node("b").fetch()) == ["never-here"]


def test_dropping_a_view_frees_its_blobs_and_nothing_else(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/x", b"x")
    endpoint.add_input("deep/down/x", "bucket/x")
    first, second = make_node("a"), make_node("b")
    first.fetch()
    second.fetch()
    assert first.blob(digest).stat().st_nlink == 3
    Store(str(first.cache), "a").drop_view()
    assert first.blob(digest).stat().st_nlink == 2
    assert second.read("deep/down/x") == b"x"


def test_the_folders_are_as_private_as_they_can_be(store: Any, endpoint: Any, node: Any, tmp_path: Path) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node.fetch()
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in node.cache.iterdir()}
    assert modes == {
        "blobs": "700",
        "refs": "700",
        "locks": "700",
        "tmp": "700",
        "quarantine": "700",
        "views": "755",
    }
