"""What is hard to see from outside of a volume: one that kubelet has forgotten, and what is written down of each."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agent import volume as volume_module
from agent.appearances import Appearances
from agent.logs import Log
from agent.settings import NodeSettings
from agent.trees import TooDeep, bytes_below, remove_all, remove_leftovers
from agent.volume import Node, Volume, VolumeFailed
from agent.volume_record import AttributesRefused, Phase, VolumeRecord, job_name, new_record, read_record
from agent.volume_work import Shared
from agent.web import Web

CONTEXT = {
    "v": "1",
    "run": "r",
    "task": "t",
    "attempt": "3",
    "job": job_name("r", "t", 3),
    "cacheEnabled": "false",
    "token": "secret",
    "user": str(os.getuid()),
    "inputs": "0",
    "outputs": "1",
    "csi.storage.k8s.io/pod.uid": "pod",
}


def record(target: Path, **changed: object) -> VolumeRecord:
    return new_record(CONTEXT, str(target), "boot").but(**changed)


def make(tmp_path: Path, kept: VolumeRecord) -> Volume:
    settings = NodeSettings(
        kubelet_dir=str(tmp_path),
        namespace="helios-tasks",
        volume_bytes=0,
        wrapper="/exec",
        cache_dir=str(tmp_path / "cache"),
        node="node-1",
        endpoint="http://127.0.0.1:9",
        plan_patience_seconds=0.0,
        parallel=1,
        compress=False,
        lib_dir=None,
    )
    (tmp_path / "cache" / "volumes" / "v").mkdir(parents=True)
    node = Node(settings, str(tmp_path / "wrapper"), Web(), Log(lambda _: None), Shared(), Appearances())
    return Volume("v", kept, node)


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
    thread = threading.Thread(target=volume.live)
    thread.start()
    if reason is not None:
        with pytest.raises(VolumeFailed, match=reason):
            volume.publish(0.0)
    thread.join(10)
    assert not thread.is_alive()
    assert volume.given_up


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
    assert 100_000 <= bytes_below(str(tree)) < 150_000


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
            bytes_below(str(top))
        else:
            with pytest.raises(TooDeep):
                bytes_below(str(top))
        remove_all("tree", str(tmp_path))
        assert list(tmp_path.iterdir()) == []
    remove_all("tree", str(tmp_path))


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
    remove_leftovers(str(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
