"""The Kubernetes API over HTTP: raw JSON in and out. The only module that imports the official client, and for its
configuration and connections alone.

Rule: an answer that says no is an ApiRefused with the server's words; no answer is an ApiAway.
"""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3

from helios.measures import API_REQUESTS, API_SECONDS, answer_class
from helios.settings import SettingInvalid
from services.collector.kube_objects import ApiStatus

CONNECT_SECONDS = 3
READ_SECONDS = 10
CONNECTIONS = 24
CHUNK_BYTES = 64 * 1024

MERGE = "application/strategic-merge-patch+json"


class ApiRefused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class ApiAway(OSError):
    """The API server did not answer, or broke off."""


class Api:
    """`headers` is asked before each request, since a service account's token is renewed while we run. It may raise
    OSError.

    What cuts or silences one connection has probably met the idle ones, too, and each would cost a wait of its own: so
    none of them is kept then.
    """

    def __init__(self, host: str, pool: urllib3.PoolManager, headers: Callable[[], Mapping[str, str]]) -> None:
        self.host = host
        self.pool = pool
        self.headers = headers

    def get(self, path: str, query: Mapping[str, str] | None = None, *, read_seconds: float = READ_SECONDS) -> bytes:
        return self._call("GET", path, query or {}, None, "", read_seconds)

    def patch(self, path: str, document: Any) -> None:
        self._call("PATCH", path, {}, msgspec.json.encode(document), MERGE, READ_SECONDS)

    def delete(self, path: str, options: Any) -> None:
        self._call("DELETE", path, {}, msgspec.json.encode(options), "application/json", READ_SECONDS)

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, silence_seconds: float) -> Generator[Iterator[bytes]]:
        """The answer's bytes as they come; ApiAway when none comes for so long."""
        response = self._open("GET", path, query, None, "", silence_seconds)
        try:
            if response.status >= 400:
                raise _refused(response)
            yield _chunks(response)
        finally:
            # Not given back to the pool: what is left of it would have to be read first.
            response.close()

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None, kind: str, read_seconds: float
    ) -> bytes:
        response = self._open(method, path, query, body, kind, read_seconds)
        try:
            if response.status >= 400:
                raise _refused(response)
            return b"".join(_chunks(response))
        except ApiAway:
            self.pool.clear()
            raise
        finally:
            response.release_conn()

    def _open(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None, kind: str, read_seconds: float
    ) -> urllib3.BaseHTTPResponse:
        fields = "?" + urlencode(query) if query else ""
        try:
            headers = {"Accept": "application/json, */*", **self.headers()}
            if body is not None:
                headers["Content-Type"] = kind
            began = time.monotonic()
            response = self.pool.request(
                method,
                f"{self.host}{path}{fields}",
                body=body,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )
            API_REQUESTS.add((method, answer_class(response.status)))
            API_SECONDS.observe((method,), time.monotonic() - began)
            return response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.pool.clear()
            API_REQUESTS.add((method, answer_class(0)))
            raise ApiAway(f"the API server does not answer: {error}") from None


def api_from_environment() -> Api:
    """The API server of KUBECONFIG, or else of the cluster that this process runs in. Raises SettingInvalid."""
    try:
        # Only here, because it takes 0.3 s and 40 MB, and comes with the extra `cluster` alone. It has no types.
        client, config = import_module("kubernetes.client"), import_module("kubernetes.config")
    except ImportError:
        raise SettingInvalid("HELIOS_LAUNCHER is kubernetes, but the extra `cluster` is not installed") from None
    known: Any = client.Configuration()
    try:
        if os.environ.get("KUBECONFIG"):
            config.load_kube_config(client_configuration=known)
        else:
            config.load_incluster_config(client_configuration=known)
    except (config.ConfigException, OSError) as error:
        raise SettingInvalid(f"KUBECONFIG names no usable cluster, and this is no pod of one: {error}") from None
    known.connection_pool_maxsize = CONNECTIONS
    rest: Any = client.ApiClient(known).rest_client
    return Api(known.host, rest.pool_manager, token_headers(known))


def token_headers(known: Any) -> Callable[[], dict[str, str]]:
    """The headers that the client's configuration `known` wants; they raise OSError while it has no token to give."""

    def headers() -> dict[str, str]:
        try:
            token = known.get_api_key_with_prefix("BearerToken", alias="authorization")
        except Exception as error:  # a file being replaced, a plugin that fails: its kinds of error are not documented
            raise OSError(f"the token cannot be renewed: {error}") from error
        return {"Authorization": token} if token else {}

    return headers


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(CHUNK_BYTES)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # ValueError: read after this process closed it.
        raise ApiAway(f"the API server broke off: {error}") from None


def _refused(response: urllib3.BaseHTTPResponse) -> ApiRefused:
    text = b"".join(_chunks(response))
    try:
        words = msgspec.json.decode(text, type=ApiStatus).message
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        words = ""
    return ApiRefused(response.status, words or f"HTTP {response.status}: {text[:500].decode('utf-8', 'replace')}")
