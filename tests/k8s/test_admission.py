"""What the API server lets into helios-tasks, asked of a real one by dry runs.

    KUBECONFIG=… python -m pytest tests/k8s/test_admission.py          (or inside `cluster exec`)

The policies are applied unless they are there already; nothing else is left behind.
"""

import copy
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from helios.dag import parse_dag
from helios.settings import Settings
from services.jobrunner.jobs import WantedJob
from services.jobrunner.manifest import job_manifest
from tests.k8s.conftest import Document, Manifests
from tests.waiting import wait_until

KINDS = ("Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ServiceAccount")
JOB = "count-0123456789abcdef"
Pod = dict[str, Any]


class Api:
    """kubectl with the caller's KUBECONFIG."""

    def __init__(self, kubectl: str) -> None:
        self.kubectl = kubectl

    def run(self, *words: str, document: Any = None) -> subprocess.CompletedProcess[str]:
        text = json.dumps(document) if document is not None else None
        return subprocess.run([self.kubectl, *words], input=text, capture_output=True, text=True, timeout=60)

    def refusal(self, pod: Pod) -> str:
        """Why the pod would be refused; empty when it would be let in."""
        done = self.run("create", "--dry-run=server", "-f", "-", document=pod)
        return "" if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def api(manifests: Manifests) -> Api:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs the KUBECONFIG of a Kubernetes")
    api = Api(manifests.kubectl)
    wanted = [each for each in manifests.render() if each["kind"] in KINDS]
    for document in sorted(wanted, key=lambda each: each["kind"] != "Namespace"):
        done = api.run("apply", "-f", "-", document=document)
        assert done.returncode == 0, done.stderr
    found: dict[str, str] = {}
    broken = host_path(plain("probe"), "/etc")
    wait_until(
        "the policy is in force", lambda: found.update(why=api.refusal(broken)) or "helios-tasks" in found["why"], 60
    )
    return api


@pytest.fixture(scope="module")
def agent(api: Api) -> str:
    done = api.run("get", "validatingadmissionpolicy", "helios-tasks", "-o", "json")
    assert done.returncode == 0, done.stderr
    variables = json.loads(done.stdout)["spec"]["variables"]
    return next(each["expression"].strip("'") for each in variables if each["name"] == "agent")


def plain(name: str) -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "helios-tasks", "labels": {"batch.kubernetes.io/job-name": JOB}},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [{"name": "task", "image": "alpine:3.20", "command": ["true"]}],
        },
    }


def host_path(pod: Pod, path: str) -> Pod:
    pod["spec"].setdefault("volumes", []).append({"name": "host", "hostPath": {"path": path}})
    return pod


@pytest.fixture
def task_pod(agent: str) -> Pod:
    """The pod of a task with an input, as the jobrunner makes it."""
    text = json.dumps(
        {
            "dagName": "trial",
            "tasks": [
                {
                    "name": "count",
                    "image": "alpine:3.20",
                    "command": ["true"],
                    "inputs": [{"uri": "s3://corpora/a", "as": "a"}],
                    "outputs": ["n"],
                }
            ],
        }
    )
    task = parse_dag(text.encode()).dag.tasks[0]
    agent_env = {
        "HELIOS_ENDPOINT": "http://collector:8414",
        "HELIOS_TOKEN": "x",
        "HELIOS_RUN_ID": "1-1",
        "HELIOS_TASK_NAME": "count",
        "HELIOS_ATTEMPT": "1",
        "HELIOS_CACHE_ENABLED": "true",
    }
    wanted = WantedJob(name=JOB, run="1-1", attempt=1, task=task, agent_env=agent_env)
    template = job_manifest(wanted, Settings(agent_image=agent))["spec"]["template"]
    metadata = {**template["metadata"], "name": "count", "namespace": "helios-tasks"}
    metadata["labels"] = {**metadata["labels"], "batch.kubernetes.io/job-name": JOB}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_the_policies_are_well_typed(api: Api) -> None:
    for name in ("helios-tasks", "helios-tasks-unchanged"):
        done = api.run("get", "validatingadmissionpolicy", name, "-o", "json")
        assert "expressionWarnings" not in json.loads(done.stdout).get("status", {}).get("typeChecking", {})


def test_a_tasks_pod_is_let_in(api: Api, task_pod: Pod) -> None:
    assert api.refusal(task_pod) == ""
    assert api.refusal(plain("bare")) == ""


def test_the_keepers_pod_is_let_in(api: Api, agent: str, manifests: Manifests) -> None:
    pod = keeper_pod(manifests, agent)
    assert api.refusal(pod) == ""


def keeper_pod(manifests: Manifests, agent: str) -> Pod:
    keeper = next(each for each in manifests.render() if each["kind"] == "DaemonSet")
    template: Document = copy.deepcopy(keeper["spec"]["template"])
    for container in (*template["spec"]["initContainers"], *template["spec"]["containers"]):
        container["image"] = agent
    metadata = {**template["metadata"], "name": "keeper", "namespace": "helios-tasks"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def container(pod: Pod, name: str) -> dict[str, Any]:
    every: list[dict[str, Any]] = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    return next(each for each in every if each["name"] == name)


def mount(pod: Pod, name: str, volume: str) -> dict[str, Any]:
    return next(each for each in container(pod, name)["volumeMounts"] if each["name"] == volume)


def volume(pod: Pod, name: str) -> dict[str, Any]:
    return next(each for each in pod["spec"]["volumes"] if each["name"] == name)


def keepers_key() -> dict[str, Any]:
    reference = {"secretKeyRef": {"name": "helios-keeper", "key": "HELIOS_KEEPER_KEY"}}
    return {"name": "KEY", "valueFrom": reference}


CHANGES: dict[str, tuple[Callable[[Pod], Any], str]] = {
    "another folder of the node": (lambda pod: host_path(pod, "/etc"), "of the node's folders"),
    "the folder above the cache": (lambda pod: host_path(pod, "/var/helios"), "of the node's folders"),
    "a folder inside the cache": (lambda pod: host_path(pod, "/var/helios/cache/blobs"), "of the node's folders"),
    "another Job's view": (
        lambda pod: volume(pod, "view").update(hostPath={"path": "/var/helios/cache/views/other"}),
        "of the node's folders",
    ),
    "all views": (
        lambda pod: volume(pod, "view").update(hostPath={"path": "/var/helios/cache/views"}),
        "of the node's folders",
    ),
    "a view without a Job": (
        lambda pod: (
            pod["metadata"]["labels"].pop("batch.kubernetes.io/job-name"),
            volume(pod, "view").update(hostPath={"path": "/var/helios/cache/views/"}),
        ),
        "of the node's folders",
    ),
    "its view to write": (lambda pod: mount(pod, "task", "view").pop("readOnly"), "read-only"),
    "the cache in the task": (
        lambda pod: container(pod, "task")["volumeMounts"].append(
            {"name": "cache", "mountPath": "/cache", "readOnly": True}
        ),
        "agent's image only",
    ),
    "the cache with another image": (lambda pod: container(pod, "fetch").update(image="evil:1"), "agent's image only"),
    "the cache as root": (
        lambda pod: container(pod, "fetch")["securityContext"].update(runAsUser=0, runAsNonRoot=False),
        "agent's image only",
    ),
    "the cache with a way to become root": (
        lambda pod: container(pod, "fetch")["securityContext"].pop("allowPrivilegeEscalation"),
        "agent's image only",
    ),
    "the cache as root, named like the keeper's init container": (
        lambda pod: container(pod, "fetch").update(
            name="own", securityContext={"runAsUser": 0, "capabilities": {"add": ["CHOWN"]}}
        ),
        "DAC_READ_SEARCH",
    ),
    "a privileged container": (
        lambda pod: container(pod, "task").update(securityContext={"privileged": True}),
        "privileged",
    ),
    "an unconfined container": (
        lambda pod: container(pod, "task").update(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        "privileged",
    ),
    "the node's network": (lambda pod: pod["spec"].update(hostNetwork=True), "the node's network"),
    "the node's processes": (lambda pod: pod["spec"].update(hostPID=True), "the node's network"),
    "the node's IPC": (lambda pod: pod["spec"].update(hostIPC=True), "the node's network"),
    "a port of the node": (
        lambda pod: container(pod, "task").update(ports=[{"containerPort": 80, "hostPort": 80}]),
        "the node's network",
    ),
    "SYS_ADMIN": (
        lambda pod: container(pod, "task")["securityContext"].update(
            capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}
        ),
        "DAC_READ_SEARCH",
    ),
    "CHOWN without dropping the rest": (
        lambda pod: container(pod, "task")["securityContext"].update(capabilities={"add": ["CHOWN"]}),
        "DAC_READ_SEARCH",
    ),
    "DAC_READ_SEARCH for the task": (
        lambda pod: container(pod, "task")["securityContext"].update(
            capabilities={"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]}
        ),
        "DAC_READ_SEARCH",
    ),
    "DAC_READ_SEARCH for another image": (lambda pod: container(pod, "publish").update(image="evil:1"), "DAC_READ"),
    "a service account's token": (
        lambda pod: pod["spec"].update(automountServiceAccountToken=True),
        "no service account token",
    ),
    "a token that it asks for itself": (
        lambda pod: pod["spec"]["volumes"].append(
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
        ),
        "no service account token",
    ),
    "the keepers' key": (
        lambda pod: container(pod, "task")["env"].append(keepers_key()),
        "the keepers' key",
    ),
    "all of the keepers' key's Secret": (
        lambda pod: container(pod, "task").update(envFrom=[{"secretRef": {"name": "helios-keeper"}}]),
        "the keepers' key",
    ),
    "the keepers' key as a file": (
        lambda pod: pod["spec"]["volumes"].append({"name": "key", "secret": {"secretName": "helios-keeper"}}),
        "the keepers' key",
    ),
    "the keepers' key among other files": (
        lambda pod: pod["spec"]["volumes"].append(
            {"name": "key", "projected": {"sources": [{"secret": {"name": "helios-keeper"}}]}}
        ),
        "the keepers' key",
    ),
    "the keepers' key in the agent's other containers": (
        lambda pod: container(pod, "publish")["env"].append(keepers_key()),
        "the keepers' key",
    ),
    "a setting of the kernel": (
        lambda pod: pod["spec"]["securityContext"].update(sysctls=[{"name": "net.ipv4.tcp_syncookies", "value": "0"}]),
        "kernel",
    ),
}


@pytest.mark.parametrize("wish", CHANGES)
def test_a_task_is_refused_what_is_not_a_tasks(api: Api, task_pod: Pod, wish: str) -> None:
    change, words = CHANGES[wish]
    change(task_pod)
    assert words in api.refusal(task_pod)


OWN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another command": lambda own: own.update(command=["sh", "-c", "chown 0 /var/helios/cache"]),
    "arguments": lambda own: own.update(args=["--reference=/"]),
    "an environment": lambda own: own.update(env=[{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]),
    "another mount": lambda own: own["volumeMounts"].append({"name": "cache", "mountPath": "/usr/bin"}),
    "another image": lambda own: own.update(image="evil:1"),
    "another capability": lambda own: own["securityContext"]["capabilities"]["add"].append("SYS_ADMIN"),
    "a probe": lambda own: own.update(restartPolicy="Always", startupProbe={"exec": {"command": ["sh"]}}),
}


@pytest.mark.parametrize("change", OWN)
def test_the_one_root_container_does_exactly_one_thing(api: Api, agent: str, manifests: Manifests, change: str) -> None:
    pod = keeper_pod(manifests, agent)
    OWN[change](container(pod, "own"))
    assert "helios-tasks" in api.refusal(pod)


KEEP: dict[str, Callable[[Pod], Any]] = {
    "another name": lambda pod: container(pod, "keep").update(name="task"),
    "another image": lambda pod: container(pod, "keep").update(image="evil:1"),
    "another command": lambda pod: container(pod, "keep").update(command=["sh", "-c", "env"]),
    "arguments": lambda pod: container(pod, "keep").update(args=["x"]),
    "a library of its own": lambda pod: container(pod, "keep")["env"].append({"name": "LD_PRELOAD", "value": "/x.so"}),
    "variables from elsewhere": lambda pod: container(pod, "keep").update(envFrom=[{"configMapRef": {"name": "x"}}]),
    "a hook": lambda pod: container(pod, "keep").update(lifecycle={"postStart": {"exec": {"command": ["env"]}}}),
    "a probe that runs something": lambda pod: container(pod, "keep").update(
        readinessProbe={"exec": {"command": ["env"]}}
    ),
    "code of its own": lambda pod: (
        pod["spec"]["volumes"].append({"name": "code", "emptyDir": {}}),
        container(pod, "keep")["volumeMounts"].append({"name": "code", "mountPath": "/opt/helios/app/agent"}),
    ),
}


@pytest.mark.parametrize("change", KEEP)
def test_the_keepers_key_is_given_to_the_keeper_alone(api: Api, agent: str, manifests: Manifests, change: str) -> None:
    pod = keeper_pod(manifests, agent)
    KEEP[change](pod)
    assert "the keepers' key" in api.refusal(pod)


def test_a_pod_may_lose_its_finalizer_and_nothing_else_may_change(api: Api) -> None:
    """The collector's patch; also after an upgrade, when the pod's image is no longer the agent's."""
    pod = plain("changed")
    pod["metadata"]["finalizers"] = ["helios.dev/result"]
    assert api.run("create", "-f", "-", document=pod).returncode == 0
    try:
        image = {"spec": {"containers": [{"name": "task", "image": "evil:1"}]}}
        done = api.run("patch", "pod", "changed", "-n", "helios-tasks", "-p", json.dumps(image))
        assert "not changed once it exists" in done.stderr
        done = api.run("debug", "changed", "-n", "helios-tasks", "--image=evil:1", "--target=task")
        assert "not changed once it exists" in done.stdout + done.stderr
        finalizers = json.dumps({"metadata": {"$deleteFromPrimitiveList/finalizers": ["helios.dev/result"]}})
        done = api.run("patch", "pod", "changed", "-n", "helios-tasks", "-p", finalizers)
        assert done.returncode == 0, done.stderr
    finally:
        api.run("patch", "pod", "changed", "-n", "helios-tasks", "-p", '{"metadata":{"finalizers":null}}')
        api.run("delete", "pod", "changed", "-n", "helios-tasks", "--now", "--wait=false")


def test_the_services_namespace_takes_restricted_pods_only(api: Api) -> None:
    pod = plain("bare")
    pod["metadata"]["namespace"] = "helios"
    assert "restricted" in api.refusal(pod)
