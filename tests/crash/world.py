"""All that a run needs, at one place: a Valkey, an API server with a node, a bucket of a real S3, and the services.

The services stay from case to case; only the one that is to be killed is started anew.
"""

import io
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from minio import Minio

from helios.keys import COLLECTOR_GROUP, CONTROLS, MEMO_PREFIX, RETENTION, SUBMISSIONS, Keys
from tests.crash import final
from tests.crash.final import State
from tests.crash.kubelet import Kubelet
from tests.crash.points import Plan
from tests.crash.processes import Places, Process, Starter
from tests.crash.scenarios import INPUT, INPUT_BYTES, LARGE, LARGE_BYTES, SECONDS, Scenario
from tests.redis_servers import Valkey, free_port
from tests.services.job_server import kubeconfig
from tests.services.kube_server import KubeServer
from tests.waiting import wait_until

SERVICES = ("submitter", "jobrunner", "collector")
LEASE_SECONDS = 3.0
KILLED = 128 + signal.SIGKILL
DOWN_SECONDS = 0.25
"""Every second killed service is away for so long, so that the others go on without it; the rest come back at once."""

KEYS = Keys(0)
STREAMS = {
    "submitter": (SUBMISSIONS, CONTROLS, KEYS.finished),
    "jobrunner": (KEYS.ready, KEYS.cancelled),
    "collector": (KEYS.launched, KEYS.settled, KEYS.checks),
}


class Case(NamedTuple):
    """One crash. `victim` is a service, or `fetch` or `publish` of a task's first attempt, as in `top/fetch`."""

    scenario: str
    victim: str
    plan: Plan | None
    peer: bool = False
    """Nobody starts the killed one again: a second replica, which was there before, takes over."""

    @property
    def step(self) -> tuple[str, str, str] | None:
        """Task, attempt and step, where the victim is one."""
        task, _, step = self.victim.partition("/")
        return (task, "1", step) if step else None

    def __str__(self) -> str:
        where = f"{self.plan.point}:{self.plan.at}" if self.plan else "none"
        return f"{self.scenario}:{self.victim}:{where}{':peer' if self.peer else ''}"


class Outcome(NamedTuple):
    case: Case
    reached: bool
    """Whether the process got so far as to be killed."""
    died_at: str
    violations: list[str]
    seconds: float
    recovery: float | None
    """Seconds from the restart, or from the end of the lease where a peer took over, until every entry that waited for
    the killed one at its death was dealt with, or its pod watched again; None where none did.
    """
    calls: list[str]
    """What the ledger says: `client r|w words`."""
    states: list[State]


class Victim(threading.Thread):
    """Waits for the death of the one that is to be killed, and starts it again."""

    def __init__(self, world: "World", case: Case) -> None:
        super().__init__(name=f"victim {case.victim}", daemon=True)
        self.world = world
        self.case = case
        self.died_with: int | None = None
        self.recovery: float | None = None
        self.process = world.begin(case.victim, case.plan)
        self.over = threading.Event()

    def run(self) -> None:
        world, case = self.world, self.case
        while not self.over.is_set():
            if self.process.wait(0.2) is not None:
                break
        else:
            return
        died = time.monotonic()
        self.died_with = self.process.exit
        waiting = world.in_hand(case.victim)
        if case.peer:
            since = died + LEASE_SECONDS
        else:
            if case.plan is not None and case.plan.at % 2:
                self.over.wait(DOWN_SECONDS)
            since = time.monotonic()
            self.process = world.begin(case.victim)
        if not waiting:
            return
        while any(now <= waiting.get(entry, -1) for entry, now in world.in_hand(case.victim).items()):
            if self.over.wait(0.01):
                return
        self.recovery = max(0.0, time.monotonic() - since)


class World:
    """`s3` is where the object store listens."""

    def __init__(self, folder: Path, places: Places, s3: str, bucket: str) -> None:
        self.folder = folder
        self.bucket = bucket
        self.exits = ExitStack()
        self.services: dict[str, Process] = {}
        self.armed: set[str] = set()
        """Those that still have a call before them at which they are to be killed."""
        self.count = 0
        folder.mkdir(parents=True)
        try:
            self._start(places, s3)
        except BaseException:
            self.exits.close()
            raise

    def _start(self, places: Places, s3: str) -> None:
        folder, bucket = self.folder, self.bucket
        self.valkey = Valkey(folder)
        self.valkey.start()
        self.exits.callback(self.valkey.kill)
        self.client = self.valkey.client()
        self.kube = KubeServer()
        self.exits.callback(self.kube.close)
        self.s3 = s3
        self.store: Any = Minio(s3, access_key="helios", secret_key="helios-secret", secure=False, region="us-east-1")
        if not self.store.bucket_exists(bucket):
            self.store.make_bucket(bucket)
        for name, content in ((INPUT, INPUT_BYTES), (LARGE, LARGE_BYTES)):
            self.store.put_object(bucket, name, io.BytesIO(content), len(content))
        self.endpoint = free_port()
        clients = {
            self.kube.http.server_port: "kubernetes",
            int(s3.rpartition(":")[2]): "s3",
            self.endpoint: "endpoint",
        }
        self.starter, steps = Starter(places.services, clients), Starter(places.agent, clients)
        self.exits.callback(self.starter.close)
        self.exits.callback(steps.close)
        self.kubelet = Kubelet(self.kube, steps, folder)
        self.exits.callback(self.kubelet.close)
        self.config = kubeconfig(folder, f"http://127.0.0.1:{self.kube.http.server_port}")

    def close(self) -> None:
        for process in self.services.values():
            process.kill()
        for run in list(self.kubelet.runs.values()):
            for step in run.steps.values():
                step.kill()
        self.exits.close()

    # Processes.

    def begin(self, service: str, plan: Plan | None = None, *, replica: int = 0) -> Process:
        """Start a service, in place of one that runs, if one does. With a plan its calls are written down."""
        name = f"{service}-{replica}"
        if name in self.services:
            self.services[name].kill()
        ledger = self.folder / f"{name}.calls" if plan else None
        if ledger is not None:
            ledger.unlink(missing_ok=True)
        (self.armed.add if plan is not None else self.armed.discard)(name)
        process = self.services[name] = self.starter.start(
            service, self._env(name), self.folder / f"{name}.log", ledger=ledger, plan=plan, cwd=self.folder
        )
        return process

    def _env(self, replica: str) -> Mapping[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.config),
            "HELIOS_REDIS_URL": self.valkey.url,
            "HELIOS_REPLICA": replica,
            "HELIOS_LEASE_SECONDS": str(LEASE_SECONDS),
            "HELIOS_LAUNCHER": "kubernetes",
            "HELIOS_JOB_FORM": "init",
            "HELIOS_AGENT_IMAGE": "helios:crash",
            "HELIOS_TOKEN_KEY": "k",
            "HELIOS_POD_ENDPOINT_BIND": f"127.0.0.1:{self.endpoint}",
            "HELIOS_POD_ENDPOINT_URL": f"http://127.0.0.1:{self.endpoint}",
            "HELIOS_S3_ENDPOINT": f"http://{self.s3}",
            "HELIOS_S3_ACCESS_KEY": "helios",
            "HELIOS_S3_SECRET_KEY": "helios-secret",
            "HELIOS_S3_BUCKET": self.bucket,
            "HELIOS_SINGLE_PUT_LIMIT_BYTES": str(5 * 1024**2),
            "HELIOS_LOG_LEVEL": "info",
        }

    def in_hand(self, service: str) -> dict[tuple[str, str], int]:
        """Stream and id of all that a service has to deal with; with how often it was handed out, if it is a Job that
        is watched: with such a one all is well again once it is watched again. The others must be gone.
        """
        pipeline: Any = self.client.pipeline(transaction=False)
        for stream in STREAMS[service]:
            pipeline.xrange(stream)
        replies = pipeline.execute()
        found = {(s, entry): 0 for s, entries in zip(STREAMS[service], replies, strict=True) for entry, _ in entries}
        if any(stream == KEYS.launched for stream, _ in found):
            pending: Any = self.client.xpending_range(KEYS.launched, COLLECTOR_GROUP, "-", "+", 1000)
            for each in pending:
                if (entry := (KEYS.launched, each["message_id"])) in found:
                    found[entry] = each["times_delivered"]
        return found

    # A case.

    def play(self, scenario: Scenario, case: Case) -> Outcome:
        """Drive the scenario with that crash in it, and look at what is left."""
        began = time.monotonic()
        self.count += 1
        name = f"c{os.getpid()}-{self.count}"
        self.kubelet.fresh_cache()
        self._forget()
        replicas = [(each, 0) for each in SERVICES if each != case.victim]
        if case.peer:
            replicas.append((case.victim, 1))
        for service, replica in replicas:
            process = self.services.get(f"{service}-{replica}")
            if process is None or process.ended.is_set() or f"{service}-{replica}" in self.armed:
                self.begin(service, replica=replica)
        if not case.peer:
            self._end_peers()
        step = case.step
        ledger = self.folder / f"{case.victim}-0.calls"
        self.kubelet.kills = {}
        self.kubelet.ledgers = None
        if step is not None and case.plan is not None:
            self.kubelet.kills[step] = case.plan
            self.kubelet.ledgers = self.folder / "steps"
            shutil.rmtree(self.kubelet.ledgers, ignore_errors=True)
            self.kubelet.ledgers.mkdir()
            ledger = self.kubelet.ledgers / "-".join(step)
        victim = Victim(self, case) if step is None else None
        if victim is not None:
            victim.start()
        violations: list[str] = []
        states: list[State] = []
        runs: list[str] = []
        try:
            runs = scenario.drive(self.client, self.bucket, name)
            wait_until("nothing is left", self._nothing_left, SECONDS)
        except AssertionError as error:
            violations.append(f"{error}; left: {self._left()}")
        if victim is not None:
            victim.over.set()
            victim.join()
            if victim.process.ended.is_set() and not case.peer:
                # It was killed when all was over.
                self.begin(case.victim)
        violations += self._unexpected(case, victim)
        if not violations:
            named = {name: "<name>", **{run: f"<run {number}>" for number, run in enumerate(runs)}}
            states = [final.state_of(self.client, self.store, self.bucket, run, named) for run in runs]
        calls = ledger.read_text().splitlines() if case.plan and ledger.exists() else []
        self._clear(runs, everything=bool(violations))
        died = bool(calls) and calls[-1].startswith("killed ")
        recovery = victim.recovery if victim is not None else None
        died_at = calls[-2] if died else ""
        return Outcome(case, died, died_at, violations, time.monotonic() - began, recovery, calls, states)

    def _unexpected(self, case: Case, victim: Victim | None) -> list[str]:
        """Services that have ended without being told to."""
        ended = [
            f"{name} ended with {process.exit}: {self._log(name)}"
            for name, process in self.services.items()
            if process.ended.is_set() and not (case.peer and name == f"{case.victim}-0")
        ]
        if victim is not None and victim.died_with not in (None, KILLED):
            ended.append(f"{case.victim} ended with {victim.died_with}: {self._log(f'{case.victim}-0')}")
        return ended

    def _log(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text("utf-8", "replace")[-1500:] if log.exists() else ""

    def _nothing_left(self) -> bool:
        return not self._left()

    def _left(self) -> list[str]:
        jobs, pods = list(self.kube.objects["jobs"]), list(self.kube.objects["pods"])
        here = [*(f"Job {name}" for name in jobs), *(f"pod {name}" for name in pods)]
        return here or ([] if self.kubelet.idle() else ["a pod's processes"]) or final.left_over(self.client)

    def _forget(self) -> None:
        """What is remembered over all runs, and would make one case another than the next."""
        memos = list(self.client.scan_iter(match=f"{MEMO_PREFIX}*", count=1000))
        self.client.delete(RETENTION, "helios:none", *memos)
        for pattern in ("helios:source:*", "helios:image:*"):
            if found := list(self.client.scan_iter(match=pattern, count=1000)):
                self.client.delete(*found)

    def _end_peers(self) -> None:
        for service in SERVICES:
            if (peer := self.services.pop(f"{service}-1", None)) is not None:
                peer.kill()

    def _clear(self, runs: list[str], *, everything: bool) -> None:
        """After a violation all begins anew, so that one does not lead to the next."""
        for run in runs:
            for each in self.store.list_objects(self.bucket, prefix=f"runs/{run}/", recursive=True):
                self.store.remove_object(self.bucket, each.object_name)
        if not everything:
            return
        for process in self.services.values():
            process.kill()
        self.services.clear()
        for number, name in enumerate([*SERVICES, *(f"{service}-0" for service in SERVICES)]):
            log = self.folder / f"{name}.log"
            if log.exists():
                log.rename(self.folder / f"{name}.log.{self.count}.{number}")
        with self.kube.changed:
            for kind in ("jobs", "pods"):
                for name in list(self.kube.objects[kind]):
                    self.kube.delete(kind, name)
        wait_until("the pods of a failed case are gone", self.kubelet.idle, 30)
        self.client.flushall()
