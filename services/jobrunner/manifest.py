"""The Kubernetes Job of one attempt, and of its pod what is the same in both forms. Pure functions.

The form is how inputs come to the task and outputs leave it: by two containers beside it (init_form.py), or by the
node's agent (csi_form.py). Everything else, and so whatever the user has asked for, is here and has no form.
"""

import hashlib

import msgspec

from helios.dag import Task
from helios.settings import Settings
from services.jobrunner import csi_form, init_form
from services.jobrunner.jobs import Form, Preference, WantedJob
from services.jobrunner.pod_parts import Manifest

MANAGED_BY = "app.kubernetes.io/managed-by"
HELIOS = "helios"
RUN = "helios.dev/run"
TASK = "helios.dev/task"
ATTEMPT = "helios.dev/attempt"
JOB = "helios.dev/job"
FORM = "helios.dev/form"
"""Only where it is csi."""
SPEC_HASH = "helios.dev/spec-hash"
RESULT_FINALIZER = "helios.dev/result"
"""Keeps a finished pod until the collector has committed its end."""

LOST_NODE_SECONDS = 30
"""How long a node may be away before its pods are given up; Kubernetes alone would wait for 300 s."""

GRACE_SECONDS = 30
"""For the task to end at a SIGTERM, and then for its end to be reported."""

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

_ACTIVE_SECONDS_AT_MOST = 2**31 - 1


def job_manifest(job: WantedJob, settings: Settings, form: Form = "init") -> Manifest:
    annotations = {RUN: job.run, TASK: job.task.name, ATTEMPT: str(job.attempt), SPEC_HASH: spec_hash(job)}
    if form == "csi":
        annotations[FORM] = form
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
                "spec": _pod(job, settings, form),
            },
        },
    }


def spec_hash(job: WantedJob) -> str:
    """The same for the same attempt, whichever jobrunner asks and when: neither the token nor a setting has a part, nor
    the form, nor where the pod would rather run.
    """
    text = msgspec.json.encode([job.run, job.attempt, job.cache_enabled, job.task], order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]


def _pod(job: WantedJob, settings: Settings, form: Form) -> Manifest:
    task = job.task
    parts = csi_form if form == "csi" else init_form
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": _tolerations(task),
        "containers": parts.containers(job, settings),
        "volumes": parts.volumes(job, settings),
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
