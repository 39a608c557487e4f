"""The node's CSI driver, asked by a kubelet of these tests' own, with real mounts and the real wrapper."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.csi_wire import csi_pb2, registration_pb2
from tests.agent.conftest import ObjectStore, serving, wait_until
from tests.agent.kubelet import AGENT_USER, KubeNode, Pod, TaskEndpoint, missing, short_folder

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

DATA = b"what a task reads\n" * 1000


@pytest.fixture
def tasks(store: ObjectStore) -> Iterator[TaskEndpoint]:
    endpoint = TaskEndpoint(store)
    with serving(endpoint.handler()) as port:
        endpoint.port = port
        yield endpoint


@pytest.fixture
def kube(tasks: TaskEndpoint, static_binary: Path) -> Iterator[KubeNode]:
    with short_folder() as folder:
        node = KubeNode(folder, tasks, static_binary)
        try:
            node.start()
            yield node
        finally:
            node.close()


@pytest.fixture
def pod(kube: KubeNode, tasks: TaskEndpoint, store: ObjectStore) -> Pod:
    """With an input `data.csv`, and an output `out.txt` to store."""
    store.put("bucket/data.csv", DATA)
    tasks.add_input("data.csv", "bucket/data.csv")
    tasks.add_output("out.txt")
    return kube.pod(inputs="1", outputs="1")


def only_report(tasks: TaskEndpoint) -> dict[str, Any]:
    wait_until(lambda: tasks.reports, "a report")
    assert len(tasks.reports) == 1
    return tasks.reports[0]


def is_dropped(kube: KubeNode, pod: Pod) -> None:
    wait_until(lambda: not kube.folder(pod).exists(), "the volume is gone from the disk")
    assert not any(pod.uid in line for line in kube.mounts())
    assert not pod.target.exists()


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
