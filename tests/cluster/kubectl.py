"""kubectl as tests use it: JSON in, JSON out, and every wait with a deadline and a description.

A program of its own is started for each call, so what is called often (a benchmark, a watch) goes to the API itself.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

Manifest = Mapping[str, Any]


class KubectlFailed(AssertionError):
    """kubectl exited with an error; the message is its own."""


class Kubectl:
    """kubectl on the cluster that KUBECONFIG names, in one namespace; None leaves it to the manifests."""

    def __init__(self, namespace: str | None = "default") -> None:
        self.namespace = namespace

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Standard output of `kubectl ARGUMENTS`."""
        where = () if self.namespace is None else ("--namespace", self.namespace)
        command = ["kubectl", *where, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise KubectlFailed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: Manifest) -> None:
        """Server-side, so that manifests of any size and two writers are no trouble."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.run("apply", "--server-side", "--filename=-", stdin=document)

    def apply_folder(self, folder: Path) -> None:
        """A kustomization."""
        self.run("apply", "--server-side", "--kustomize", str(folder), seconds=120)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return json.loads(self.run("get", kind, name, "--output=json"))

    def labelled(self, kind: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Objects with all these labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))["items"]

    def pods_of(self, job: str) -> list[dict[str, Any]]:
        return self.labelled("pods", {"batch.kubernetes.io/job-name": job})

    def wait_for_pods(
        self, job: str, what: str, predicate: Callable[[dict[str, Any]], object], deadline_seconds: float = 120
    ) -> list[dict[str, Any]]:
        """All pods of the Job, once there are some and the predicate holds for each."""

        def look() -> list[dict[str, Any]]:
            pods = self.pods_of(job)
            return pods if all(predicate(pod) for pod in pods) else []

        return wait_until(f"the pods of job {job}: {what}", look, deadline_seconds)

    def logs(self, pod: str, container: str | None = None) -> str:
        return self.run("logs", pod, *([] if container is None else ["--container", container]))

    def execute(self, pod: str, *command: str, container: str | None = None) -> str:
        """Standard output of a command in a running container."""
        where = [] if container is None else ["--container", container]
        return self.run("exec", pod, *where, "--", *command)

    def delete(self, kind: str, name: str, *, wait: bool = True) -> None:
        self.run("delete", kind, name, "--ignore-not-found", f"--wait={'true' if wait else 'false'}", seconds=120)

    def wait_for(self, kind: str, name: str, condition: str, deadline_seconds: float = 120) -> None:
        """Until the object has the condition (`Complete`, `Ready`, `Available`, …); a watch, not a poll."""
        limit = f"--timeout={deadline_seconds:g}s"
        try:
            self.run("wait", f"{kind}/{name}", f"--for=condition={condition}", limit, seconds=deadline_seconds + 20)
        except KubectlFailed as failure:
            raise KubectlFailed(f"{failure}\n{self.describe(kind, name)}") from None

    def wait_for_job(self, name: str, condition: str, deadline_seconds: float = 120) -> dict[str, Any]:
        """The Job's pod, once the Job is Complete or Failed, as was expected; else the error has its logs."""

        def ended(job: dict[str, Any]) -> object:
            return {"Complete", "Failed"} & conditions(job)

        found = self.wait_until("job", name, "has ended", ended, deadline_seconds)
        pods = self.pods_of(name)
        if condition not in conditions(found):
            logs = "".join(self.run("logs", each["metadata"]["name"], "--all-containers", "--prefix") for each in pods)
            raise KubectlFailed(f"job {name} is {conditions(found)}, not {condition}\n{logs}")
        return pods[0]

    def wait_until(
        self,
        kind: str,
        name: str,
        what: str,
        predicate: Callable[[dict[str, Any]], object],
        deadline_seconds: float = 120,
    ) -> dict[str, Any]:
        """The object, as soon as the predicate holds for it."""

        def look() -> dict[str, Any] | None:
            try:
                found = self.get(kind, name)
            except KubectlFailed as failure:
                if "NotFound" in str(failure):
                    return None
                raise
            return found if predicate(found) else None

        found = wait_until(f"{kind} {name}: {what}", look, deadline_seconds)
        assert found is not None
        return found

    def wait_gone(self, kind: str, name: str, deadline_seconds: float = 120) -> None:
        limit = f"--timeout={deadline_seconds:g}s"
        self.run("wait", f"{kind}/{name}", "--for=delete", limit, seconds=deadline_seconds + 20)

    def describe(self, kind: str, name: str) -> str:
        """What a person would look at; for failure messages."""
        try:
            words = self.run("describe", kind, name)
            return words + self.run("get", "events", "--sort-by=.lastTimestamp")[-4000:]
        except (KubectlFailed, subprocess.TimeoutExpired) as failure:
            return str(failure)

    def ready_nodes(self) -> list[str]:
        """Names of the nodes that are Ready, sorted."""
        nodes = json.loads(self.run("get", "nodes", "--output=json"))["items"]
        return sorted(node["metadata"]["name"] for node in nodes if "Ready" in conditions(node))


def conditions(found: Manifest) -> set[str]:
    """The types of the conditions that are true of an object."""
    return {each["type"] for each in found["status"].get("conditions", []) if each["status"] == "True"}


def job(name: str, *, image: str, command: list[str], node: str | None = None, **pod: Any) -> dict[str, Any]:
    """A bare Job of one container, on one node if it is named; `pod` is added to the pod's spec."""
    where = {} if node is None else {"nodeSelector": {"kubernetes.io/hostname": node}}
    container = {"name": "task", "image": image, "imagePullPolicy": "IfNotPresent", "command": command}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **where, **pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}},
    }
