"""Argo Workflows and Helios on one Kubernetes, beside Jobs that do nothing but run in the same order.

    python -m bench.argo [--json FILE] [--rounds N] [--form csi|init] [--qps N --burst N] [--requeue 1s]

Needs root and Go (tests/cluster/README.md); the first time Argo's controller and executor are compiled from their
published modules, which takes some ten minutes more. A cluster that is up is used and left up. Both are installed side
by side and take turns in each round with the bare Jobs of bench/cluster.py; a round takes about five minutes. Each
figure is the median of the rounds, and `floor` is the bare Jobs'.

Argo's controller runs with its defaults and in a namespace of its own, without its server. `--qps` and `--burst` are
its limits of requests to the API server, 20 and 30 by default, of which its documentation says to raise them for large
workflows; `--requeue` is its DEFAULT_REQUEUE_TIME, after which it looks at a workflow whose pod has changed, 10 s by
default (argoproj/argo-workflows#9278). It runs each shape in two ways: in order only, as the bare Jobs do, and with the
artifacts that Helios' tasks pass, at every hop, which it keeps in the same MinIO as Helios. A workflow's time is from
the request that makes it until a watch shows that it has succeeded; a Helios run's from XADD until its record says so.

Beside the csi form all pods, Argo's own containers too, are such as a namespace of the level *restricted* admits;
beside the init form none is. Processor time is the whole machine's, as in bench/cluster.py: it counts only where
nothing else runs, and what ran before the first round is said.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from bench.argo_installed import ACCOUNT, BUCKET, NAMESPACE, argo_installed, version
from bench.bare_jobs import Bare, remove, seconds_of
from bench.cluster import CHAIN, FAN, FLOOR, RESTRICTED, RUN_SECONDS, WIDE, Bench, Cost, Dag, busy, enter, idle_share
from bench.report import Metric, arguments, tell
from tests.cluster.clusters import running_cluster
from tests.cluster.installed import FORMS, installed
from tests.cluster.kubectl import Kubectl

FOLDER = "/artifacts"
WORKFLOWS = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TITLES = {
    "one": "one task",
    "chain": f"chain of {CHAIN}",
    "fan": f"1 to {FAN} to 1",
    "wide": f"{WIDE} independent tasks",
}
BARE, ORDER, ARTIFACTS = "bare Jobs", "Argo", "Argo with artifacts"

Workflow = dict[str, Any]


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    resourceVersion: str = ""


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""
    message: str = ""


class _Seen(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    status: _Status = _Status()


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: _Seen


def main() -> None:
    options = arguments(__doc__ or "", rounds=1, form="csi", qps=0, burst=0, requeue="")
    if options.form not in FORMS:
        sys.exit(f"--form must be one of {', '.join(FORMS)}")
    enter("argo")
    limits = [f"--{name}={value}" for name in ("qps", "burst") if (value := getattr(options, name))]
    with running_cluster() as cluster, tempfile.TemporaryDirectory(prefix="helios-bench-") as scratch:
        if cluster.home is None:
            sys.exit("Argo is compiled for the tests' own cluster: unset KUBECONFIG")
        with installed(cluster, Path(scratch), options.form) as helios:
            bench = Bench(helios)
            if not bench.store.bucket_exists(BUCKET):
                bench.store.make_bucket(BUCKET)
            store = f"{helios.services.get('service', 'helios-minio')['spec']['clusterIP']}:9000"
            credentials = helios.credentials("client")
            keys = credentials["HELIOS_S3_ACCESS_KEY"], credentials["HELIOS_S3_SECRET_KEY"]
            security = RESTRICTED if options.form == "csi" else None
            settings = [*limits, *([f"DEFAULT_REQUEUE_TIME={options.requeue}"] if options.requeue else [])]
            with argo_installed(cluster, store, keys, arguments=limits, requeue=options.requeue, security=security):
                metrics = Beside(bench, security, settings).measure(options.rounds)
    tell(metrics, options.json)


class Beside:
    """The four that take turns."""

    def __init__(self, bench: Bench, security: Mapping[str, Any] | None, settings: Sequence[str]) -> None:
        self.bench = bench
        self.security = security
        self.argo = f"{ORDER} {version()}{' '.join(['', *settings])}"

    def measure(self, rounds: int) -> dict[str, Metric]:
        bench = self.bench
        Kubectl().apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FLOOR}})
        shapes = {"one": bench.one(), "chain": bench.chain(), "fan": bench.fan(), "wide": bench.wide()}
        floors = {name: shape.bare() for name, shape in shapes.items()}
        helios = f"Helios, {bench.helios.form} form"
        ways: dict[str, Callable[[str], float]] = {
            BARE: lambda name: seconds_of(bench.create, bench.watch, FLOOR, floors[name]),
            ORDER: lambda name: self.seconds_of(self.workflow(in_order(floors[name]))),
            ARTIFACTS: lambda name: self.seconds_of(self.workflow(with_artifacts(shapes[name].dag))),
            helios: lambda name: bench.run(shapes[name].dag).seconds,
        }
        costs: dict[str, dict[str, list[Cost]]] = {way: {name: [] for name in shapes} for way in ways}
        try:
            for run in ways.values():  # the first of all loads code and images
                run("one")
                self.clean()
            idle = idle_share()
            print(f"  busy before the first round: {idle:.2f} processors", flush=True)
            for _ in range(rounds):
                for name in shapes:
                    for way, run in ways.items():
                        with busy(idle) as cost:
                            seconds = run(name)
                            self.clean()
                        costs[way][name].append(Cost(seconds, cost[0]))
                        print(f"  {name}, {way}: {seconds:.2f} s", flush=True)
        finally:
            Kubectl().delete("namespace", FLOOR, wait=False)
        return metrics_of(costs, {ORDER: self.argo, ARTIFACTS: f"{self.argo} with artifacts"}) | {
            "busy before the first round": Metric(value=idle, unit="processors")
        }

    def workflow(self, spec: Workflow) -> Workflow:
        """Such as every workflow here is, besides what the shape says."""
        if self.security is not None:
            spec["securityContext"] = {
                name: self.security[name] for name in ("runAsNonRoot", "runAsUser", "seccompProfile")
            }
            for template in spec["templates"]:
                if "container" in template:
                    template["container"] = {**template["container"], "securityContext": self.security}
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": f"bench-{time.time_ns():x}"},
            "spec": {**spec, "entrypoint": "main", "serviceAccountName": ACCOUNT},
        }

    def seconds_of(self, workflow: Workflow) -> float:
        """From the request that makes it until a watch shows it Succeeded. Raises RuntimeError when it does not."""
        selector = {"fieldSelector": f"metadata.name={workflow['metadata']['name']}"}
        start = msgspec.json.decode(self.bench.watch.get(WORKFLOWS, selector), type=_Seen).metadata.resourceVersion
        begun = time.perf_counter()
        code, answer = self.bench.create.request("POST", WORKFLOWS, body=workflow)
        if code != 201:
            raise RuntimeError(f"a workflow was refused: {answer[:500]!r}")
        query = {**selector, "watch": "1", "resourceVersion": start, "timeoutSeconds": str(RUN_SECONDS)}
        rest = b""
        with self.bench.watch.stream(WORKFLOWS, query, silence_seconds=RUN_SECONDS) as chunks:
            for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    status = msgspec.json.decode(line, type=_Line).object.status
                    if status.phase == "Succeeded":
                        return time.perf_counter() - begun
                    if status.phase in ("Failed", "Error"):
                        raise RuntimeError(f"the workflow is {status.phase}: {status.message}\n{self.look()}")
        raise RuntimeError(f"the workflow did not end within {RUN_SECONDS} s\n{self.look()}")

    def look(self) -> str:
        """What a person would look at."""
        here = Kubectl(NAMESPACE)
        words = [here.run("get", "workflows,pods", "--output=wide"), here.run("describe", "pods")[-8000:]]
        return "\n".join([*words, here.run("logs", "--selector=app=workflow-controller", "--tail=40")])

    def clean(self) -> None:
        """All that the last one has left, until its pods are gone."""
        remove(self.bench.create, FLOOR)
        code, answer = self.bench.create.request("DELETE", f"{WORKFLOWS}?propagationPolicy=Background")
        if code != 200:
            raise RuntimeError(f"workflows are not deleted: {answer[:500]!r}")
        self.bench.settle()
        deadline = time.monotonic() + RUN_SECONDS
        while self.left():
            if time.monotonic() > deadline:
                raise RuntimeError(f"a workflow's pods are not removed\n{self.look()}")
            time.sleep(0.2)

    def left(self) -> bool:
        selector = quote("workflows.argoproj.io/workflow")
        code, answer = self.bench.create.request("GET", f"{PODS}?limit=1&labelSelector={selector}")
        if code != 200:
            raise RuntimeError(f"pods cannot be listed: {answer[:500]!r}")
        return bool(json.loads(answer)["items"])


def in_order(jobs: Mapping[str, Bare]) -> Workflow:
    """The containers of bare Jobs, each after its parents: a workflow's spec, less its entrypoint's name, which is
    `main`.
    """
    templates: list[Workflow] = []
    tasks: list[Workflow] = []
    for name, job in jobs.items():
        templates.append({"name": name, "container": {"imagePullPolicy": "IfNotPresent", **job.container}})
        tasks.append({"name": name, "template": name, "dependencies": list(job.parents)})
    return {"templates": [{"name": "main", "dag": {"tasks": tasks}}, *templates]}


def with_artifacts(dag: Dag) -> Workflow:
    """The same of a Helios DAG: each task's inputs and outputs are artifacts in FOLDER, which is a volume of the pod's
    own and where its command runs.
    """
    templates: list[Workflow] = []
    tasks: list[Workflow] = []
    for task in dag["tasks"]:
        inputs = [{**each, "as": each.get("as", each["name"])} for each in task.get("inputs", ())]
        container = {
            "image": task["image"],
            "imagePullPolicy": "IfNotPresent",
            "command": task["command"],
            "workingDir": FOLDER,
            "volumeMounts": [{"name": "work", "mountPath": FOLDER}],
        }
        templates.append(
            {
                "name": task["name"],
                "container": container,
                "inputs": {"artifacts": [{"name": each["as"], "path": f"{FOLDER}/{each['as']}"} for each in inputs]},
                "outputs": {
                    "artifacts": [{"name": each, "path": f"{FOLDER}/{each}"} for each in task.get("outputs", ())]
                },
            }
        )
        passed = [
            {"name": each["as"], "from": f"{{{{tasks.{each['fromTask']}.outputs.artifacts.{each['name']}}}}}"}
            for each in inputs
        ]
        tasks.append(
            {
                "name": task["name"],
                "template": task["name"],
                "dependencies": sorted({each["fromTask"] for each in inputs}),
                "arguments": {"artifacts": passed},
            }
        )
    main = {"name": "main", "dag": {"tasks": tasks}}
    return {"templates": [main, *templates], "volumes": [{"name": "work", "emptyDir": {}}]}


def metrics_of(costs: Mapping[str, Mapping[str, Sequence[Cost]]], titles: Mapping[str, str]) -> dict[str, Metric]:
    """By way and shape, beside the bare Jobs; `titles` are what a way is called in the table, where not as here."""
    metrics: dict[str, Metric] = {}

    def add(way: str, title: str, unit: str, value: float, floor: float) -> None:
        metrics[f"{titles.get(way, way)}: {title}"] = Metric(value=value, unit=unit, floor=floor, ratio=value / floor)

    def of(way: str, name: str, field: str) -> float:
        return statistics.median(getattr(cost, field) for cost in costs[way][name])

    for way in costs:
        if way == BARE:
            continue
        for name, title in TITLES.items():
            add(way, title, "s", of(way, name, "seconds"), of(BARE, name, "seconds"))
        add(way, "pods per second", "/s", WIDE / of(way, "wide", "seconds"), WIDE / of(BARE, "wide", "seconds"))
        add(way, "processor time for a task", "s", of(way, "wide", "busy") / WIDE, of(BARE, "wide", "busy") / WIDE)
    return metrics


if __name__ == "__main__":
    main()
