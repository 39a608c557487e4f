"""The Kubernetes Job of one attempt. Pure functions.

What each container may reach is decided by its mounts: only fetch sees the cache folder, only fetch and publish see
what the one tells the other, and what publish trusts is written by fetch alone. The task sees its own view of the cache
and the wrapper, both read-only, and two folders that die with the pod: /artifacts and the one where the wrapper leaves
word of the task's end. Kubernetes makes such folders writable for every user, because a task's image may name any.
"""

import hashlib
from typing import Any

import msgspec

from helios.dag import EnvSecret, EnvValue, EnvVar, Task
from helios.settings import Settings
from services.jobrunner.jobs import Preference, WantedJob

Manifest = dict[str, Any]
"""JSON of the Kubernetes API."""

MANAGED_BY = "app.kubernetes.io/managed-by"
HELIOS = "helios"
RUN = "helios.dev/run"
TASK = "helios.dev/task"
ATTEMPT = "helios.dev/attempt"
JOB = "helios.dev/job"
SPEC_HASH = "helios.dev/spec-hash"
RESULT_FINALIZER = "helios.dev/result"
"""Keeps a finished pod until the collector has committed its end."""

CACHE = "/var/helios/cache"
ARTIFACTS = "/artifacts"
WRAPPER = "/helios/exec"
CONTROL = "/helios/control"
STATE = "/helios/state"
AGENT = ("python", "-I", "-S", "/opt/helios/app/agent")
AGENT_WRAPPER = "/opt/helios/exec"

AGENT_USER = 65532
"""The owner of the nodes' cache folders."""

LOST_NODE_SECONDS = 30
"""How long a node may be away before its pods are given up; Kubernetes alone would wait for 300 s."""

GRACE_SECONDS = 30
"""For the task to end at a SIGTERM, and then for its end to be reported."""

START_PATIENCE_SECONDS = 900
"""publish waits so long for a task that does not start; whoever watches the pod sees earlier why it does not."""

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

AGENT_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}

FOR_THE_TASK = ("HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT")
"""What the task may know of Helios; the token is not among it."""

TASK_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""What an image that runs as root takes for granted; for any other user they are nothing."""

_ACTIVE_SECONDS_AT_MOST = 2**31 - 1


def job_manifest(job: WantedJob, settings: Settings) -> Manifest:
    """The Job: fetch, task and publish side by side."""
    annotations = {RUN: job.run, TASK: job.task.name, ATTEMPT: str(job.attempt), SPEC_HASH: spec_hash(job)}
    labels = {MANAGED_BY: HELIOS, RUN: job.run}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name, "labels": labels, "annotations": annotations},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": settings.job_ttl_seconds,
            "template": {
                "metadata": {
                    "labels": {**labels, JOB: job.name},
                    "annotations": {**annotations, "kubectl.kubernetes.io/default-container": "task"},
                    "finalizers": [RESULT_FINALIZER],
                },
                "spec": _pod(job, settings),
            },
        },
    }


def spec_hash(job: WantedJob) -> str:
    """The same for the same attempt, whichever jobrunner asks and when: neither the token nor a setting has a part, nor
    where the pod would rather run.
    """
    text = msgspec.json.encode([job.run, job.attempt, job.cache_enabled, job.task], order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]


def literal(text: str) -> str:
    """Text that reaches the container as it is: Kubernetes expands $(NAME), and makes one dollar sign of two."""
    return text.replace("$", "$$")


def _pod(job: WantedJob, settings: Settings) -> Manifest:
    task, linked = job.task, _links_inputs(job)
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": _tolerations(task),
        # kubelet makes them in this order, the others when fetch's hook has returned. publish is awake before the task.
        "containers": [_fetch(job, settings, linked), _publish(job, settings), _task(job, linked)],
        "volumes": _volumes(job, settings, linked),
    }
    if task.timeout_seconds is not None:
        # Of the pod, not of the Job: it counts from the pod's start on its node, so a queue uses up none of it, and it
        # ends the pod with a reason in its status, where a Job's would delete it.
        seconds = task.timeout_seconds + settings.job_deadline_margin_seconds
        spec["activeDeadlineSeconds"] = min(seconds, _ACTIVE_SECONDS_AT_MOST)
    if task.node_selector:
        spec["nodeSelector"] = task.node_selector
    if job.prefers:
        spec["affinity"] = {"nodeAffinity": {PREFERRED: [_term(each) for each in job.prefers]}}
    if task.service_account_name:
        spec["serviceAccountName"] = task.service_account_name
    if secrets := [name.strip() for name in settings.image_pull_secrets.split(",") if name.strip()]:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    return spec


def _fetch(job: WantedJob, settings: Settings, linked: bool) -> Manifest:
    mounts = [_mount("artifacts", ARTIFACTS), _mount("exec", WRAPPER), _mount("state", STATE)]
    if linked:
        mounts.append(_mount("cache", CACHE))
    return {
        **_agent_container("fetch", settings),
        "env": _agent_env(
            job,
            HELIOS_CACHE_DIR=CACHE,
            HELIOS_WRAPPER=AGENT_WRAPPER,
            HELIOS_CONTROL_DIR=WRAPPER,
            HELIOS_GATE_DIR=WRAPPER,
        ),
        "lifecycle": {"postStart": {"exec": {"command": [AGENT_WRAPPER, "--placed", WRAPPER]}}},
        "securityContext": {
            **_locked_down(),
            "runAsUser": AGENT_USER,
            "runAsGroup": AGENT_USER,
            "runAsNonRoot": True,
        },
        "volumeMounts": mounts,
    }


def _task(job: WantedJob, linked: bool) -> Manifest:
    task = job.task
    options = ["--after", WRAPPER]
    if task.timeout_seconds is not None:
        options += ["--timeout", str(task.timeout_seconds)]
    mounts = [
        _mount("artifacts", ARTIFACTS),
        _mount("control", CONTROL),
        _mount("exec", WRAPPER, read_only=True),
    ]
    if linked:
        # At the path that the links in /artifacts have.
        view = f"{CACHE}/views/{job.name}"
        mounts.append(_mount("view", view, read_only=True))
        options += ["--view", view]
    return {
        "name": "task",
        "image": task.image,
        "command": [f"{WRAPPER}/exec", CONTROL, *options, "--", *map(literal, (*task.command, *task.args))],
        "workingDir": ARTIFACTS,
        "env": _task_env(job),
        "resources": {
            name: amounts for name, amounts in (("requests", task.requests), ("limits", task.limits)) if amounts
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(TASK_CAPABILITIES)},
        },
        "volumeMounts": mounts,
    }


def _publish(job: WantedJob, settings: Settings) -> Manifest:
    """Root, because it must read whatever the task left; it changes nothing, so all that it sees is read-only."""
    security = _locked_down()
    security["capabilities"]["add"] = ["DAC_READ_SEARCH"]
    return {
        **_agent_container("publish", settings),
        "env": _agent_env(
            job,
            HELIOS_CONTROL_DIR=CONTROL,
            HELIOS_GATE_DIR=WRAPPER,
            HELIOS_START_PATIENCE_SECONDS=str(START_PATIENCE_SECONDS),
        ),
        "securityContext": {**security, "runAsUser": 0, "runAsGroup": 0},
        "volumeMounts": [
            _mount("artifacts", ARTIFACTS, read_only=True),
            _mount("control", CONTROL, read_only=True),
            _mount("exec", WRAPPER, read_only=True),
            _mount("state", STATE, read_only=True),
        ],
    }


def _agent_container(verb: str, settings: Settings) -> Manifest:
    return {
        "name": verb,
        "image": settings.agent_image,
        "imagePullPolicy": "IfNotPresent",
        "command": [*AGENT, verb],
        "resources": AGENT_RESOURCES,
    }


def _locked_down() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _agent_env(job: WantedJob, **own: str) -> list[Manifest]:
    values = {
        **job.agent_env,
        "HELIOS_JOB": job.name,
        "HELIOS_ARTIFACTS": ARTIFACTS,
        "HELIOS_STATE_DIR": STATE,
        "HELIOS_TERMINATION_LOG": "/dev/termination-log",
        **own,
    }
    return [
        *({"name": name, "value": literal(value)} for name, value in values.items()),
        {"name": "HELIOS_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "HELIOS_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]


def _task_env(job: WantedJob) -> list[Manifest]:
    """The user's own variables, of which HELIOS_* are ignored as in local mode, and what the task may know."""
    return [
        *(_variable(each) for each in job.task.env if not each.name.startswith("HELIOS_")),
        *({"name": name, "value": literal(job.agent_env[name])} for name in FOR_THE_TASK),
    ]


def _variable(each: EnvVar) -> Manifest:
    match each:
        case EnvValue(name, value):
            return {"name": name, "value": literal(value)}
        case EnvSecret(name, secret, key):
            return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _tolerations(task: Task) -> list[Manifest]:
    """The user's, and ours of a node that is away, unless the user has decided about that."""
    decided = {each.key for each in task.tolerations}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in decided
    ]
    return [*msgspec.to_builtins(task.tolerations), *ours]


def _term(preferred: Preference) -> Manifest:
    """By the node's name, which its label kubernetes.io/hostname need not be."""
    is_node = {"key": "metadata.name", "operator": "In", "values": [preferred.node]}
    return {"weight": preferred.weight, "preference": {"matchFields": [is_node]}}


def _volumes(job: WantedJob, settings: Settings, linked: bool) -> list[Manifest]:
    volumes: list[Manifest] = [{"name": name, "emptyDir": {}} for name in ("artifacts", "control", "exec", "state")]
    if linked:
        # Without a type: "DirectoryOrCreate" would make the view root's before fetch can, and "Directory" waits for
        # a folder that only fetch makes.
        host = _cache_folder(settings)
        volumes += [
            {"name": "cache", "hostPath": {"path": host}},
            {"name": "view", "hostPath": {"path": f"{host}/views/{job.name}"}},
        ]
    return volumes


def _cache_folder(settings: Settings) -> str:
    """On the node. In the pod it is at the same place whatever the scope, and so are the links to what is in it."""
    host = settings.cache_host_path.rstrip("/")
    return f"{host}/namespaces/{settings.namespace}" if settings.cache_scope == "namespace" else host


def _mount(volume: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _links_inputs(job: WantedJob) -> bool:
    """Whether the pod has a use for the node's cache: without it, it mounts nothing of the node."""
    return bool(job.task.inputs) and job.cache_enabled
