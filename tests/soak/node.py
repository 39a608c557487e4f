"""`python -m tests.soak.node FOLDER LEDGER`: plays the local node. It runs what a Job's command says, as time passing.

It keeps to the protocol of helios/localjobs.py and of the pod endpoint, as cli/embedded/node.py and the agent do: what
waited still waits after it was killed, what ran is lost. Instead of files it makes up accounts of inputs and outputs,
the same for each try of an attempt, and writes them into its ledger before the collector can hear of them.
"""

import hashlib
import random
import shutil
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from helios.localjobs import (
    LocalJob,
    PodStatus,
    StepStatus,
    is_released,
    list_jobs,
    message_file,
    pod_folder,
    read_job,
    read_status,
    write_status,
)
from helios.podwire import FetchedInput, FetchManifest, MessageOutput, PublishMessage, Report, StoredOutput
from helios.records import HIT_CAUSES
from tests.soak.ledger import Account, Brought, Ended, Ledger, NodeBegan, Started, now_us
from tests.soak.workload import NODES, Behaviour, behaviour_of

TURN_SECONDS = 0.02
SLOTS = 200
REPORTERS = 32
OUTPUT_BYTES = 10


class Pod:
    """One try of an attempt."""

    def __init__(self, job: LocalJob, status: PodStatus) -> None:
        self.job = job
        self.status = status
        self.behaviour = behaviour_of(job.command)
        self.cache_enabled = job.agentEnv.get("HELIOS_CACHE_ENABLED") == "true"
        self.inputs = made_up_inputs(job, self.behaviour, self.cache_enabled)
        self.ends_at = 0.0
        self.started_ms = 0
        self.ended_ms = 0
        self.reported = threading.Event()

    @property
    def fails(self) -> bool:
        return self.job.attempt <= self.behaviour.failures

    @property
    def timed_out(self) -> bool:
        limit = self.job.timeoutSeconds
        return limit is not None and self.behaviour.milliseconds > limit * 1000

    def run_seconds(self) -> float:
        limit = self.job.timeoutSeconds
        wanted = self.behaviour.milliseconds / 1000
        return wanted if limit is None else min(wanted, limit)

    def manifest(self) -> FetchManifest:
        hits = [each for each in self.inputs if each.hit]
        misses = [each for each in self.inputs if not each.hit]
        return FetchManifest(
            ok=True,
            cacheEnabled=self.cache_enabled,
            hits=len(hits),
            misses=len(misses),
            hitBytes=sum(each.bytes for each in hits),
            missBytes=sum(each.bytes for each in misses),
            inputs=self.inputs,
            elapsedMs=sum(each.ms for each in self.inputs),
        )

    def outputs(self) -> list[str]:
        return [] if self.behaviour.how == "status" else ["out"]


def made_up_inputs(job: LocalJob, behaviour: Behaviour, cache_enabled: bool) -> list[FetchedInput]:
    """The same for each try of an attempt, and another for the next attempt."""
    digest = hashlib.sha256(f"{job.run}/{job.task}/{job.attempt}".encode()).digest()
    chance = random.Random(digest)
    found: list[FetchedInput] = []
    for place in range(behaviour.inputs):
        size = chance.randint(1, 5_000_000)
        hit = cache_enabled and chance.random() < 0.6
        cause = chance.choice(("cached", "coalesced", "warm") if hit else ("never-here", "evicted", "changed"))
        source = "cache" if hit else chance.choice(("peer", "store"))
        found.append(
            FetchedInput(
                name=f"in-{place}",
                bytes=size,
                hit=hit,
                cause=cause if cache_enabled else "disabled",
                source=source if cache_enabled else "store",
                ms=chance.randint(0, 300),
                savedMs=chance.randint(0, 900) if hit else 0,
            )
        )
    return found


def account_of(inputs: list[FetchedInput], cache_enabled: bool) -> Account:
    """What the run's figures must come to, reckoned from the inputs by this module's own means."""
    if not inputs:
        return Account()
    causes: dict[str, tuple[int, int]] = {}
    for each in inputs:
        count, size = causes.get(each.cause, (0, 0))
        causes[each.cause] = (count + 1, size + each.bytes)
    hits = [each for each in inputs if each.cause in HIT_CAUSES]
    misses = [each for each in inputs if each.cause not in HIT_CAUSES]
    outcome = "Hit" if not misses else "Partial" if hits else "Miss"
    return Account(
        cache=outcome if cache_enabled else "N/A",
        hitBytes=sum(each.bytes for each in hits),
        missBytes=sum(each.bytes for each in misses),
        fetchMs=sum(each.ms for each in inputs),
        savedMs=sum(each.savedMs for each in hits),
        peerBytes=sum(each.bytes for each in misses if each.source == "peer"),
        storeBytes=sum(each.bytes for each in misses if each.source == "store"),
        causes=causes,
    )


class Node:
    """One loop; reports go out on threads, since a collector may be dead."""

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        self.directory = directory
        self.ledger = ledger
        self.waiting: dict[str, Pod] = {}
        self.running: dict[str, Pod] = {}
        self.reporting: dict[str, Pod] = {}
        self.over: set[str] = set()
        self.stopping = threading.Event()
        self.reporters = ThreadPoolExecutor(REPORTERS)

    def run(self) -> None:
        (self.directory / "jobs").mkdir(parents=True, exist_ok=True)
        (self.directory / "pods").mkdir(exist_ok=True)
        self._recover()
        while not self.stopping.is_set():
            self._look()
            self._start_some()
            self._end_some()
            self.stopping.wait(TURN_SECONDS)
        self.reporters.shutdown(cancel_futures=True)

    def _recover(self) -> None:
        """Pods of a former node: what ran is lost, what waited still waits."""
        lost: list[PodStatus] = []
        for folder in (self.directory / "pods").iterdir():
            status = read_status(self.directory, folder.name)
            job = read_job(self.directory, folder.name)
            if status is None:
                # Killed before it had taken the Job up: it is new once more.
                shutil.rmtree(folder, ignore_errors=True)
            elif status.final:
                self.over.add(folder.name)
            elif status.phase == "Pending" and job is not None:
                self.waiting[folder.name] = Pod(job, status)
            else:
                lost.append(status)
        self.ledger.write([NodeBegan(now_us(), [status.uid for status in lost])])
        for status in lost:
            self._fail(status, "the node was stopped", disrupted=True)

    def _look(self) -> None:
        jobs = set(list_jobs(self.directory))
        for name in jobs - self.waiting.keys() - self.running.keys() - self.reporting.keys() - self.over:
            job = read_job(self.directory, name)
            if job is None:
                continue
            number = int(hashlib.sha256(job.task.encode()).hexdigest(), 16) % NODES
            status = PodStatus(job=name, uid=str(uuid.uuid4()), node=f"soak-{number}")
            write_status(self.directory, status)
            self.waiting[name] = Pod(job, status)
        for name in self.waiting.keys() - jobs:
            self._fail(self.waiting.pop(name).status, "its Job was deleted")
        gone = [self.running.pop(name) for name in self.running.keys() - jobs]
        self.ledger.write(self._end_line(pod, killed=True) for pod in gone)
        for pod in gone:
            self._fail(pod.status, "its Job was deleted")
        for name in list(self.over - jobs):
            if is_released(self.directory, name):
                self.over.discard(name)
                shutil.rmtree(pod_folder(self.directory, name), ignore_errors=True)

    def _start_some(self) -> None:
        room = SLOTS - len(self.running)
        names = list(self.waiting)[:room]
        pods = [self.waiting.pop(name) for name in names]
        self.ledger.write(Brought(*_attempt(pod), account_of(pod.inputs, pod.cache_enabled), now_us()) for pod in pods)
        # The inputs are there, as fetch's message says, before the command starts.
        for pod in pods:
            message = message_file(self.directory, pod.job.job, "fetch")
            message.write_bytes(msgspec.json.encode(pod.manifest()))
            pod.started_ms = _now_ms()
            pod.status.phase = "Running"
            pod.status.steps = {
                "fetch": StepStatus(startedAt=pod.started_ms, endedAt=pod.started_ms, exitCode=0),
                "task": StepStatus(startedAt=pod.started_ms),
            }
            # Told first, so that a successor takes it for lost, whether its command ran or not, and never starts it.
            write_status(self.directory, pod.status)
        self.ledger.write(Started(*_attempt(pod), now_us()) for pod in pods)
        for pod in pods:
            pod.ends_at = time.monotonic() + pod.run_seconds()
            self.running[pod.job.job] = pod

    def _end_some(self) -> None:
        now = time.monotonic()
        ended = [pod for pod in self.running.values() if pod.ends_at <= now]
        self.ledger.write(self._end_line(pod, killed=False) for pod in ended)
        for pod in ended:
            name = pod.job.job
            del self.running[name]
            pod.ended_ms = _now_ms()
            if pod.outputs() and not pod.fails:
                message = PublishMessage(
                    ok=True,
                    exitCode=0,
                    outputs=1,
                    outputBytes=OUTPUT_BYTES,
                    stored=[MessageOutput("out", OUTPUT_BYTES, DIGEST)],
                )
                message_file(self.directory, name, "publish").write_bytes(msgspec.json.encode(message))
            self.reporting[name] = pod
            if pod.behaviour.how == "report":
                self.reporters.submit(self._report, pod)
            else:
                pod.reported.set()
        for name, pod in list(self.reporting.items()):
            if pod.reported.is_set():
                del self.reporting[name]
                self._finish(pod)

    def _end_line(self, pod: Pod, *, killed: bool) -> Ended:
        ok = not (pod.fails or pod.timed_out or killed)
        return Ended(*_attempt(pod), ok, now_us(), killed)

    def _finish(self, pod: Pod) -> None:
        """A status says how it ended, as kubelet does, whether the report arrived or not."""
        failed = pod.fails or pod.timed_out
        pod.status.steps["task"] = StepStatus(
            startedAt=pod.started_ms, endedAt=pod.ended_ms, exitCode=(143 if pod.timed_out else 1) if failed else 0
        )
        if failed:
            self._fail(
                pod.status, "it ran longer than its timeoutSeconds" if pod.timed_out else "it exited with code 1"
            )
            return
        pod.status.steps["publish"] = StepStatus(startedAt=pod.started_ms, endedAt=_now_ms(), exitCode=0)
        pod.status.phase = "Succeeded"
        self.over.add(pod.status.job)
        write_status(self.directory, pod.status)

    def _fail(self, status: PodStatus, reason: str, *, disrupted: bool = False) -> None:
        status.phase, status.reason, status.disrupted = "Failed", reason, disrupted
        self.over.add(status.job)
        write_status(self.directory, status)

    def _report(self, pod: Pod) -> None:
        """Tell the collector how it ended, ahead of the status: tried for a moment only, the message serves as well."""
        try:
            job, environment = pod.job, pod.job.agentEnv
            report = Report(
                run=job.run,
                task=job.task,
                attempt=job.attempt,
                podUid=pod.status.uid,
                node=pod.status.node,
                exitCode=1 if pod.fails else None if pod.timed_out else 0,
                timedOut=pod.timed_out,
                fetch=pod.manifest(),
                outputs=[]
                if pod.fails or pod.timed_out
                else [
                    StoredOutput(
                        name="out",
                        key=f"runs/{job.run}/{job.task}/{job.attempt}/{pod.status.uid}/out",
                        bytes=OUTPUT_BYTES,
                        sha256=DIGEST,
                    )
                ],
                startedAt=pod.started_ms,
                endedAt=pod.ended_ms,
            )
            request = urllib.request.Request(
                f"{environment['HELIOS_ENDPOINT']}/v1/result",
                msgspec.json.encode(report),
                {"Authorization": f"Bearer {environment['HELIOS_TOKEN']}", "Helios-Pod": pod.status.uid},
                method="POST",
            )
            for _ in range(5):
                try:
                    urllib.request.urlopen(request, timeout=2).close()
                    return
                except urllib.error.HTTPError as error:
                    if error.code != 425:
                        return
                    time.sleep(0.05)
        except OSError:
            pass  # a dead collector: the status comes all the same
        finally:
            pod.reported.set()


DIGEST = hashlib.sha256(b"0123456789").hexdigest()


def _attempt(pod: Pod) -> tuple[str, str, int, str]:
    """What a line of the ledger names it by."""
    return pod.job.run, pod.job.task, pod.job.attempt, pod.status.uid


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    node = Node(Path(sys.argv[1]), Ledger(Path(sys.argv[2])))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stopping.set())
    node.run()


if __name__ == "__main__":
    main()
