"""How fast Jobs are created, and how far behind the collector is, on a Kubernetes with a hundred fake nodes.

    python -m bench.kwok [--json FILE] [--tasks N] [--nodes N] [--cluster NAME]

A real control plane, whose nodes KWOK plays: a pod runs for a second and succeeds. Real Valkey, one process for each
service. Needs root and Go (`tests/cluster/README.md`); the first run compiles for some minutes.

The floor is measured in the same run, half before and half after: as many connections as the jobrunner has, which do
nothing but POST the same Jobs. The controllers take part in both: on a small machine it is they who need the time.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis

from bench.fake_cluster import enter, fake_cluster
from bench.pipeline import independent, wait_for_services
from bench.pod_ends import PodEnds
from bench.raw_jobs import create_rate, jobs_path, manifests, names, pods_path, remove, with_finalizers
from bench.report import Metric, arguments, tell
from bench.servers import peak_bytes, running, service, url_of, valkey
from helios.dag import parse_dag
from helios.keys import COLLECTOR_GROUP, SUBMISSIONS, keys_of_run
from helios.records import ENDED
from helios.settings import Settings
from helios.wire import hash_values
from services.collector.kube_api import Api, ApiRefused, api_from_environment

RUN_SECONDS = 900
GONE_SECONDS = 120
NAMESPACE = "helios-tasks"
FLOOR_NAMESPACE = "floor"
"""Apart from the services', because the collector would take the floor's pods for forgotten ones."""

UNLIMITED_JOBS = 1_000_000
CONNECTIONS = Settings().job_create_threads

IMAGE = "helios.test/helios:bench"
TOKEN_KEY = "bench"


class Figures(NamedTuple):
    """What one run showed. Pods' ends are by KWOK's clock, all else by the Redis server's: it is one machine's."""

    jobs_rate: float
    """Jobs a second from the moment the run was open until the last launch was recorded."""
    tasks_rate: float
    """Tasks a second from XADD to the run's final metrics."""
    lags_ms: list[float]
    """For each task, from the end of its pod to the end of its attempt."""
    drain_seconds: float
    """From the end of the last pod until no entry was left with the collector."""


def measure(tasks: int, nodes: int, cluster: str, limited_tasks: int) -> dict[str, Metric]:
    """All figures, with the cluster's start and end around them. `limited_tasks`: of the run with the default limit."""
    with fake_cluster(cluster, nodes), valkey() as client, ExitStack() as stack:
        api = api_from_environment()
        for namespace in (NAMESPACE, FLOOR_NAMESPACE):
            make_namespace(api, namespace)
        ends = PodEnds(api, NAMESPACE)
        stack.callback(ends.stop)
        environ = services_environ(client)
        stack.enter_context(running(service("services.submitter"), environ))
        collector = stack.enter_context(running(service("services.collector"), environ))
        with jobrunner(environ, Settings().jobs_alive):
            wait_for_services(client)
            limited = run(client, ends, limited_tasks)
            left = wait_until_gone(api)
        with jobrunner(environ, UNLIMITED_JOBS):
            floors = [floor_rate(api, tasks // 2)]
            remove(api, FLOOR_NAMESPACE, CONNECTIONS)
            figures = run(client, ends, tasks)
            left += wait_until_gone(api)
            floors.append(floor_rate(api, tasks - tasks // 2))  # what it leaves goes with the cluster
            peak = peak_bytes(collector) / 1e6
    return metrics_of(tasks, limited_tasks, floors, figures, limited, peak, left)


def services_environ(client: redis.Redis) -> dict[str, str]:
    return {
        "HELIOS_REDIS_URL": url_of(client),
        "HELIOS_TOKEN_KEY": TOKEN_KEY,
        "HELIOS_LAUNCHER": "kubernetes",
        "HELIOS_NAMESPACE": NAMESPACE,
        "HELIOS_AGENT_IMAGE": IMAGE,
        "HELIOS_LOG_LEVEL": "warning",
    }


@contextmanager
def jobrunner(environ: dict[str, str], jobs_alive: int) -> Iterator[subprocess.Popen[bytes]]:
    with running(service("services.jobrunner"), {**environ, "HELIOS_JOBS_ALIVE": str(jobs_alive)}) as process:
        yield process


def floor_rate(api: Api, count: int) -> float:
    (task,) = parse_dag(independent(1).encode()).dag.tasks
    bodies = manifests(task, Settings(agent_image=IMAGE, token_key=TOKEN_KEY), count)
    return create_rate(api, FLOOR_NAMESPACE, bodies, CONNECTIONS)


def run(client: redis.Redis, ends: PodEnds, count: int) -> Figures:
    """Submit so many independent tasks, and wait until the collector has wrapped up all of them."""
    text: Any = client.xadd(SUBMISSIONS, {"dag": independent(count)})
    keys = keys_of_run(text, 1)
    deadline = time.monotonic() + RUN_SECONDS
    while client.hget(keys.run(text), "status") not in ENDED or client.xlen(keys.launched):
        if time.monotonic() > deadline:
            raise TimeoutError(f"run {text}: {client.hgetall(keys.run(text))}")
        time.sleep(0.1)
    drained_ms = time.time() * 1000
    pending: Any = client.xpending(keys.launched, COLLECTOR_GROUP)
    assert pending["pending"] == 0, pending
    fields: Any = client.hgetall(keys.run(text))
    assert fields["status"] == "SUCCEEDED", fields
    rows = hash_values(client, [keys.task(text, f"t{n}") for n in range(count)], ("job", "launchedAt", "endedAt"))
    ended_ms = ends.of([row[0] for row in rows])
    launched = [int(row[1]) for row in rows]
    return Figures(
        jobs_rate=count / (max(launched) - int(fields["startTime"])) * 1000,
        tasks_rate=count / (int(fields["endTime"]) - int(text.partition("-")[0])) * 1000,
        lags_ms=sorted(int(row[2]) - ended_ms[row[0]] for row in rows),
        drain_seconds=(drained_ms - max(ended_ms.values())) / 1000,
    )


def wait_until_gone(api: Api) -> int:
    """Until Helios has let go of all Jobs and pods; else how many a finalizer still holds.

    A pod that nothing but its node keeps does not count: see `remove`.
    """
    jobs, pods = jobs_path(NAMESPACE), pods_path(NAMESPACE)
    deadline = time.monotonic() + GONE_SECONDS
    while names(api, jobs) or with_finalizers(api, pods):
        if time.monotonic() > deadline:
            return len(with_finalizers(api, jobs)) + len(with_finalizers(api, pods))
        time.sleep(0.5)
    return 0


def make_namespace(api: Api, name: str) -> None:
    """With the service account that pods are refused without, which a controller makes."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    subprocess.run(
        ["kubectl", "create", "--filename=-"], input=json.dumps(body).encode(), check=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            api.get(f"/api/v1/namespaces/{name}/serviceaccounts/default")
            return
        except ApiRefused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def metrics_of(
    tasks: int,
    limited_tasks: int,
    floors: list[float],
    figures: Figures,
    limited: Figures,
    peak: float,
    left: int,
) -> dict[str, Metric]:
    floor = statistics.mean(floors)
    ratio = figures.jobs_rate / floor
    half, most = at(figures.lags_ms, 0.5), at(figures.lags_ms, 0.99)
    limit = Settings().jobs_alive
    return {
        f"raw create loop, {CONNECTIONS} connections": Metric(value=floor, unit="Jobs/s"),
        f"{tasks:,} tasks: Jobs created": Metric(
            value=figures.jobs_rate, unit="Jobs/s", floor=floor, ratio=ratio, target="≥ 0.5 × floor", met=ratio >= 0.5
        ),
        f"{tasks:,} tasks: from XADD to metrics": Metric(value=figures.tasks_rate, unit="tasks/s"),
        f"{tasks:,} tasks: collector's peak memory": Metric(value=peak, unit="MB"),
        "collector's lag, half of the tasks": Metric(value=half, unit="ms"),
        "collector's lag, 99 % of the tasks": Metric(value=most, unit="ms"),
        "collector done after the last pod": Metric(value=figures.drain_seconds, unit="s"),
        f"at most {limit} Jobs alive, {limited_tasks:,} tasks: Jobs created": Metric(
            value=limited.jobs_rate, unit="Jobs/s"
        ),
        f"at most {limit} Jobs alive: lag, 99 % of the tasks": Metric(value=at(limited.lags_ms, 0.99), unit="ms"),
        "objects that a finalizer holds at the end": Metric(value=left, unit="", target="0", met=left == 0),
    }


def at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    options = arguments(__doc__ or "", tasks=5_000, nodes=100, cluster="kwok")
    options.json = Path(options.json).absolute() if options.json else None
    enter(options.cluster)
    metrics = measure(options.tasks, options.nodes, options.cluster, max(1, options.tasks // 10))
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
