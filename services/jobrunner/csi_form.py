"""The pod of the csi form: the user's image alone, and one volume that the node's agent serves. Pure functions.

The agent brings the inputs before kubelet may start the container, and takes the outputs when the wrapper has let go of
its lock. So nothing of Helios runs in the pod but the wrapper, and the Pod Security level *restricted* admits it: no
root, no capability, nothing of the node. The attempt's token is among the volume's attributes, which kubelet hands to
the driver and the container does not see.
"""

from helios.settings import AGENT_DRIVER, Settings
from services.jobrunner.jobs import WantedJob
from services.jobrunner.pod_parts import ARTIFACTS, Manifest, links_inputs, literal, mount, resources, task_env

VERSION = "1"
"""Of the volume's attributes, for an agent that is older or younger than the jobrunner."""

OURS = f"{ARTIFACTS}/.helios"
"""Where the agent mounts what is not the task's: the wrapper, the view of the node's cache, and the wrapper's word."""


def containers(job: WantedJob, settings: Settings) -> list[Manifest]:
    """The task, as a user that the settings name whatever its image says."""
    task = job.task
    options: list[str] = []
    if task.timeout_seconds is not None:
        options += ["--timeout", str(task.timeout_seconds)]
    if links_inputs(job):
        options += ["--view", f"{OURS}/inputs"]
    command = map(literal, (*task.command, *task.args))
    return [
        {
            "name": "task",
            "image": task.image,
            "command": [f"{OURS}/exec", f"{OURS}/control", *options, "--", *command],
            "workingDir": ARTIFACTS,
            "env": task_env(job),
            "resources": resources(task),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": settings.task_user,
                "runAsGroup": settings.task_user,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [mount("artifacts", ARTIFACTS)],
        }
    ]


def volumes(job: WantedJob, settings: Settings) -> list[Manifest]:
    """What the agent must know of the attempt. Kubernetes expands nothing here, and takes only strings."""
    attributes = {
        "v": VERSION,
        "run": job.run,
        "task": job.task.name,
        "attempt": str(job.attempt),
        "job": job.name,
        "cacheEnabled": "true" if job.cache_enabled else "false",
        "token": job.agent_env["HELIOS_TOKEN"],
        "user": str(settings.task_user),
        "inputs": str(len(job.task.inputs)),
        "outputs": str(len(job.task.outputs)),
    }
    return [{"name": "artifacts", "csi": {"driver": AGENT_DRIVER, "volumeAttributes": attributes}}]
