"""The Kubernetes API for commands: JSON in and out, over the official client's connections.

Rule: nothing but `cluster_api` imports the official client, and only when it is called.
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import urllib3

from cli.failure import with_extra

WAIT_SECONDS = 5


class ApiRefused(Exception):
    """The API server answered with an error; the message holds its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class ApiAway(Exception):
    """There is no way to the API server, or no answer."""


class Api(Protocol):
    """JSON in and out. Raises ApiRefused or ApiAway."""

    def get(self, path: str) -> Any: ...

    def post(self, path: str, document: Any) -> Any: ...


def names_a_cluster(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was told of a cluster: by KUBECONFIG, or by being a pod of it."""
    return bool(environ.get("KUBECONFIG") or environ.get("KUBERNETES_SERVICE_HOST"))


def find(api: Api, path: str) -> Any:
    """The object, or None where there is none. Raises ApiRefused or ApiAway."""
    try:
        return api.get(path)
    except ApiRefused as refusal:
        if refusal.status != 404:
            raise
        return None


def cluster_api() -> Api:
    """The API server of the cluster that this process runs in, unless KUBECONFIG names another; outside of one that of
    kubectl's own file. Raises ApiAway.
    """
    try:
        # Here and not above, because the import takes 0.3 s and 40 MB.
        from kubernetes import client as untyped_client
        from kubernetes import config as untyped_config
    except ImportError:
        raise ApiAway(f"the package `kubernetes` is not installed: {with_extra('cluster')}") from None
    client: Any = untyped_client
    config: Any = untyped_config
    known: Any = client.Configuration()
    try:
        if os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_kube_config(client_configuration=known)
        else:
            config.load_incluster_config(client_configuration=known)
    except (config.ConfigException, OSError) as error:
        raise ApiAway(f"KUBECONFIG names no usable cluster: {error}") from None
    rest: Any = client.ApiClient(known).rest_client
    token = known.get_api_key_with_prefix("BearerToken", alias="authorization")
    return HttpApi(known.host, rest.pool_manager, {"Authorization": token} if token else {})


class HttpApi:
    """An API server, over the official client's own connections."""

    def __init__(self, host: str, pool: urllib3.PoolManager, headers: dict[str, str]) -> None:
        self.host = host
        self.pool = pool
        self.headers = {**headers, "Accept": "application/json"}

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, document: Any) -> Any:
        return self._call("POST", path, msgspec.json.encode(document))

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {**self.headers, "Content-Type": "application/json"}
        try:
            answer = self.pool.request(
                method, f"{self.host}{path}", body=body, headers=headers, timeout=WAIT_SECONDS, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAway(f"the API server at {self.host} does not answer: {error}") from None
        try:
            document: Any = msgspec.json.decode(answer.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ApiAway(f"{self.host} is no API server: it answers HTTP {answer.status}") from None
        if answer.status >= 400:
            raise ApiRefused(answer.status, str(document.get("message") or f"HTTP {answer.status}"))
        return document
