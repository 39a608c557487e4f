"""Targets that are requests: of pods and keepers to the collector, and of other nodes to a keeper.

No request may be answered as a fault of ours (500), nor as something to be tried again (503) while nothing is away; and
whatever bytes come, the server answers the next one.
"""

import hashlib
import io
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from agent.blobs import BlobServer
from agent.store import Store as CacheStore
from helios.dag import parse_dag
from helios.grants import blob_url, keeper_token, output_url
from helios.settings import Settings
from helios.tokens import Attempt, mint
from helios.transitions import commit_one
from services.collector.__main__ import Endpoint
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store
from services.submitter.accept import open_calls
from tests.fuzz.cases import Json, body_bytes, to_bytes
from tests.fuzz.engine import Check, Target
from tests.fuzz.texts import DIGEST, REPORT
from tests.redis_servers import Valkey, free_port
from tests.stage import RUN, Stage

SETTINGS = Settings(
    token_key="k",
    keeper_key="kk",
    s3_endpoint="http://127.0.0.1:9",
    s3_access_key="access",
    s3_secret_key="hidden",
    s3_bucket="helios",
)
DAG = b"""
dagName: d
tasks:
  - name: a
    image: i
    command: [x]
    inputs: [{uri: "s3://bucket/i", as: i}, {uri: "s3://bucket/j", as: j}]
    outputs: [o]
  - {name: b, image: i, command: [x], depends_on: [a]}
"""
ANSWER_SECONDS = 10.0
HEADER_BYTES = 256 * 1024
"""The server takes no more for all of a request's headers."""
FAR = 2**40


class House:
    """A collector's endpoint over a Valkey with an open run, whose first task runs."""

    def __init__(self, server: Valkey) -> None:
        self.client = server.client()
        self.fresh()

    def fresh(self) -> None:
        self.client.flushall()
        self.stage = Stage(self.client)
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(self.client, call)
        self.stage.launch("a")
        self.endpoint = PodEndpoint(self.client, Store(SETTINGS), SETTINGS)


@contextmanager
def house() -> Generator[House]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder))
        server.start()
        try:
            yield House(server)
        finally:
            server.kill()


def secrets_of() -> dict[str, str]:
    """What headers may name, since a corpus cannot hold what is signed anew each time."""
    return {
        "{token}": mint("k", Attempt(run=RUN, task="a", attempt=1, expires=FAR)),
        "{keeper}": keeper_token("kk", "n1"),
    }


def filled(text: str) -> str:
    for name, value in secrets_of().items():
        text = text.replace(name, value)
    return text


def _environ(case: dict[str, Any]) -> dict[str, Any]:
    """As a WSGI server makes it: every text of it is bytes in Latin-1."""
    body = body_bytes(case.get("body"))
    headers = case.get("headers")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    for name in ("REQUEST_METHOD", "PATH_INFO"):
        if isinstance(case.get(name), str):
            environ[name] = to_bytes(case[name]).decode("latin-1")[:HEADER_BYTES]
    for name, value in headers.items() if isinstance(headers, dict) else ():
        if isinstance(value, str):
            environ[name] = to_bytes(filled(value[:HEADER_BYTES])[:HEADER_BYTES]).decode("latin-1")
    return environ


@contextmanager
def calls() -> Generator[Check]:
    with house() as at:
        count = 0

        def check(case: Json) -> str:
            nonlocal count
            count += 1
            if not isinstance(case, dict):
                return "no case"
            environ = _environ(case)
            answered: list[Any] = []
            parts = at.endpoint(environ, lambda status, headers: answered.append((status, dict(headers))))
            content = b"".join(parts)
            (status, headers), answer = answered[0], msgspec.json.decode(content)
            assert headers["Content-Length"] == str(len(content))
            known = status[:3] in ("200", "400", "401", "403", "404", "409", "410", "413", "425")
            # Here there is no store; only this asks for one.
            away = environ["PATH_INFO"] == "/v1/multipart" and "the object store does not answer" in str(answer)
            assert known or (status[:3] == "503" and away), f"{status}: {answer}"
            if count % 100 == 0 or at.stage.status("a") != "RUNNING":
                check_record(at)
                at.fresh()
            return f"{status} {environ['PATH_INFO'][:20]} {answer.get('error', '')}"

        yield check


def check_record(at: House) -> None:
    """What was committed on a pod's word is a record that everybody can read."""
    from helios.records import read_tasks

    views = read_tasks(at.client, at.stage.keys, RUN, ["a", "b"])
    assert all(view.cache != "Unknown" or view.reason is None or "unreadable" not in view.reason for view in views)
    at.stage.folded()


AUTHORIZED = {"HTTP_AUTHORIZATION": "Bearer {token}", "HTTP_HELIOS_POD": "pod-1", "HTTP_HELIOS_NODE": "n1"}
KEEPER = {"HTTP_AUTHORIZATION": "Bearer {keeper}", "HTTP_HELIOS_NODE": "n1"}
INPUT = {"name": "i", "bytes": 7, "version": "v1", "sha256": DIGEST}
STATE = {"blobs": 1, "bytes": 7, "freeBytes": 10**9, "limitBytes": 0}
NODE = {"v": 1, "node": "n1", "url": "http://10.0.0.7:8415", "epoch": "e-1", "seq": 1, "full": True}
NODE |= {"added": [[DIGEST, 7]], "removed": [], "state": STATE}


def _post(path: str, body: Json, headers: Json = AUTHORIZED) -> Json:
    return {"REQUEST_METHOD": "POST", "PATH_INFO": path, "headers": headers, "body": body}


CALLS = [
    {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/plan", "headers": AUTHORIZED, "body": {"raw": ""}},
    {"REQUEST_METHOD": "GET", "PATH_INFO": "/healthz", "headers": {}, "body": {"raw": ""}},
    _post("/v1/result", REPORT),
    _post("/v1/result", {**REPORT, "exitCode": 1, "form": "csi", "final": True, "reason": "no inputs"}),
    _post("/v1/locate", {"node": "n1", "inputs": [INPUT, {"name": "j", "bytes": 3}]}),
    _post("/v1/brought", {"node": "n1", "inputs": [INPUT]}),
    _post("/v1/multipart", {"name": "o", "bytes": 10**10, "partBytes": 8 * 1024**2, "codec": "zstd"}),
    _post("/v1/lines", {"step": "fetch", "after": 0, "lines": ["[HELIOS] Plan: 1 inputs, cache on", "x"]}),
    _post("/v1/at-work", {}),
    _post("/v1/node", NODE, KEEPER),
    _post("/v1/demand", {"node": "n1", "candidates": [DIGEST]}, KEEPER),
    _post("/v1/seed", {"node": "n1", "budgetBytes": 10**9}, KEEPER),
    _post("/v1/views", {"node": "n1", "views": ["j-1"]}, KEEPER),
]

# Bytes on a socket.


def exchange(port: int, sent: bytes) -> bytes:
    """What a server says to these bytes before it hangs up."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as link:
        got = b""
        try:
            link.sendall(sent)
            link.shutdown(socket.SHUT_WR)
            while len(got) < 1024**2 and (part := link.recv(65536)):
                got += part
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            # It does not want to hear more.
        return got


def _raw_check(port: int, wanted: Callable[[], bytes], ok: bytes, fill: Callable[[str], str]) -> Check:
    def check(case: Json) -> str:
        if not isinstance(case, str):
            return "no case"
        got = exchange(port, to_bytes(fill(case)))
        status = got.split(b"\r\n", 1)[0].decode("latin-1")
        assert " 500" not in status and " 503" not in status, got[:300]
        assert exchange(port, wanted()).startswith(ok), "the next request is not answered"
        assert threading.active_count() < 80, "threads are left over"
        return status

    return check


@contextmanager
def collector_at() -> Generator[int]:
    """The port of a collector's endpoint."""
    with house() as at:
        port = free_port()
        endpoint = Endpoint(at.endpoint, f"127.0.0.1:{port}")
        endpoint.start()
        yield port
        endpoint.close()


@contextmanager
def collector_socket() -> Generator[Check]:
    health = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with collector_at() as port:
        yield _raw_check(port, lambda: health, b"HTTP/1.1 200", filled)


@contextmanager
def keeper_at(broken: list[BaseException] | None = None) -> Generator[int]:
    """The port of a keeper with an empty cache; what its requests fail with goes to `broken`."""
    with tempfile.TemporaryDirectory() as folder:
        cache = CacheStore(f"{folder}/cache", "fuzz")
        cache.prepare()
        server = BlobServer(cache, "kk", "127.0.0.1", 0)

        def note(_request: object, _address: object) -> None:
            error = sys.exc_info()[1]
            if broken is not None and error is not None and not isinstance(error, OSError):
                broken.append(error)

        server._server.handle_error = note  # type: ignore[method-assign]
        server.start()
        yield server.port
        server.close()


@contextmanager
def keeper_socket() -> Generator[Check]:
    broken: list[BaseException] = []
    expires = int(time.time()) + 10**6
    path = output_url("", "kk", RUN, "a", 1, expires)
    blob = blob_url("", "kk", hashlib.sha256(b"abc").hexdigest(), expires)
    put = f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".encode()

    def fill(text: str) -> str:
        return text.replace("{put}", path).replace("{blob}", blob)

    with keeper_at(broken) as port:
        exchange(port, put)
        raw = _raw_check(port, lambda: put, b"HTTP/1.1 200", fill)

        def check(case: Json) -> str:
            word = raw(case)
            if broken:
                raise broken.pop()
            return word

        yield check


HTTP = [
    "GET ",
    "POST ",
    "PUT ",
    "HEAD ",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Content-Length: 5\r\n",
    "\r\n\r\n",
    "Host: h\r\n",
]
HTTP += ["Transfer-Encoding: chunked\r\n", "5\r\nabcde\r\n", "0\r\n\r\n", "Range: bytes=0-1\r\n", "If-Match: *\r\n"]
HTTP += ["Expect: 100-continue\r\n", "Connection: close\r\n", "Content-Length: -1\r\n", "X: " + "y" * 70_000 + "\r\n"]
HTTP += ["X: y\r\n" * 200, "?expires=1&grant=2&grant=3", "Authorization: Bearer {token}\r\n", "http://[::1/", "%ff"]
PLAN = "GET /v1/plan HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nHelios-Pod: pod-1\r\n\r\n"
RESULT = "POST /v1/result HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nHelios-Pod: pod-1\r\n"
RESULT += f"Content-Length: {len(json.dumps(REPORT))}\r\n\r\n{json.dumps(REPORT)}"
CHUNKED = "POST /v1/at-work HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nHelios-Pod: pod-1\r\n"
CHUNKED += "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
BLOB_REQUESTS = [
    "GET {blob} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-10\r\n\r\n",
    "HEAD {blob} HTTP/1.1\r\nHost: h\r\n\r\n",
    "PUT {put} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
]

TARGETS = [
    Target("endpoint", CALLS, calls, pieces=["/v1/", "Bearer ", "{token}", "{keeper}", DIGEST, "n1", "http://"]),
    Target("endpoint-socket", [PLAN, RESULT, CHUNKED], collector_socket, pieces=HTTP),
    Target("keeper-socket", BLOB_REQUESTS, keeper_socket, pieces=HTTP),
]
