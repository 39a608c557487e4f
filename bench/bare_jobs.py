"""What Kubernetes itself costs: one-container Jobs in dependency order, released by a tight watch loop.

Nothing is fetched, stored or recorded. It is what a person would write who wants nothing but the order.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from services.collector.kube_api import Api as WatchApi
from services.jobrunner.kubernetes import Api as CreateApi

END_SECONDS = 180


class Bare(NamedTuple):
    """One Job: its container, the names of the Jobs that have to succeed before, and whether it has a folder /scratch
    to write to, which a user that is not root finds nowhere else.
    """

    container: Mapping[str, Any]
    parents: Sequence[str] = ()
    node: str | None = None
    scratch: bool = False


class _Named(msgspec.Struct):
    name: str = ""
    labels: dict[str, str] = {}


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct):
    metadata: _Named
    status: _Status = _Status()


class _Line(msgspec.Struct):
    type: str
    object: _Pod


class _ListMeta(msgspec.Struct):
    resourceVersion: str


class _List(msgspec.Struct):
    metadata: _ListMeta


def seconds_of(create: CreateApi, watch: WatchApi, namespace: str, jobs: Mapping[str, Bare]) -> float:
    """From the first Job's creation until the last pod is seen Succeeded. Raises RuntimeError when one fails."""
    tag = f"bare-{time.time_ns():x}"
    pods = f"/api/v1/namespaces/{quote(namespace)}/pods"
    selector = {"labelSelector": f"helios.test/bare={tag}"}
    start = msgspec.json.decode(watch.get(pods, selector), type=_List).metadata.resourceVersion
    done: set[str] = set()
    begun = time.perf_counter()
    _create(create, namespace, tag, {name: job for name, job in jobs.items() if not job.parents})
    query = {**selector, "watch": "1", "resourceVersion": start, "timeoutSeconds": str(END_SECONDS)}
    rest = b""
    with watch.stream(pods, query, silence_seconds=END_SECONDS) as chunks:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                pod = msgspec.json.decode(line, type=_Line).object
                name = pod.metadata.labels["helios.test/name"]
                if pod.status.phase == "Failed":
                    raise RuntimeError(f"the bare Job {name} failed")
                if pod.status.phase != "Succeeded" or name in done:
                    continue
                done.add(name)
                if len(done) == len(jobs):
                    return time.perf_counter() - begun
                freed = {
                    each: job for each, job in jobs.items() if name in job.parents and done.issuperset(job.parents)
                }
                _create(create, namespace, tag, freed)
    raise RuntimeError(f"bare Jobs did not end within {END_SECONDS} s: {sorted(jobs.keys() - done)}")


def remove(create: CreateApi, namespace: str) -> None:
    """All that the floor has left."""
    path = f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs?propagationPolicy=Background"
    create.request("DELETE", path)


def _create(api: CreateApi, namespace: str, tag: str, jobs: Mapping[str, Bare]) -> None:
    """Side by side: a fan-out's Jobs do not wait for each other."""
    threads = [
        threading.Thread(target=_create_one, args=(api, namespace, tag, name, job)) for name, job in jobs.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _create_one(api: CreateApi, namespace: str, tag: str, name: str, job: Bare) -> None:
    labels = {"helios.test/bare": tag, "helios.test/name": name}
    spec: dict[str, Any] = {"restartPolicy": "Never", "automountServiceAccountToken": False}
    spec["enableServiceLinks"] = False
    spec["containers"] = [{"name": "task", "imagePullPolicy": "IfNotPresent", **job.container}]
    if job.scratch:
        spec["volumes"] = [{"name": "scratch", "emptyDir": {}}]
        spec["containers"][0]["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch"}]
    if job.node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": job.node}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{tag}-{name}", "labels": labels},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    code, answer = api.request("POST", f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs", body=body)
    if code != 201:
        raise RuntimeError(f"a bare Job was refused: {answer[:500]!r}")
