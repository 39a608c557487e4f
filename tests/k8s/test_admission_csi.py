"""What the API server lets into the namespace of tasks with overlays/csi, asked of a real one by dry runs.

    KUBECONFIG=… python -m pytest tests/k8s/test_admission_csi.py      (or inside `cluster exec`)

The overlay's rules are applied to a namespace of the test's own, so that an installation is left as it is.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s.conftest import Manifests
from tests.k8s.test_admission import Api, Pod, host_path
from tests.waiting import wait_until

TASKS = "helios-tasks"
TRIAL = "helios-trial"
KINDS = ("Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
CLUSTER_WIDE = ("validatingadmissionpolicybinding", "validatingadmissionpolicy", "namespace")


@pytest.fixture(scope="module")
def api(manifests: Manifests) -> Iterator[Api]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs the KUBECONFIG of a Kubernetes")
    api = Api(manifests.kubectl)
    wanted = [
        each for each in manifests.render("overlays/csi") if each["kind"] in KINDS and each["metadata"]["name"] == TASKS
    ]
    assert len(wanted) == len(KINDS)
    try:
        for document in sorted(wanted, key=lambda each: KINDS.index(each["kind"])):
            done = api.run("apply", "-f", "-", document=json.loads(json.dumps(document).replace(TASKS, TRIAL)))
            assert done.returncode == 0, done.stderr
        # What the level lets through and the policy does not.
        probe = task_pod()
        probe["spec"]["volumes"].append({"name": "scratch", "emptyDir": {}})
        wait_until("the policy is in force", lambda: "the only volumes of tasks" in api.refusal(probe), 60)
        yield api
    finally:
        for kind in CLUSTER_WIDE:
            api.run("delete", kind, TRIAL, "--ignore-not-found", "--timeout=45s")


def task_pod() -> Pod:
    """The pod of a task: the user's image and the volume of its node's agent."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "count", "namespace": TRIAL},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "task",
                    "image": "alpine:3.20",
                    "command": ["/artifacts/.helios/exec", "/artifacts/.helios/control", "--", "true"],
                    "volumeMounts": [{"name": "artifacts", "mountPath": "/artifacts"}],
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }
            ],
            "volumes": [{"name": "artifacts", "csi": {"driver": "cache.helios.dev", "volumeAttributes": {"v": "1"}}}],
        },
    }


def security(pod: Pod) -> dict[str, Any]:
    return pod["spec"]["containers"][0]["securityContext"]


def volume(pod: Pod, source: dict[str, Any]) -> None:
    pod["spec"]["volumes"].append({"name": "more", **source})


CHANGES: dict[str, tuple[Callable[[Pod], Any], str]] = {
    "the cache": (lambda pod: host_path(pod, "/var/helios/cache"), "hostPath"),
    "its own view of the cache": (lambda pod: host_path(pod, "/var/helios/cache/views/count-0"), "hostPath"),
    "kubelet's folder": (lambda pod: host_path(pod, "/var/lib/kubelet/pods"), "hostPath"),
    "a volume of another driver": (lambda pod: volume(pod, {"csi": {"driver": "other.test"}}), "the only volumes"),
    "a Secret": (lambda pod: volume(pod, {"secret": {"secretName": "helios-keeper"}}), "the only volumes"),
    "a service account's token": (
        lambda pod: (
            pod["spec"].update(serviceAccountName="default"),
            volume(pod, {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
        ),
        "the only volumes",
    ),
    "the agent's user": (lambda pod: security(pod).update(runAsUser=65532), "a container of a task says which user"),
    "whatever user its image names": (
        lambda pod: security(pod).pop("runAsUser"),
        "a container of a task says which user",
    ),
    "root": (lambda pod: security(pod).update(runAsUser=0, runAsNonRoot=False), "restricted"),
    "privilege": (lambda pod: security(pod).update(privileged=True, allowPrivilegeEscalation=True), "restricted"),
    "a capability": (lambda pod: security(pod).update(capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), "restricted"),
    "no seccomp": (lambda pod: security(pod).pop("seccompProfile"), "restricted"),
    "the node's network": (lambda pod: pod["spec"].update(hostNetwork=True), "restricted"),
}


def test_the_policy_is_well_typed(api: Api) -> None:
    done = api.run("get", "validatingadmissionpolicy", TRIAL, "-o", "json")
    assert "expressionWarnings" not in json.loads(done.stdout).get("status", {}).get("typeChecking", {})


def test_a_tasks_pod_is_let_in(api: Api) -> None:
    assert api.refusal(task_pod()) == ""


@pytest.mark.parametrize("wish", CHANGES)
def test_a_task_is_refused_what_is_not_a_tasks(api: Api, wish: str) -> None:
    change, words = CHANGES[wish]
    pod = task_pod()
    change(pod)
    assert words in api.refusal(pod)
