"""What Helios costs on a real Kubernetes, beside Jobs that do nothing but run in the same order on the same cluster.

    python -m bench.cluster [--json FILE] [--rounds N]

Needs root and Go (tests/cluster/README.md); a cluster that is up is used and left up. Each figure is the median of the
rounds, in which floor and Helios take turns. The floor's Jobs have one container and no data: they are released when a
watch shows the pod Succeeded. Helios passes an artifact at every hop. The third shape is compared with Jobs that a
person writes with presigned URLs in them: one stores 64 MiB, three fetch it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from minio import Minio

from bench.bare_jobs import Bare, remove, seconds_of
from bench.report import Metric, arguments, tell
from bench.servers import PROJECT
from helios.events import TaskLaunched, decode_event
from helios.keys import SUBMISSIONS, keys_of_run
from helios.records import ENDED, read_tasks
from helios.settings import Settings
from services.collector.kube_api import Api as WatchApi
from services.collector.kube_api import api_from_environment
from services.jobrunner.kubernetes import Api as CreateApi
from services.jobrunner.kubernetes import connect_api
from tests.cluster.clusters import running_cluster, why_none
from tests.cluster.installed import Installed, installed
from tests.cluster.kubectl import Kubectl

TOOL = PROJECT / "tests" / "cluster" / "tool" / "cluster"
FLOOR = "floor"
CHAIN = 5
FAN = 20
CONSUMERS = 3
BIG = 64 * 1024**2
RUN_SECONDS = 180

Dag = dict[str, Any]


class Shape(NamedTuple):
    """A DAG, and the same in bare Jobs."""

    dag: Dag
    bare: Callable[[], Mapping[str, Bare]]


class Timed(NamedTuple):
    """One run: from XADD to its end, and what lay between for each task, all in ms."""

    seconds: float
    to_start: list[float]
    """From a Job's launch to the start of its command."""
    to_stored: list[float]
    """From a command's end until its outputs are stored."""
    to_child: list[float]
    """From a stored result to the child's Job being created and recorded."""


def main() -> None:
    options = arguments(__doc__ or "", rounds=3)
    enter()
    with (
        tempfile.TemporaryDirectory(prefix="helios-bench-") as scratch,
        running_cluster() as cluster,
        installed(cluster, Path(scratch)) as helios,
    ):
        tell(Bench(helios).measure(options.rounds), options.json)


def enter() -> None:
    """Go on inside the cluster's network, unless this is it or KUBECONFIG names another cluster."""
    if os.environ.get("CLUSTER_INSIDE") or os.environ.get("KUBECONFIG"):
        if (reason := why_none()) is not None:
            sys.exit(reason)
        return
    subprocess.run([TOOL, "build"], check=True)
    subprocess.run(["make", "--silent", "build/image/.made"], cwd=PROJECT, check=True)
    os.execv(TOOL, [str(TOOL), "exec", sys.executable, *sys.orig_argv[1:]])


class Bench:
    def __init__(self, helios: Installed) -> None:
        self.helios = helios
        self.image = helios.cluster.task_image
        self.client: redis.Redis = helios.redis()
        self.create: CreateApi = connect_api(Settings())
        self.watch: WatchApi = api_from_environment()
        credentials = helios.credentials("client")
        host = helios.services.get("service", "helios-minio")["spec"]["clusterIP"]
        keys = credentials["HELIOS_S3_ACCESS_KEY"], credentials["HELIOS_S3_SECRET_KEY"]
        self.store = Minio(helios.addresses["helios-minio"], *keys, secure=False, region="us-east-1")
        self.signer = Minio(f"{host}:9000", *keys, secure=False, region="us-east-1")
        """Signs for the address that pods know."""

    def measure(self, rounds: int) -> dict[str, Metric]:
        Kubectl().apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FLOOR}})
        shapes = {"one": self.one(), "chain": self.chain(), "fan": self.fan(), "big": self.big()}
        floors: dict[str, list[float]] = {name: [] for name in shapes}
        timed: dict[str, list[Timed]] = {name: [] for name in shapes}
        try:
            self.run(shapes["one"].dag)  # the first of all loads code and images
            for _ in range(rounds):
                for name, shape in shapes.items():
                    floors[name].append(seconds_of(self.create, self.watch, FLOOR, shape.bare()))
                    remove(self.create, FLOOR)
                    timed[name].append(self.run(shape.dag))
                    self.settle()
        finally:
            Kubectl().delete("namespace", FLOOR, wait=False)
        return metrics_of(floors, timed)

    def task(self, name: str, command: str, **more: Any) -> Dag:
        return {"name": name, "image": self.image, "command": ["sh", "-c", command], **more}

    def container(self, command: str, **env: str) -> Mapping[str, Any]:
        variables = [{"name": name, "value": value.replace("$", "$$")} for name, value in env.items()]
        return {"image": self.image, "command": ["sh", "-c", command], "env": variables}

    def one(self) -> Shape:
        tasks = [self.task("t0", "echo 0 > out", outputs=["out"])]
        return Shape({"dagName": "one", "tasks": tasks}, lambda: {"t0": Bare(self.container("echo 0 > out"))})

    def chain(self) -> Shape:
        """Each task reads what the one before has made."""
        tasks = [self.task("t0", "echo 0 > out", outputs=["out"])]
        for n in range(1, CHAIN):
            inputs = [{"fromTask": f"t{n - 1}", "name": "out", "as": "in"}]
            tasks.append(self.task(f"t{n}", f"cat in > out; echo {n} >> out", inputs=inputs, outputs=["out"]))
        bare = {f"t{n}": Bare(self.container("true"), [f"t{n - 1}"] if n else []) for n in range(CHAIN)}
        return Shape({"dagName": "chain", "tasks": tasks}, lambda: bare)

    def fan(self) -> Shape:
        first = self.task("first", "echo 0 > out", outputs=["out"])
        inputs = [{"fromTask": "first", "name": "out", "as": "in"}]
        middle = [self.task(f"t{n}", f"cat in; echo {n} > out", inputs=inputs, outputs=["out"]) for n in range(FAN)]
        of_all = [{"fromTask": f"t{n}", "name": "out", "as": f"in{n}"} for n in range(FAN)]
        last = self.task("last", "cat in* > out", inputs=of_all, outputs=["out"])
        bare = {
            "first": Bare(self.container("true")),
            **{f"t{n}": Bare(self.container("true"), ["first"]) for n in range(FAN)},
            "last": Bare(self.container("true"), [f"t{n}" for n in range(FAN)]),
        }
        return Shape({"dagName": "fan", "tasks": [first, *middle, last]}, lambda: bare)

    def big(self) -> Shape:
        """A new 64 MiB each time, so that nothing of it is in a cache before."""
        produce = f"head -c {BIG} /dev/urandom > data"
        consume = "wc -c < data > size"
        inputs = [{"fromTask": "producer", "name": "data"}]
        tasks = [self.task("producer", produce, outputs=["data"])]
        tasks += [self.task(f"c{n}", consume, inputs=inputs, outputs=["size"]) for n in range(CONSUMERS)]
        return Shape({"dagName": "big", "tasks": tasks}, lambda: self.big_by_hand(produce, consume))

    def big_by_hand(self, produce: str, consume: str) -> Mapping[str, Bare]:
        """Busybox has no curl: PUT goes through nc, which costs less than anything with TLS and redirects would."""
        bucket, key = "bench", f"by-hand/{time.time_ns()}"
        if not self.store.bucket_exists(bucket):
            self.store.make_bucket(bucket)

        def put(name: str, file: str) -> tuple[str, dict[str, str]]:
            url = urlsplit(self.signer.presigned_put_object(bucket, f"{key}/{name}", timedelta(hours=1)))
            head = f"PUT {url.path}?{url.query} HTTP/1.1\\r\\nHost: {url.netloc}\\r\\nConnection: close\\r\\n"
            request = f'printf "$HEAD"; printf "Content-Length: %d\\r\\n\\r\\n" $(wc -c < {file}); cat {file}'
            env = {"HEAD": head.replace("%", "%%"), "HOST": f"{url.hostname} {url.port}"}
            # The descriptor stays open until the answer is there: MinIO takes half a close for a client that left.
            sending = f"mkfifo to && {{ nc $HOST < to > answer & }} && exec 3> to && {{ {request}; }} >&3"
            return f"{sending} && wait && head -n 1 answer | grep -q ' 200 '", env

        get = self.signer.presigned_get_object(bucket, f"{key}/data", timedelta(hours=1))
        store_data, data_env = put("data", "data")
        jobs = {"producer": Bare(self.container(f"cd /tmp && {produce} && {store_data}", **data_env))}
        for n in range(CONSUMERS):
            store_size, size_env = put(f"size{n}", "size")
            command = f'cd /tmp && wget -q -O data "$URL" && {consume} && {store_size}'
            jobs[f"c{n}"] = Bare(self.container(command, URL=get, **size_env), ["producer"])
        return jobs

    def run(self, dag: Dag) -> Timed:
        text = json.dumps(dag)
        run: Any = self.client.xadd(SUBMISSIONS, {"dag": text})
        keys = keys_of_run(run, 1)
        deadline = time.monotonic() + RUN_SECONDS
        while (status := self.client.hget(keys.run(run), "status")) not in ENDED:
            if time.monotonic() > deadline:
                raise RuntimeError(f"run {run} is {status} after {RUN_SECONDS} s\n{self.helios.look()}")
            time.sleep(0.02)
        if status != "SUCCEEDED":
            raise RuntimeError(self.helios.helios("show", run).stdout)
        parents = {each["name"]: {of["fromTask"] for of in each.get("inputs", ())} for each in dag["tasks"]}
        return self.timed(run, parents)

    def timed(self, run: str, parents: Mapping[str, set[str]]) -> Timed:
        """By the events' ids, which are of the Redis server's clock, and by the node's: it is one machine's."""
        keys = keys_of_run(run, 1)
        launched: dict[str, int] = {}
        entries: Any = self.client.xrange(keys.events, min=run)
        for entry, fields in entries:
            event = decode_event(fields["event"])
            if isinstance(event, TaskLaunched) and event.run == run:
                launched[event.task] = int(entry.partition("-")[0])
        views = {view.name: view for view in read_tasks(self.client, keys, run, parents)}
        stored = {name: view.publishedAt for name, view in views.items() if view.publishedAt}
        ended = int(str(self.client.hget(keys.run(run), "endTime")))
        return Timed(
            seconds=(ended - int(run.partition("-")[0])) / 1000,
            to_start=[view.startedAt - launched[name] for name, view in views.items() if view.startedAt],
            to_stored=[stored[name] - view.finishedAt for name, view in views.items() if view.finishedAt],
            to_child=[launched[name] - max(stored[each] for each in parents[name]) for name in views if parents[name]],
        )

    def settle(self) -> None:
        """Until no pod of the round is left: what is being removed costs the next one."""
        deadline = time.monotonic() + RUN_SECONDS
        while self.left():
            if time.monotonic() > deadline:
                raise RuntimeError("pods are not removed")
            time.sleep(0.2)

    def left(self) -> bool:
        ours = self.helios.tasks.run("get", "pods", "--selector=helios.dev/run", "--output=name")
        return bool(ours or Kubectl(FLOOR).run("get", "pods", "--output=name"))


def metrics_of(floors: Mapping[str, list[float]], timed: Mapping[str, list[Timed]]) -> dict[str, Metric]:
    titles = {
        "one": ("one task", None),
        "chain": (f"chain of {CHAIN}, an artifact at every hop", 0.65),
        "fan": (f"1 to {FAN} to 1", 1.1),
        "big": (f"64 MiB to {CONSUMERS} consumers", 0.8),
    }
    metrics: dict[str, Metric] = {}
    for name, (title, limit) in titles.items():
        floor, value = (
            statistics.median(floors[name]),
            statistics.median(each.seconds for each in timed[name]),
        )
        ratio = value / floor
        target = None if limit is None else f"at most {limit} of the floor"
        met = None if limit is None else ratio <= limit
        metrics[title] = Metric(value=value, unit="s", floor=floor, ratio=ratio, target=target, met=met)
    alone = timed["one"] + timed["chain"]
    child = [each for one in timed["chain"] for each in one.to_child]
    value = statistics.median(child)
    metrics["from a stored result to the child's Job"] = Metric(
        value=value, unit="ms", target="under 60 ms", met=value < 60
    )
    for title, times in (
        ("from a Job to its command's start", [each for one in alone for each in one.to_start]),
        ("from a command's end to its stored result", [each for one in alone for each in one.to_stored]),
    ):
        metrics[title] = Metric(value=statistics.median(times), unit="ms")
    return metrics


if __name__ == "__main__":
    main()
