"""Calls of the pod endpoint in this process, as pods and keepers make them."""

import io
import time
from typing import Any

import msgspec

from helios.grants import keeper_token
from helios.settings import Settings
from helios.tokens import Attempt, mint
from services.collector.endpoint import PodEndpoint
from tests.stage import RUN

KEY = "keeper-key"
SETTINGS = Settings(
    token_key="k",
    keeper_key=KEY,
    s3_endpoint="http://127.0.0.1:9",
    s3_access_key="access",
    s3_secret_key="hidden",
    s3_bucket="helios",
)


def attempt_token(task: str, attempt: int = 1, run: str = RUN) -> str:
    return mint("k", Attempt(run=run, task=task, attempt=attempt, expires=int(time.time()) + 3600))


def call(
    endpoint: PodEndpoint, method: str, path: str, body: object, bearer: str, **headers: str
) -> tuple[str, dict[str, Any]]:
    """The status and the answer; `Helios_Node="n1"` sends the header Helios-Node."""
    sent = body if isinstance(body, bytes) else msgspec.json.encode(body)
    status: list[str] = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(sent)),
        "wsgi.input": io.BytesIO(sent),
        "HTTP_AUTHORIZATION": f"Bearer {bearer}",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    parts = endpoint(environ, lambda said, _: status.append(said))
    return status[0], msgspec.json.decode(b"".join(parts))


def as_keeper(
    endpoint: PodEndpoint, path: str, node: str, body: object, *, token: str | None = None
) -> tuple[str, dict[str, Any]]:
    return call(endpoint, "POST", path, body, token or keeper_token(KEY, node), Helios_Node=node)


def as_pod(
    endpoint: PodEndpoint, path: str, task: str, body: object, *, node: str = "n1", pod: str = "pod-1"
) -> tuple[str, dict[str, Any]]:
    method = "GET" if path == "/v1/plan" else "POST"
    return call(endpoint, method, path, body, attempt_token(task), Helios_Node=node, Helios_Pod=pod)


def tell(endpoint: PodEndpoint, node: str, blobs: dict[str, int], *, url: str | None = None) -> None:
    """A node's keeper tells all that its cache holds, and where it listens."""
    report = {
        "node": node,
        "url": f"http://{node}:8415" if url is None else url,
        "epoch": "e1",
        "seq": 1,
        "full": True,
        "added": list(blobs.items()),
        "state": {"blobs": len(blobs), "bytes": sum(blobs.values()), "freeBytes": 9, "limitBytes": 0},
    }
    assert as_keeper(endpoint, "/v1/node", node, report) == ("200 OK", {"resync": False})
