"""A cluster with Helios in it, as its API server describes it to `helios doctor`."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cli.checkup import Finding
from cli.checkup_cluster import LEVEL, examine_cluster
from cli.checkup_rights import NEEDED
from cli.cluster_api import ApiRefused
from helios.settings import Settings

POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/helios-tasks"
TASK_PODS = "/api/v1/namespaces/helios-tasks/pods?labelSelector=app.kubernetes.io/managed-by%3Dhelios&limit=500"
DRIVER = "cache.helios.dev"
CSI_DRIVER = f"/apis/storage.k8s.io/v1/csidrivers/{DRIVER}"
CSI_NODES = "/apis/storage.k8s.io/v1/csinodes"
IMAGE = "helios:0.1.0"
DIGEST = "helios@sha256:" + "ab" * 32
OTHER_DIGEST = "helios@sha256:" + "cd" * 32


def workload(image: str = IMAGE, ready: int = 2) -> dict[str, Any]:
    return {
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}},
        "status": {"readyReplicas": ready},
    }


def pod(name: str, image: str = IMAGE, digest: str = DIGEST) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}]},
        "status": {"containerStatuses": [{"name": "main", "imageID": digest, "state": {"running": {}}}]},
    }


def task_pod(name: str, image: str = IMAGE, digest: str = DIGEST, phase: str = "Running") -> dict[str, Any]:
    fetched = {"name": "fetch", "imageID": digest, "state": {"terminated": {"exitCode": 0}}}
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "fetch", "image": image}, {"name": "task"}]},
        "status": {"phase": phase, "containerStatuses": [fetched]},
    }


def beat(service: str, replica: str, image: str = "0.1.0") -> dict[str, str]:
    return {"service": service, "replica": replica, "version": "0.1.0", "image": image, "pid": "1", "since": "1"}


def beats() -> list[dict[str, str]]:
    """Those of every pod."""
    return [
        beat(service, f"helios-{service}-{end}")
        for service in ("submitter", "jobrunner", "collector")
        for end in ("a", "b")
    ]


def csi_node(name: str, *drivers: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"drivers": [{"name": each} for each in drivers]}}


def policy(agent: str) -> Any:
    return {"spec": {"variables": [{"name": "agent", "expression": f"'{agent}'"}]}}


class Cluster:
    """An API server that answers from a table; a path that is not in it is 404. All is well until a test changes it."""

    def __init__(self) -> None:
        policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        self.documents: dict[str, Any] = {
            "/version": {"gitVersion": "v1.36.0"},
            "/api/v1/nodes": {"items": [{}, {}]},
            "/api/v1/namespaces/helios": {"metadata": {"labels": {LEVEL: "restricted"}}},
            "/api/v1/namespaces/helios-tasks": {"metadata": {"labels": {LEVEL: "privileged"}}},
            **{
                f"{policies}{kind}/{name}": {}
                for kind in ("ies", "ybindings")
                for name in ("helios-tasks", "helios-tasks-unchanged")
            },
            POLICY: policy(IMAGE),
        }
        for name in ("submitter", "jobrunner", "collector"):
            self.documents[f"/apis/apps/v1/namespaces/helios/deployments/helios-{name}"] = workload()
            self.documents[pods_of(f"helios-{name}")] = {"items": [pod(f"helios-{name}-a"), pod(f"helios-{name}-b")]}
        self.keeper: dict[str, Any] = {**workload(), "status": {"numberReady": 2, "desiredNumberScheduled": 2}}
        self.documents["/apis/apps/v1/namespaces/helios-tasks/daemonsets/helios-cache"] = self.keeper
        self.documents[pods_of("helios-cache", "helios-tasks")] = {
            "items": [pod("helios-cache-a"), pod("helios-cache-b")]
        }
        self.documents[TASK_PODS] = {"items": []}
        self.allows: Callable[[str, str, str], bool] = allowed
        self.asked: list[str] = []
        self.hidden: set[str] = set()

    def serve_volumes(self) -> None:
        """As k8s/overlays/csi leaves it."""
        apps, labels = "/apis/apps/v1/namespaces", {LEVEL: "restricted"}
        del self.documents[f"{apps}/helios-tasks/daemonsets/helios-cache"]
        del self.documents[pods_of("helios-cache", "helios-tasks")]
        self.documents |= {
            "/api/v1/nodes": {"items": [{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}]},
            "/api/v1/namespaces/helios-tasks": {"metadata": {"labels": labels}},
            "/api/v1/namespaces/helios-node": {"metadata": {"labels": {LEVEL: "privileged"}}},
            POLICY: {"spec": {}},
            CSI_DRIVER: {
                "spec": {"attachRequired": False, "podInfoOnMount": True, "volumeLifecycleModes": ["Ephemeral"]}
            },
            CSI_NODES: {"items": [csi_node("n1", "other.test", DRIVER), csi_node("n2", DRIVER)]},
            f"{apps}/helios-node/daemonsets/helios-agent": self.keeper,
            pods_of("helios-agent", "helios-node"): {"items": [pod("helios-agent-a"), pod("helios-agent-b")]},
        }

    def get(self, path: str) -> Any:
        if path in self.hidden:
            raise ApiRefused(403, f"you may not see {path}")
        if path not in self.documents:
            raise ApiRefused(404, "not found")
        return self.documents[path]

    def post(self, path: str, document: Any) -> Any:
        kind = document["kind"]
        self.asked.append(kind)
        if kind in self.hidden:
            raise ApiRefused(403, f"you may not create {kind}")
        asked = document["spec"]["resourceAttributes"]
        user = document["spec"].get("user", "me").rpartition(":")[2]
        resource = f"{asked['resource']}/{asked['subresource']}".rstrip("/")
        return {"status": {"allowed": self.allows(user, asked["verb"], resource)}}

    def found(self, told: list[dict[str, str]] | None = None, **options: Any) -> dict[str, Finding]:
        return {each.check: each for each in examine_cluster(self, Settings(), told, **options)}


def pods_of(name: str, namespace: str = "helios") -> str:
    return f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/name%3D{name}"


def allowed(user: str, verb: str, resource: str) -> bool:
    """Whoever asks for themselves may do all; a service what it needs."""
    name, _, sub = resource.partition("/")
    return user == "me" or any(right[1:] == (name, sub, verb) for right in NEEDED[user])


@contextmanager
def served(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """The cluster behind a real API server; yields its KUBECONFIG."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(lambda: cluster.get(self.path))

        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(lambda: cluster.post(self.path, document))

        def answer(self, ask: Callable[[], Any]) -> None:
            try:
                status, document = 200, ask()
            except ApiRefused as refusal:
                status, document = refusal.status, {"message": str(refusal)}
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield kubeconfig(folder, server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(folder: Path, port: int) -> Path:
    file = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    file.write_text(json.dumps(document))
    return file
