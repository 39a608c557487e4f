"""What each container of Helios may do on its node: nothing but what stands here, in every overlay and in both forms of
a task's pod.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from services.jobrunner.jobs import Form
from tests.k8s.conftest import K8S, OVERLAYS, ROOT, Manifests, credentials, manifests
from tests.security.test_dag_authors import WISHES, pod

__all__ = ["credentials", "manifests"]

Json = dict[str, Any]

EXCEPTIONS: dict[str, set[str]] = {
    "helios-cache/own": {"root", "CHOWN"},
    "helios-agent/agent": {"root", "privileged", "Bidirectional"},
    "init/publish": {"root", "DAC_READ_SEARCH"},
    # The user's image runs as what it says, on a disk of its own, with less than a runtime gives by itself.
    "init/task": {
        "any user",
        "writable",
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    },
    "csi/task": {"writable"},
}
"""All that is more than nothing; docs/security.md says why for each."""


def rights(container: Json, spec: Json) -> set[str]:
    """In what a container exceeds a process that is nobody, on a disk it cannot write, without a way to more."""
    own: Json = container.get("securityContext", {})
    both: Json = {**spec.get("securityContext", {}), **own}
    found = set(own.get("capabilities", {}).get("add", ()))
    if own.get("privileged"):
        # Of a privileged container none of the rest can be said.
        found.add("privileged")
    else:
        found |= set() if own.get("allowPrivilegeEscalation") is False else {"escalation"}
        found |= set() if "ALL" in own.get("capabilities", {}).get("drop", ()) else {"capabilities"}
    found |= set() if both.get("seccompProfile", {}).get("type") == "RuntimeDefault" else {"seccomp"}
    found |= set() if own.get("readOnlyRootFilesystem") is True else {"writable"}
    if both.get("runAsUser") == 0:
        found.add("root")
    elif both.get("runAsNonRoot") is not True:
        found.add("any user")
    found |= {name for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace") if spec.get(name)}
    found |= {each["mountPropagation"] for each in container.get("volumeMounts", ()) if "mountPropagation" in each}
    found |= {"hostPort" for each in container.get("ports", ()) if "hostPort" in each}
    return found


def of_workloads(documents: list[Json]) -> Iterator[tuple[str, set[str]]]:
    for each in documents:
        if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"):
            spec: Json = each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                yield f"{each['metadata']['name']}/{container['name']}", rights(container, spec)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_of_every_overlay_is_nobody_but_those_named(overlay: str, manifests: Manifests) -> None:
    found = dict(of_workloads(manifests.render(overlay)))
    assert len(found) >= 6
    assert found == {name: EXCEPTIONS.get(name, set[str]()) for name in found}


def test_every_overlay_there_is_has_been_looked_at() -> None:
    there = {
        str(each.parent.relative_to(K8S))
        for each in K8S.rglob("kustomization.yaml")
        if each.parent.name not in ("base", "secrets") and each.parent.parent.name != "components"
    }
    assert there == set(OVERLAYS)


@pytest.mark.parametrize("form", ["init", "csi"])
def test_every_container_of_a_tasks_pod_is_nobody_but_those_named(form: Form) -> None:
    spec = pod(form, **WISHES)
    found = {f"{form}/{each['name']}": rights(each, spec) for each in spec["containers"]}
    assert found == {name: EXCEPTIONS.get(name, set[str]()) for name in found}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_secret_is_given_to_the_one_process_that_needs_it(overlay: str, manifests: Manifests) -> None:
    given: dict[str, set[str]] = {}
    for each in manifests.render(overlay):
        if each["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
            continue
        spec: Json = each["spec"]["template"]["spec"]
        mounted = {
            volume["name"]: volume["secret"]["secretName"] for volume in spec.get("volumes", ()) if "secret" in volume
        }
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            names = {source["secretRef"]["name"] for source in container.get("envFrom", ()) if "secretRef" in source}
            variables = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
            names |= {variable["secretKeyRef"]["name"] for variable in variables if "secretKeyRef" in variable}
            names |= {mounted[mount["name"]] for mount in container.get("volumeMounts", ()) if mount["name"] in mounted}
            given[f"{each['metadata']['name']}/{container['name']}"] = names
    (users,) = given.pop("helios-redis/redis")
    assert re.fullmatch(r"helios-redis-users-\w{10}", users)
    keeper = "helios-agent/agent" if overlay == "overlays/csi" else "helios-cache/keep"
    assert given.pop("helios-cache/own", set()) == set()
    assert given.pop("helios-api/api", None) == ({"helios-api"} if overlay == "overlays/http" else None)
    assert given == {
        "helios-submitter/submitter": {"helios-submitter"},
        "helios-jobrunner/jobrunner": {"helios-jobrunner"},
        "helios-collector/collector": {"helios-collector", "helios-keeper"},
        # It makes the store's users, as root there, and is over before the collector starts.
        "helios-collector/store": {"helios-minio", "helios-collector", "helios-client", "helios-api"},
        "helios-minio/minio": {"helios-minio"},
        keeper: {"helios-keeper"},
    }


def test_the_image_is_nobodys_and_holds_no_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["65532:65532"]
    assert not re.search(r"^(ADD|ARG .*(KEY|TOKEN|PASSWORD|SECRET))", text, re.MULTILINE)
    sent = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent, ".dockerignore lets everything into the build, the credentials of k8s/secrets too"
    assert not [each for each in sent if "k8s" in each or "secret" in each]
