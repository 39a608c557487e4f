"""The node's CSI driver, asked by a kubelet of these tests' own, with real mounts and the real wrapper."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.csi_wire import csi_pb2, registration_pb2
from tests.agent.conftest import ObjectStore, serving, wait_until
from tests.agent.kubelet import AGENT_USER, DATA, KubeNode, Pod, TaskEndpoint, is_dropped, missing, only_report

if reason := missing():
    pytest.skip(reason, allow_module_level=True)


def test_kubelet_registers_the_driver_and_learns_who_it_is(kube: KubeNode) -> None:
    info = kube.registration()
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "cache.helios.dev", str(kube.driver_socket))
    assert list(info.supported_versions) == ["1.0.0"]
    status = registration_pb2.RegistrationStatus(plugin_registered=True)
    kube.call(
        kube.registration_socket,
        "/pluginregistration.Registration/NotifyRegistrationStatus",
        status,
        registration_pb2.RegistrationStatusResponse,
    )
    wait_until(lambda: "kubelet has registered cache.helios.dev" in kube.log(), "it says so")
    node = kube.call(
        kube.driver_socket, "/csi.v1.Node/NodeGetInfo", csi_pb2.NodeGetInfoRequest(), csi_pb2.NodeGetInfoResponse
    )
    assert node.node_id == "node-1"
    plugin = kube.call(
        kube.driver_socket,
        "/csi.v1.Identity/GetPluginInfo",
        csi_pb2.GetPluginInfoRequest(),
        csi_pb2.GetPluginInfoResponse,
    )
    assert plugin.name == "cache.helios.dev"


@pytest.mark.parametrize("replaced", [False, True])
def test_an_agent_that_is_told_to_end_is_no_longer_registered_but_its_successor_stays_so(
    kube: KubeNode, replaced: bool
) -> None:
    if replaced:
        kube.registration_socket.unlink()
        kube.registration_socket.touch()
    assert kube.agent is not None
    kube.agent.terminate()
    assert kube.agent.wait(60) == 0
    kube.agent = None
    assert kube.registration_socket.exists() == replaced


def test_the_agent_is_another_user_with_four_rights_and_no_way_to_more(kube: KubeNode) -> None:
    assert kube.agent is not None
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{kube.agent.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(AGENT_USER)] * 4
    assert status["Gid"].split() == [str(AGENT_USER)] * 4
    assert status["Groups"].split() == []
    rights = 1 << 21 | 1 << 0 | 1 << 1 | 1 << 3
    assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {rights}
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert kube.cache.stat().st_uid == AGENT_USER
    for socket in (kube.driver_socket, kube.registration_socket):
        assert socket.stat().st_mode & 0o777 == 0o600


def test_a_task_reads_its_input_writes_its_output_and_is_reported_before_its_volume_goes(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore
) -> None:
    kube.publish(pod)
    assert kube.mounts() == [
        f"{pod.target} rw,nosuid,nodev,relatime",
        f"{pod.target}/.helios ro,nosuid,nodev,relatime",
        f"{pod.target}/.helios/inputs ro,nosuid,nodev,relatime",
        f"{pod.target}/.helios/control rw,nosuid,nodev,relatime",
    ]
    assert kube.run_task(pod, "readlink data.csv; wc -c < data.csv; cp data.csv out.txt; id -u") == (
        0,
        f".helios/inputs/data.csv\n{len(DATA)}\n1000\n",
    )
    report = only_report(tasks)
    assert report["exitCode"] == 0
    assert report["reason"] is None
    assert (report["form"], report["final"], report["podUid"]) == ("csi", False, pod.uid)
    assert report["fetch"]["inputs"][0]["name"] == "data.csv"
    assert store.objects["bucket/runs/r/t/0/pod/out.txt"] == DATA
    kube.unpublish(pod)
    is_dropped(kube, pod)
    assert not (kube.cache / "views" / pod.job).exists()
    assert "[HELIOS] Init container completed." in "".join(tasks.lines["fetch"])


def test_a_disk_from_which_no_program_may_be_run_runs_tasks(kube: KubeNode) -> None:
    """Some systems for containers mount /var like that, and kubelet's folder otherwise."""
    kube.kill()
    cache = str(kube.cache)
    for options in (["--bind", cache, cache], ["-o", "remount,bind,noexec", cache]):
        subprocess.run(kube.inside("mount", *options), check=True)
    kube.start()
    pod = kube.pod()
    kube.publish(pod)
    script = "printf '#!/bin/sh\\necho ran\\n' > own; chmod 755 own; ./own"
    assert kube.run_task(pod, script) == (0, "ran\n")


def test_a_task_without_inputs_and_outputs_asks_for_no_plan_and_sees_no_view(
    kube: KubeNode, tasks: TaskEndpoint
) -> None:
    pod = kube.pod()
    kube.publish(pod)
    assert len(kube.mounts()) == 3
    assert kube.run_task(pod, "ls -A; ls .helios; exit 7") == (7, ".helios\ncontrol\nexec\ninputs\n")
    assert only_report(tasks)["exitCode"] == 7
    assert "/v1/plan" not in tasks.asked
    kube.unpublish(pod)
    is_dropped(kube, pod)


def test_a_volume_that_is_published_again_and_at_the_same_time_is_mounted_once(
    kube: KubeNode, pod: Pod, store: ObjectStore
) -> None:
    calls = [threading.Thread(target=kube.publish, args=(pod,)) for _ in range(5)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    kube.publish(pod)
    assert len(kube.mounts()) == 4
    assert store.count("GET", "bucket/data.csv") == 1


def test_a_dead_store_fails_the_attempt_with_a_reason_that_names_the_input_and_kubelet_is_told_so_each_time(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    with serving(type("Nobody", (), {})) as port:  # type: ignore[arg-type]
        pass
    tasks.make_url = lambda _method, key: f"http://127.0.0.1:{port}/{key}"
    kube.restart(HELIOS_PLAN_PATIENCE_SECONDS="1")
    code, words = kube.refusal(pod, 60)
    assert code == "FAILED_PRECONDITION"
    assert "'data.csv'" in words
    report = only_report(tasks)
    assert report["reason"] == words
    assert (report["final"], report["exitCode"], report["disrupted"]) == (True, None, False)
    assert kube.refusal(pod) == (code, words)
    wait_until(lambda: kube.record(pod)["phase"] == "over", "it is noted that the report is told")
    kube.restart()
    assert kube.refusal(pod) == (code, words)
    kube.unpublish(pod)
    is_dropped(kube, pod)
    assert len(tasks.reports) == 1


def test_a_fetch_that_outlasts_a_call_says_how_far_it_is_and_is_joined_by_the_next(
    kube: KubeNode, pod: Pod, store: ObjectStore
) -> None:
    go_on = threading.Event()
    store.faults["bucket/data.csv"] = [("hold", go_on)]
    code, words = kube.refusal(pod, 2)
    assert code == "DEADLINE_EXCEEDED"
    assert words.startswith("fetching: 0 of 1 inputs, ")
    assert kube.mounts() == []
    go_on.set()
    kube.publish(pod)
    assert store.count("GET", "bucket/data.csv") == 1
    assert kube.run_task(pod, "wc -c < data.csv")[1] == f"{len(DATA)}\n"


def test_a_volume_that_is_given_up_before_its_task_starts_is_dropped_and_not_reported(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    kube.unpublish(pod)
    is_dropped(kube, pod)
    assert tasks.reports == []
    assert not (kube.cache / "views" / pod.job).exists()
    kube.unpublish(pod)


def test_a_volume_that_is_given_up_while_its_inputs_come_is_dropped_and_brings_no_more_of_them(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore
) -> None:
    """As of the pods of a run that is cancelled: hours of downloads may lie ahead."""
    go_on = threading.Event()
    store.faults["bucket/data.csv"] = [("hold", go_on)]
    assert kube.refusal(pod, 1.2)[0] == "DEADLINE_EXCEEDED"
    kube.unpublish(pod)
    assert kube.refusal(pod, 1.2)[0] == "DEADLINE_EXCEEDED"
    go_on.set()
    is_dropped(kube, pod)
    assert tasks.reports == []
    assert not kube.blob(hashlib.sha256(DATA).hexdigest()).exists()
    kube.publish(pod)
    assert kube.run_task(pod, "wc -c < data.csv")[1] == f"{len(DATA)}\n"


def test_giving_up_a_volume_waits_neither_for_its_tasks_end_nor_for_an_upload(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore
) -> None:
    kube.publish(pod)
    go_on = threading.Event()
    store.faults["bucket/runs/r/t/0/pod/out.txt"] = [lambda: go_on.wait(60)]
    task = kube.start_waiting(pod, "cp data.csv out.txt")
    kube.unpublish(pod)
    assert kube.mounts() == []
    assert kube.let_end(pod, task) == 0
    wait_until(lambda: store.count("PUT", "bucket/runs/r/t/0/pod/out.txt"), "the upload has begun")
    assert kube.folder(pod).exists()
    kube.unpublish(pod)
    code, words = kube.refusal(pod, 2)
    assert (code, words) == (
        "DEADLINE_EXCEEDED",
        "what its task wrote before it was given up is still being stored",
    )
    go_on.set()
    assert [output["name"] for output in only_report(tasks)["outputs"]] == ["out.txt"]
    is_dropped(kube, pod)


def test_an_unknown_volume_is_given_up_with_whatever_is_mounted_there(kube: KubeNode) -> None:
    pod = kube.pod()
    kube.unpublish(pod)
    for place in (pod.target, pod.target / ".helios"):
        subprocess.run(kube.inside("mkdir", "-p", str(place)), check=True)
        subprocess.run(kube.inside("mount", "-t", "tmpfs", "none", str(place)), check=True)
    assert len(kube.mounts()) == 2
    kube.unpublish(pod)
    assert kube.mounts() == []
    assert not pod.target.exists()


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        ({"csi.storage.k8s.io/pod.namespace": "default"}, "PERMISSION_DENIED", "only pods of the namespace"),
        ({"csi.storage.k8s.io/ephemeral": "false"}, "PERMISSION_DENIED", "only ephemeral volumes"),
        ({"v": "2"}, "INVALID_ARGUMENT", "v must be 1"),
        ({"job": "../x"}, "INVALID_ARGUMENT", "job: "),
        ({"job": "job-1"}, "INVALID_ARGUMENT", "job is not the Job of this attempt"),
        ({"user": str(AGENT_USER)}, "INVALID_ARGUMENT", "user is the agent's own"),
        ({"user": "-1"}, "INVALID_ARGUMENT", "user must be a whole number"),
        ({"token": ""}, "INVALID_ARGUMENT", "token is missing"),
        ({"token": "a\nb"}, "INVALID_ARGUMENT", "token cannot be sent"),
    ],
)
def test_a_volume_that_is_not_a_tasks_is_refused(
    kube: KubeNode, attributes: dict[str, str], code: str, words: str
) -> None:
    pod = kube.pod(**attributes)
    refused = kube.refusal(pod)
    assert refused[0] == code
    assert words in refused[1]
    assert not kube.folder(pod).exists()


def test_nothing_is_mounted_outside_the_folders_of_pods(kube: KubeNode, tmp_path: Path) -> None:
    pod = kube.pod()
    for target in (tmp_path / "x", kube.kubelet / "pods" / ".." / "x", kube.kubelet / "pods"):
        pod.target = target
        assert kube.refusal(pod)[0] == "INVALID_ARGUMENT"
    pod = kube.pod()
    pod.volume = "../x"
    assert kube.refusal(pod)[0] == "INVALID_ARGUMENT"
    assert kube.mounts() == []


STEPS = ("bringing", "mounted", "running", "ended", "storing", "untold", "over")


@pytest.mark.parametrize("step", STEPS)
def test_an_agent_that_is_killed_at_any_step_goes_on_where_it_was(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore, step: str
) -> None:
    """The task never notices; its output is stored once, and reported once."""
    output = "bucket/runs/r/t/0/pod/out.txt"
    forever = threading.Event()
    if step == "bringing":
        store.faults["bucket/data.csv"] = [("hold", forever)]
        assert kube.refusal(pod, 1.2)[0] == "DEADLINE_EXCEEDED"
        wait_until(lambda: store.count("GET", "bucket/data.csv"), "the store is asked, and holds what it sends")
        kube.restart()
    kube.publish(pod)
    if step == "mounted":
        kube.restart()
        kube.publish(pod)
    assert len(kube.mounts()) == 4
    task = kube.start_waiting(pod, "cp data.csv out.txt")
    if step == "running":
        kube.restart()
    if step == "ended":
        kube.kill()
    if step == "storing":
        store.faults[output] = [lambda: forever.wait(60)]
    if step == "untold":
        wait_until(lambda: "/v1/plan" in tasks.asked[1:], "the plan was asked for ahead")
        tasks.away = True
    assert kube.let_end(pod, task) == 0
    if step == "ended":
        kube.start()
    if step == "storing":
        wait_until(lambda: store.count("PUT", output), "the upload has begun")
        kube.restart()
    if step == "untold":
        wait_until(lambda: (kube.folder(pod) / "state" / "report.json").exists(), "the report is settled")
        kube.kill()
        tasks.away = False
        kube.start()
    report = only_report(tasks)
    if step == "over":
        wait_until(lambda: kube.record(pod)["phase"] == "over", "it is noted as told")
        kube.restart()
    assert report["exitCode"] == 0, report
    assert [each["name"] for each in report["outputs"]] == ["out.txt"]
    assert store.objects[output] == DATA
    assert store.count("PUT", output) == (2 if step == "storing" else 1)
    kube.unpublish(pod)
    is_dropped(kube, pod)
    assert len(tasks.reports) == 1
    forever.set()


def test_a_task_whose_container_is_killed_is_reported_as_that_and_left_to_its_pods_status(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint, store: ObjectStore
) -> None:
    """As by the kernel, when its memory is short: what it has written by then is no output."""
    kube.publish(pod)
    kube.kill_task(kube.start_waiting(pod, "cp data.csv out.txt"))
    report = only_report(tasks)
    assert report["reason"] == "the task was killed before it could write its exit code"
    assert (report["final"], report["exitCode"], report["disrupted"]) == (False, None, False)
    assert not any("out.txt" in key for key in store.objects)
    kube.unpublish(pod)
    is_dropped(kube, pod)


def test_what_a_process_that_died_between_two_mounts_has_left_is_replaced(kube: KubeNode, pod: Pod) -> None:
    """Whatever it was: the task gets all mounts anew, each with its flags."""
    (kube.kubelet / "pods").mkdir()
    pod.target.mkdir(parents=True)
    subprocess.run(kube.inside("mount", "--bind", "/tmp", str(pod.target)), check=True)
    kube.publish(pod)
    assert [line.split()[1] for line in kube.mounts()] == [
        "rw,nosuid,nodev,relatime",
        "ro,nosuid,nodev,relatime",
        "ro,nosuid,nodev,relatime",
        "rw,nosuid,nodev,relatime",
    ]


def test_only_one_process_at_a_time_serves_the_volumes_of_a_cache(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    first = kube.agent
    assert first is not None
    kube.registration_socket.unlink()
    second = subprocess.Popen(first.args, env=kube.env, stdout=subprocess.DEVNULL)
    waits = f"FLOCK  ADVISORY  WRITE {second.pid} "
    wait_until(lambda: f"-> {waits}" in Path("/proc/locks").read_text(), "the second one waits")
    assert not kube.registration_socket.exists()
    first.kill()
    first.wait()
    kube.agent = second
    wait_until(kube.registration_socket.exists, "the second one serves")
    assert kube.run_task(pod, "cp data.csv out.txt")[0] == 0
    assert only_report(tasks)["exitCode"] == 0


def test_an_agent_that_starts_on_a_full_disk_makes_room_before_it_serves(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    """As on a node whose cache has filled it, and that had no agent before: nothing of the agent's own is there yet."""
    kube.kill()
    subprocess.run(kube.inside("mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "none", str(kube.cache)), check=True)
    fill = 'mkdir -p "$1" && cat /dev/zero > "$1/$2"'
    folder = kube.cache / "blobs" / "sha256" / "aa"
    filled = subprocess.run(kube.inside("sh", "-c", fill, "sh", str(folder), "aa" * 32), capture_output=True, text=True)
    assert "No space left" in filled.stderr
    kube.start()
    kube.publish(pod)
    assert kube.run_task(pod, "cp data.csv out.txt")[0] == 0
    assert only_report(tasks)["exitCode"] == 0


MISTAKEN = """
import os
from agent import node
def keep(*_):
    raise ValueError("a mistake of the keeper's")
node.keep = keep
os._exit(10 + node.node_verb(dict(os.environ)))
"""


def test_a_mistake_of_the_keepers_ends_the_whole_process_at_once_and_says_so(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    """Driver and keeper are one process: neither goes on without the other, and the task notices nothing."""
    kube.publish(pod)
    task = kube.start_waiting(pod, "cp data.csv out.txt")
    kube.kill()
    command = kube.inside("unshare", "--mount", "--propagation", "unchanged", sys.executable, "-c", MISTAKEN)
    env = {**kube.env, "PYTHONPATH": str(Path(__file__).parents[2])}
    mistaken = subprocess.run(command, env=env, capture_output=True, timeout=60)
    assert mistaken.returncode == 11
    assert b"ValueError: a mistake of the keeper's" in mistaken.stderr
    kube.start()
    assert kube.let_end(pod, task) == 0
    assert only_report(tasks)["exitCode"] == 0


def test_an_agent_that_is_told_to_end_ends_at_once_and_leaves_the_task_to_the_next(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    task = kube.start_waiting(pod, "cp data.csv out.txt")
    assert kube.agent is not None
    kube.agent.terminate()
    assert kube.agent.wait(60) == 0
    assert len(kube.mounts()) == 4
    kube.start()
    assert kube.let_end(pod, task) == 0
    assert only_report(tasks)["exitCode"] == 0


def note_another_boot(kube: KubeNode, pod: Pod) -> None:
    """As after a power loss: the mounts and whoever used them are gone, and the kernel is another."""
    for line in reversed(kube.mounts()):
        subprocess.run(kube.inside("umount", "--lazy", line.split()[0]), check=True)
    file = kube.folder(pod) / "volume.json"
    file.write_text(file.read_text().replace(kube.record(pod)["boot"], "00000000-0000-0000-0000-000000000000"))


def test_a_node_that_was_restarted_while_a_task_ran_fails_its_attempt_as_disrupted(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    task = kube.start_waiting(pod, "true")
    kube.kill()
    kube.kill_task(task)
    note_another_boot(kube, pod)
    kube.start()
    report = only_report(tasks)
    assert (report["exitCode"], report["disrupted"], report["final"]) == (None, True, True)
    assert report["reason"] == "the node was restarted while the task ran"
    wait_until(lambda: not kube.folder(pod).exists(), "the volume is gone")


def test_a_volume_whose_task_had_not_started_is_made_anew_after_the_nodes_restart(
    kube: KubeNode, pod: Pod, tasks: TaskEndpoint
) -> None:
    kube.publish(pod)
    kube.kill()
    note_another_boot(kube, pod)
    kube.start()
    wait_until(lambda: not kube.folder(pod).exists(), "the volume is gone")
    kube.publish(pod)
    assert kube.run_task(pod, "cp data.csv out.txt")[0] == 0
    assert only_report(tasks)["exitCode"] == 0
