"""Pods as the collector sees them: whatever a task put into the folders, reading raises nothing and never waits."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from helios.localjobs import (
    STATUS_BYTES,
    LocalJob,
    PodStatus,
    create_job,
    delete_job,
    job_file,
    list_jobs,
    list_pods,
    log_file,
    message_file,
    pod_folder,
    read_job,
    release_pod,
    status_file,
    write_status,
)
from helios.settings import Settings
from services.collector.__main__ import sweep
from services.collector.loglines import LogPart
from services.collector.pods import LocalPods
from services.jobrunner.__main__ import Sweep
from services.jobrunner.local import LocalLauncher
from tests.stage import RUN, Stage

GOOD = PodStatus(job="job", uid="u", node="n", phase="Running")


def job(name: str, task: str = "a") -> LocalJob:
    return LocalJob(job=name, run=RUN, task=task, attempt=1, command=["x"])


def plant_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def plant_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def plant_endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def plant_brackets(path: Path) -> None:
    path.write_bytes(b"[" * 4_000)


TRAPS: list[Callable[[Path], None]] = [os.mkfifo, os.mkdir, plant_socket, plant_link, plant_endless, plant_brackets]


@pytest.fixture
def pods(tmp_path: Path) -> LocalPods:
    write_status(tmp_path, GOOD)
    return LocalPods(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", TRAPS)
def test_a_trap_in_the_statuss_place_is_a_failed_pod(pods: LocalPods, plant: Callable[[Path], None]) -> None:
    status_file(pods.directory, "job").unlink()
    plant(status_file(pods.directory, "job"))
    status = pods.statuses(["job"])["job"]
    assert status is not None
    assert (status.job, status.phase, status.disrupted) == ("job", "Failed", False)
    assert (status.reason or "").startswith("its status is unreadable")
    assert pods.unreleased() == ["job"]
    write_status(pods.directory, GOOD)
    assert pods.statuses(["job"]) == {"job": GOOD}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", TRAPS[:4])
def test_a_trap_in_the_place_of_a_message_or_a_log_is_none(pods: LocalPods, plant: Callable[[Path], None]) -> None:
    plant(message_file(pods.directory, "job", "publish"))
    plant(log_file(pods.directory, "job", "fetch"))
    assert pods.message("job", "publish") is None
    for followed in (True, False):
        assert pods.lines("job", "fetch", 0, final=True, followed=followed) == LogPart([], 0)
    assert pods.fetch_log("job") == [""]


def test_a_status_of_another_job_is_not_believed(pods: LocalPods) -> None:
    """Else a task could have another's pod released."""
    write_status(pods.directory, PodStatus(job="other", uid="u", node="n", phase="Succeeded"))
    status_file(pods.directory, "other").replace(status_file(pods.directory, "job"))
    status = pods.statuses(["job"])["job"]
    assert status is not None
    assert (status.job, status.phase) == ("job", "Failed")


def test_a_status_that_is_too_long_is_unreadable(pods: LocalPods) -> None:
    write_status(pods.directory, PodStatus(job="job", uid="u", node="n", reason="x" * STATUS_BYTES))
    status = pods.statuses(["job"])["job"]
    assert status is not None and "longer than" in (status.reason or "")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", [*TRAPS[:4], Path.touch])
def test_a_pod_whose_folder_is_none_is_failed_and_can_be_released(
    pods: LocalPods, plant: Callable[[Path], None]
) -> None:
    create_job(pods.directory, job("job"))
    status_file(pods.directory, "job").unlink()
    pod_folder(pods.directory, "job").rmdir()
    plant(pod_folder(pods.directory, "job"))
    status = pods.statuses(["job"])["job"]
    assert status is None or status.phase == "Failed"
    pods.release("job")
    assert list_pods(pods.directory) == []
    assert list_jobs(pods.directory) == []


def test_a_release_that_does_not_succeed_raises_nothing(pods: LocalPods, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep comes back to it."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("helios.localjobs.release_pod", refuse)
    pods.release("job")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", [*TRAPS, None])
def test_sweeps_go_on_past_what_is_broken(
    pods: LocalPods, client: redis.Redis, plant: Callable[[Path], None] | None
) -> None:
    """A trap in one Job's place, or a record of the wrong type: the others are released and deleted all the same."""
    stage = Stage(client)
    stage.open({"a": [], "b": []})
    for name, task in (("job-a", "a"), ("job-b", "b")):
        create_job(pods.directory, job(name, task))
        write_status(pods.directory, PodStatus(job=name, uid="u", node="n", phase="Failed"))
    for task in "ab":
        client.hset(stage.keys.task(RUN, task), "status", "CANCELLED")
    if plant is None:
        client.set(stage.keys.task(RUN, "broken"), "not a hash")
        create_job(pods.directory, job("broken", "broken"))
        write_status(pods.directory, PodStatus(job="broken", uid="u", node="n", phase="Failed"))
    else:
        plant(job_file(pods.directory, "broken"))
    Sweep(LocalLauncher(pods.directory, 10), client, Settings()).look()
    assert set(list_jobs(pods.directory)) == {"broken"}
    sweep(pods, client, Settings())
    assert not {"job-a", "job-b"} & set(list_pods(pods.directory))


def test_only_the_owner_can_read_a_job(tmp_path: Path) -> None:
    """It holds the attempt's token, whatever the umask is."""
    before = os.umask(0)
    try:
        assert create_job(tmp_path, job("job"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(job_file(tmp_path, "job").stat().st_mode) == 0o600
    assert read_job(tmp_path, "job") == job("job")
    assert create_job(tmp_path, job("job")) is False
    assert os.listdir(tmp_path / "jobs") == ["job.json"]


def test_a_job_that_is_a_folder_can_be_deleted(tmp_path: Path) -> None:
    (job_file(tmp_path, "job") / "inner").mkdir(parents=True)
    assert delete_job(tmp_path, "job") is True
    assert delete_job(tmp_path, "job") is False
    release_pod(tmp_path, "job")
