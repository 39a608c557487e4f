"""A node for the driver's tests: a mount namespace of its own, the agent as a process in it, a kubelet that speaks CSI,
and task containers that see nothing but their volume, run by the real wrapper. Needs root, and mounts.
"""

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.csi_wire import csi_pb2, registration_pb2
from agent.volume_record import job_name
from tests.agent.conftest import AGENT, TOKEN, ObjectStore, PodEndpoint, wait_until

TASK_USER = 1000
AGENT_USER = 65532
DATA = b"what a task reads\n" * 1000
TOOLS = ("unshare", "nsenter", "setpriv", "mount")


class TaskEndpoint(PodEndpoint):
    """The pod endpoint, which may be away."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.away = False

    def handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(super().handler()):
            def enter(self) -> bool:
                if endpoint.away:
                    self.answer(503)
                return not endpoint.away and super().enter()

            def do_GET(self) -> None:
                if self.enter():
                    # Each pod is of an attempt of its own, the one that its number says.
                    attempt = int(self.headers["Helios-Pod"].rpartition("-")[2])
                    self.reply(200, {**endpoint.plan(), "attempt": attempt})

        return Handler


class Pod:
    """One task's pod, as far as the driver hears of it."""

    def __init__(self, kubelet: Path, number: int, **attributes: str) -> None:
        self.uid = f"00000000-0000-0000-0000-{number:012}"
        self.volume = f"csi-{number:064x}"
        self.target = kubelet / "pods" / self.uid / "volumes" / "kubernetes.io~csi" / "artifacts" / "mount"
        self.job = job_name("r", "t", number)
        self.context = {
            "v": "1",
            "run": "r",
            "task": "t",
            "attempt": str(number),
            "job": self.job,
            "cacheEnabled": "true",
            "token": TOKEN,
            "user": str(TASK_USER),
            "inputs": "0",
            "outputs": "0",
            "csi.storage.k8s.io/pod.uid": self.uid,
            "csi.storage.k8s.io/pod.name": f"pod-{number}",
            "csi.storage.k8s.io/pod.namespace": "helios-tasks",
            "csi.storage.k8s.io/ephemeral": "true",
            **attributes,
        }


class KubeNode:
    """The node. `agent` is its process, None while there is none."""

    def __init__(self, root: Path, endpoint: PodEndpoint, wrapper: Path) -> None:
        self.root = root
        self.endpoint = endpoint
        self.kubelet = root / "kubelet"
        self.cache = root / "cache"
        self.driver_socket = self.kubelet / "plugins" / "cache.helios.dev" / "csi.sock"
        self.registration_socket = self.kubelet / "plugins_registry" / "cache.helios.dev-reg.sock"
        self.agent: subprocess.Popen[bytes] | None = None
        self.env = {
            "PATH": os.environ["PATH"],
            "HELIOS_KUBELET_DIR": str(self.kubelet),
            "HELIOS_CACHE_DIR": str(self.cache),
            "HELIOS_WRAPPER": str(wrapper),
            "HELIOS_NAMESPACE": "helios-tasks",
            "HELIOS_NODE": "node-1",
            "HELIOS_ENDPOINT": endpoint.url,
            "HELIOS_PLAN_PATIENCE_SECONDS": "20",
            "HELIOS_AGENT_LIB": site.getsitepackages()[0],
        }
        self._pods = 0
        # As on a node: what is mounted below kubelet's folder in one namespace is seen in all.
        share = 'mkdir "$1" && mount --bind "$1" "$1" && mount --make-rshared "$1" && echo ready && exec sleep infinity'
        alone = ("unshare", "--mount", "--propagation", "private")
        self._place = subprocess.Popen([*alone, "sh", "-c", share, "sh", str(self.kubelet)], stdout=subprocess.PIPE)
        assert self._place.stdout is not None
        assert self._place.stdout.readline() == b"ready\n"

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._place.pid}/ns/mnt", *command]

    def start(self, **env: str) -> None:
        """Returns when kubelet may register the driver. The agent's mounts are its own, as in a container, but for
        kubelet's folder, which is shared both ways.
        """
        self.env.update(env)
        log = (self.root / "log").open("ab")
        container = ("unshare", "--mount", "--propagation", "unchanged")
        command = self.inside(*container, sys.executable, "-I", "-S", str(AGENT), "node")
        self.registration_socket.unlink(missing_ok=True)
        self.agent = process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        log.close()

        def listens() -> bool:
            assert process.poll() is None, self.log()
            return self.registration_socket.exists()

        wait_until(listens, "the driver listens", 60)

    def log(self) -> str:
        return (self.root / "log").read_text()

    def kill(self) -> None:
        """As the kernel does when memory is short: at once."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()
        self.agent = None

    def restart(self, **env: str) -> None:
        self.kill()
        self.start(**env)

    def close(self) -> None:
        if self.agent is not None:
            self.kill()
        self._place.kill()
        self._place.wait()
        assert self._place.stdout is not None
        self._place.stdout.close()

    def pod(self, **attributes: str) -> Pod:
        self._pods += 1
        return Pod(self.kubelet, self._pods, **attributes)

    def call(self, socket: Path, method: str, request: Any, answer: Any, seconds: float = 30.0) -> Any:
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            ask = channel.unary_unary(
                method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
            )
            return ask(request, timeout=seconds, wait_for_ready=True)

    def registration(self) -> registration_pb2.PluginInfo:
        method = "/pluginregistration.Registration/GetInfo"
        return self.call(self.registration_socket, method, registration_pb2.InfoRequest(), registration_pb2.PluginInfo)

    def publish(self, pod: Pod, seconds: float = 30.0) -> None:
        """Raises grpc.RpcError."""
        pod.target.parent.mkdir(parents=True, exist_ok=True)
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=pod.volume, target_path=str(pod.target), volume_context=pod.context
        )
        self.call(
            self.driver_socket, "/csi.v1.Node/NodePublishVolume", request, csi_pb2.NodePublishVolumeResponse, seconds
        )

    def refusal(self, pod: Pod, seconds: float = 30.0) -> tuple[str, str]:
        """The code and the words with which the publication fails. As kubelet does, it asks again where no answer came
        in time: the agent gives one a second before that, which a busy machine may take to pass it on.
        """
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as raised:
                self.publish(pod, seconds)
            error: Any = raised.value
            if error.details() != "Deadline Exceeded":
                return error.code().name, error.details()
        raise AssertionError(f"no answer within {seconds:g} s, five times")

    def unpublish(self, pod: Pod, seconds: float = 30.0) -> None:
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=pod.volume, target_path=str(pod.target))
        answer = csi_pb2.NodeUnpublishVolumeResponse
        self.call(self.driver_socket, "/csi.v1.Node/NodeUnpublishVolume", request, answer, seconds)

    def start_task(
        self, pod: Pod, script: str, user: int = TASK_USER, capabilities: str = "", **options: Any
    ) -> subprocess.Popen[bytes]:
        """The task's container: the volume alone, at /mnt, and its command under the wrapper as the first process."""
        enter = (
            'mount --rbind "$1" /mnt && mount -t proc proc /proc && cd /mnt && '
            'exec setpriv --reuid="$2" --regid="$2" --clear-groups --no-new-privs --inh-caps=-all '
            '--bounding-set=-all"$3" /mnt/.helios/exec /mnt/.helios/control --view /mnt/.helios/inputs -- sh -c "$4"'
        )
        command = self.inside("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh")
        arguments = [str(pod.target), str(user), capabilities, script]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        return subprocess.Popen([*command, *arguments], **options)

    def run_task(self, pod: Pod, script: str, user: int = TASK_USER, capabilities: str = "") -> tuple[int, str]:
        """The exit code and what was printed."""
        process = self.start_task(pod, script, user, capabilities)
        output = process.communicate(timeout=60)[0].decode()
        return process.returncode, output

    def start_waiting(self, pod: Pod, script: str) -> subprocess.Popen[bytes]:
        """A task that has done what the script says, and then goes on until `let_end`."""
        task = self.start_task(pod, f"{script}; echo running; until [ -e go ]; do sleep 0.02; done")
        assert task.stdout is not None
        line = task.stdout.readline()
        assert line == b"running\n", line
        return task

    def let_end(self, pod: Pod, task: subprocess.Popen[bytes]) -> int:
        (self.folder(pod) / "artifacts" / "go").touch()
        task.communicate(timeout=60)
        return task.returncode

    def kill_task(self, task: subprocess.Popen[bytes]) -> None:
        """As when its container is killed: the first process, and with it all others."""
        children = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        task.communicate(timeout=60)

    def mounts(self) -> list[str]:
        """Mount points of pods, below the folder of all pods, with the options of each."""
        lines = subprocess.run(self.inside("cat", "/proc/self/mountinfo"), capture_output=True, text=True).stdout
        fields = [line.split() for line in lines.splitlines()]
        return [f"{each[4]} {each[5]}" for each in fields if each[4].startswith(f"{self.kubelet}/pods/")]

    def folder(self, pod: Pod) -> Path:
        return self.cache / "volumes" / pod.volume

    def record(self, pod: Pod) -> dict[str, Any]:
        """What the agent has written down of the volume; empty when it is gone."""
        try:
            return json.loads((self.folder(pod) / "volume.json").read_text())
        except FileNotFoundError:
            return {}

    def blob(self, digest: str) -> Path:
        return self.cache / "blobs" / "sha256" / digest[:2] / digest


@contextmanager
def short_folder() -> Iterator[Path]:
    """Where sockets fit, whose names may be no longer than 107 characters, and which any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="csi-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def missing() -> str | None:
    """Why a node cannot be made here."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"needs {', '.join(lacking)}"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"], stderr=-3)
    return "mounts cannot be made here" if tried.returncode else None


def only_report(tasks: TaskEndpoint) -> dict[str, Any]:
    """The one report that came."""
    wait_until(lambda: tasks.reports, "a report")
    assert len(tasks.reports) == 1
    return tasks.reports[0]


def is_dropped(kube: KubeNode, pod: Pod) -> None:
    """Waits until nothing is left of a volume."""
    wait_until(lambda: not kube.folder(pod).exists(), "the volume is gone from the disk")
    assert not any(pod.uid in line for line in kube.mounts())
    assert not pod.target.exists()
