"""The keeper settles what fetch left pending, removes what belongs to nobody any more, and says what the node holds."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import agent.store
from agent.keep import Keeper, keep
from agent.settings import KeepSettings, SettingsError, keep_settings
from agent.stamp import durable_ns
from agent.store import CacheFault, Store
from tests.agent.blobs import put_blob
from tests.agent.conftest import AGENT, wait_until
from tests.agent.wrappers import StaticWrapper

HOUR = 3600
AGENT_USER = 65532


def settings(cache: Path, **env: str) -> KeepSettings:
    """As a keeper has them by default, with a view that is old after a day, and a disk that has enough room."""
    return keep_settings(
        {
            "HELIOS_CACHE_DIR": str(cache),
            "HELIOS_NODE": "node-1",
            "HELIOS_VIEW_HOURS": "24",
            "HELIOS_CACHE_FREE_BYTES": "0",
            **env,
        }
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def keeper(cache: Path) -> Keeper:
    cache.mkdir()
    made = Keeper(settings(cache))
    made.prepare()
    return made


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """What the wrapper of a task does with its view."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(fd)


def view(cache: Path, name: str, *, hours_old: float = 0) -> Path:
    Store(str(cache), name).prepare()
    folder = cache / "views" / name
    (folder / "data.csv").write_text("x")
    then = time.time() - hours_old * HOUR
    os.utime(folder, (then, then))
    return folder


def test_preparing_leaves_no_view_behind_and_repairs_the_mode(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    keeper = Keeper(settings(cache))
    keeper.prepare()
    assert (cache.stat().st_mode & 0o7777) == 0o755
    assert list((cache / "views").iterdir()) == []
    assert {path.stat().st_mode & 0o022 for path in cache.rglob("*")} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a folder that is another user's")
def test_a_folder_of_views_that_is_another_users_is_replaced(cache: Path) -> None:
    """kubelet makes it, as root's, for a pod that reaches a node before its keeper; the keeper could never use it."""
    (cache / "views" / "a-job").mkdir(parents=True)
    os.chown(cache / "views", AGENT_USER, AGENT_USER)
    Keeper(settings(cache)).prepare()
    assert (cache / "views").stat().st_uid == os.geteuid()
    assert list((cache / "views").iterdir()) == []
    assert [path.name for path in cache.glob("views-*/*")] == ["a-job"]


def test_a_cache_folder_that_is_missing_is_not_made_by_the_keeper(cache: Path) -> None:
    """Whoever makes it must give it to the agent's user; a folder in the container's own file system helps nobody."""
    with pytest.raises(CacheFault, match="No such file"):
        Keeper(settings(cache)).prepare()


def test_pending_blobs_are_settled_and_counted(cache: Path, store: Any, endpoint: Any, make_node: Any) -> None:
    digests = [store.put(f"bucket/{name}", name.encode() * 1000) for name in "abc"]
    for name in "abc":
        endpoint.add_input(name, f"bucket/{name}")
    make_node("job-1").fetch()
    keeper = Keeper(settings(cache))
    keeper.prepare()
    keeper.round()
    found = keeper.inventory()
    assert (found["node"], found["blobs"], found["bytes"]) == ("node-1", 3, 3000)
    assert (found["settled"], found["pending"], found["views"], found["faults"]) == (3, 0, 1, 0)
    for digest in digests:
        blob = cache / "blobs" / "sha256" / digest[:2] / digest
        assert blob.stat().st_mtime_ns == durable_ns(digest)
    keeper.round()
    assert keeper.inventory()["settled"] == 0
    make_node("job-2").fetch()
    assert store.count("GET", "bucket/a") == 1


def test_a_blob_that_comes_or_goes_is_seen_in_the_next_round(
    cache: Path, store: Any, endpoint: Any, make_node: Any
) -> None:
    digest = store.put("bucket/a", b"a" * 10)
    endpoint.add_input("a", "bucket/a")
    keeper = Keeper(settings(cache))
    cache.mkdir()
    keeper.prepare()
    keeper.round()
    assert keeper.inventory()["blobs"] == 0
    make_node("job-1").fetch()
    keeper.round()
    assert keeper.inventory()["blobs"] == 1
    (cache / "blobs" / "sha256" / digest[:2] / digest).unlink()
    keeper.round()
    assert keeper.inventory()["blobs"] == 0


def test_a_cache_that_somebody_emptied_by_hand_is_empty_and_can_be_filled(keeper: Keeper, cache: Path) -> None:
    put_blob(cache, b"here")
    keeper.round()
    assert keeper.state()["blobs"] == 1
    for each in ("blobs", "refs", "tmp"):
        shutil.rmtree(cache / each)
    keeper.round()
    assert keeper.state()["blobs"] == 0
    assert keeper.inventory()["faults"] == 0
    put_blob(cache, b"again")
    keeper.round()
    assert keeper.state()["blobs"] == 1


def test_folders_that_did_not_change_are_not_read_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    keeper = Keeper(settings(cache, HELIOS_SCRUB_MB_PER_S="0"))
    keeper.prepare()
    shelf = cache / "blobs" / "sha256" / "ab"
    shelf.mkdir()
    (shelf / ("ab" * 32)).write_bytes(b"x" * 7)
    long_ago = time.time() - HOUR
    os.utime(shelf, (long_ago, long_ago))
    keeper.round()
    read: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(str(path)), real(path))[1])
    keeper.round()
    assert str(shelf) not in read
    found = keeper.inventory()
    assert (found["blobs"], found["bytes"]) == (1, 7)


def test_the_view_of_a_running_task_stays_however_old(keeper: Keeper, cache: Path) -> None:
    folder = view(cache, "job-1", hours_old=1000)
    with held(folder):
        keeper.round()
        keeper.round()
    assert (folder / "data.csv").exists()


def test_a_view_goes_once_its_task_is_seen_to_be_over(keeper: Keeper, cache: Path) -> None:
    folder = view(cache, "job-1")
    with held(folder):
        keeper.round()
    keeper.round()
    assert not folder.exists()
    assert keeper.inventory()["viewsRemoved"] == 1


def test_the_view_of_a_real_task_is_held_by_its_wrapper(
    keeper: Keeper, cache: Path, node: Any, static_binary: Path, store: Any, endpoint: Any
) -> None:
    store.put("bucket/a", b"a")
    endpoint.add_input("a", "bucket/a")
    node.fetch()
    folder = cache / "views" / "job-1"
    os.utime(folder, (1, 1))
    wait = ("sh", "-c", "while ! test -e stop; do sleep 0.02; done")
    task = StaticWrapper(node, static_binary).start(*wait, view=folder)
    wait_until(lambda: (node.control / "started").exists(), "the task runs")
    keeper.round()
    assert (folder / "a").read_bytes() == b"a"
    (node.artifacts / "stop").touch()
    assert task.wait(60) == 0
    keeper.round()
    assert not folder.exists()


def test_a_view_that_fetch_held_waits_for_its_task(
    keeper: Keeper, cache: Path, node: Any, store: Any, endpoint: Any
) -> None:
    """Fetch's end is not the task's: the image may still have to be pulled."""
    endpoint.add_input("first", "bucket/first")
    endpoint.add_input("second", "bucket/second")
    store.put("bucket/first", b"1")
    store.put("bucket/second", b"2")
    folder = cache / "views" / "job-1"
    seen: list[bool] = []

    def look() -> None:
        wait_until(lambda: (folder / "first").exists(), "the first input is in the view")
        os.utime(folder, (1, 1))
        keeper.round()
        seen.append(folder.exists())

    store.faults["bucket/second"].append(look)
    assert node.fetch()["ok"]
    assert seen == [True], "the view was removed while its inputs were brought"
    keeper.round()
    keeper.round()
    assert (folder / "first").exists()
    assert (folder / "second").exists()
    assert time.time() - folder.stat().st_mtime < HOUR, "the hour begins when fetch ends"


def test_a_fetch_that_slips_in_is_not_taken_for_a_task(
    keeper: Keeper, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the keeper's two locks there is an instant in which nobody holds the view."""
    folder = view(cache, "job-1")
    second = Store(str(cache), "job-1")
    filling: list[Any] = []
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and not filling:
            real(fd, fcntl.LOCK_UN)
            filling.append(second.filling())
            filling[0].__enter__()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    keeper.round()
    filling[0].__exit__(None, None, None)
    keeper.round()
    assert folder.exists()


def test_a_view_that_is_removed_while_fetch_wants_it_is_made_anew(
    keeper: Keeper, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = view(cache, "job-1", hours_old=1000)
    real = fcntl.flock
    rounds: list[None] = []

    def flock(fd: int, operation: int) -> None:
        if not rounds:
            rounds.append(None)
            keeper.round()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Store(str(cache), "job-1").filling():
        assert list(folder.iterdir()) == []
        keeper.round()
        assert folder.exists()


def test_a_view_that_an_earlier_pod_still_holds_is_not_filled(
    cache: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is bypassed then: what two pods hold could not be told from what one of them has left."""
    monkeypatch.setattr(agent.store, "LOCK_PATIENCE_SECONDS", 0.05)
    folder = view(cache, "job-1")
    filling = Store(str(cache), "job-1").filling()
    with held(folder), pytest.raises(CacheFault, match="earlier pod"), filling:
        pytest.fail("it was filled")


def test_a_view_that_waits_for_its_task_stays_until_it_is_old(keeper: Keeper, cache: Path) -> None:
    """An image may take its time: between fetch and the task nobody holds the view."""
    young, old = view(cache, "young", hours_old=23), view(cache, "old", hours_old=25)
    keeper.round()
    assert young.exists()
    assert not old.exists()


def test_a_view_that_is_filled_again_for_a_second_pod_counts_as_new(keeper: Keeper, cache: Path) -> None:
    folder = view(cache, "job-1")
    with held(folder):
        keeper.round()
    (folder / "data.csv").unlink()
    (folder / "data.csv").write_text("x")
    keeper.round()
    assert folder.exists()


def test_removing_a_view_leaves_the_blob_and_follows_no_link(
    keeper: Keeper, cache: Path, store: Any, endpoint: Any, make_node: Any, tmp_path: Path
) -> None:
    digest = store.put("bucket/a", b"a")
    endpoint.add_input("deep/a", "bucket/a")
    make_node("job-1").fetch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = cache / "views" / "job-1"
    (folder / "link").symlink_to(outside)
    (cache / "views" / "escape").symlink_to(outside)
    os.utime(folder, (1, 1))
    keeper.round()
    assert not folder.exists()
    assert (cache / "blobs" / "sha256" / digest[:2] / digest).read_bytes() == b"a"
    assert (outside / "precious").exists()


def test_what_a_dead_download_left_goes_and_what_a_living_one_writes_stays(keeper: Keeper, cache: Path) -> None:
    store = Store(str(cache), "job-1")
    store.prepare()
    with store.single_flight("living") as (_, lock), store.part(lock, 1) as part:
        os.pwrite(part.fd, b"x", 0)
        with store.single_flight("dead") as (_, dead):
            pass
        (cache / "tmp" / dead).write_bytes(b"half")
        keeper.round()
        assert [path.name for path in (cache / "tmp").iterdir()] == [lock]
    assert (cache / "locks" / dead).exists()


def test_a_fault_is_counted_and_ends_nothing(keeper: Keeper, cache: Path) -> None:
    (cache / "views").rmdir()
    keeper.round()
    assert keeper.inventory()["faults"] == 1
    (cache / "views").mkdir()
    keeper.round()
    assert keeper.inventory()["faults"] == 0


def test_the_inventory_is_one_line_of_json_now_and_then(cache: Path) -> None:
    cache.mkdir()
    said: list[bytes] = []
    rounds = iter((True, True, False))
    keep(
        settings(cache, HELIOS_KEEP_SECONDS="1", HELIOS_REPORT_SECONDS="3600"),
        said.append,
        lambda seconds: next(rounds),
    )
    assert len(said) == 1
    assert said[0].endswith(b"}\n")
    assert json.loads(said[0])["event"] == "cache-inventory"


def test_a_wrong_environment_names_its_variable() -> None:
    with pytest.raises(SettingsError, match="HELIOS_NODE is not set"):
        keep_settings({"HELIOS_CACHE_DIR": "/cache"})
    assert keep_settings({"HELIOS_CACHE_DIR": "/cache", "HELIOS_NODE": "n"}).view_hours == 1


def test_the_verb_runs_until_it_is_asked_to_stop(cache: Path, tmp_path: Path) -> None:
    """As in its container: standard library only, and a stop at once."""
    cache.mkdir()
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(AGENT), "keep"],
            env={"HELIOS_CACHE_DIR": str(cache), "HELIOS_NODE": "node-1"},
            stdout=file,
        )
    wait_until(lambda: b"\n" in output.read_bytes(), "the first inventory")
    assert json.loads(output.read_bytes())["node"] == "node-1"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_the_verb_ends_with_1_when_the_cache_is_not_there(cache: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(AGENT), "keep"],
        env={"HELIOS_CACHE_DIR": str(cache), "HELIOS_NODE": "node-1"},
        capture_output=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert b"No such file" in ended.stderr
