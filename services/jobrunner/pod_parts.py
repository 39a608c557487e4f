"""What the pods of both forms have in common: the task's variables, its resources and its folder. Pure functions."""

from typing import Any

from helios.dag import EnvSecret, EnvValue, EnvVar, Task
from helios.dag_rules import EXIT_ENV
from services.jobrunner.jobs import TRACEPARENT, WantedJob

Manifest = dict[str, Any]
"""JSON of the Kubernetes API."""

ARTIFACTS = "/artifacts"

FOR_THE_TASK = ("HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT")
"""What the task may know of Helios; the token is not among it."""


def literal(text: str) -> str:
    """Text that reaches the container as it is: Kubernetes expands $(NAME), and makes one dollar sign of two."""
    return text.replace("$", "$$")


def task_env(job: WantedJob) -> list[Manifest]:
    """The user's own variables, of which HELIOS_* are ignored as in local mode, and what the task may know."""
    is_traced = TRACEPARENT in job.agent_env and all(each.name != TRACEPARENT for each in job.task.env)
    told = [*FOR_THE_TASK, *(name for name in EXIT_ENV if name in job.agent_env)]
    if is_traced:
        told.append(TRACEPARENT)
    return [
        *(_variable(each) for each in job.task.env if not each.name.startswith("HELIOS_")),
        *({"name": name, "value": literal(job.agent_env[name])} for name in told),
    ]


def _variable(each: EnvVar) -> Manifest:
    match each:
        case EnvValue(name, value):
            return {"name": name, "value": literal(value)}
        case EnvSecret(name, secret, key):
            return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def resources(task: Task) -> Manifest:
    return {name: amounts for name, amounts in (("requests", task.requests), ("limits", task.limits)) if amounts}


def mount(volume: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def links_inputs(job: WantedJob) -> bool:
    """Whether the pod has a use for the node's cache: without it, it mounts nothing of the node."""
    return bool(job.task.inputs) and job.cache_enabled
