"""What Helios costs on a real Kubernetes, beside Jobs that do nothing but run in the same order on the same cluster.

    python -m bench.cluster [--json FILE] [--rounds N] [--form csi|init]

Needs root and Go (tests/cluster/README.md); a cluster that is up is used and left up. Helios is installed once for each
form of a task's pod; a round of one form takes about five minutes. Each figure is the median of the rounds, in which
floor and Helios take turns. The floor's Jobs have one container and no data: they are released when a watch shows the
pod Succeeded. Beside the csi form, whose pods a namespace of the level *restricted* admits, the floor's pods are such
as it would admit, too: a seccomp filter alone costs the runtime some processor time. Helios passes an artifact at every
hop. One shape is compared with Jobs that a person writes with
presigned URLs in them: one stores 64 MiB, three fetch it.

Processor time is the whole machine's, from /proc/stat, for WIDE independent tasks, less what the idle cluster takes in
the same time. Bytes from the store are counted by the kernel on the way to the nodes' pods.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from minio import Minio

from bench.bare_jobs import Bare, remove, seconds_of
from bench.report import Metric, arguments, tell
from bench.runs import run_to_its_end
from bench.servers import PROJECT
from helios.events import TaskLaunched, decode_event
from helios.keys import keys_of_run
from helios.records import read_tasks
from helios.settings import Settings
from services.collector.kube_api import Api as WatchApi
from services.collector.kube_api import api_from_environment
from services.jobrunner.kubernetes import Api as CreateApi
from services.jobrunner.kubernetes import connect_api
from tests.cluster.clusters import running_cluster, why_none
from tests.cluster.installed import FORMS, TASKS, Installed, installed
from tests.cluster.kubectl import Kubectl
from tests.cluster.store_link import StoreLink

TOOL = PROJECT / "tests" / "cluster" / "tool" / "cluster"
FLOOR = "floor"
CHAIN = 5
FAN = 20
CONSUMERS = 3
BIG = 64 * 1024**2
WIDE = 40
SHARED = 200
IDLE_SECONDS = 5
RUN_SECONDS = 180
TARGETS = {
    "init": {"chain": 0.65, "fan": 1.1, "big": 0.8, "cpu": None},
    "csi": {"chain": 0.4, "fan": 0.9, "big": 0.8, "cpu": 1.2},
}
"""Ratios to the floor, by form."""

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}

Dag = dict[str, Any]


class Shape(NamedTuple):
    """A DAG, and the same in bare Jobs."""

    dag: Dag
    bare: Callable[[], Mapping[str, Bare]]


class Cost(NamedTuple):
    """How long something took, and what the machine's processors worked for it; seconds."""

    seconds: float
    busy: float


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
    options = arguments(__doc__ or "", rounds=1, form="")
    if options.form not in ("", *FORMS):
        sys.exit(f"--form must be one of {', '.join(FORMS)}")
    enter()
    metrics: dict[str, Metric] = {}
    with running_cluster() as cluster:
        for form in [options.form] if options.form else FORMS:
            with (
                tempfile.TemporaryDirectory(prefix="helios-bench-") as scratch,
                installed(cluster, Path(scratch), form) as helios,
            ):
                metrics |= Bench(helios).measure(options.rounds)
    tell(metrics, options.json)


def enter(*parts: str) -> None:
    """Go on inside the cluster's network, unless this is it or KUBECONFIG names another cluster. `parts` are what
    has to be built besides Kubernetes.
    """
    if os.environ.get("CLUSTER_INSIDE") or os.environ.get("KUBECONFIG"):
        if (reason := why_none()) is not None:
            sys.exit(reason)
        return
    subprocess.run([TOOL, "build"], check=True)
    if parts:
        subprocess.run([TOOL, "build", *parts], check=True)
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
        shapes = {
            "one": self.one(),
            "chain": self.chain(),
            "fan": self.fan(),
            "big": self.big(),
            "wide": self.wide(),
        }
        floors: dict[str, list[Cost]] = {name: [] for name in shapes}
        costs: dict[str, list[Cost]] = {name: [] for name in shapes}
        timed: dict[str, list[Timed]] = {name: [] for name in shapes}
        try:
            self.run(shapes["one"].dag)  # the first of all loads code and images
            self.settle()
            idle = idle_share()
            for _ in range(rounds):
                for name, shape in shapes.items():
                    bare = shape.bare()
                    with busy(idle) as cost:
                        seconds = seconds_of(self.create, self.watch, FLOOR, bare)
                        remove(self.create, FLOOR)
                        self.settle()
                    floors[name].append(Cost(seconds, cost[0]))
                    with busy(idle) as cost:
                        timed[name].append(self.run(shape.dag))
                        self.settle()
                    costs[name].append(Cost(timed[name][-1].seconds, cost[0]))
                    ours, bare_jobs = costs[name][-1], floors[name][-1]
                    print(
                        f"  {self.helios.form}, {name}: {ours.seconds:.2f} s, bare {bare_jobs.seconds:.2f} s",
                        flush=True,
                    )
            copies = self.copies()
        finally:
            Kubectl().delete("namespace", FLOOR, wait=False)
        return metrics_of(self.helios.form, floors, costs, timed) | copies

    def task(self, name: str, command: str, **more: Any) -> Dag:
        return {"name": name, "image": self.image, "command": ["sh", "-c", command], **more}

    def container(self, command: str, **env: str) -> Mapping[str, Any]:
        variables = [{"name": name, "value": value.replace("$", "$$")} for name, value in env.items()]
        security = {"securityContext": RESTRICTED} if self.helios.form == "csi" else {}
        return {"image": self.image, "command": ["sh", "-c", command], "env": variables, **security}

    def one(self) -> Shape:
        tasks = [self.task("t0", "echo 0 > out", outputs=["out"])]
        return Shape({"dagName": "one", "tasks": tasks}, lambda: {"t0": Bare(self.container("echo 0"))})

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

    def wide(self) -> Shape:
        """Tasks that nothing holds back but the cluster itself."""
        tasks = [self.task(f"t{n}", f"echo {n} > out", outputs=["out"]) for n in range(WIDE)]
        bare = {f"t{n}": Bare(self.container(f"echo {n}")) for n in range(WIDE)}
        return Shape({"dagName": "wide", "tasks": tasks}, lambda: bare)

    def copies(self) -> dict[str, Metric]:
        """What the store sends when both nodes' tasks all read the same."""
        if self.helios.cluster.home is None:
            return {}
        name = f"shared-{time.time_ns()}"
        with tempfile.NamedTemporaryFile() as file:
            for _ in range(BIG >> 20):
                file.write(os.urandom(1 << 20))
            file.flush()
            done = self.helios.helios("put", "--make-bucket", file.name, f"s3://bench/{name}")
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        inputs = [{"uri": f"s3://bench/{name}", "as": "data"}]
        tasks = [self.task(f"t{n}", "cat data > /dev/null", inputs=inputs) for n in range(SHARED)]
        link = StoreLink(self.helios)
        with link.counted():
            timed = self.run({"dagName": "shared", "tasks": tasks})
            sent = sum(link.sent().values())
        self.settle()
        title = f"{self.helios.form}: {SHARED} tasks that read the same 64 MiB"
        ratio = sent / BIG
        return {
            f"{title}, bytes from the store": Metric(
                value=sent, unit="B", floor=BIG, ratio=ratio, target="at most 2 copies", met=ratio <= 2.02
            ),
            f"{title}, tasks per second": Metric(value=SHARED / timed.seconds, unit="/s"),
        }

    def big(self) -> Shape:
        """A new 64 MiB each time, so that nothing of it is in a cache before."""
        produce = f"head -c {BIG} /dev/urandom > data"
        # busybox counts bytes one by one, which takes a second of a processor.
        consume = "cat data > /dev/null; stat -c %s data > size"
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
            request = f'printf "$HEAD"; printf "Content-Length: %d\\r\\n\\r\\n" $(stat -c %s {file}); cat {file}'
            env = {"HEAD": head.replace("%", "%%"), "HOST": f"{url.hostname} {url.port}"}
            # The descriptor stays open until the answer is there: MinIO takes half a close for a client that left.
            sending = f"mkfifo to && {{ nc $HOST < to > answer & }} && exec 3> to && {{ {request}; }} >&3"
            return f"{sending} && wait && head -n 1 answer | grep -q ' 200 '", env

        get = self.signer.presigned_get_object(bucket, f"{key}/data", timedelta(hours=1))
        store_data, data_env = put("data", "data")
        jobs = {"producer": Bare(self.container(f"cd /scratch && {produce} && {store_data}", **data_env), scratch=True)}
        for n in range(CONSUMERS):
            store_size, size_env = put(f"size{n}", "size")
            command = f'cd /scratch && wget -q -O data "$URL" && {consume} && {store_size}'
            jobs[f"c{n}"] = Bare(self.container(command, URL=get, **size_env), ["producer"], scratch=True)
        return jobs

    def run(self, dag: Dag) -> Timed:
        run = run_to_its_end(self.helios, self.client, dag, RUN_SECONDS)
        parents = {
            each["name"]: {of["fromTask"] for of in each.get("inputs", ()) if "fromTask" in of} for each in dag["tasks"]
        }
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
        """Asked without kubectl, which would take more of a processor than some of what is measured."""
        for path in (f"{TASKS}/pods?limit=1&labelSelector=helios.dev%2Frun", f"{FLOOR}/pods?limit=1"):
            code, answer = self.create.request("GET", f"/api/v1/namespaces/{path}")
            if code != 200:
                raise RuntimeError(f"pods cannot be listed: {answer[:500]!r}")
            if json.loads(answer)["items"]:
                return True
        return False


def busy_seconds() -> float:
    """What all processors of this machine have worked since it started."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def idle_share() -> float:
    """Processors that the cluster keeps busy while it has nothing to do."""
    began, before = time.monotonic(), busy_seconds()
    time.sleep(IDLE_SECONDS)
    return (busy_seconds() - before) / (time.monotonic() - began)


@contextmanager
def busy(idle: float) -> Iterator[list[float]]:
    """Puts what was worked inside, less what would have been worked anyway, into the list: seconds."""
    began, before = time.monotonic(), busy_seconds()
    found: list[float] = []
    yield found
    found.append(busy_seconds() - before - idle * (time.monotonic() - began))


def metrics_of(
    form: str,
    floors: Mapping[str, list[Cost]],
    costs: Mapping[str, list[Cost]],
    timed: Mapping[str, list[Timed]],
) -> dict[str, Metric]:
    titles = {
        "one": "one task",
        "chain": f"chain of {CHAIN}, an artifact at every hop",
        "fan": f"1 to {FAN} to 1",
        "big": f"64 MiB to {CONSUMERS} consumers",
        "wide": f"{WIDE} independent tasks",
    }
    metrics: dict[str, Metric] = {}
    for name, title in titles.items():
        floor, value = (statistics.median(each.seconds for each in found[name]) for found in (floors, costs))
        metrics[f"{form}: {title}"] = against(value, "s", floor, TARGETS[form].get(name))
    floor, value = (statistics.median(each.busy for each in found["wide"]) / WIDE for found in (floors, costs))
    metrics[f"{form}: processor time for a task"] = against(value, "s", floor, TARGETS[form]["cpu"])
    floor, value = (WIDE / statistics.median(each.seconds for each in found["wide"]) for found in (floors, costs))
    metrics[f"{form}: pods per second"] = Metric(value=value, unit="/s", floor=floor, ratio=value / floor)
    alone = timed["one"] + timed["chain"]
    child = [each for one in timed["chain"] for each in one.to_child]
    value = statistics.median(child)
    metrics[f"{form}: from a stored result to the child's Job"] = Metric(
        value=value, unit="ms", target="under 60 ms", met=value < 60
    )
    for title, times in (
        ("from a Job to its command's start", [each for one in alone for each in one.to_start]),
        ("from a command's end to its stored result", [each for one in alone for each in one.to_stored]),
    ):
        metrics[f"{form}: {title}"] = Metric(value=statistics.median(times), unit="ms")
    return metrics


def against(value: float, unit: str, floor: float, limit: float | None) -> Metric:
    ratio = value / floor
    target = None if limit is None else f"at most {limit} of the floor"
    return Metric(value=value, unit=unit, floor=floor, ratio=ratio, target=target, met=limit and ratio <= limit)


if __name__ == "__main__":
    main()
