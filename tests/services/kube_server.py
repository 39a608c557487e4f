"""A small API server for tests: lists, watches, logs, patches and deletes over real HTTP, and faults on command."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3

from services.collector.kube_api import Api

Json = dict[str, Any]
NAMESPACE = "helios-tasks"
PLACES = {
    f"/api/v1/namespaces/{NAMESPACE}/pods": "pods",
    f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs": "jobs",
    "/api/v1/nodes": "nodes",
    f"/api/v1/namespaces/{NAMESPACE}/events": "events",
}


class KubeServer:
    """Objects by kind and name. Every change has a version, and every watch is told of it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 100
        self.objects: dict[str, dict[str, Json]] = {kind: {} for kind in PLACES.values()}
        self.history: list[tuple[int, str, str, Json]] = []
        self.oldest = 0
        """Watches from before this version are too old."""
        self.connections = 0
        """Counts up when all watches are to be cut."""
        self.away = False
        self.mute = False
        """Watches say nothing any more and do not end, as when packets are lost on the way."""
        self.logs: dict[tuple[str, str], bytes] = {}
        self.log_errors: dict[tuple[str, str], int] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.refuse: dict[tuple[str, str], int] = {}
        """HTTP errors by method and last part of the path."""
        self.snapshots: dict[str, list[Json]] = {}
        self.runs_jobs = False
        """Whether a Job that is created gets a pod, over and well at once; a deleted one takes its pods along."""
        self.created: list[str] = []
        """The names of all Jobs that were created, in order."""
        server = self

        class Handler(_Handler):
            kube = server

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.http.server_port}", urllib3.PoolManager(maxsize=32), dict)

    def close(self) -> None:
        self.cut()
        self.http.shutdown()
        self.http.server_close()

    # What the test does to it.

    def put(self, kind: str, name: str, document: Json, *, quietly: bool = False) -> None:
        with self.changed:
            known = self.objects[kind].get(name)
            self.version += 1
            meta = {**document.get("metadata", {}), "name": name, "resourceVersion": str(self.version)}
            made = {**document, "metadata": meta}
            self.objects[kind][name] = made
            if not quietly:
                self._tell("MODIFIED" if known else "ADDED", kind, made)

    def delete(self, kind: str, name: str, *, quietly: bool = False) -> None:
        with self.changed:
            gone = self.objects[kind].pop(name)
            self.version += 1
            if not quietly:
                self._tell("DELETED", kind, gone)

    def bookmark(self, kind: str) -> None:
        with self.changed:
            self.version += 1
            self._tell("BOOKMARK", kind, {"metadata": {"resourceVersion": str(self.version)}})

    def create(self, kind: str, document: Json) -> bool:
        """As a POST does; False if there is one of that name."""
        name = document["metadata"]["name"]
        with self.changed:
            if name in self.objects[kind]:
                return False
            self.put(kind, name, document)
            if kind == "jobs":
                self.created.append(name)
                if self.runs_jobs:
                    self._run(document)
        return True

    def _run(self, job: Json) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        times = {"startedAt": "2026-11-25T01:00:02Z", "finishedAt": "2026-11-25T01:00:05Z"}
        steps = [
            {"name": step, "state": {"terminated": {"exitCode": 0, **times}}} for step in ("fetch", "task", "publish")
        ]
        self.put(
            "pods",
            f"{name}-x",
            {
                "metadata": {**template["metadata"], "uid": f"uid-{self.version}"},
                "spec": {"nodeName": "node1"},
                "status": {"phase": "Succeeded", "containerStatuses": steps},
            },
        )

    def collect(self, job: str) -> None:
        """What the garbage collector does after a Job was deleted; a finalizer holds a pod a while longer."""
        with self.changed:
            pod = self.objects["pods"].get(f"{job}-x")
            if pod is None:
                return
            if pod["metadata"].get("finalizers"):
                going = {"deletionTimestamp": "2026-11-25T01:01:00Z", "deletionGracePeriodSeconds": 0}
                self.put("pods", f"{job}-x", {**pod, "metadata": {**pod["metadata"], **going}})
            else:
                self.delete("pods", f"{job}-x")

    def send(self, kind: str, line: str) -> None:
        """Anything at all as a line of the watch."""
        with self.changed:
            self.version += 1
            self._tell(line, kind, {})

    def cut(self) -> None:
        """Break every connection that watches."""
        with self.changed:
            self.connections += 1
            self.changed.notify_all()

    def expire(self) -> None:
        """Forget what happened so far: whoever was cut off must list again."""
        with self.changed:
            self.oldest = self.version
            self.history.clear()

    def go_away(self) -> None:
        self.away = True
        self.cut()

    def come_back(self) -> None:
        self.away = False

    def asked(self, method: str, end: str) -> list[tuple[dict[str, str], Any]]:
        """Query and body of the requests so far whose path ends so."""
        return [
            (query, body) for verb, path, query, body in list(self.requests) if verb == method and path.endswith(end)
        ]

    def watching(self) -> list[dict[str, str]]:
        """The queries of all watches so far."""
        return [query for _, _, query, _ in list(self.requests) if query.get("watch")]

    def _tell(self, change: str, kind: str, document: Json) -> None:
        self.history.append((self.version, change, kind, document))
        self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: KubeServer
    generation = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has gone, as some tests want it to
            super().handle()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        kube = self.kube
        self.generation = kube.connections  # before all else: what is cut from now on is this one, too
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if kube.away:
            self.close_connection = True
            self.connection.close()
            return
        kube.requests.append((method, url.path, query, body))
        place, _, name = url.path.rpartition("/")
        code = kube.refuse.get((method, name))
        if code:
            self._answer(code, {"kind": "Status", "code": code, "message": f"refused with {code}"})
        elif url.path in PLACES and method == "POST":
            if kube.create(PLACES[url.path], body):
                self._answer(201, body)
            else:
                self._answer(409, {"kind": "Status", "code": 409, "reason": "AlreadyExists", "message": "exists"})
        elif url.path in PLACES and query.get("watch"):
            self._watch(PLACES[url.path], int(query["resourceVersion"]), float(query["timeoutSeconds"]))
        elif url.path in PLACES:
            self._list(PLACES[url.path], query)
        elif name == "log":
            self._log(place.rpartition("/")[2], query)
        elif place in PLACES:
            self._one(method, PLACES[place], name, body)
        else:
            self._answer(404, {"message": f"no {url.path}"})

    def _answer(self, code: int, document: Any) -> None:
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        kube = self.kube
        with kube.changed:
            version, start = str(kube.version), 0
            items = list(kube.objects[kind].values())
            if "continue" in query:
                version, _, offset = query["continue"].partition(":")
                start = int(offset)
                if int(version) < kube.oldest:
                    self._answer(410, {"code": 410, "message": "The provided continue parameter is too old"})
                    return
                items = kube.snapshots[version]
            for selector in query.get("fieldSelector", "").split(","):
                field, _, wanted = selector.partition("=")
                if field.startswith("involvedObject."):
                    items = [each for each in items if each["involvedObject"][field.partition(".")[2]] == wanted]
            label, _, wanted = query.get("labelSelector", "").partition("=")
            if label:
                items = [each for each in items if each["metadata"].get("labels", {}).get(label) == wanted]
            kube.snapshots[version] = items
        limit = int(query.get("limit", "100000"))
        left = start + limit < len(items)
        meta = {"resourceVersion": version, "continue": f"{version}:{start + limit}" if left else ""}
        self._answer(200, {"kind": "List", "metadata": meta, "items": items[start : start + limit]})

    def _watch(self, kind: str, version: int, seconds: float) -> None:
        kube = self.kube
        if version < kube.oldest:
            # As the real one does: the watch opens, and its first line is the error.
            self._begin()
            self._chunk(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}))
            self.close_connection = True
            return
        self._begin()
        try:
            for line in self._lines(kind, version, seconds):
                self._chunk(line)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass
        self.close_connection = True

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")  # as it does below; or else the client might use it again before that
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, line: str) -> None:
        text = line.encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def _lines(self, kind: str, version: int, seconds: float) -> Iterator[str]:
        kube = self.kube
        until = time.monotonic() + seconds
        while True:
            with kube.changed:
                news = [each for each in kube.history if each[0] > version and each[2] == kind]
                while kube.mute and kube.connections == self.generation:
                    kube.changed.wait()
                if not news:
                    left = until - time.monotonic()
                    if left <= 0:
                        return
                    if kube.connections == self.generation:
                        kube.changed.wait(left)
                if kube.connections != self.generation:
                    raise OSError("cut")
            for number, change, _, document in news:
                version = number
                known = change in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")
                yield json.dumps({"type": change, "object": document}) if known else change

    def _log(self, pod: str, query: dict[str, str]) -> None:
        kube = self.kube
        key = (pod, query["container"])
        if key in kube.log_errors:
            self._answer(kube.log_errors[key], {"message": "the kubelet does not answer"})
            return
        lines = kube.logs.get(key, b"").splitlines(keepends=True)
        if "sinceTime" in query:
            lines = [line for line in lines if line[:20].rstrip(b"Z.") >= query["sinceTime"].encode().rstrip(b"Z")]
        if "tailLines" in query:
            lines = lines[-int(query["tailLines"]) :]
        self._answer(200, b"".join(lines)[: int(query["limitBytes"])])

    def _one(self, method: str, kind: str, name: str, body: Any) -> None:
        found = self.kube.objects[kind].get(name)
        if found is None:
            self._answer(404, {"code": 404, "message": f"{kind} {name!r} not found"})
            return
        if method == "DELETE":
            self._delete(kind, name, found, body)
        elif method == "PATCH":
            gone = body["metadata"]["$deleteFromPrimitiveList/finalizers"]
            meta = found["metadata"]
            left = [each for each in meta.get("finalizers", ()) if each not in gone]
            self.kube.put(kind, name, {**found, "metadata": {**meta, "finalizers": left}})
            if not left and meta.get("deletionTimestamp") and not meta.get("deletionGracePeriodSeconds"):
                self.kube.delete(kind, name)
        self._answer(200, found)

    def _delete(self, kind: str, name: str, found: Json, options: Json) -> None:
        """One with a finalizer, or on a node that has yet to confirm its end, only begins to go."""
        if kind == "jobs" or (not found["metadata"].get("finalizers") and options.get("gracePeriodSeconds") == 0):
            self.kube.delete(kind, name)
            if self.kube.runs_jobs and kind == "jobs":
                self.kube.collect(name)
        else:
            grace = options.get("gracePeriodSeconds", 30)
            going = {"deletionTimestamp": "2026-11-25T01:01:00Z", "deletionGracePeriodSeconds": grace}
            meta = {**found["metadata"], **going}
            self.kube.put(kind, name, {**found, "metadata": meta})
