"""An API server with Jobs and nodes: as much of the real one as the jobrunner speaks with, over real connections."""

import contextlib
import json
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from helios.settings import Settings

SETTINGS = Settings(
    token_key="k", agent_image="helios:1", launcher="kubernetes", lease_seconds=60, unknown_job_seconds=0
)
"""Of a jobrunner on it."""
PATH = "/apis/batch/v1/namespaces/helios-tasks/jobs"

Answer = tuple[int, dict[str, Any]]


def status(code: int, reason: str = "", message: str = "", kind: str = "jobs") -> Answer:
    """A failure as the API server words it."""
    return code, {
        "kind": "Status",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
        "details": {"kind": kind},
    }


class ApiServer(ThreadingHTTPServer):
    """The Jobs of one namespace, and the nodes; its next answers to a creation can be told to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.answers: list[Answer] = []
        self.before_answer: Callable[[str], None] = lambda name: None
        """Called with the Job's name once it is created, before the answer goes out."""
        self.deletions: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.drivers: set[str] = set()
        """Names of CSIDriver objects."""
        self.nodes: list[dict[str, Any]] = []
        self.csi_nodes: list[dict[str, Any]] = []
        self.cluster_answers: dict[str, Answer] = {}
        """By path, what is answered in place of the truth about the cluster."""
        self.looks: list[str] = []
        """The paths outside the namespace that were asked for, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, job: dict[str, Any]) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        name = job["metadata"]["name"]
        if name in self.jobs:
            return status(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        self.jobs[name] = job
        self.before_answer(name)
        return 201, job

    def page(self, query: dict[str, list[str]]) -> Answer:
        """Two Jobs at a time, whatever limit is asked for."""
        assert query["labelSelector"] == ["app.kubernetes.io/managed-by=helios"]
        return _page([self.jobs[name] for name in sorted(self.jobs)], query)

    def cluster(self, path: str, query: dict[str, list[str]]) -> Answer:
        self.looks.append(path)
        if path in self.cluster_answers:
            return self.cluster_answers[path]
        if path == "/api/v1/nodes":
            return _page(self.nodes, query)
        if path == "/apis/storage.k8s.io/v1/csinodes":
            return _page(self.csi_nodes, query)
        name = path.removeprefix("/apis/storage.k8s.io/v1/csidrivers/")
        if name in self.drivers:
            return 200, {"metadata": {"name": name}, "spec": {"volumeLifecycleModes": ["Ephemeral"]}}
        return status(404, "NotFound", f'csidrivers.storage.k8s.io "{name}" not found', kind="csidrivers")

    def join(
        self, name: str, *drivers: str, ready: bool = True, cordoned: bool = False, taint: str | None = None
    ) -> None:
        """A node joins whose kubelet knows these drivers; `taint` is an effect."""
        spec: dict[str, Any] = {"podCIDR": "10.0.0.0/24"}
        if cordoned:
            spec["unschedulable"] = True
        if taint:
            spec["taints"] = [{"key": "k", "effect": taint}]
        conditions = [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": str(ready)}]
        self.nodes.append({"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}})
        known = [{"name": driver, "nodeID": name, "topologyKeys": None} for driver in drivers]
        self.csi_nodes.append({"metadata": {"name": name}, "spec": {"drivers": known or None}})


def _page(items: list[dict[str, Any]], query: dict[str, list[str]]) -> Answer:
    start = int(query["continue"][0]) if "continue" in query else 0
    following = {"continue": str(start + 2)} if start + 2 < len(items) else {}
    return 200, {"metadata": following, "items": items[start : start + 2]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_POST(self) -> None:
        assert self.path == PATH
        self.server.tokens.add(self.headers.get("Authorization", ""))
        self._answer(self.server.create(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.removeprefix(PATH).removeprefix("/")
        if not parts.path.startswith(PATH):
            self._answer(self.server.cluster(parts.path, parse_qs(parts.query)))
        elif not name:
            self._answer(self.server.page(parse_qs(parts.query)))
        elif name in self.server.jobs:
            self._answer((200, self.server.jobs[name]))
        else:
            self._answer(status(404, "NotFound", f'jobs.batch "{name}" not found'))

    def do_DELETE(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.removeprefix(f"{PATH}/")
        self.server.deletions.append((name, parts.query))
        found = self.server.jobs.pop(name, None)
        self._answer((200, {}) if found else status(404, "NotFound", f'jobs.batch "{name}" not found'))

    def _answer(self, answer: Answer) -> None:
        body = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client gave up waiting, as some tests want it to
            super().handle()


@contextlib.contextmanager
def serving() -> Generator[ApiServer, None, None]:
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(folder: Path, url: str) -> Path:
    file = folder / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "opaque"}}],
            }
        )
    )
    return file
