"""The workloads of Helios in a cluster: what their manifests ask for, and what their pods run.

Rule: everything here is read from the API server's JSON; nothing is judged.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from cli.cluster_api import Api, ApiRefused, find

SERVICES = "helios"
"""The services' namespace in k8s/; that of the tasks is a setting."""
NAME = "app.kubernetes.io/name"
KEEPER = "helios-cache"
AGENTS = "helios-node"
"""The namespace of the nodes' agents, with k8s/overlays/csi."""
AGENT = "helios-agent"
DEPLOYMENTS = ("helios-submitter", "helios-jobrunner", "helios-collector")
PODS_LOOKED_AT = 500


class Pod(msgspec.Struct, frozen=True):
    """One pod that runs: the image that its manifest asks for, and the digest of what it got."""

    name: str
    image: str
    digest: str


class Workload(msgspec.Struct, frozen=True):
    """A Deployment of the services, or the DaemonSet of the keeper or the agent. `image` is what it asks for, and None
    where there is none.
    """

    namespace: str
    kind: str
    name: str
    image: str | None = None
    wanted: int = 0
    ready: int = 0
    pods: tuple[Pod, ...] = ()

    @property
    def service(self) -> str:
        """What its heartbeats call it."""
        return self.name.removeprefix("helios-")


def read_workloads(api: Api, tasks: str) -> Iterator[Workload]:
    """All of them, one by one. Raises ApiRefused or ApiAway."""
    for name in DEPLOYMENTS:
        yield read_workload(api, SERVICES, "deployment", name)
    yield read_workload(api, *keeper_of(api, tasks))


def keeper_of(api: Api, tasks: str) -> tuple[str, str, str]:
    """Namespace, kind and name of what looks after each node's cache, or should: the agent where its namespace is, else
    the keeper.
    """
    for path in (f"/apis/apps/v1/namespaces/{AGENTS}/daemonsets/{AGENT}", f"/api/v1/namespaces/{AGENTS}"):
        with contextlib.suppress(ApiRefused):  # neither is everybody's to see
            if find(api, path) is not None:
                return AGENTS, "daemonset", AGENT
    return tasks, "daemonset", KEEPER


def read_workload(api: Api, namespace: str, kind: str, name: str) -> Workload:
    found = find(api, f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}")
    if found is None:
        return Workload(namespace, kind, name)
    spec: Any = found["spec"]
    status: Any = found.get("status", {})
    selector = f"labelSelector={NAME}%3D{name}"
    pods: list[Any] = api.get(f"/api/v1/namespaces/{namespace}/pods?{selector}").get("items") or []
    return Workload(
        namespace,
        kind,
        name,
        image=str(spec["template"]["spec"]["containers"][0]["image"]),
        wanted=int(status.get("desiredNumberScheduled", spec.get("replicas", 1))),
        ready=int(status.get("numberReady", status.get("readyReplicas", 0))),
        pods=tuple(each for pod in pods if (each := _running(pod)) is not None),
    )


def read_task_pods(api: Api, tasks: str) -> list[Pod]:
    """The pods of tasks that run now, each with the image of its fetch, which is the agent's. Those whose volume an
    agent serves have none.
    """
    selector = f"labelSelector=app.kubernetes.io/managed-by%3Dhelios&limit={PODS_LOOKED_AT}"
    pods: list[Any] = api.get(f"/api/v1/namespaces/{tasks}/pods?{selector}").get("items") or []
    running = [
        pod
        for pod in pods
        if pod.get("status", {}).get("phase") == "Running" and pod["spec"]["containers"][0]["name"] == "fetch"
    ]
    return [each for pod in running if (each := _running(pod, {"running", "terminated"})) is not None]


def _running(pod: Any, states: Collection[str] = ("running",)) -> Pod | None:
    """The pod by its first container, which for a task is fetch; None unless that is in one of the states."""
    first: Any = pod["spec"]["containers"][0]
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status["name"] == first["name"] and any(state in status.get("state", {}) for state in states):
            return Pod(str(pod["metadata"]["name"]), str(first["image"]), str(status.get("imageID", "")))
    return None


def tag_of(image: str) -> str:
    """The tag that an image is asked for by; empty when it is asked for without one."""
    name = image.partition("@")[0]
    return name.rpartition("/")[2].partition(":")[2]


def short(digest: str) -> str:
    """`sha256:` and twelve characters, as people compare them."""
    _, at, digits = digest.rpartition("sha256:")
    return f"sha256:{digits[:12]}" if at else digest or "digest unknown"
