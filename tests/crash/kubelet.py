"""What a cluster does beside its API server, on one node: makes a Job's pod, runs its steps, ends them with the Job.

The steps are the agent's own code, as processes. What is left out is what plays no part here: images, mounts, limits.
"""

import os
import shutil
import signal
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.embedded.podenv import packages_folder
from tests.crash.points import Plan
from tests.crash.processes import Process, Starter
from tests.services.kube_server import Json, KubeServer

NODE = "node1"
STEPS = ("fetch", "task", "publish")
GRACE_SECONDS = 5.0


def stamp(at: float | None = None) -> str:
    return datetime.fromtimestamp(time.time() if at is None else at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class PodRun(threading.Thread):
    """One pod, from its Job to its end."""

    def __init__(self, kubelet: "Kubelet", job: Json) -> None:
        super().__init__(name=job["metadata"]["name"], daemon=True)
        self.kubelet = kubelet
        self.kube = kubelet.kube
        self.job = job
        self.uid = str(uuid.uuid4())
        self.pod = f"{self.name}-{self.uid[:5]}"
        self.folder = kubelet.folder / "pods" / self.uid
        self.states: dict[str, Json] = {}
        self.steps: dict[str, Process] = {}
        self.deleted = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        for name in ("artifacts", "control", "state"):
            (self.folder / name).mkdir(parents=True)
        self._create()
        code = self._step("fetch")
        if code == 0 and not self.deleted.is_set():
            publish = self._begin("publish")
            task = self._step("task")
            if not (self.folder / "control" / "started").exists():
                self.steps["publish"].signal(signal.SIGTERM)
            self._end("publish", publish)
            code = task or publish.exit
        self._tell("Failed" if code else "Succeeded")
        self.kubelet.over(self)

    def delete(self) -> None:
        """Its Job is gone: end what runs, as kubelet does, with a grace period."""
        self.deleted.set()
        with self.kube.changed:
            found = self.kube.objects["pods"].get(self.pod)
            if found is not None:
                meta = {**found["metadata"], "deletionTimestamp": stamp(), "deletionGracePeriodSeconds": 30}
                self.kube.put("pods", self.pod, {**found, "metadata": meta})
        threading.Thread(target=self._terminate, daemon=True).start()

    def _terminate(self) -> None:
        with self.lock:
            steps = list(self.steps.values())
        for step in steps:
            step.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for step in steps:
            step.wait(max(0.0, deadline - time.monotonic()))
            step.kill()
        self.join()
        with self.kube.changed:
            found = self.kube.objects["pods"].get(self.pod)
            if found is None:
                return
            meta = {**found["metadata"], "deletionGracePeriodSeconds": 0}
            self.kube.put("pods", self.pod, {**found, "metadata": meta})
            if not meta.get("finalizers"):
                self.kube.delete("pods", self.pod)

    # Its steps.

    def _step(self, name: str) -> int:
        return self._end(name, self._begin(name))

    def _begin(self, name: str) -> Process:
        (container,) = (each for each in self.job["spec"]["template"]["spec"]["containers"] if each["name"] == name)
        log, plan = self.folder / f"{name}.log", None
        arguments: list[str] = []
        if name == "task":
            command = container["command"]
            arguments = ["--", *(word.replace("$$", "$") for word in command[command.index("--") + 1 :])]
        else:
            plan = self.kubelet.plan_of(self.job, name)
        with self.lock:
            process = self.kubelet.starter.start(
                "exec" if name == "task" else name,
                self._env(name, container),
                log,
                arguments=arguments,
                cwd=self.folder / "artifacts",
                ledger=self.kubelet.ledger_of(self.job, name),
                plan=plan,
            )
            self.steps[name] = process
        if self.deleted.is_set():
            process.signal(signal.SIGTERM)
        self.states[name] = {"running": {"startedAt": stamp()}}
        self._tell("Running")
        return process

    def _env(self, name: str, container: Json) -> dict[str, str]:
        env = {each["name"]: each["value"].replace("$$", "$") for each in container.get("env", ()) if "value" in each}
        env.pop("HELIOS_WRAPPER", None)
        env.pop("HELIOS_GATE_DIR", None)
        packages = packages_folder()
        return {
            **env,
            "PATH": os.environ["PATH"],
            "HELIOS_CACHE_DIR": str(self.kubelet.cache),
            "HELIOS_ARTIFACTS": str(self.folder / "artifacts"),
            "HELIOS_CONTROL_DIR": str(self.folder / "control"),
            "HELIOS_STATE_DIR": str(self.folder / "state"),
            "HELIOS_TERMINATION_LOG": str(self.folder / f"{name}.message"),
            "HELIOS_NODE": NODE,
            "HELIOS_POD_UID": self.uid,
            **({"HELIOS_AGENT_LIB": packages} if packages else {}),
        }

    def _end(self, name: str, process: Process) -> int:
        code = process.wait()
        assert code is not None
        message = self.folder / f"{name}.message"
        text = message.read_text("utf-8", "replace")[:4096] if message.exists() else ""
        began = self.states[name]["running"]["startedAt"]
        ended = {"exitCode": code, "message": text, "startedAt": began, "finishedAt": stamp(), "reason": "Completed"}
        self.states[name] = {"terminated": {**ended, **({"reason": "Error"} if code else {})}}
        log = self.folder / f"{name}.log"
        lines = log.read_bytes().splitlines() if log.exists() else []
        # The API server gives each line with its time; here they are a microsecond apart.
        at = time.time()
        self.kube.logs[self.pod, name] = b"".join(
            stamp(at + number / 1e6).encode() + b" " + line + b"\n" for number, line in enumerate(lines)
        )
        self._tell("Running")
        return code

    # Its object.

    def _create(self) -> None:
        template = self.job["spec"]["template"]["metadata"]
        meta = {
            "uid": self.uid,
            "labels": template["labels"],
            "annotations": template["annotations"],
            "finalizers": template["finalizers"],
            "creationTimestamp": stamp(),
        }
        with self.kube.changed:
            self.kube.put(
                "pods", self.pod, {"metadata": meta, "spec": {"nodeName": NODE}, "status": {"phase": "Pending"}}
            )

    def _tell(self, phase: str) -> None:
        statuses: list[Any] = [
            {"name": name, "state": self.states.get(name, {"waiting": {"reason": "ContainerCreating"}})}
            for name in STEPS
        ]
        with self.kube.changed:
            found = self.kube.objects["pods"].get(self.pod)
            if found is not None:
                self.kube.put("pods", self.pod, {**found, "status": {"phase": phase, "containerStatuses": statuses}})


class Kubelet:
    """Follows the Jobs of an API server. `cache` is the node's; each run of a DAG may be given a new one."""

    def __init__(self, kube: KubeServer, starter: Starter, folder: Path) -> None:
        self.kube = kube
        self.starter = starter
        self.folder = folder
        self.cache = folder / "cache"
        self.runs: dict[str, PodRun] = {}
        self.going: set[str] = set()
        self.kills: dict[tuple[str, str, str], Plan] = {}
        """Which step (task, attempt and name) is to be killed, and at which of its calls."""
        self.ledgers: Path | None = None
        self.lock = threading.Lock()
        self.stopped = False
        self.kube.put("nodes", NODE, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        threading.Thread(target=self._follow, daemon=True).start()

    def idle(self) -> bool:
        with self.lock:
            return not self.going

    def fresh_cache(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.folder / "pods", ignore_errors=True)
        self.cache.mkdir(parents=True)
        self.kube.logs.clear()

    def close(self) -> None:
        self.stopped = True
        with self.kube.changed:
            self.kube.changed.notify_all()

    def plan_of(self, job: Json, step: str) -> Plan | None:
        return self.kills.get((*_attempt(job), step))

    def ledger_of(self, job: Json, step: str) -> Path | None:
        if self.ledgers is None or step == "task":
            return None
        return self.ledgers / "-".join((*_attempt(job), step))

    def over(self, run: PodRun) -> None:
        with self.lock:
            self.going.discard(run.pod)

    def _follow(self) -> None:
        while not self.stopped:
            with self.kube.changed:
                jobs = dict(self.kube.objects["jobs"])
                if jobs.keys() == self.runs.keys():
                    self.kube.changed.wait(1)
                    continue
            for name, job in jobs.items():
                if name not in self.runs:
                    run = self.runs[name] = PodRun(self, job)
                    with self.lock:
                        self.going.add(run.pod)
                    run.start()
            for name in [name for name in self.runs if name not in jobs]:
                self.runs.pop(name).delete()


def _attempt(job: Json) -> tuple[str, str]:
    notes = job["metadata"]["annotations"]
    return notes["helios.dev/task"], notes["helios.dev/attempt"]
