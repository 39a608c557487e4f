"""The pod of the csi form: what it may, what it tells the node's agent, and that the user's wishes have no form."""

import json
from typing import Any

import msgspec
import pytest

from agent.volume_record import job_name as agent_job_name
from helios.dag import Task
from helios.settings import SettingInvalid, settings_from
from services.jobrunner.jobs import Form, Preference, job_name
from services.jobrunner.manifest import job_manifest, spec_hash
from services.jobrunner.pod_parts import FOR_THE_TASK
from tests.services.pod_security import violations
from tests.services.test_jobrunner_manifest import (
    FULL,
    PLAIN,
    SETTINGS,
    Manifest,
    containers,
    env,
    expanded,
    manifest,
    pod,
    wanted,
)

ANY = pytest.mark.parametrize(("dag", "cache_enabled"), [(PLAIN, True), (PLAIN, False), (FULL, True), (FULL, False)])


def csi(dag: str = FULL, **options: Any) -> Manifest:
    return manifest(dag, form="csi", **options)


def attributes(found: Manifest) -> dict[str, Any]:
    (volume,) = pod(found)["volumes"]
    assert volume["csi"]["driver"] == "cache.helios.dev"
    return volume["csi"]["volumeAttributes"]


@ANY
def test_a_namespace_that_enforces_restricted_admits_the_pod(dag: str, cache_enabled: bool) -> None:
    assert violations(pod(csi(dag, cache_enabled=cache_enabled))) == []


def test_the_check_of_restricted_finds_what_the_other_form_needs() -> None:
    """Else it might find nothing anywhere."""
    found = violations(pod(manifest(FULL)))
    assert {
        "volume cache: hostPath",
        "volume view: hostPath",
        "task: runAsNonRoot",
        "task: capabilities.add",
        "publish: runAsUser",
        "publish: runAsNonRoot",
        "publish: capabilities.add",
    } == set(found)


@pytest.mark.parametrize(
    ("where", "value", "rule"),
    [
        ({"hostNetwork": True}, None, "hostNetwork"),
        ({"hostPID": True}, None, "hostPID"),
        ({"securityContext": {}}, {"seccompProfile": None}, "task: no seccompProfile"),
        ({}, {"seccompProfile": {"type": "Unconfined"}}, "task: seccompProfile"),
        ({}, {"privileged": True}, "task: privileged"),
        ({}, {"allowPrivilegeEscalation": None}, "task: allowPrivilegeEscalation"),
        ({}, {"capabilities": {"drop": ["CHOWN"]}}, "task: capabilities.drop"),
        ({}, {"procMount": "Unmasked"}, "task: procMount"),
        ({}, {"runAsUser": 0}, "task: runAsUser"),
    ],
)
def test_the_check_of_restricted_finds_each_thing_alone(
    where: dict[str, Any], value: dict[str, Any] | None, rule: str
) -> None:
    spec = {**pod(csi()), **where}
    (task,) = spec["containers"]
    security = {name: each for name, each in {**task["securityContext"], **(value or {})}.items() if each is not None}
    assert violations({**spec, "containers": [{**task, "securityContext": security}]}) == [rule]


@ANY
def test_the_pod_is_the_task_and_one_volume_of_the_agents(dag: str, cache_enabled: bool) -> None:
    """Nothing of the node and nothing that a kubelet would have to make, whatever the task needs."""
    found = csi(dag, cache_enabled=cache_enabled)
    assert list(containers(found)) == ["task"]
    assert "initContainers" not in pod(found)
    assert containers(found)["task"]["volumeMounts"] == [{"name": "artifacts", "mountPath": "/artifacts"}]
    assert [each["name"] for each in pod(found)["volumes"]] == ["artifacts"]
    assert SETTINGS.agent_image not in json.dumps(found)


@pytest.mark.parametrize(
    ("dag", "cache_enabled", "options"),
    [
        (PLAIN, True, []),
        (FULL, True, ["--timeout", "90", "--view", "/artifacts/.helios/inputs"]),
        (FULL, False, ["--timeout", "90"]),
    ],
)
def test_the_wrapper_is_in_the_volume_and_holds_the_view_where_there_is_one(
    dag: str, cache_enabled: bool, options: list[str]
) -> None:
    task = containers(csi(dag, cache_enabled=cache_enabled))["task"]
    command = task["command"]
    own = command.index("--")
    assert command[:own] == ["/artifacts/.helios/exec", "/artifacts/.helios/control", *options]
    assert task["workingDir"] == "/artifacts"
    assert command[own + 1 :] == containers(manifest(dag))["task"]["command"][-len(command) + own + 1 :]


def test_the_agent_is_told_of_the_attempt_in_strings() -> None:
    job = wanted(FULL, cache_enabled=False, attempt=3)
    assert attributes(job_manifest(job, SETTINGS, "csi")) == {
        "v": "1",
        "run": job.run,
        "task": "Count_Words",
        "attempt": "3",
        "job": job.name,
        "cacheEnabled": "false",
        "token": job.agent_env["HELIOS_TOKEN"],
        "user": "1000",
        "inputs": "2",
        "outputs": "1",
    }
    plain = attributes(csi(PLAIN))
    assert (plain["inputs"], plain["outputs"], plain["cacheEnabled"]) == ("0", "0", "true")


def test_the_volumes_attributes_are_as_they_are() -> None:
    """Kubernetes expands them nowhere, so a dollar sign is not doubled."""
    job = wanted()._replace(task=Task(name="costs$$", image="i", command=("true",)))
    assert attributes(job_manifest(job, SETTINGS, "csi"))["task"] == "costs$$"


def test_the_token_is_in_the_volume_alone() -> None:
    job = wanted(FULL)
    found = job_manifest(job, SETTINGS, "csi")
    token = job.agent_env["HELIOS_TOKEN"]
    assert token not in json.dumps(containers(found)["task"])
    assert json.dumps(found).count(token) == 1


def test_the_task_runs_as_the_user_of_the_settings_and_the_agent_knows_it() -> None:
    settings = msgspec.structs.replace(SETTINGS, task_user=4711)
    found = csi(settings=settings)
    security = containers(found)["task"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (4711, 4711, True)
    assert attributes(found)["user"] == "4711"


@pytest.mark.parametrize(("user", "words"), [("0", "from 1 to"), ("65532", "agent's own user"), ("root", "from 1 to")])
def test_a_user_that_no_task_may_be_is_refused_by_the_variables_name(user: str, words: str) -> None:
    with pytest.raises(SettingInvalid, match=f"HELIOS_TASK_USER is .*{words}"):
        settings_from({"HELIOS_TASK_USER": user})


@ANY
def test_what_the_user_asked_for_has_no_form(dag: str, cache_enabled: bool) -> None:
    """Placement, deadline, patience and whatever Helios itself reads from Jobs and pods are the same."""
    prefers = (Preference("n2", 100), Preference("n1", 67))
    known = {}
    forms: tuple[Form, ...] = ("init", "csi")
    for form in forms:
        found = manifest(dag, form=form, cache_enabled=cache_enabled, prefers=prefers)
        task = containers(found)["task"]
        spec = {name: each for name, each in pod(found).items() if name not in ("containers", "volumes")}
        assert "affinity" in spec
        same = {name: task[name] for name in ("name", "image", "env", "resources", "workingDir")}
        annotations = found["spec"]["template"]["metadata"].pop("annotations"), found["metadata"].pop("annotations")
        assert [each.pop("helios.dev/form", "init") for each in annotations] == [form, form]
        known[form] = (found["metadata"], found["spec"]["template"]["metadata"], annotations, spec, same)
    assert known["init"] == known["csi"]


def test_the_task_knows_the_same_four_things_in_both_forms() -> None:
    values = env(containers(csi())["task"])
    assert {name for name in values if name.startswith("HELIOS_")} == set(FOR_THE_TASK)
    assert values["PASSWORD"] == {"secretKeyRef": {"name": "db", "key": "password"}}
    assert expanded(values["PLAIN"]) == "costs $5 or $(PLAIN)"


def test_the_hash_has_no_form() -> None:
    """A Job of one form is the other's, too: both are the same attempt's."""
    hashes = {
        form: manifest(FULL, form=form)["metadata"]["annotations"]["helios.dev/spec-hash"] for form in ("init", "csi")
    }
    assert set(hashes.values()) == {spec_hash(wanted(FULL))}


@pytest.mark.parametrize("task", ["count", "Count.All", "ä_b", "---", "x" * 200, "a" * 46 + "-b"])
def test_the_agent_names_an_attempts_job_as_the_jobrunner_does(task: str) -> None:
    """By that name it knows whose view of the cache a pod may have."""
    assert agent_job_name("r-1", task, 7) == job_name("r-1", task, 7)
