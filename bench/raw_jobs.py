"""Jobs without Helios: the fastest loop that creates them, and how they are cleaned up."""

import http.client
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import msgspec

from helios.dag import Task
from helios.settings import Settings
from services.collector.kube_api import Api, ApiRefused
from services.collector.kube_objects import Listed, Versioned
from services.jobrunner.jobs import job_name, wanted_job
from services.jobrunner.manifest import job_manifest

EMPTY_SECONDS = 300
FORCED_SECONDS = 20
PAGE = 500


def jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def manifests(task: Task, settings: Settings, count: int) -> list[bytes]:
    """What the jobrunner would send for so many attempts of the task, ready to be sent."""
    run = f"{time.time_ns() // 1_000_000}-0"
    found: list[bytes] = []
    for number in range(count):
        each = msgspec.structs.replace(task, name=f"t{number}")
        name = job_name(run, each.name, 1)
        job = wanted_job(name, each, run=run, attempt=1, cache_enabled=True, settings=settings, now_seconds=time.time())
        found.append(msgspec.json.encode(job_manifest(job, settings)))
    return found


def create_rate(api: Api, namespace: str, bodies: Sequence[bytes], connections: int) -> float:
    """Jobs a second of so many connections that do nothing but POST."""
    waiting: SimpleQueue[bytes] = SimpleQueue()
    for body in bodies:
        waiting.put(body)
    with ThreadPoolExecutor(connections) as threads:
        begun = time.perf_counter()
        done = [threads.submit(_post_all, api, jobs_path(namespace), waiting) for _ in range(connections)]
        for future in done:
            future.result()
        return len(bodies) / (time.perf_counter() - begun)


def _post_all(api: Api, path: str, waiting: SimpleQueue[bytes]) -> None:
    server = urlsplit(api.host)
    context = ssl.create_default_context(cafile=api.pool.connection_pool_kw["ca_certs"])
    connection = http.client.HTTPSConnection(server.hostname or "", server.port, context=context, timeout=60)
    headers = {"Content-Type": "application/json", "Accept": "application/json", **api.headers()}
    while True:
        try:
            body = waiting.get_nowait()
        except Empty:
            connection.close()
            return
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status != 201:
            raise RuntimeError(f"HTTP {response.status}: {text[:500]!r}")


def remove(api: Api, namespace: str, connections: int) -> None:
    """Delete all Jobs of the namespace and take the finalizers off their pods, until nothing is left.

    Now and then a fake node does not see that its pod is being deleted, and such a pod would stay for ever.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(connections) as threads:
        while True:
            jobs = [f"{jobs_path(namespace)}/{name}" for name in names(api, jobs_path(namespace))]
            pods = [f"{pods_path(namespace)}/{name}" for name in names(api, pods_path(namespace))]
            list(threads.map(_delete, repeat(api), jobs))
            list(threads.map(_let_go, repeat(api), pods))
            if not jobs and not pods:
                return
            waited = time.monotonic() - begun
            if waited > FORCED_SECONDS and not jobs:
                list(threads.map(_delete_at_once, repeat(api), pods))
            if waited > EMPTY_SECONDS:
                raise TimeoutError(f"{len(jobs)} Jobs and {len(pods)} pods do not go from {namespace}")
            time.sleep(0.5)


def _delete(api: Api, path: str) -> None:
    with _perhaps_gone():
        api.delete(path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})


def _delete_at_once(api: Api, path: str) -> None:
    with _perhaps_gone():
        api.delete(path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


def _let_go(api: Api, path: str) -> None:
    with _perhaps_gone():
        api.patch(path, {"metadata": {"finalizers": None}})


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    try:
        yield
    except ApiRefused as error:
        if error.status != 404:
            raise


def names(api: Api, path: str) -> list[str]:
    return [each.metadata.name for each in _objects(api, path)]


def with_finalizers(api: Api, path: str) -> list[str]:
    """Objects that something holds back from being deleted."""
    return [each.metadata.name for each in _objects(api, path) if each.metadata.finalizers]


def _objects(api: Api, path: str) -> Iterator[Versioned]:
    page = ""
    while True:
        query = {"limit": str(PAGE), **({"continue": page} if page else {})}
        listed = msgspec.json.decode(api.get(path, query, read_seconds=60), type=Listed)
        for item in listed.items or ():
            yield msgspec.json.decode(item, type=Versioned)
        page = listed.metadata.next_page
        if not page:
            return
