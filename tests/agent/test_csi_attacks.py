"""What a task may do to its volume, and what comes of it: at worst its own attempt fails."""

import hashlib
import os

import pytest

from tests.agent.conftest import ObjectStore, wait_until
from tests.agent.kubelet import DATA, KubeNode, Pod, TaskEndpoint, is_dropped, missing, only_report

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

CONTAINER_ROOT = ",+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+net_bind_service,+sys_chroot,+setfcap"
"""What root in a container has where nobody takes it away."""


def test_even_root_in_the_task_cannot_change_a_blob(kube: KubeNode, tasks: TaskEndpoint, store: ObjectStore) -> None:
    digest = store.put("bucket/data.csv", DATA)
    tasks.add_input("data.csv", "bucket/data.csv")
    pod = kube.pod(inputs="1", user="0")
    kube.publish(pod)
    blob = kube.blob(digest)
    before = blob.stat()
    script = (
        "id -u; for do in 'echo x > data.csv' 'echo x >> .helios/inputs/data.csv' 'chmod 666 data.csv' 'touch data.csv'"
        " 'rm .helios/inputs/data.csv' 'mv .helios/inputs/data.csv x' 'ln .helios/inputs/data.csv x'"
        " 'touch .helios/inputs/y' 'rm .helios/exec' 'echo x > .helios/exec' 'mv .helios x' 'rmdir .helios/inputs'"
        " 'mount -o remount,bind,rw /mnt/.helios/inputs' 'umount /mnt/.helios/inputs'"
        " 'truncate -s 0 data.csv' 'chown 1000 data.csv';"
        ' do if sh -c "$do" 2>/dev/null; then echo "it can: $do"; fi; done; wc -c < data.csv'
    )
    assert kube.run_task(pod, script, user=0, capabilities=CONTAINER_ROOT) == (0, f"0\n{len(DATA)}\n")
    assert blob.read_bytes() == DATA
    after = blob.stat()
    assert (after.st_mode, after.st_uid, after.st_ino) == (before.st_mode, before.st_uid, before.st_ino)
    report = only_report(tasks)
    assert (report["exitCode"], report["reason"]) == (0, None)


@pytest.mark.parametrize("inputs", ["0", "1"])
def test_a_pod_that_gives_itself_out_as_another_neither_sees_nor_takes_away_its_view(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, inputs: str
) -> None:
    """Only the token says which attempt a pod is of, and there is no plan without a good one. `pod` waits for its start
    meanwhile, so that nobody holds its view.
    """
    kube.publish(pod)
    names = {name: pod.context[name] for name in ("run", "task", "attempt", "job")}
    forged = kube.pod(**names, token="another", inputs=inputs)
    if inputs == "1":
        code, words = kube.refusal(forged)
        assert code == "FAILED_PRECONDITION"
        assert "its token is not valid" in words
    else:
        kube.publish(forged)
        assert [line for line in kube.mounts() if forged.uid in line and ".helios/inputs" in line] == []
        assert kube.run_task(forged, "ls .helios/inputs") == (0, "")
    kube.unpublish(forged)
    is_dropped(kube, forged)
    assert tasks.reports == []
    assert kube.run_task(pod, "wc -c < data.csv") == (0, f"{len(DATA)}\n")


@pytest.mark.parametrize(
    "attack",
    [
        "ln -s /etc/passwd out.txt",
        "ln -s .helios/inputs/data.csv out.txt",
        "ln -s /mnt/.helios/exec out.txt",
        "mkfifo out.txt",
        "mkdir real; echo x > real/y; ln -s real out.txt",
        "true",
    ],
)
def test_an_output_that_is_no_file_of_the_tasks_own_fails_the_attempt_and_is_not_stored(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore, attack: str
) -> None:
    kube.publish(pod)
    assert kube.run_task(pod, attack)[0] == 0
    report = only_report(tasks)
    assert "'out.txt'" in report["reason"]
    assert report["outputs"] == []
    assert not any("out.txt" in key for key in store.objects)
    kube.unpublish(pod)
    is_dropped(kube, pod)


def test_what_a_task_does_to_its_control_folder_does_not_hide_its_end(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    """Unlinking the lock and making another shows the agent nothing, and an agent that comes later sees that it is held
    where the task denies that it has started.
    """
    kube.publish(pod)
    task = kube.start_waiting(pod, "cp data.csv out.txt; cd .helios/control; rm lock started; mkfifo lock; cd ../..")
    wait_until(lambda: tasks.asked.count("/v1/plan") == 2, "the agent knows that the task runs, and looks ahead")
    kube.restart()
    wait_until(lambda: tasks.asked.count("/v1/plan") == 3, "the next one does so, too")
    assert tasks.reports == []
    (kube.folder(pod) / "control" / "exit").symlink_to("/etc/passwd")
    (kube.folder(pod) / "control" / "exit.new").mkdir()
    kube.let_end(pod, task)
    report = only_report(tasks)
    assert report["exitCode"] is None
    assert report["reason"] == "the task was killed before it could write its exit code"
    kube.unpublish(pod)
    is_dropped(kube, pod)


def test_a_child_that_the_task_leaves_behind_ends_with_it_and_does_not_delay_the_end(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    script = "(setsid sh -c 'exec 9<.helios/control/lock; while :; do echo x >> out.txt; done' &)"
    script += "; until [ -s out.txt ]; do sleep 0.02; done"
    assert kube.run_task(pod, script)[0] == 0
    report = only_report(tasks)
    assert report["reason"] is None
    stored = report["outputs"][0]
    assert kube.blob(stored["sha256"]).stat().st_size == stored["bytes"]


def test_a_task_that_fills_its_folder_fails_at_once_with_that_reason(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore
) -> None:
    kube.restart(HELIOS_VOLUME_BYTES=str(5_000_000))
    kube.publish(pod)
    task = kube.start_waiting(pod, "cp data.csv out.txt; mkdir -p a/b; head -c 6000000 /dev/zero > a/b/c")
    report = only_report(tasks)
    assert report["reason"] == "its folder holds more than 5000000 bytes (HELIOS_VOLUME_BYTES)"
    assert (report["final"], report["disrupted"], report["exitCode"]) == (True, False, None)
    assert kube.refusal(pod) == ("FAILED_PRECONDITION", report["reason"])
    assert kube.let_end(pod, task) == 0
    kube.unpublish(pod)
    is_dropped(kube, pod)
    assert len(tasks.reports) == 1
    assert not any("out.txt" in key for key in store.objects)


def test_a_task_within_its_quota_does_not_notice_it(kube: KubeNode, pod: Pod, tasks: TaskEndpoint) -> None:
    kube.restart(HELIOS_VOLUME_BYTES=str(5_000_000))
    kube.publish(pod)
    assert kube.run_task(pod, "cp data.csv out.txt; head -c 4000000 /dev/zero > big; sleep 1.5")[0] == 0
    assert only_report(tasks)["exitCode"] == 0


def nest(pod: Pod, kube: KubeNode, depth: int) -> None:
    """Folders in folders, deeper than a path can name."""
    folder = os.open(kube.folder(pod) / "artifacts", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


def test_folders_nested_without_end_are_removed_and_fail_a_task_that_has_a_quota(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.restart(HELIOS_VOLUME_BYTES=str(50_000_000))
    kube.publish(pod)
    task = kube.start_waiting(pod, "true")
    nest(pod, kube, 3000)
    report = only_report(tasks)
    assert report["reason"] == "its folder is nested more than 128 deep, so that its size cannot be told"
    assert kube.let_end(pod, task) == 0
    kube.unpublish(pod)
    is_dropped(kube, pod)
    wait_until(lambda: [each.name for each in (kube.cache / "volumes").iterdir()] == [".agent"], "nothing is left")


def test_an_output_is_in_the_cache_when_its_task_is_over_and_the_tasks_folder_does_not_lead_to_it(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    data = b"made by the task"
    task = kube.start_waiting(pod, f"printf '{data.decode()}' > out.txt")
    assert kube.let_end(pod, task) == 0
    only_report(tasks)
    blob = kube.blob(hashlib.sha256(data).hexdigest())
    wait_until(blob.exists, "it is in the cache")
    assert blob.read_bytes() == data
    assert (blob.stat().st_uid, blob.stat().st_mode & 0o777) == (65532, 0o444)
