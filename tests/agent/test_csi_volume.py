"""What is hard to see from outside of a volume: one that kubelet has forgotten, and what is written down of each."""

import errno
import fcntl
import json
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agent import appearances as appearances_module
from agent import mounts as mounts_module
from agent import quota as quota_module
from agent import volume as volume_module
from agent.appearances import Appearances
from agent.folders import write_whole
from agent.handover import place_wrapper
from agent.logs import Log
from agent.mounts import check_kernel
from agent.quota import Quota
from agent.settings import NodeSettings, WrapperPlace
from agent.trees import LEAST_BYTES, TooDeep, all_aside, bytes_below, remove_all, remove_aside
from agent.volume import Node, Volume, VolumeFailed, VolumePending, has_started
from agent.volume_record import AttributesRefused, Phase, VolumeRecord, job_name, new_record, read_record
from agent.volume_work import Shared
from agent.volumes import Volumes
from agent.web import Web

CONTEXT = {
    "v": "1",
    "run": "r",
    "task": "t",
    "attempt": "3",
    "job": job_name("r", "t", 3),
    "cacheEnabled": "false",
    "token": "secret",
    "user": str(os.getuid() or 1000),
    "inputs": "0",
    "outputs": "1",
    "csi.storage.k8s.io/pod.uid": "pod",
}


def record(target: Path, **changed: object) -> VolumeRecord:
    return new_record(CONTEXT, str(target), "boot").but(**changed)


def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(
        kubelet_dir=str(tmp_path),
        namespace="helios-tasks",
        volume_bytes=1000,
        wrapper="/exec",
        cache_dir=str(tmp_path / "cache"),
        node="node-1",
        endpoint="http://127.0.0.1:9",
        plan_patience_seconds=0.0,
        parallel=1,
        compress=False,
        lib_dir=None,
    )


def make(tmp_path: Path, kept: VolumeRecord, name: str = "v") -> Volume:
    (tmp_path / "cache" / "volumes" / name).mkdir(parents=True)
    wrapper = str(tmp_path / "wrapper")
    return Volume(name, kept, Node(settings(tmp_path), wrapper, Web(), Log(lambda _: None), Shared(), Appearances()))


def publish(tmp_path: Path, volumes: Volumes) -> None:
    """As kubelet asks, of a volume named `v`."""
    pod = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "helios-tasks"}
    volumes.publish("v", f"{tmp_path}/pods/p/mount", {**CONTEXT, **pod}, 0.0)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_written_down_is_read_again_and_is_the_agents_alone(tmp_path: Path) -> None:
    kept = record(tmp_path, phase=Phase.FAILED, reason="no ‘input’", disrupted=True)
    kept.write(str(tmp_path))
    assert read_record(str(tmp_path)) == kept
    assert (tmp_path / "volume.json").stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(kept)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 2}', '{"v": 1, "run": "r"}', '{"v": 1, "phase": "odd"}'])
def test_what_cannot_be_read_is_no_volume(tmp_path: Path, text: str) -> None:
    (tmp_path / "volume.json").write_text(text)
    assert read_record(str(tmp_path)) is None


def test_a_record_of_a_newer_agent_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    """Else an agent that is put back to its older version would remove the folders of tasks that run."""
    kept = record(tmp_path, phase=Phase.READY)
    kept.write(str(tmp_path))
    written = json.loads((tmp_path / "volume.json").read_text())
    (tmp_path / "volume.json").write_text(json.dumps({**written, "since": 7, "later": {"a": []}}))
    assert read_record(str(tmp_path)) == kept


@pytest.mark.parametrize(
    "damage", [{"inputs": "1"}, {"user": {}}, {"attempt": -1}, {"outputs": True}, {"target": 7}, {"boot": []}]
)
def test_a_record_whose_fields_are_not_what_they_must_be_is_none(tmp_path: Path, damage: dict[str, object]) -> None:
    record(tmp_path).write(str(tmp_path))
    written = json.loads((tmp_path / "volume.json").read_text())
    (tmp_path / "volume.json").write_text(json.dumps({**written, **damage}))
    assert read_record(str(tmp_path)) is None


def test_an_attribute_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttributesRefused, match="run is too long"):
        new_record({**CONTEXT, "run": "r" * 5000}, str(tmp_path), None)


def test_any_uid_is_one_that_a_cluster_may_give(tmp_path: Path) -> None:
    assert new_record({**CONTEXT, "user": "1000660000"}, str(tmp_path), None).user == 1_000_660_000
    with pytest.raises(AttributesRefused, match="user must be a whole number"):
        new_record({**CONTEXT, "user": "4294967295"}, str(tmp_path), None)


@pytest.mark.parametrize("phase", [Phase.OVER, Phase.BRINGING])
def test_a_volume_that_kubelet_never_saw_mounted_and_asks_for_no_more_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    """kubelet takes some failures for final, and then never gives up what it thinks is not there."""
    monkeypatch.setattr(volume_module, "ABANDONED_SECONDS", 0.05)
    reason = "it has failed" if phase is Phase.OVER else None
    volume = make(tmp_path, record(tmp_path / "target", phase=phase, reason=reason))
    thread = threading.Thread(target=volume.live, daemon=True)
    thread.start()
    if reason is not None:
        with pytest.raises(VolumeFailed, match=reason):
            volume.publish(0.0)
    thread.join(60)
    assert not thread.is_alive()
    assert volume.given_up


def test_a_mounted_volume_whose_task_never_starts_is_forgotten_once_it_is_mounted_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is for a process that did not learn that it was given up, since the disk was too full to write it down."""
    monkeypatch.setattr(volume_module, "ABANDONED_SECONDS", 0.05)
    mounted = [["somewhere"]] * 3

    def mounted_below(_: str) -> list[str]:
        return mounted.pop() if mounted else []

    monkeypatch.setattr(volume_module, "mounted_below", mounted_below)
    monkeypatch.setattr(appearances_module, "LOOK_SECONDS", 0.02)
    volume = make(tmp_path, record(tmp_path / "target", phase=Phase.READY))
    (Path(volume.folder) / "control").mkdir()
    thread = threading.Thread(target=volume.live)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert (volume.given_up, mounted) == (True, [])


def test_a_full_disk_keeps_no_volume_from_being_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made by that, as a rule."""
    volume = make(tmp_path, record(tmp_path / "target", phase=Phase.READY))
    monkeypatch.setattr(VolumeRecord, "write", full)
    volume.give_up()
    assert volume.given_up


def test_a_folder_that_cannot_be_made_has_the_attempt_repeated_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def report_failure(*_: object, disrupted: bool) -> str:
        told.append(disrupted)
        return "committed"

    monkeypatch.setattr(volume_module, "report_failure", report_failure)
    monkeypatch.setattr(volume_module, "ABANDONED_SECONDS", 0.05)
    volume = make(tmp_path, record(tmp_path / "target"))
    monkeypatch.setattr(os, "mkdir", full)
    volume.live()
    assert told == [True]
    with pytest.raises(VolumeFailed, match="the task's folder cannot be made: No space left on device"):
        volume.publish(0.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="a task's user is never the agent's")
def test_a_volume_that_cannot_begin_leaves_nothing_and_begins_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = Volumes(settings(tmp_path), Log(lambda _: None))
    folder = tmp_path / "cache" / "volumes"
    with monkeypatch.context() as short:
        short.setattr(VolumeRecord, "write", full)
        with pytest.raises(OSError, match="No space left"):
            publish(tmp_path, volumes)
        assert list(folder.iterdir()) == []
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(OSError, match="no thread for the volume"):
            publish(tmp_path, volumes)
        assert list(folder.iterdir()) == []
    with monkeypatch.context() as slow:
        slow.setattr(threading.Thread, "start", lambda _: None)  # it has not come far when kubelet is answered
        with pytest.raises(VolumePending, match="fetching: "):
            publish(tmp_path, volumes)
    assert [each.name for each in folder.iterdir()] == ["v"]


def no_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_a_task_that_takes_back_what_its_wrapper_has_said_has_started_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    with (tmp_path / "lock").open("w") as lock:
        assert not has_started(str(tmp_path))
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert has_started(str(tmp_path))
    assert not has_started(str(tmp_path))
    (tmp_path / "control" / "exit").symlink_to("nowhere")
    assert has_started(str(tmp_path))


def test_what_is_written_to_a_lock_that_the_task_has_unlinked_counts(tmp_path: Path) -> None:
    volume = make(tmp_path, record(tmp_path / "target"))
    for name in ("artifacts", "control"):
        (Path(volume.folder) / name).mkdir()
    (Path(volume.folder) / "lock").write_bytes(b"x" * 5000)
    assert volume.bytes_taken(1000) >= 5000


def test_a_volume_that_takes_long_to_look_at_is_looked_at_less_often_and_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = [0.0], list[str]()
    volumes = [make(tmp_path / name, record(tmp_path), name) for name in ("slow", "quick", "mistaken")]

    def bytes_taken(volume: Volume, _: int) -> int:
        looked.append(volume.name)
        now[0] += 10.0 if volume.name == "slow" else 0.001
        assert volume.name != "mistaken"
        return 0

    monkeypatch.setattr(Volume, "bytes_taken", bytes_taken)
    monkeypatch.setattr(quota_module.time, "monotonic", lambda: now[0])
    quota = Quota(1000, lambda: volumes, Log(lambda _: None))
    for _ in range(500):
        now[0] += 1.0
        quota.look()
    assert looked.count("slow") == 1
    assert looked.count("quick") == looked.count("mistaken") == 500
    for _ in range(200):
        now[0] += 1.0
        quota.look()
    assert looked.count("slow") == 2


def test_a_kernel_that_is_too_old_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts_module, "OPEN_TREE", 100_000)
    with pytest.raises(OSError, match=r"need Linux 5\.12"):
        check_kernel(str(tmp_path))


def test_a_file_counts_with_what_it_takes_of_the_disk_and_no_link_is_followed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "outside").write_bytes(b"x" * 1_000_000)
    (tree / "link").symlink_to(tmp_path)
    (tree / "a" / "link").symlink_to(tmp_path / "outside")
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    os.sync()
    assert 100_000 <= bytes_below(str(tree), 1 << 40) < 150_000


def test_a_tree_of_any_depth_is_measured_or_refused_and_removed(tmp_path: Path) -> None:
    for depth in (100, 2000):
        top = tmp_path / "tree"
        folder = os.open(tmp_path, os.O_RDONLY)
        for name in ("tree", *("d" for _ in range(depth))):
            os.mkdir(name, dir_fd=folder)
            inner = os.open(name, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.close(os.open("file", os.O_CREAT, dir_fd=folder))
        os.close(folder)
        if depth == 100:
            bytes_below(str(top), 1 << 40)
        else:
            with pytest.raises(TooDeep):
                bytes_below(str(top), 1 << 40)
        remove_all("tree", str(tmp_path))
        assert list(tmp_path.iterdir()) == []
    remove_all("tree", str(tmp_path))


def test_a_wrapper_that_is_replaced_can_be_executed_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All volumes of a node share it, and tasks start while an agent does."""
    (tmp_path / "wrapper").write_bytes(b"it")
    named: list[int] = []
    real: Any = os.rename

    def rename(source: str, target: str) -> None:
        named.append(os.stat(source).st_mode & 0o777)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    umask = os.umask(0o077)
    try:
        place_wrapper(WrapperPlace(str(tmp_path / "wrapper"), str(tmp_path)))
        place_wrapper(WrapperPlace(str(tmp_path / "wrapper"), str(tmp_path)))
    finally:
        os.umask(umask)
    assert named == [0o555], "one that is in place is not replaced"


def test_what_cannot_be_written_leaves_no_half_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(str(tmp_path / "file"), b"text")
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_was_cut_off_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    real: Any = os.rmdir

    def cut_off(*_: object, **__: object) -> None:
        raise OSError("cut off")

    monkeypatch.setattr(os, "rmdir", cut_off)
    with pytest.raises(OSError, match="cut off"):
        remove_all("tree", str(tmp_path))
    monkeypatch.setattr(os, "rmdir", real)
    assert not (tmp_path / "tree").exists()
    remove_aside(all_aside(str(tmp_path)), str(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_each_name_counts_and_no_more_is_looked_at_than_decides(tmp_path: Path) -> None:
    """Empty files take inodes, which run out as well."""
    for number in range(200):
        (tmp_path / f"{number}").touch()
    assert bytes_below(str(tmp_path), 1 << 40) == 200 * LEAST_BYTES
    assert bytes_below(str(tmp_path), 10 * LEAST_BYTES) == 11 * LEAST_BYTES


def test_a_folder_with_more_in_it_than_fits_into_memory_is_measured_and_removed(tmp_path: Path) -> None:
    """The agent's memory is all tasks' of the node; theirs is not bounded by it."""
    tree = tmp_path / "tree"
    (tree / "folders").mkdir(parents=True)
    for number in range(1_000):
        os.mkdir(tree / "folders" / f"{number:0200}")
        os.close(os.open(tree / f"{number:0200}", os.O_CREAT))
    tracemalloc.start()
    try:
        bytes_below(str(tree), 1 << 40)
        remove_all("tree", str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert list(tmp_path.iterdir()) == []
