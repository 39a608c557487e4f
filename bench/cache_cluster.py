"""What the nodes' caches save on two real nodes, with the link to the store at 1 Gbit/s and unlimited.

    python -m bench.cache_cluster [FILE …] [--json FILE] [--megabytes N] [--links 1gbit,unlimited]

Each FILE is a recorded workflow (WfFormat 1.5, bench/replay.py); without one the small one of bench/data. Files are
scaled down to about the megabytes given in all (0: as recorded), run times to zero; every task reads its inputs whole
and writes outputs of bytes that do not compress. For each workflow and link the same DAG runs

    cold               empty caches, everything on
    warm               once more
    cache off          useCache: false
    without affinity   cold and warm, with HELIOS_AFFINITY=off
    without peers      cold, with the network refusing what nodes ask of each other's keepers
    without warming    cold, with the network refusing what publish brings to its own node's keeper

Bytes from the store are counted by the kernel on the way to each node's pods. The limit is tc's, on the store's end of
its link, for both directions. Before that, one 64 MiB producer and three consumers at 1 Gbit/s, in both forms of a
task's pod; the workflows run in the init form, in which publish brings outputs to a keeper by the network.

Needs root and Go (tests/cluster/README.md) and about 25 times the disk of a workflow's largest file for what a run
without cache downloads; a cluster that is up is used and left up.
"""

import argparse
import io
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import redis
from minio import Minio

from bench.cluster import BIG, CONSUMERS, enter
from bench.replay import BUCKET, DATA, Workflow, file_name, read_workflow, scaled_sizes, to_dag
from bench.report import Metric, tell
from bench.runs import run_to_its_end
from helios.keys import NODES, keys_of_run, node_blobs, node_cache
from helios.records import TaskView, read_tasks
from tests.cluster.caches import keepers_speak
from tests.cluster.clusters import running_cluster
from tests.cluster.installed import Installed, installed
from tests.cluster.kubectl import Kubectl
from tests.cluster.store_link import GIGABIT, PODS_OF, StoreLink
from tests.waiting import wait_until

RUN_SECONDS = 1800
KEEPER_PORT = "8415"
BLOCK = 1 << 20
BIG_ROUNDS = 3
WHOLE_BYTES = 10**9
"""Of a workflow's inputs, from which on bytes and not the starts of pods decide how long it takes."""

TASK = """
import json, random, sys
plan = json.loads(sys.argv[1])
for name, size in plan["inputs"].items():
    read = 0
    with open(name, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            read += len(chunk)
    assert read == size, (name, read, size)
for name, (seed, size) in plan["outputs"].items():
    noise = random.Random(seed)
    with open(name, "wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(noise.randbytes(min(1 << 20, size - start)))
"""


class Done(NamedTuple):
    """A run that succeeded: how long it took, and the bytes that the store sent to each node's pods for it."""

    seconds: float
    sent: dict[str, int]
    tasks: list[TaskView]

    @property
    def from_store(self) -> int:
        return sum(self.sent.values())


class Noise(io.RawIOBase):
    """Bytes that follow from the name alone and do not compress."""

    def __init__(self, name: str, size: int) -> None:
        self.noise = random.Random(name)
        self.left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = min(self.left, BLOCK if size < 0 else size)
        self.left -= wanted
        return self.noise.randbytes(wanted)


class Bench:
    def __init__(self, helios: Installed, link: StoreLink) -> None:
        self.helios = helios
        self.link = link
        self.client: redis.Redis = helios.redis()
        keys = helios.credentials("client")
        self.store = Minio(
            helios.addresses["helios-minio"],
            keys["HELIOS_S3_ACCESS_KEY"],
            keys["HELIOS_S3_SECRET_KEY"],
            secure=False,
            region="us-east-1",
        )

    def measure(self, workflow: Workflow, megabytes: float, links: list[str]) -> dict[str, Metric]:
        sizes = scaled_sizes(workflow, megabytes) if megabytes else workflow.sizes
        self.seed(workflow, sizes)
        dag = on_cluster(to_dag(workflow, sizes, 0), self.helios.cluster.image)
        metrics: dict[str, Metric] = {}
        for rate in links:
            with self.link.limited(rate) if rate != "unlimited" else nullcontext():
                found = self.runs(dag)
            metrics |= figures(f"{workflow.name[:10]}, {rate}", found, distinct_bytes(workflow, sizes), rate)
        return metrics

    def runs(self, dag: dict[str, Any]) -> dict[str, Done]:
        found: dict[str, Done] = {}

        def run(name: str, *, cold: bool = False, use_cache: bool = True) -> None:
            if cold:
                self.empty_caches()
            found[name] = self.run(dag, use_cache=use_cache)
            print(
                f"  {name}: {found[name].seconds:.1f} s, {found[name].from_store / 1e6:,.0f} MB from the store",
                flush=True,
            )

        run("cold", cold=True)
        run("warm")
        run("cache off", use_cache=False)
        with refused(between_nodes()):
            run("cold, without peers", cold=True)
        with refused(within_nodes()):
            run("cold, without warming", cold=True)
        with self.without_affinity():
            run("cold, without affinity", cold=True)
            run("warm, without affinity")
        return found

    def big(self) -> dict[str, Metric]:
        """New bytes each time, so that nothing of them is in a cache before."""
        image = self.helios.cluster.task_image
        command = ["sh", "-c", f"head -c {BIG} /dev/urandom > data"]
        tasks: list[dict[str, Any]] = [{"name": "producer", "image": image, "command": command, "outputs": ["data"]}]
        for n in range(CONSUMERS):
            inputs = [{"fromTask": "producer", "name": "data"}]
            tasks.append(
                {"name": f"c{n}", "image": image, "command": ["sh", "-c", "cat data > /dev/null"], "inputs": inputs}
            )
        seconds: list[float] = []
        downloaded: list[int] = []
        for _ in range(BIG_ROUNDS):
            done = self.run({"dagName": "big", "tasks": tasks})
            seconds.append(done.seconds)
            downloaded.append(done.sent[done.tasks[0].node])
        value, most = statistics.median(seconds), max(downloaded)
        title = f"{self.helios.form}: 64 MiB to {CONSUMERS} consumers"
        return {
            f"{title}, 1gbit": Metric(value=value, unit="s", target="under 4 s", met=value < 4),
            f"{title}, downloaded on the producer's node": Metric(
                value=most / 1e6, unit="MB", target="nothing", met=most < BIG / 100
            ),
        }

    def seed(self, workflow: Workflow, sizes: dict[str, int]) -> None:
        if not self.store.bucket_exists(BUCKET):
            self.store.make_bucket(BUCKET)
        for file in workflow.external:
            size = sizes.get(file, 1)
            noise: Any = Noise(file, size)
            self.store.put_object(BUCKET, f"{workflow.name}/{file_name(file)}", noise, size)

    def run(self, dag: dict[str, Any], *, use_cache: bool = True) -> Done:
        before = self.link.sent()
        run = run_to_its_end(self.helios, self.client, dag, RUN_SECONDS, use_cache=use_cache)
        keys = keys_of_run(run, 1)
        sent = {node: after - before[node] for node, after in self.link.sent().items()}
        took = int(str(self.client.hget(keys.run(run), "durationMs"))) / 1000
        tasks = read_tasks(self.client, keys, run, [each["name"] for each in dag["tasks"]])
        wait_until("the run's pods are gone", lambda: not self.pods(), RUN_SECONDS)
        return Done(took, sent, tasks)

    def pods(self) -> str:
        return self.helios.tasks.run("get", "pods", "--selector=helios.dev/run", "--output=name")

    def empty_caches(self) -> None:
        """As new nodes have them: keepers that start and find nothing."""
        for node in PODS_OF:
            for name in ("blobs", "refs"):
                folder = self.helios.cache_folder(node) / name
                shutil.rmtree(folder.rename(folder.with_name(f"before-{name}")))
        selector = f"--selector=app.kubernetes.io/name={self.helios.agents.daemonset}"
        Kubectl(self.helios.agents.namespace).run("delete", "pods", selector, "--wait", seconds=120)
        began = time.time() * 1000
        self.helios.wait_agents()
        wait_until("both keepers tell of empty caches", lambda: all(self.is_empty(node, began) for node in PODS_OF), 90)

    def is_empty(self, node: str, since_ms: float) -> bool:
        heard: Any = self.client.zscore(NODES, node)
        url, there = self.client.hget(node_cache(node), "url"), self.client.exists(node_blobs(node))
        return bool(url) and not there and heard is not None and heard > since_ms

    @contextmanager
    def without_affinity(self) -> Iterator[None]:
        self.tell_jobrunner("HELIOS_AFFINITY=off")
        try:
            yield
        finally:
            self.tell_jobrunner("HELIOS_AFFINITY-")

    def tell_jobrunner(self, assignment: str) -> None:
        self.helios.services.run("set", "env", "deployment/helios-jobrunner", assignment)
        self.helios.rollout("deployment/helios-jobrunner", self.helios.services, 120)


def on_cluster(dag: dict[str, Any], image: str) -> dict[str, Any]:
    """The replay's DAG in an image that has Python; the last argument is a task's plan."""
    for task in dag["tasks"]:
        task |= {"image": image, "command": ["python", "-I", "-S", "-c", TASK, task["command"][-1]]}
    return dag


def distinct_bytes(workflow: Workflow, sizes: dict[str, int]) -> int:
    return sum(sizes.get(file, 1) for file in {file for files in workflow.inputs.values() for file in files})


def between_nodes() -> list[tuple[str, str]]:
    return [(here, there) for here in PODS_OF.values() for there in PODS_OF.values() if here != there]


def within_nodes() -> list[tuple[str, str]]:
    return [(pods, pods) for pods in PODS_OF.values()]


@contextmanager
def refused(pairs: list[tuple[str, str]]) -> Iterator[None]:
    """Connections to keepers are refused at once for these sources and destinations."""
    rules = [
        (
            "FORWARD",
            "-s",
            here,
            "-d",
            there,
            "-p",
            "tcp",
            "--dport",
            KEEPER_PORT,
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        )
        for here, there in pairs
    ]
    for rule in rules:
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)


def figures(title: str, found: dict[str, Done], distinct: int, rate: str) -> dict[str, Metric]:
    """Times are compared with the run without the cache, bytes with the workflow's distinct inputs."""
    metrics: dict[str, Metric] = {}
    off = found["cache off"].seconds
    for name, done in found.items():
        wanted = name == "warm" and rate == GIGABIT and distinct > WHOLE_BYTES
        metrics[f"{title}: {name}"] = Metric(
            value=done.seconds,
            unit="s",
            floor=off,
            ratio=done.seconds / off,
            target="at most 0.3 of cache off" if wanted else None,
            met=done.seconds <= 0.3 * off if wanted else None,
        )
    for name, done in found.items():
        wanted = name == "cold"
        metrics[f"{title}: {name}, from the store"] = Metric(
            value=done.from_store / 1e6,
            unit="MB",
            floor=distinct / 1e6,
            ratio=done.from_store / distinct,
            target="each input once" if wanted else None,
            met=done.from_store <= 1.02 * distinct if wanted else None,
        )
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DATA])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--megabytes", type=float, default=200, help="all files of a workflow together; 0: as recorded")
    parser.add_argument("--links", default=f"{GIGABIT},unlimited", help="rates as tc takes them, separated by commas")
    options = parser.parse_args()
    enter()
    metrics: dict[str, Metric] = {}
    with running_cluster() as cluster:
        for form in ("csi", "init"):
            with ExitStack() as stack:
                scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="helios-bench-")))
                helios = stack.enter_context(installed(cluster, scratch, form))
                link = StoreLink(helios)
                stack.enter_context(link.counted())
                # Until then no output is brought to them, and nothing is asked of them.
                keepers_speak(helios)
                bench = Bench(helios, link)
                with link.limited():
                    metrics |= bench.big()
                for file in options.files if form == "init" else ():
                    workflow = read_workflow(file.read_bytes())
                    print(f"{workflow.name}: {len(workflow.parents)} tasks", flush=True)
                    metrics |= bench.measure(workflow, options.megabytes, options.links.split(","))
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
