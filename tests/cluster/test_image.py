"""The image holds what pods start from it and runs without root; its wrapper works in a stranger's image."""

import json
from typing import Any

from tests.cluster.clusters import Cluster
from tests.cluster.kubectl import Kubectl, KubectlFailed, job
from tests.waiting import wait_until

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTROL = {"name": "control", "mountPath": "/control"}


def wrapped(name: str, cluster: Cluster, script: str, *arguments: str) -> dict[str, Any]:
    """A task as Helios starts it: the wrapper is put into a shared folder, and runs the command of an image that has
    nothing of ours; afterwards another container shows the record.
    """
    copy = "import os, shutil; shutil.copy('/opt/helios/exec', '/control/exec'); os.chmod('/control/exec', 0o555)"
    show = "until test -e /control/exit; do sleep 0.1; done; cat /control/exit"
    manifest = job(
        name,
        image=cluster.task_image,
        command=["/control/exec", "/control", *arguments, "--", "sh", "-c", script],
        volumes=[{"name": "control", "emptyDir": {}}],
        initContainers=[
            {
                "name": "fetch",
                "image": cluster.image,
                "command": ["python", "-I", "-S", "-c", copy],
                "volumeMounts": [CONTROL],
            }
        ],
    )
    (task,) = manifest["spec"]["template"]["spec"]["containers"]
    task["volumeMounts"] = [CONTROL]
    shower = {"name": "show", "image": cluster.task_image, "command": ["sh", "-c", show], "volumeMounts": [CONTROL]}
    manifest["spec"]["template"]["spec"]["containers"].append(shower)
    return manifest


def test_services_and_agent_start_from_it_without_root_and_without_a_writable_disk(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    program = (
        "import os, kubernetes, helios.streams, services.submitter.__main__, services.jobrunner.__main__;"
        "import services.collector.__main__; print(os.getuid(), os.environ['HELIOS_IMAGE_TAG'])"
    )
    manifest = job("image", image=cluster.image, command=["python", "-c", program])
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container["securityContext"] = RESTRICTED
    agent = {**container, "name": "agent", "command": ["python", "-I", "-S", "/opt/helios/app/agent", "version"]}
    manifest["spec"]["template"]["spec"]["containers"].append(agent)
    kubectl.apply(manifest)
    pod = kubectl.wait_for_job("image", "Complete")["metadata"]["name"]
    assert kubectl.logs(pod, "task") == f"65532 {cluster.image.rpartition(':')[2]}\n"
    assert kubectl.logs(pod, "agent").count(".") == 2


def test_the_wrapper_runs_a_strangers_image_and_keeps_its_exit_code(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(wrapped("code", cluster, "test $$ != 1 && exit 7"))
    pod = kubectl.wait_for_job("code", "Failed")
    codes = {
        each["name"]: each["state"].get("terminated", {}).get("exitCode") for each in pod["status"]["containerStatuses"]
    }
    assert codes["task"] == 7
    record = json.loads(kubectl.logs(pod["metadata"]["name"], "show"))
    assert (record["exitCode"], record["signal"], record["timedOut"]) == (7, None, False)


def test_the_wrapper_keeps_the_tasks_timeout(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(wrapped("late", cluster, "sleep 600", "--timeout", "0.5"))
    pod = kubectl.wait_for_job("late", "Failed")
    record = json.loads(kubectl.logs(pod["metadata"]["name"], "show"))
    assert (record["exitCode"], record["signal"], record["timedOut"]) == (124, "SIGTERM", True)


def test_a_deleted_pods_task_gets_its_sigterm(cluster: Cluster, kubectl: Kubectl) -> None:
    script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    manifest = wrapped("asked", cluster, script)
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 20
    manifest["spec"]["template"]["metadata"] = {"finalizers": ["helios.dev/result"]}
    kubectl.apply(manifest)
    (pod,) = kubectl.wait_for_pods("asked", "running", lambda pod: pod["status"]["phase"] == "Running")
    name = pod["metadata"]["name"]
    # Containers are started one after the other, and its trap is set later still.
    wait_until("the task is ready", lambda: "ready" in said(kubectl, name), 120)
    kubectl.delete("pod", name, wait=False)
    kubectl.wait_until("pod", name, "its task ended with 5", lambda pod: exit_code(pod, "task") == 5)
    kubectl.run("patch", "pod", name, "--type=merge", '--patch={"metadata": {"finalizers": null}}')


def said(kubectl: Kubectl, pod: str) -> str:
    """What the task has printed; nothing while its container has not begun."""
    try:
        return kubectl.logs(pod, "task")
    except KubectlFailed:
        return ""


def exit_code(pod: dict[str, Any], container: str) -> int | None:
    for each in pod["status"].get("containerStatuses", []):
        if each["name"] == container:
            return each["state"].get("terminated", {}).get("exitCode")
    return None
