"""A node's surroundings for the agent's tests: an object store, a pod endpoint, and a node with its folders.

The small object store speaks what the agent uses of S3 (Range, If-Match, ETag, multipart) and can misbehave on request;
tests/real_s3.py is for the paths that must hold on S3 itself.
"""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from agent import volume_work
from agent.fetch import fetch
from agent.logs import Log
from agent.publish import publish
from agent.report import Outcome
from agent.settings import Attempt, FetchSettings, PublishSettings
from agent.volume_work import VIEW_LINK, VolumeTask
from agent.web import Web
from tests.agent.wrappers import PythonWrapper, StaticWrapper, Wrapper, compile_static

# Needs grpcio, which only these tests do.
if TYPE_CHECKING:
    from tests.agent.kubelet import KubeNode, Pod, TaskEndpoint

AGENT = Path(__file__).parents[2] / "agent"
TOKEN = "secret-token"


def wait_until(predicate: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Returns when the predicate is true; fails with `what` when it is not in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not predicate():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        pause.wait(0.005)


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class QuietServer(ThreadingHTTPServer):
    """A client that breaks off is what many of these tests are about; anything else is still shown."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[int]:
    server = QuietServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class ObjectStore:
    """Objects by key. `faults[key]` are taken one per GET or PUT: an int is a status, ("cut", n) breaks off after n
    bytes of the body, ("hold", event) stops half-way until the event, a callable is called first. `generation` below a
    URL's `sig` answers 403.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.requests: list[tuple[str, str, str | None]] = []
        self.oldest_valid = 0
        self.honours_ranges = True
        self.parts: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.complete_bodies: list[bytes] = []
        self.part_sizes: list[int] = []
        """Of the last object that was made of parts."""
        self.lock = threading.Lock()
        self.port = 0

    def put(self, key: str, data: bytes) -> str:
        self.objects[key] = data
        self.etags[key] = '"' + hashlib.md5(data).hexdigest() + '"'
        return hashlib.sha256(data).hexdigest()

    def url(self, key: str, generation: int = 0) -> str:
        return f"http://127.0.0.1:{self.port}/{quote(key)}?sig={generation}"

    def count(self, method: str, key: str) -> int:
        with self.lock:
            return sum(1 for seen in self.requests if seen[:2] == (method, key))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(QuietHandler):
            def begin(self) -> tuple[str, Any, dict[str, list[str]]]:
                pieces = urlsplit(self.path)
                key, query = unquote(pieces.path[1:]), parse_qs(pieces.query, keep_blank_values=True)
                with store.lock:
                    store.requests.append((self.command, key, self.headers.get("Range")))
                    fault = store.faults[key].pop(0) if store.faults[key] and self.command != "HEAD" else None
                if callable(fault):
                    fault()
                    fault = None
                if int(query.get("sig", ["0"])[0]) < store.oldest_valid:
                    fault = 403
                return key, fault, query

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                key, fault, _ = self.begin()
                if isinstance(fault, int):
                    return self.answer(fault, b"<Error><Code>SlowDown</Code></Error>")
                data = store.objects.get(key)
                if data is None:
                    return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                etag = store.etags[key]
                if self.headers.get("If-Match") not in (None, etag):
                    return self.answer(412)
                headers = {"ETag": etag}
                status, body = 200, data
                asked = self.headers.get("Range")
                if asked and store.honours_ranges:
                    first, last = (int(piece) for piece in asked.removeprefix("bytes=").split("-"))
                    body = data[first : last + 1]
                    status = 206
                    headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
                headers["Content-Length"] = str(len(body))
                if isinstance(fault, tuple):
                    return self.send_part(status, headers, body, fault)
                return self.answer(status, body, headers)

            def send_part(self, status: int, headers: dict[str, str], body: bytes, fault: Any) -> None:
                kind, argument = fault
                if kind == "hold":
                    self.answer(status, body[: len(body) // 2], headers)
                    self.wfile.flush()
                    argument.wait(60)
                    with suppress(OSError):
                        self.wfile.write(body[len(body) // 2 :])
                    return
                self.answer(status, body[:argument], headers)
                self.wfile.flush()
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

            def do_PUT(self) -> None:
                key, fault, query = self.begin()
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if isinstance(fault, int):
                    return self.answer(fault, b"<Error><Code>SlowDown</Code></Error>")
                if "partNumber" in query:
                    store.parts[key][int(query["partNumber"][0])] = data
                else:
                    store.put(key, data)
                return self.answer(200, b"", {"ETag": '"' + hashlib.md5(data).hexdigest() + '"'})

            def do_POST(self) -> None:
                key, fault, _ = self.begin()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.complete_bodies.append(body)
                if fault == "error-in-200":
                    return self.answer(200, b"<Error><Code>InternalError</Code></Error>")
                parts = store.parts.pop(key)
                store.part_sizes = [len(parts[number]) for number in sorted(parts)]
                store.put(key, b"".join(parts[number] for number in sorted(parts)))
                return self.answer(200, b"<CompleteMultipartUploadResult/>")

        return Handler


class PodEndpoint:
    """The pod endpoint for one attempt. `script[path]` holds statuses to answer with before behaving."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.cache_enabled = True
        self.single_put_limit = 5 << 30
        self.part_bytes = 1 << 20
        self.generation = 0
        self.script: dict[str, list[int]] = defaultdict(list)
        self.reports: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.port = 0
        self.make_url: Callable[[str, str], str] | None = None
        self.make_parts: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        """Answers a request for the parts of an upload."""
        self.locate: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
        """Says who has an input that a node lacks, by that node and the input; None: other nodes are not known of."""
        self.brought: list[tuple[str, dict[str, Any]]] = []
        self.keeper_url: str | None = None
        self.lines: dict[str, list[str]] = defaultdict(list)
        """By step, what the node's agent sent of its log."""
        self.at_work = 0
        """How often the node's agent said that it stores outputs."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sign(self, method: str, key: str) -> str:
        if self.make_url is not None:
            return self.make_url(method, key)
        return self.store.url(key, self.generation)

    def add_input(self, name: str, key: str, **fields: Any) -> None:
        """An external input; give sha256 and bytes (and headUrl=None) for another task's output."""
        self.inputs.append({"name": name, "key": key, **fields})

    def add_output(self, name: str, bucket: str = "bucket") -> None:
        self.outputs.append({"name": name, "key": f"{bucket}/runs/r/t/0/pod/{name}"})

    def plan(self) -> dict[str, Any]:
        return {
            "run": "r",
            "task": "t",
            "attempt": 0,
            "cacheEnabled": self.cache_enabled,
            "inputs": [
                {
                    "mode": "link",
                    "verify": "size",
                    "archive": False,
                    "sha256": None,
                    "bytes": None,
                    "url": self.sign("GET", item["key"]),
                    "headUrl": self.sign("HEAD", item["key"]),
                    "source": f"http://s3.local/{item['key']}",
                    **{name: value for name, value in item.items() if name != "key"},
                }
                for item in self.inputs
            ],
            "outputs": [{**item, "url": self.sign("PUT", item["key"])} for item in self.outputs],
            "singlePutLimit": self.single_put_limit,
            "manifest": self.manifest(),
            "locate": self.locate is not None,
            "keeper": {"putUrl": self.keeper_url} if self.keeper_url else None,
        }

    def manifest(self) -> dict[str, Any] | None:
        if not self.outputs:
            return None
        bucket = self.outputs[0]["key"].partition("/runs/")[0]
        key = f"{bucket}/runs/r/t/0/pod.manifest.json"
        return {"name": "the list of outputs", "key": key, "url": self.sign("PUT", key)}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(QuietHandler):
            def reply(self, status: int, document: dict[str, Any]) -> None:
                self.answer(status, json.dumps(document).encode(), {})

            def enter(self) -> bool:
                if self.path not in ("/v1/lines", "/v1/at-work"):
                    endpoint.asked.append(self.path)
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.reply(401, {"error": "bad token"})
                    return False
                if endpoint.script[self.path]:
                    status = endpoint.script[self.path].pop(0)
                    self.reply(status, {"error": f"scripted {status}"})
                    return False
                return True

            def do_GET(self) -> None:
                if self.enter():
                    self.reply(200, endpoint.plan())

            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.enter():
                    return None
                if self.path == "/v1/result":
                    endpoint.reports.append(document)
                    return self.reply(200, {"status": "committed"})
                if self.path == "/v1/lines":
                    known = endpoint.lines[document["step"]]
                    known += document["lines"][len(known) - document["after"] :]
                    return self.reply(200, {})
                if self.path == "/v1/at-work":
                    endpoint.at_work += 1
                    return self.reply(200, {})
                if endpoint.make_parts is not None:
                    return self.reply(200, endpoint.make_parts(document))
                if self.path == "/v1/locate":
                    assert endpoint.locate is not None
                    answers = [endpoint.locate(document["node"], each) for each in document["inputs"]]
                    return self.reply(200, {"inputs": answers})
                if self.path == "/v1/brought":
                    endpoint.brought += [(document["node"], each) for each in document["inputs"]]
                    return self.reply(200, {})
                key = next(item["key"] for item in endpoint.outputs if item["name"] == document["name"])
                count = -(-document["bytes"] // endpoint.part_bytes)
                base = endpoint.store.url(key, endpoint.generation)
                urls = [f"{base}&partNumber={number}&uploadId=u" for number in range(1, count + 1)]
                return self.reply(
                    200, {"partBytes": endpoint.part_bytes, "urls": urls, "completeUrl": f"{base}&uploadId=u"}
                )

        return Handler


class Node:
    """Folders of one pod on a node, and its steps. Several pods may share one cache folder."""

    def __init__(
        self,
        root: Path,
        endpoint: PodEndpoint,
        cache: Path,
        job: str = "job-1",
        name: str = "node-1",
        form: str = "init",
    ) -> None:
        self.name = name
        self.form = form
        self.web = Web()
        self.root = root
        self.endpoint = endpoint
        self.cache = cache
        self.job = job
        self.compress = True
        self.lines: list[str] = []
        for name in ("artifacts", "control", "state"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.artifacts = root / "artifacts"
        self.control = root / "control"

    def attempt(self, patience: float = 20.0) -> Attempt:
        return Attempt(self.endpoint.url, TOKEN, "r", "t", 0, "pod", self.name, patience)

    def log(self) -> Log:
        return Log(lambda data: self.lines.append(data.decode()))

    def volume(self, *, cache_enabled: bool = True, patience: float = 20.0, user: int | None = None) -> VolumeTask:
        """The pod's volume, as the node's agent knows it in the csi form."""
        return VolumeTask(
            attempt=self.attempt(patience),
            job=self.job,
            cache_dir=str(self.cache),
            cache_enabled=cache_enabled,
            artifacts=str(self.artifacts),
            control_dir=str(self.control),
            state_dir=str(self.root / "state"),
            user=os.getuid() if user is None else user,
            inputs=len(self.endpoint.inputs),
            outputs=len(self.endpoint.outputs),
            parallel=4,
            compress=self.compress,
            lib_dir=None,
            limit_bytes=0,
        )

    def agents_log(self) -> Log:
        """The log of the node's agent, of which `lines` get what a step's own log would have."""
        whose = re.compile(r"r t attempt 0 (fetch|publish): ")
        return Log(lambda data: self.lines.append(whose.sub("", data.decode(), count=1)))

    def mount_view(self) -> None:
        """Shows the view where the agent mounts it in the csi form."""
        view, seen = self.cache / "views" / self.job, self.artifacts / VIEW_LINK
        if view.exists() and not seen.is_symlink():
            seen.parent.mkdir()
            seen.symlink_to(view)

    def fetch(self, *, cache_enabled: bool = True, patience: float = 20.0) -> dict[str, Any]:
        if self.form == "csi":
            volume = self.volume(cache_enabled=cache_enabled, patience=patience)
            manifest = volume_work.bring(volume, self.agents_log(), self.web)
            self.mount_view()
            return manifest
        settings = FetchSettings(
            attempt=self.attempt(patience),
            cache_enabled=cache_enabled,
            cache_dir=str(self.cache),
            job=self.job,
            artifacts=str(self.artifacts),
            state_dir=str(self.root / "state"),
            termination_log=str(self.root / "fetch-message"),
            parallel=4,
            wrapper=None,
            gate_dir=None,
            lib_dir=None,
            volume=None,
        )
        return fetch(settings, self.log())

    def publish(
        self, *, patience: float = 20.0, start_patience: float | None = 10.0, sees_cache: bool = True
    ) -> Outcome:
        if self.form == "csi":
            volume = self.volume(cache_enabled=sees_cache, patience=patience)
            ahead = volume_work.look_ahead(volume, self.agents_log(), self.web)
            return volume_work.store(volume, self.agents_log(), self.web, ahead)
        settings = PublishSettings(
            attempt=self.attempt(patience),
            cache_dir=str(self.cache) if sees_cache else None,
            job=self.job,
            artifacts=str(self.artifacts),
            control_dir=str(self.control),
            state_dir=str(self.root / "state"),
            termination_log=str(self.root / "publish-message"),
            parallel=4,
            gate_dir=None,
            start_patience_seconds=start_patience,
            compress=self.compress,
            lib_dir=None,
            volume=None,
        )
        return publish(settings, self.log())

    def task_ended(self, code: int = 0, **fields: Any) -> None:
        """Leaves the control folder as a wrapper whose command has ended does."""
        record = {"exitCode": code, "signal": None, "timedOut": False, "cpuMs": 12, "peakMemoryBytes": 4096}
        (self.control / "lock").touch()
        (self.control / "started").touch()
        (self.control / "exit").write_text(json.dumps({**record, "startedAt": 1, "endedAt": 2, **fields}))

    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HELIOS_ENDPOINT": self.endpoint.url,
            "HELIOS_TOKEN": TOKEN,
            "HELIOS_RUN_ID": "r",
            "HELIOS_TASK_NAME": "t",
            "HELIOS_ATTEMPT": "0",
            "HELIOS_CACHE_ENABLED": "true",
            "HELIOS_CACHE_DIR": str(self.cache),
            "HELIOS_JOB": self.job,
            "HELIOS_POD_UID": "pod",
            "HELIOS_NODE": "node-1",
            "HELIOS_ARTIFACTS": str(self.artifacts),
            "HELIOS_CONTROL_DIR": str(self.control),
            "HELIOS_STATE_DIR": str(self.root / "state"),
            "HELIOS_TERMINATION_LOG": str(self.root / "message"),
        }

    def start(self, verb: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The verb as a process, the way a pod starts it."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": self.env(), **options}
        return subprocess.Popen([sys.executable, "-I", "-S", str(AGENT), verb, *arguments], **options)

    def blob(self, digest: str) -> Path:
        return self.cache / "blobs" / "sha256" / digest[:2] / digest

    def read(self, name: str) -> bytes:
        return (self.artifacts / name).read_bytes()


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    objects = ObjectStore()
    with serving(objects.handler()) as port:
        objects.port = port
        yield objects


@pytest.fixture
def endpoint(store: ObjectStore) -> Iterator[PodEndpoint]:
    pod = PodEndpoint(store)
    with serving(pod.handler()) as port:
        pod.port = port
        yield pod


both_forms = pytest.mark.parametrize("form", ["init", "csi"], indirect=True)
"""For a test that holds for a pod whose steps are containers, and for one whose node's agent does them."""


@pytest.fixture
def form(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "init")


@pytest.fixture
def make_node(tmp_path: Path, endpoint: PodEndpoint, form: str) -> Callable[..., Node]:
    """Pods on one node: each call gives a pod with its own folders and view, all with the same cache."""

    def make(job: str = "job-1") -> Node:
        return Node(tmp_path / job, endpoint, tmp_path / "cache", job, form=form)

    return make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()


@pytest.fixture(scope="session")
def static_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """agent/exec.c, compiled once for all tests."""
    built = compile_static(tmp_path_factory.mktemp("exec"))
    if isinstance(built, str):
        pytest.skip(f"agent/exec.c cannot be built here: {built}")
    return built


@pytest.fixture(params=["python", "static"])
def wrapper(request: pytest.FixtureRequest, node: Node) -> Wrapper:
    """Each form of the wrapper in turn, on a node of its own."""
    if request.param == "static":
        return StaticWrapper(node, request.getfixturevalue("static_binary"))
    return PythonWrapper(node)


@pytest.fixture
def tasks(store: ObjectStore) -> Iterator["TaskEndpoint"]:
    """The pod endpoint of tasks whose node has the driver."""
    from tests.agent.kubelet import TaskEndpoint

    endpoint = TaskEndpoint(store)
    with serving(endpoint.handler()) as port:
        endpoint.port = port
        yield endpoint


@pytest.fixture
def kube(tasks: "TaskEndpoint", static_binary: Path) -> Iterator["KubeNode"]:
    """A node whose agent serves volumes."""
    from tests.agent.kubelet import KubeNode, short_folder

    with short_folder() as folder:
        node = KubeNode(folder, tasks, static_binary)
        try:
            node.start()
            yield node
        finally:
            node.close()


@pytest.fixture
def pod(kube: "KubeNode", tasks: "TaskEndpoint", store: ObjectStore) -> "Pod":
    """With an input `data.csv`, and an output `out.txt` to store."""
    from tests.agent.kubelet import DATA

    store.put("bucket/data.csv", DATA)
    tasks.add_input("data.csv", "bucket/data.csv")
    tasks.add_output("out.txt")
    return kube.pod(inputs="1", outputs="1")
