"""The Job of Kubernetes: golden files for its whole form, and a test for each rule that a form does not explain.

After a change that is meant: `GOLDEN=write python -m pytest tests/services/test_jobrunner_manifest.py`, and read the
diff.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helios.dag import Task, parse_dag
from helios.settings import Settings
from services.jobrunner.init_form import CONTROL, WRAPPER
from services.jobrunner.jobs import Form, Preference, WantedJob, job_name, wanted_job
from services.jobrunner.manifest import job_manifest, spec_hash
from services.jobrunner.pod_parts import FOR_THE_TASK, literal
from tests.stage import RUN

GOLDEN = Path(__file__).parent / "golden"

SETTINGS = Settings(
    token_key="k",
    agent_image="registry.example/helios:1",
    pod_endpoint_url="http://collector:8414",
    image_pull_secrets="registry-a, registry-b",
)

PLAIN = """
dagName: d
tasks:
  - name: hello
    image: alpine:3.20
    command: [echo, hello]
"""

FULL = """
dagName: d
tasks:
  - name: split
    image: alpine:3.20
    command: ["true"]
    outputs: [part-aa]
  - name: Count_Words
    image: registry.example/wc:7
    command: [sh, -c]
    args: ["echo $$ $(date) $HOME > n"]
    inputs: [{fromTask: split, name: part-aa}, {uri: "s3://corpora/moby.txt", as: corpus.txt, mode: copy}]
    outputs: [n]
    env:
      PLAIN: "costs $5 or $(PLAIN)"
      PASSWORD: {secret: db, key: password}
      HELIOS_TOKEN: mine
    resources:
      requests: {cpu: 500m, memory: 64Mi}
      limits: {memory: 128Mi, nvidia.com/gpu: 1}
    timeoutSeconds: 90
    nodeSelector: {disk: ssd}
    tolerations:
      - {key: gpu, operator: Exists, effect: NoSchedule}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 600}
    serviceAccountName: counter
"""

Manifest = dict[str, Any]


def wanted(dag: str = PLAIN, *, attempt: int = 1, cache_enabled: bool = True, now: float = 1.0) -> WantedJob:
    task = parse_dag(dag.encode()).dag.tasks[-1]
    return wanted_job(
        job_name(RUN, task.name, attempt),
        task,
        run=RUN,
        attempt=attempt,
        cache_enabled=cache_enabled,
        settings=SETTINGS,
        now_seconds=now,
    )


def manifest(
    dag: str = PLAIN,
    settings: Settings = SETTINGS,
    prefers: tuple[Preference, ...] = (),
    form: Form = "init",
    **options: Any,
) -> Manifest:
    return job_manifest(wanted(dag, **options)._replace(prefers=prefers), settings, form)


def pod(found: Manifest) -> Manifest:
    return found["spec"]["template"]["spec"]


def containers(found: Manifest) -> dict[str, Manifest]:
    return {each["name"]: each for each in pod(found)["containers"]}


def env(container: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def mounts(container: Manifest) -> dict[str, tuple[str, bool]]:
    return {each["mountPath"]: (each["name"], each.get("readOnly", False)) for each in container["volumeMounts"]}


def command_of(*command: str) -> list[str]:
    """The task's command as Kubernetes gets it."""
    task = Task(name="t", image="i", command=command)
    found = job_manifest(wanted()._replace(task=task), SETTINGS)
    return containers(found)["task"]["command"]


@pytest.mark.parametrize(
    ("name", "dag", "options"),
    [
        ("plain", PLAIN, {}),
        ("full", FULL, {}),
        ("cache-off", FULL, {"cache_enabled": False, "attempt": 3}),
        ("prefers", FULL, {"prefers": (Preference("n2", 100), Preference("n1", 67))}),
        ("csi-plain", PLAIN, {"form": "csi"}),
        ("csi-full", FULL, {"form": "csi"}),
        ("csi-cache-off", FULL, {"form": "csi", "cache_enabled": False, "attempt": 3}),
        ("csi-prefers", FULL, {"form": "csi", "prefers": (Preference("n2", 100), Preference("n1", 67))}),
    ],
)
def test_the_job_is_the_golden_one(name: str, dag: str, options: dict[str, Any]) -> None:
    file = GOLDEN / f"job-{name}.json"
    text = json.dumps(manifest(dag, **options), indent=2) + "\n"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


def expanded(text: str) -> str:
    """What Kubernetes makes of a command, an argument or a variable: the rules of its expansion.Expand."""

    def one(found: re.Match[str]) -> str:
        return "$" if found.group() == "$$" else f"<{found.group(1)}>"

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


@pytest.mark.parametrize("text", ["$(NAME)", "$$", "$$(NAME)", "$$$(A)$", "$", "$(", "$HOME", "a $( b", "$é", "${X}"])
def test_kubernetes_expands_nothing_that_local_mode_does_not(text: str) -> None:
    """`echo $$` too: without a rule for it, Kubernetes makes one dollar sign of two."""
    assert expanded(literal(text)) == text
    assert [expanded(each) for each in command_of("sh", "-c", text)][-1] == text


def test_the_token_is_in_fetch_and_publish_only() -> None:
    job = wanted(FULL)
    found = job_manifest(job, SETTINGS)
    token = job.agent_env["HELIOS_TOKEN"]
    steps = containers(found)
    assert env(steps["fetch"])["HELIOS_TOKEN"] == token
    assert env(steps["publish"])["HELIOS_TOKEN"] == token
    assert token not in json.dumps(steps["task"])
    assert json.dumps(found).count(token) == 2


def test_the_task_knows_four_things_of_helios() -> None:
    """A HELIOS_TOKEN of the user's own has no effect, here as in local mode."""
    known = {name for name in env(containers(manifest(FULL))["task"]) if name.startswith("HELIOS_")}
    assert known == set(FOR_THE_TASK)


def test_the_task_sees_its_own_view_and_cannot_write_what_others_trust() -> None:
    found = manifest(FULL)
    name = found["metadata"]["name"]
    task, fetch, publish = (mounts(containers(found)[step]) for step in ("task", "fetch", "publish"))
    view = f"/var/helios/cache/views/{name}"
    assert task[view] == ("view", True)
    assert task["/helios/exec"] == ("exec", True)
    assert {path for path, (_, read_only) in task.items() if not read_only} == {"/artifacts", "/helios/control"}
    assert fetch["/var/helios/cache"] == ("cache", False)
    assert "cache" not in {volume for volume, _ in (*task.values(), *publish.values())}
    assert all(read_only for _, read_only in publish.values())
    state = [step for step in ("task", "fetch", "publish") if "/helios/state" in mounts(containers(found)[step])]
    assert state == ["fetch", "publish"]


def test_the_wrapper_holds_the_view_where_there_is_one() -> None:
    """By its lock the node's cache knows that the view is in use."""
    full, off = manifest(FULL), manifest(FULL, cache_enabled=False)
    view = f"/var/helios/cache/views/{full['metadata']['name']}"
    command = containers(full)["task"]["command"]
    assert view in mounts(containers(full)["task"])
    assert command[: command.index("--")] == [
        f"{WRAPPER}/exec",
        CONTROL,
        "--after",
        WRAPPER,
        "--timeout",
        "90",
        "--view",
        view,
    ]
    assert "--view" not in containers(off)["task"]["command"]
    assert "--view" not in containers(manifest(PLAIN))["task"]["command"]


@pytest.mark.parametrize(("dag", "cache_enabled"), [(PLAIN, True), (FULL, True), (FULL, False)])
def test_publish_and_task_are_made_after_fetchs_hook_and_all_meet_at_one_gate(dag: str, cache_enabled: bool) -> None:
    """Or else the task's container is made before there is a wrapper in it, or its command runs without its inputs."""
    found = manifest(dag, cache_enabled=cache_enabled)
    assert [each["name"] for each in pod(found)["containers"]] == ["fetch", "publish", "task"]
    assert "initContainers" not in pod(found)
    steps = containers(found)
    fetch, publish, task = (steps[step] for step in ("fetch", "publish", "task"))
    program, option, gate = fetch["lifecycle"]["postStart"]["exec"]["command"]
    assert (program, option) == (env(fetch)["HELIOS_WRAPPER"], "--placed")
    assert gate == env(fetch)["HELIOS_GATE_DIR"] == env(publish)["HELIOS_GATE_DIR"]
    assert task["command"][2:4] == ["--after", gate]
    assert task["command"][0] == env(fetch)["HELIOS_CONTROL_DIR"] + "/exec"
    assert [mounts(each)[gate] for each in (fetch, publish, task)] == [("exec", False), ("exec", True), ("exec", True)]
    assert [step for step in steps if "lifecycle" in steps[step]] == ["fetch"]


def test_the_hosts_paths_are_the_cache_and_the_jobs_own_view_without_a_type() -> None:
    found = manifest(FULL, msgspec.structs.replace(SETTINGS, cache_host_path="/mnt/disk/helios/"))
    paths = [each["hostPath"] for each in pod(found)["volumes"] if "hostPath" in each]
    name = found["metadata"]["name"]
    assert paths == [{"path": "/mnt/disk/helios"}, {"path": f"/mnt/disk/helios/views/{name}"}]


def test_a_namespace_of_its_own_scope_has_its_own_folder_on_the_node_and_the_same_one_in_its_pods() -> None:
    found = manifest(FULL, msgspec.structs.replace(SETTINGS, cache_scope="namespace", namespace="team-a"))
    paths = [each["hostPath"]["path"] for each in pod(found)["volumes"] if "hostPath" in each]
    name = found["metadata"]["name"]
    assert paths == [f"/var/helios/cache/namespaces/team-a{rest}" for rest in ("", f"/views/{name}")]
    shared = manifest(FULL, msgspec.structs.replace(SETTINGS, namespace="team-a"))
    assert mounts(containers(found)["task"]) == mounts(containers(shared)["task"])


@pytest.mark.parametrize(("dag", "cache_enabled"), [(PLAIN, True), (FULL, False)])
def test_a_pod_without_use_for_the_cache_mounts_nothing_of_the_node(dag: str, cache_enabled: bool) -> None:
    found = manifest(dag, cache_enabled=cache_enabled)
    assert [each for each in pod(found)["volumes"] if "emptyDir" not in each] == []
    known = {each["name"] for each in pod(found)["volumes"]}
    for container in containers(found).values():
        assert {each["name"] for each in container["volumeMounts"]} <= known


def test_every_variable_that_the_agent_needs_is_there() -> None:
    """The agent's own reader of its environment says so; it runs without our other packages."""
    from agent.settings import fetch_settings, publish_settings

    steps = containers(manifest(FULL))
    field = {"spec.nodeName": "node1", "metadata.uid": "0-1"}
    for step, read in (("fetch", fetch_settings), ("publish", publish_settings)):
        values = {
            name: expanded(value) if isinstance(value, str) else field[value["fieldRef"]["fieldPath"]]
            for name, value in env(steps[step]).items()
        }
        assert read(values).attempt.node == "node1"
        assert read(values).artifacts == "/artifacts"
    assert fetch_settings(values | {"HELIOS_CACHE_DIR": "/c"}).job == manifest(FULL)["metadata"]["name"]


def test_no_container_may_gain_privileges_and_ours_have_none_to_speak_of() -> None:
    steps = containers(manifest(FULL))
    assert not any(each["securityContext"]["allowPrivilegeEscalation"] for each in steps.values())
    assert all(each["securityContext"]["capabilities"]["drop"] == ["ALL"] for each in steps.values())
    assert "add" not in steps["fetch"]["securityContext"]["capabilities"]
    assert steps["publish"]["securityContext"]["capabilities"]["add"] == ["DAC_READ_SEARCH"]
    assert steps["fetch"]["securityContext"]["runAsUser"] == 65532
    assert not pod(manifest(FULL))["automountServiceAccountToken"]


def test_the_deadline_of_kubernetes_comes_after_the_wrappers() -> None:
    assert "activeDeadlineSeconds" not in pod(manifest())
    found = manifest(FULL, msgspec.structs.replace(SETTINGS, job_deadline_margin_seconds=10))
    assert pod(found)["activeDeadlineSeconds"] == 100
    command = containers(found)["task"]["command"]
    assert command[command.index("--timeout") + 1] == "90"
    assert "activeDeadlineSeconds" not in found["spec"]


def test_a_user_who_decides_about_lost_nodes_is_obeyed() -> None:
    seconds = {each["key"]: each.get("tolerationSeconds") for each in pod(manifest(FULL))["tolerations"]}
    assert seconds == {"gpu": None, "node.kubernetes.io/unreachable": 600, "node.kubernetes.io/not-ready": 30}


def test_the_hash_is_the_attempts_and_not_the_moments() -> None:
    """Two jobrunners that create the same Job must find it the same, whatever their clocks, tokens and images."""
    first = spec_hash(wanted(FULL))
    assert spec_hash(wanted(FULL, now=9e8)) == first
    others = [
        wanted(FULL, attempt=2),
        wanted(FULL, cache_enabled=False),
        wanted(PLAIN),
        wanted(FULL)._replace(run="1-1"),
        wanted(FULL.replace("timeoutSeconds: 90", "timeoutSeconds: 91")),
    ]
    assert len({first, *map(spec_hash, others)}) == len(others) + 1
    annotation = manifest(FULL)["metadata"]["annotations"]["helios.dev/spec-hash"]
    assert annotation == first
    other = msgspec.structs.replace(SETTINGS, agent_image="registry.example/helios:2")
    assert manifest(FULL, other)["metadata"]["annotations"]["helios.dev/spec-hash"] == first


def test_labels_are_values_that_kubernetes_takes() -> None:
    found = manifest(FULL)
    labels = {**found["metadata"]["labels"], **found["spec"]["template"]["metadata"]["labels"]}
    for value in labels.values():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)


@pytest.mark.parametrize("form", ["init", "csi"])
def test_a_task_is_told_its_trace_unless_its_dag_says_otherwise(form: Form) -> None:
    """It is no part of what makes a Job the same attempt's: jobrunners with and without traces adopt each other's."""
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def told(dag: str, traceparent: str | None) -> list[str]:
        (task,) = parse_dag(dag.encode()).dag.tasks
        job = wanted_job(
            "j",
            task,
            run=RUN,
            attempt=1,
            cache_enabled=True,
            settings=Settings(),
            now_seconds=1.0,
            traceparent=traceparent,
        )
        assert spec_hash(job) == spec_hash(job._replace(agent_env={**job.agent_env, "TRACEPARENT": "other"}))
        containers = job_manifest(job, Settings(), form)["spec"]["template"]["spec"]["containers"]
        (found,) = [each for each in containers if each["name"] == "task"]
        return [each["value"] for each in found["env"] if each["name"] == "TRACEPARENT"]

    plain = "dagName: d\ntasks: [{name: t, image: i, command: [x]}]"
    own = "dagName: d\ntasks: [{name: t, image: i, command: [x], env: {TRACEPARENT: mine}}]"
    assert told(plain, given) == [given]
    assert told(plain, None) == []
    assert told(own, given) == ["mine"]
