"""Helios on the cluster, installed as docs/kubernetes.md says: `make-secrets`, then `kubectl apply -k`, on a copy of
k8s/ in which the images are named. A cluster of the tests' own has no storage class, so it gets two volumes.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import redis
import yaml

from helios.streams import CLIENT_OPTIONS
from tests.cluster.clusters import Cluster
from tests.cluster.kubectl import Kubectl
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SERVICES = "helios"
TASKS = "helios-tasks"
DEPLOYMENTS = ("helios-submitter", "helios-jobrunner", "helios-collector")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "REJECTED")
STORES = {"helios-redis": 6379, "helios-minio": 9000}
"""StatefulSets of one pod, and Services; the ports are theirs."""

Dag = Mapping[str, Any]
Run = dict[str, Any]
"""A run as `helios show -o json` prints it."""


class Agents(NamedTuple):
    """The DaemonSet that looks after the nodes' caches."""

    folder: str
    """What is applied, below k8s/."""
    namespace: str
    daemonset: str
    container: str


FORMS = {
    "init": Agents(".", TASKS, "helios-cache", "keep"),
    "csi": Agents("overlays/csi", "helios-node", "helios-agent", "agent"),
}
"""The forms of a task's pod, and what serves each."""


class Installed:
    """A running Helios, and what a user needs to reach it."""

    def __init__(self, cluster: Cluster, folder: Path, form: str = "init") -> None:
        self.cluster = cluster
        self.folder = folder
        self.form = form
        self.agents = FORMS[form]
        self.services = Kubectl(SERVICES)
        self.tasks = Kubectl(TASKS)
        self.addresses: dict[str, str] = {}
        self.is_up = False

    def credentials(self, user: str) -> dict[str, str]:
        """What make-secrets wrote into USER.env."""
        lines = (self.folder / "secrets" / f"{user}.env").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def redis_url(self, user: str = "client") -> str:
        """Of a Redis user, for a process outside."""
        parts = urlsplit(self.credentials(user)["HELIOS_REDIS_URL"])
        return urlunsplit(parts._replace(netloc=f"{user}:{parts.password}@{self.addresses['helios-redis']}"))

    def redis(self, user: str = "client") -> redis.Redis:
        return redis.Redis.from_url(self.redis_url(user), **CLIENT_OPTIONS)

    @property
    def s3_endpoint(self) -> str:
        return f"http://{self.addresses['helios-minio']}"

    def environment(self) -> dict[str, str]:
        """Of a user's command line: the credentials of `client`, and the addresses."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HELIOS_")}
        own = {
            **self.credentials("client"),
            "HELIOS_REDIS_URL": self.redis_url(),
            "HELIOS_S3_ENDPOINT": self.s3_endpoint,
        }
        return {**inherited, **own, "NO_COLOR": "1"}

    def helios(
        self, *arguments: str, stdin: str | None = None, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """The `helios` command."""
        command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=self.environment()
        )

    def submit(self, dag: Dag, *options: str) -> str:
        """The run's id."""
        done = self.helios("submit", "-", *options, stdin=json.dumps(dag))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, run: str) -> Run:
        done = self.helios("show", run, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def end_of(self, run: str, deadline_seconds: float = 180) -> Run:
        """The run, once it has ended."""
        client = self.redis()

        def ended() -> bool:
            try:
                return client.hget(f"helios:{{p0}}:run:{run}", "status") in ENDED
            except redis.RedisError:
                return False

        try:
            wait_until(f"run {run} ends", ended, deadline_seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.helios('show', run).stdout}\n{self.look()}") from None
        finally:
            client.close()
        return self.show(run)

    def run(self, dag: Dag, *options: str, deadline_seconds: float = 180) -> Run:
        return self.end_of(self.submit(dag, *options), deadline_seconds)

    def succeed(self, dag: Dag, *options: str, deadline_seconds: float = 180) -> Run:
        """A run that has to succeed; what its tasks printed is in the error when it does not."""
        found = self.run(dag, *options, deadline_seconds=deadline_seconds)
        if found["status"] != "SUCCEEDED":
            failed = [task["name"] for task in found["tasks"] if task["status"] == "FAILED"]
            logs = "".join(self.logs(found["dagId"], name, step) for name in failed for step in ("fetch", "task"))
            raise AssertionError(f"{self.helios('show', found['dagId']).stdout}\n{logs}")
        return found

    def logs(self, run: str, task: str, step: str = "task") -> str:
        return self.helios("logs", run, task, "--step", step).stdout

    def task_pods(self, run: str) -> list[dict[str, Any]]:
        """Also those that have ended."""
        return self.tasks.labelled("pods", {"helios.dev/run": run})

    def at_work(self, run: str, count: int, deadline_seconds: float = 120) -> dict[str, str]:
        """Task names and their nodes, once `count` pods of the run are there at once and run. Their commands may still
        wait for inputs; see caches.gate.
        """

        def look() -> dict[str, str]:
            pods = [pod for pod in self.task_pods(run) if pod["status"]["phase"] == "Running"]
            found = {pod["metadata"]["annotations"]["helios.dev/task"]: pod["spec"]["nodeName"] for pod in pods}
            return found if len(found) >= count else {}

        return wait_until(f"{count} pods of {run} run", look, deadline_seconds)

    def kill(self, pod: dict[str, Any]) -> None:
        """SIGKILL to the first container of a pod; kubelet starts it again."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        self.cluster.tool("kill-container", pod["spec"]["nodeName"], container)

    def pid(self, pod: dict[str, Any]) -> int:
        """Of the first container's first process, as this process sees it."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        return int(self.cluster.tool("pid", pod["spec"]["nodeName"], container))

    def keeper(self, node: str) -> dict[str, Any]:
        """The keeper's pod on a node, once there is one that runs and stays."""

        def look() -> dict[str, Any] | None:
            pods = Kubectl(self.agents.namespace).labelled("pods", {"app.kubernetes.io/name": self.agents.daemonset})
            here = [pod for pod in pods if pod["spec"].get("nodeName") == node and is_up(pod)]
            return here[0] if here else None

        found = wait_until(f"a keeper runs on {node}", look, 120)
        assert found is not None
        return found

    def cache_folder(self, node: str) -> Path:
        """A node's cache, as this process sees it."""
        return Path(self.cluster.tool("fsof", node).strip()) / "cache"

    def redis_folder(self) -> Path:
        """Redis's volume, as this process sees it."""
        return Path(self.cluster.tool("fsof", "node1").strip()) / "volumes" / "helios-redis"

    def apply(self) -> None:
        """As it was installed."""
        Kubectl(None).run("apply", "--kustomize", str(self.folder / self.agents.folder), seconds=120)

    def wait_agents(self) -> None:
        """The caches' keepers, on every node."""
        self.rollout(f"daemonset/{self.agents.daemonset}", Kubectl(self.agents.namespace), 120)

    def wait_ready(self, deadline_seconds: float = 180) -> None:
        """Every replica of every service."""
        for name in DEPLOYMENTS:
            self.rollout(f"deployment/{name}", self.services, deadline_seconds)

    def scale(self, replicas: int, *deployments: str) -> None:
        """Returns once so many are ready, and the others are gone."""
        for name in deployments:
            self.services.run("scale", f"deployment/{name}", f"--replicas={replicas}")
        for name in deployments:
            self.rollout(f"deployment/{name}", self.services, 120)

        def settled() -> bool:
            return all(len(self.pods_of_service(name)) == replicas for name in deployments)

        wait_until(f"{', '.join(deployments)} have {replicas} pods each", settled, 90)

    def pods_of_service(self, name: str) -> list[dict[str, Any]]:
        return self.services.labelled("pods", {"app.kubernetes.io/name": name})

    def look(self) -> str:
        """What a person would look at when nothing moves; for failure messages."""
        words = [self.services.run("get", "pods", "--output=wide"), self.tasks.run("get", "jobs,pods", "--output=wide")]
        for name in DEPLOYMENTS:
            words.append(
                self.services.run("logs", f"--selector=app.kubernetes.io/name={name}", "--tail=30", "--prefix")
            )
        return "\n".join(words)

    def rollout(self, what: str, kubectl: Kubectl, seconds: float) -> None:
        """Until the rollout is done; what is to be seen is in the error when it is not."""
        try:
            kubectl.run("rollout", "status", what, f"--timeout={seconds:g}s", seconds=seconds + 20)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.look()}") from None

    def uninstall(self) -> str:
        """By the script of k8s/; what it said."""
        command = [sys.executable, str(self.folder / "uninstall"), "--yes", str(self.folder / self.agents.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self.is_up = False
        return done.stdout + done.stderr


def is_up(pod: dict[str, Any]) -> bool:
    """Whether it runs and is not being deleted."""
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


@contextmanager
def installed(cluster: Cluster, scratch: Path, form: str = "init") -> Iterator[Installed]:
    """Installs it, waits until all of it is ready, and uninstalls it."""
    found = Installed(cluster, _copy_of_manifests(cluster, scratch), form)
    forwards: list[subprocess.Popen[str]] = []
    try:
        if cluster.home is not None:
            _make_volumes(cluster)
            _empty_caches(cluster)
        found.is_up = True
        found.apply()
        for name in STORES:
            found.rollout(f"statefulset/{name}", found.services, 180)
        found.wait_ready()
        found.wait_agents()
        for name, port in STORES.items():
            if cluster.home is not None:
                found.addresses[name] = f"{found.services.get('service', name)['spec']['clusterIP']}:{port}"
            else:
                forwards.append(_forward(name, port))
                found.addresses[name] = _forwarded_to(forwards[-1])
        yield found
    finally:
        for each in forwards:
            each.kill()
            each.wait()
        if found.is_up:
            found.uninstall()
        if cluster.home is not None:
            Kubectl().run("delete", "persistentvolume", "--selector=helios.test/of=k8s", "--ignore-not-found")


def _copy_of_manifests(cluster: Cluster, scratch: Path) -> Path:
    folder = scratch / "k8s"
    shutil.copytree(ROOT / "k8s", folder, ignore=shutil.ignore_patterns("*.env", "__pycache__"))
    (folder / "secrets" / "users.acl").unlink(missing_ok=True)
    subprocess.run([sys.executable, str(folder / "make-secrets")], check=True, capture_output=True)
    images = {"helios": cluster.image, "redis": cluster.redis_image, "minio": cluster.minio_image}
    base = folder / "base" / "kustomization.yaml"
    settings = yaml.safe_load(base.read_text(encoding="utf-8"))
    for each in settings["images"]:
        name, _, tag = (images[each["name"]] or "").rpartition(":")
        each.update({"newName": name, "newTag": tag} if name else {})
    base.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def _make_volumes(cluster: Cluster) -> None:
    """One on node1 for each claim: a `local` volume, whose owner kubelet sets as the pod asks."""
    behind = Path(cluster.tool("fsof", "node1").strip())
    volumes: list[dict[str, Any]] = []
    for name in STORES:
        folder = behind / "volumes" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        where = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"]}]}
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": SERVICES, "name": f"data-{name}-0"},
            "local": {"path": f"/var/helios/volumes/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [where]}},
        }
        metadata = {"name": f"{name}-{uuid.uuid4().hex[:8]}", "labels": {"helios.test/of": "k8s"}}
        volumes.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec})
    Kubectl().apply(*volumes)


def _empty_caches(cluster: Cluster) -> None:
    for node in Kubectl().ready_nodes():
        shutil.rmtree(Path(cluster.tool("fsof", node).strip()) / "cache", ignore_errors=True)


def _forward(service: str, port: int) -> subprocess.Popen[str]:
    command = ["kubectl", "--namespace", SERVICES, "port-forward", f"service/{service}", f":{port}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _forwarded_to(process: subprocess.Popen[str]) -> str:
    """From kubectl's `Forwarding from 127.0.0.1:40123 -> 6379`."""
    assert process.stdout is not None
    return process.stdout.readline().split()[2]
