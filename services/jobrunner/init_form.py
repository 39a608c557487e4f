"""The pod of the init form: fetch, task and publish side by side. Pure functions.

What each container may reach is decided by its mounts: only fetch sees the cache folder, only fetch and publish see
what the one tells the other, and what publish trusts is written by fetch alone. The task sees its own view of the cache
and the wrapper, both read-only, and two folders that die with the pod: /artifacts and the one where the wrapper leaves
word of the task's end. Kubernetes makes such folders writable for every user, because a task's image may name any.
"""

from helios.settings import AGENT_USER, Settings
from services.jobrunner.jobs import WantedJob
from services.jobrunner.pod_parts import ARTIFACTS, Manifest, links_inputs, literal, mount, resources, task_env

CACHE = "/var/helios/cache"
WRAPPER = "/helios/exec"
CONTROL = "/helios/control"
STATE = "/helios/state"
AGENT = ("python", "-I", "-S", "/opt/helios/app/agent")
AGENT_WRAPPER = "/opt/helios/exec"

START_PATIENCE_SECONDS = 900
"""publish waits so long for a task that does not start; whoever watches the pod sees earlier why it does not."""

AGENT_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}

TASK_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""What an image that runs as root takes for granted; for any other user they are nothing."""


def containers(job: WantedJob, settings: Settings) -> list[Manifest]:
    """kubelet makes them in this order, the others when fetch's hook has returned. publish is awake before the task."""
    return [_fetch(job, settings), _publish(job, settings), _task(job)]


def volumes(job: WantedJob, settings: Settings) -> list[Manifest]:
    found: list[Manifest] = [{"name": name, "emptyDir": {}} for name in ("artifacts", "control", "exec", "state")]
    if links_inputs(job):
        # Without a type: "DirectoryOrCreate" would make the view root's before fetch can, and "Directory" waits for
        # a folder that only fetch makes.
        host = _cache_folder(settings)
        found += [
            {"name": "cache", "hostPath": {"path": host}},
            {"name": "view", "hostPath": {"path": f"{host}/views/{job.name}"}},
        ]
    return found


def _fetch(job: WantedJob, settings: Settings) -> Manifest:
    mounts = [mount("artifacts", ARTIFACTS), mount("exec", WRAPPER), mount("state", STATE)]
    if links_inputs(job):
        mounts.append(mount("cache", CACHE))
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
            mount("artifacts", ARTIFACTS, read_only=True),
            mount("control", CONTROL, read_only=True),
            mount("exec", WRAPPER, read_only=True),
            mount("state", STATE, read_only=True),
        ],
    }


def _task(job: WantedJob) -> Manifest:
    task = job.task
    options = ["--after", WRAPPER]
    if task.timeout_seconds is not None:
        options += ["--timeout", str(task.timeout_seconds)]
    mounts = [
        mount("artifacts", ARTIFACTS),
        mount("control", CONTROL),
        mount("exec", WRAPPER, read_only=True),
    ]
    if links_inputs(job):
        # At the path that the links in /artifacts have.
        view = f"{CACHE}/views/{job.name}"
        mounts.append(mount("view", view, read_only=True))
        options += ["--view", view]
    return {
        "name": "task",
        "image": task.image,
        "command": [f"{WRAPPER}/exec", CONTROL, *options, "--", *map(literal, (*task.command, *task.args))],
        "workingDir": ARTIFACTS,
        "env": task_env(job),
        "resources": resources(task),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(TASK_CAPABILITIES)},
        },
        "volumeMounts": mounts,
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


def _cache_folder(settings: Settings) -> str:
    """On the node. In the pod it is at the same place whatever the scope, and so are the links to what is in it."""
    host = settings.cache_host_path.rstrip("/")
    return f"{host}/namespaces/{settings.namespace}" if settings.cache_scope == "namespace" else host
