"""Fetchers, the keeper, full disks, damage and kill -9 at the same time: every byte that a task reads is correct."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agent.store
from agent.keep import Keeper, keep
from agent.settings import KeepSettings, keep_settings
from agent.store import Store
from tests.agent.blobs import blob_file, digest_of, held, prepared, put_blob, read_ref
from tests.agent.conftest import AGENT, Node

QUICK_SCRUB = {"HELIOS_SCRUB_MB_PER_S": "1000000"}
"""The whole cache in one step."""


def kept(cache: Path, **env: str) -> KeepSettings:
    return keep_settings(
        {"HELIOS_CACHE_DIR": str(cache), "HELIOS_NODE": "n", "HELIOS_CACHE_FREE_BYTES": "0", **QUICK_SCRUB, **env}
    )


def tamper(file: Path) -> None:
    """Another byte at equal size, time and mode: what no stat can see."""
    seal = file.stat().st_mtime_ns
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    file.chmod(0o444)
    os.utime(file, ns=(seal, seal))


def truncate(file: Path) -> None:
    seal = file.stat().st_mtime_ns
    os.chmod(file, 0o644)
    os.truncate(file, file.stat().st_size - 1)
    os.utime(file, ns=(seal, seal))


def whole_blobs(cache: Path) -> set[str]:
    return {digest for digest in held(cache) if digest_of(blob_file(cache, digest).read_bytes()) == digest}


def test_a_blob_that_scrub_set_apart_is_fetched_again_as_corrupt(
    store: Any, endpoint: Any, make_node: Any, tmp_path: Path
) -> None:
    """FAULTS 24: tampered with at equal size, seen by scrub before any task."""
    digest = store.put("bucket/x", b"content")
    endpoint.add_input("x", "bucket/x")
    make_node("job-1").fetch()
    cache = tmp_path / "cache"
    Store(str(cache), "job-1").drop_view()
    tamper(blob_file(cache, digest))
    keeper = Keeper(kept(cache))
    keeper.round()
    assert list(keeper.deltas.snapshot()) == []
    assert keeper.inventory()["corruptBlobs"] == 1
    node = make_node("job-2")
    assert node.fetch()["inputs"][0]["cause"] == "corrupt"
    assert node.read("x") == b"content"
    blob_file(cache, digest).unlink()
    assert make_node("job-3").fetch()["inputs"][0]["cause"] == "evicted", "what is whole again is corrupt no more"


# kill -9 of the keeper at each call that can change anything.

CALLS = (
    "chmod",
    "link",
    "open",
    "preadv",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "unlink",
    "utime",
    "write",
)


def is_killed_at(number: int, work: Callable[[], None]) -> bool:
    """Does the work in a child that dies at its n-th such call; False if it came to its end before that."""
    child = os.fork()
    if not child:
        code = 1
        try:
            die_at(number)
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def die_at(number: int) -> None:
    left = itertools.count(number, -1)

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))


def busy_cache(cache: Path) -> dict[str, bytes]:
    """A cache in which a keeper finds everything to do: evict, set apart, remove views, wishes and leftovers."""
    prepared(cache)
    contents = {put_blob(cache, data, ms=each): data for each in range(1, 9) if (data := b"%d" % each * 50)}
    for digest in sorted(contents)[:2]:
        tamper(blob_file(cache, digest))
    (cache / "views" / "job-old").mkdir()
    os.link(blob_file(cache, sorted(contents)[2]), cache / "views" / "job-old" / "x")
    os.utime(cache / "views" / "job-old", (1, 1))
    (cache / "quarantine" / "damaged").write_bytes(b"x")
    (cache / "room").write_text(json.dumps({"bytes": 1}))
    return contents


def test_a_keeper_that_is_killed_at_any_call_leaves_a_cache_that_the_next_one_keeps(tmp_path: Path) -> None:
    for number in itertools.count(1):
        cache = tmp_path / str(number)
        contents = busy_cache(cache)
        limits = kept(cache, HELIOS_CACHE_LIMIT_BYTES="200")

        def work(limits: KeepSettings = limits) -> None:
            keeper = Keeper(limits)
            keeper.prepare()
            keeper.round()

        killed = is_killed_at(number, work)
        assert held(cache) <= contents.keys()
        assert len(held(cache)) - len(whole_blobs(cache)) <= 2, "a whole blob is no more"
        for ref in (cache / "refs").iterdir():
            assert json.loads(ref.read_bytes())["sha256"] in contents
        keeper = Keeper(limits)
        keeper.prepare()
        keeper.round()
        found = keeper.inventory()
        assert found["faults"] == 0
        assert isinstance(found["bytes"], int)
        assert found["bytes"] <= 190
        assert held(cache) == whole_blobs(cache) == {digest for digest, _ in keeper.deltas.snapshot()}
        for digest in contents.keys() - held(cache):
            gone = read_ref(cache, digest)
            set_apart = list((cache / "quarantine").glob(f"{digest}.*"))
            assert "evictedAt" in gone or "corruptAt" in gone or set_apart
        shutil.rmtree(cache)
        if not killed:
            assert number > 60, "hardly anything was done"
            return


# Everything at once.


def keeper_process(cache: Path, limit: int) -> "subprocess.Popen[bytes]":
    env = {
        "HELIOS_CACHE_DIR": str(cache),
        "HELIOS_NODE": "n",
        "HELIOS_KEEP_SECONDS": "0.02",
        "HELIOS_REPORT_SECONDS": "0.1",
        "HELIOS_CACHE_LIMIT_BYTES": str(limit),
        "HELIOS_CACHE_LOW": "0.3",
        "HELIOS_CACHE_FREE_BYTES": "0",
        **QUICK_SCRUB,
    }
    return subprocess.Popen([sys.executable, "-I", "-S", str(AGENT), "keep"], env=env, stdout=subprocess.DEVNULL)


def kill_after(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Its exit code if it ends by itself within that time; else it is killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@pytest.mark.parametrize("seed", range(3))
def test_fetchers_and_keepers_that_are_killed_all_the_time_never_give_a_task_a_wrong_byte(
    seed: int, store: Any, endpoint: Any, make_node: Any, tmp_path: Path
) -> None:
    """FAULTS 25: with a limit that holds a third of what the tasks read, so that blobs go while others come."""
    chance = random.Random(seed)
    contents = {f"in-{each}": chance.randbytes(chance.randrange(1, 60_000)) for each in range(10)}
    for name, data in contents.items():
        digest = store.put(f"bucket/{name}", data)
        known = {"sha256": digest, "bytes": len(data), "headUrl": None} if chance.random() < 0.5 else {}
        endpoint.add_input(name, f"bucket/{name}", **known)
    cache = prepared(tmp_path / "cache")
    limit = sum(len(data) for data in contents.values()) // 3
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            kill_after(keeper_process(cache, limit), random.uniform(0.05, 0.5))

    def work(job: int) -> int:
        node = make_node(f"job-{job}")
        patience = (60.0, 0.05, 60.0, 0.1, 0.2)[job % 5]
        code = kill_after(node.start("fetch", stdout=subprocess.DEVNULL), patience)
        if code == 0:
            assert {name: node.read(name) for name in contents} == contents
        else:
            assert code == -signal.SIGKILL
        Store(str(cache), node.job).drop_view()
        return code

    keeping = threading.Thread(target=keep)
    keeping.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            codes = list(pool.map(work, range(16)))
    finally:
        over.set()
        keeping.join()
    assert 0 in codes
    keeper = Keeper(kept(cache, HELIOS_CACHE_LIMIT_BYTES=str(limit)))
    keeper.round()
    found = keeper.inventory()
    assert (found["faults"], found["corruptBlobs"]) == (0, 0)
    assert isinstance(found["bytes"], int)
    assert found["bytes"] <= 0.95 * limit
    assert held(cache) == whole_blobs(cache)
    assert list((cache / "tmp").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The cache on a file system of one megabyte."""
    cache = tmp_path / "cache"
    cache.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=2000", "helios-test", str(cache)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield cache
    subprocess.run(["umount", "--lazy", str(cache)], check=True)


def test_on_a_disk_that_is_really_full_every_byte_is_correct(
    small_disk: Path, store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 25, ENOSPC: some inputs go around the cache, some find room that the keeper made."""
    monkeypatch.setattr(agent.store, "SPARE_BYTES", 0)
    prepared(small_disk)
    contents = {f"in-{each}": os.urandom(150_000) for each in range(12)}
    for name, data in contents.items():
        digest = store.put(f"bucket/{name}", data)
        endpoint.add_input(name, f"bucket/{name}", sha256=digest, bytes=len(data), headUrl=None)
    nodes = [make_node(f"job-{each}") for each in range(6)]
    over = threading.Event()

    def keep() -> None:
        keeper = Keeper(kept(small_disk, HELIOS_CACHE_FREE_BYTES="200000"))
        while not over.wait(0.01):
            keeper.round()

    def work(node: Any) -> set[str]:
        manifest = node.fetch()
        assert manifest["ok"], manifest
        assert {name: node.read(name) for name in contents} == contents
        Store(str(small_disk), node.job).drop_view()
        return {item["cause"] for item in manifest["inputs"]}

    keeping = threading.Thread(target=keep)
    keeping.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            causes = set[str]().union(*pool.map(work, nodes))
    finally:
        over.set()
        keeping.join()
    assert "cache-fault" in causes
    assert causes <= {"cache-fault", "never-here", "evicted", "cached", "coalesced"}
    assert held(small_disk) == whole_blobs(small_disk)
    Keeper(kept(small_disk, HELIOS_CACHE_FREE_BYTES="200000")).round()
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize >= 200_000


def test_a_keeper_that_is_started_on_a_disk_on_which_nothing_can_be_made_evicts(small_disk: Path) -> None:
    """Not even the folder and the lock that it makes at every start."""
    prepared(small_disk)
    used, idle = put_blob(small_disk, b"used"), put_blob(small_disk, b"idle" * 1000)
    os.link(blob_file(small_disk, used), small_disk / "views" / "task's")
    with pytest.raises(OSError, match="No space"):
        for number in itertools.count():
            (small_disk / "tmp" / f"filler-{number}").touch()
    disk = os.statvfs(small_disk)
    floor = disk.f_bavail * disk.f_frsize + 1
    keep(kept(small_disk, HELIOS_CACHE_FREE_BYTES=str(floor)), lambda _line: None, lambda _seconds: False)
    assert held(small_disk) == {used}
    assert "evictedAt" in read_ref(small_disk, idle)


NAMES = tuple(f"in-{each}" for each in range(4))
STEPS = st.one_of(
    st.tuples(st.just("fetch"), st.sampled_from(("a", "b", "c")), st.sets(st.sampled_from(NAMES), min_size=1)),
    st.tuples(st.just("end"), st.sampled_from(("a", "b", "c")), st.none()),
    st.tuples(st.just("keep"), st.integers(0, 4), st.none()),
    st.tuples(st.just("tamper"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("truncate"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("touch"), st.sampled_from(NAMES), st.none()),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(STEPS, max_size=14))
def test_whatever_happens_to_a_cache_what_a_fetch_brings_is_right(
    steps: list[tuple[str, Any, Any]], store: Any, endpoint: Any
) -> None:
    """Fetches, ends of tasks, keepers with other limits, and damage in any order. Only what was tampered with at equal
    size and not scrubbed since may deceive a fetch (`verify: always` is for that)."""
    contents = {name: name.encode() * 100 for name in NAMES}
    digests = {name: store.put(f"bucket/{name}", data) for name, data in contents.items()}
    with tempfile.TemporaryDirectory() as folder:
        cache = prepared(Path(folder) / "cache")
        tampered: set[str] = set()
        for what, which, more in steps:
            if what == "fetch":
                endpoint.inputs = []
                for name in sorted(more):
                    endpoint.add_input(name, f"bucket/{name}")
                shutil.rmtree(Path(folder) / which, ignore_errors=True)
                node = Node(Path(folder) / which, endpoint, cache, f"job-{which}")
                tampered = {name for name in tampered if blob_file(cache, digests[name]).exists()}
                manifest = node.fetch()
                assert manifest["ok"]
                for item in manifest["inputs"]:
                    if item["name"] not in tampered:
                        assert node.read(item["name"]) == contents[item["name"]]
            elif what == "end":
                Store(str(cache), f"job-{which}").drop_view()
            elif what == "keep":
                limit = str(which * 500)
                keeper = Keeper(kept(cache, HELIOS_CACHE_LIMIT_BYTES=limit))
                keeper.round()
                assert keeper.inventory()["faults"] == 0
                assert held(cache) == whole_blobs(cache)
                used = {
                    name
                    for name in NAMES
                    if (file := blob_file(cache, digests[name])).exists() and file.stat().st_nlink > 1
                }
                if which:
                    assert len(held(cache)) <= max(len(used), int(0.95 * which * 500) // 400)
                tampered = set()
            elif blob_file(cache, digests[which]).exists():
                file = blob_file(cache, digests[which])
                if what == "tamper":
                    tamper(file)
                    tampered ^= {which}
                elif what == "truncate":
                    truncate(file)
                else:
                    os.utime(file)
