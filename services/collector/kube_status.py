"""From a pod as the API server shows it to the pod's status and the reason it failed. Pure functions.

Rule: whatever keeps a pod from going on ends its attempt after a stated time, in the words of whoever knows.
"""

import re
import signal
from datetime import datetime
from typing import NamedTuple

import msgspec

from helios.localjobs import MESSAGE_BYTES, STEPS, PodStatus, StepStatus
from helios.settings import Settings
from services.collector.kube_objects import Condition, ContainerStatus, Job, Pod, Terminated, condition

CONFIG_SECONDS = 15
"""A missing Secret, or a container that cannot be made: kubelet tries again, and somebody may just be creating it."""

PULL_SECONDS = 3_600
"""An image may be pulled for so long, as long as its pull goes on; events are kept for an hour, too."""

DELETION_SECONDS = 30
"""What a deleted pod may take beyond its grace period before its node counts as unable to end it."""

PUBLISH_SECONDS = 60
"""What the others may take after fetch or the task has failed: nothing is stored then, and only a report waited for."""

JOB_OVER_SECONDS = 3
"""How long after its Job ended a pod may still be unseen, because pods and Jobs come by separate watches."""

OUT_OF_MEMORY = "OOMKilled: it was killed for exceeding its memory limit"
OUT_OF_TIME = "it ran longer than its Job may"

_START = "start"

HOOK_FAILED = "fetch was told to end before it was done, as kubelet does when a hook has failed (FailedPostStartHook)"

_IMAGE_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_IMAGE_AT_ONCE = {"InvalidImageName", "ErrImageNeverPull"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_NEVER_BEGAN = {"StartError", "ContainerCannotRun"}
_LOST_BY_NODE = {"ContainerStatusUnknown", "Unknown"}
"""What kubelet and containerd say of a container that ran before the node was restarted, or that they lost sight of."""
_REFUSED_BY_NODE = {
    "NodeAffinity",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Shutdown",
    "Terminated",
    "UnexpectedAdmissionError",
}


class Trouble(msgspec.Struct, frozen=True):
    """What keeps a pod from going on. It may pass, so the attempt fails only once it has lasted `seconds`."""

    kind: str
    seconds: float
    words: str
    disrupted: bool = False
    """It is the cluster's doing and does not count against the user's retries."""
    events_know_more: bool = False
    """The object's Warning events say why; the words are only for when there are none."""
    overrules: bool = True
    """Nobody knows better; else the words are only for when no step left any."""


class _End(NamedTuple):
    reason: str | None
    disrupted: bool = False
    overrules: bool = True


def pod_trouble(pod: Pod, settings: Settings) -> Trouble | None:
    """What the pod is stuck in, if anything."""
    if pod.status.phase not in ("", "Pending", "Running"):
        return None
    if pod.metadata.deletionTimestamp is not None:
        seconds = (pod.metadata.deletionGracePeriodSeconds or 0) + DELETION_SECONDS
        return Trouble("deletion", seconds, "its pod was deleted, and its node does not say that it ended", True)
    if not pod.spec.nodeName:
        scheduled = pod.condition("PodScheduled")
        words = (scheduled.message or scheduled.reason) if scheduled else "no scheduler has looked at it"
        return Trouble("scheduling", settings.unschedulable_seconds, f"no node takes it: {words}")
    found = _start_failed(pod) or _failed_alone(pod)
    if found is not None:
        return found
    fetch = pod.container("fetch")
    # The others are made once fetch has put the wrapper in place, and then an image may have to be pulled.
    others = fetch is None or fetch.began
    first = "task" if pod.by_agent else "fetch"
    due = [each for each in map(pod.container, ("task", "publish") if others else ("fetch",)) if each is not None]
    for container in due:
        trouble = _waiting_trouble(container, settings)
        if trouble is not None:
            return trouble
    stuck = next((each.name for each in due if not each.began), None if due else first)
    if stuck is None:
        return None
    words = f"{stuck} did not start within {settings.pod_start_seconds} s of being scheduled"
    # Nobody may know why: then it is not for the user to have done.
    return Trouble(f"{_START}:{stuck}", settings.pod_start_seconds, words, disrupted=True, events_know_more=True)


def _start_failed(pod: Pod) -> Trouble | None:
    """A container that could not be started will not be: its pod only waits for the others, and they for it."""
    found = _never_began(pod)
    return Trouble(f"start failed:{found[0]}", 0, _not_started(*found)) if found is not None else None


def _never_began(pod: Pod) -> tuple[str, Terminated] | None:
    for step in STEPS:
        ended = _ended(pod, step)
        if ended is not None and ended.reason in _NEVER_BEGAN:
            return step, ended
        if step == "fetch" and ended is not None and ended.exitCode:
            return None  # whether the others find what they are started with was for fetch to see to
    return None


def _failed_alone(pod: Pod) -> Trouble | None:
    """fetch failed, and the others are made all the same, as soon as there is an image for them. Or a task was killed
    before its wrapper could say that it had started, so that publish waits for that.
    """
    ended = _ended(pod, "fetch")
    if ended is not None and ended.exitCode:
        if ended.reason == "OOMKilled":
            return Trouble("fetch failed", PUBLISH_SECONDS, _out_of_memory("fetch"))
        if _was_told_to_end(ended):
            return Trouble("fetch failed", PUBLISH_SECONDS, HOOK_FAILED, disrupted=True)
        return Trouble("fetch failed", PUBLISH_SECONDS, f"fetch exited with code {ended.exitCode}", overrules=False)
    ended = _ended(pod, "task")
    if ended is None or not ended.exitCode:
        return None
    words = _out_of_memory("task") if ended.reason == "OOMKilled" else f"it exited with code {ended.exitCode}"
    return Trouble("task failed", PUBLISH_SECONDS, words)


def _was_told_to_end(fetch: Terminated | None) -> bool:
    return fetch is not None and fetch.exitCode == 128 + signal.SIGTERM


def _ended(pod: Pod, step: str) -> Terminated | None:
    container = pod.container(step)
    return container.ended if container is not None else None


def _out_of_memory(step: str) -> str:
    return OUT_OF_MEMORY if step == "task" else f"OOMKilled: {step} was killed for exceeding its memory limit"


def _not_started(step: str, ended: Terminated) -> str:
    return f"{step} could not be started: {ended.message or ended.reason}"


def _waiting_trouble(container: ContainerStatus, settings: Settings) -> Trouble | None:
    waiting = container.state.waiting
    if waiting is None:
        return None
    words = waiting.message or waiting.reason
    if waiting.reason in _IMAGE_AT_ONCE:
        return Trouble(f"image:{container.name}", 0, f"the image of {container.name} cannot be used: {words}")
    if waiting.reason in _IMAGE:
        text = f"the image of {container.name} cannot be pulled: {words}"
        return Trouble(f"image:{container.name}", settings.image_pull_seconds, text)
    if waiting.reason in _CONFIG:
        return Trouble(f"config:{container.name}", CONFIG_SECONDS, f"{container.name} cannot be started: {words}")
    return None


def job_trouble(job: Job, settings: Settings) -> Trouble:
    """What a Job that has no pod is stuck in."""
    failed = _first(job, "Failed", "FailureTarget")
    if failed is not None and failed.reason not in ("", "BackoffLimitExceeded"):
        return Trouble("job failed", JOB_OVER_SECONDS, job_failure(job) or f"its Job failed: {_words(failed)}")
    if failed is not None or _first(job, "Complete", "SuccessCriteriaMet") is not None:
        return Trouble("job over", JOB_OVER_SECONDS, "its pod is gone", disrupted=True)
    suspended = _first(job, "Suspended")
    if suspended is not None:
        return Trouble("suspended", settings.unschedulable_seconds, f"its Job is suspended: {_words(suspended)}")
    return Trouble(
        "no pod",
        settings.pod_refused_seconds,
        "no pod was created for its Job",
        disrupted=True,
        events_know_more=True,
    )


def job_failure(job: Job | None) -> str | None:
    """Why the Job controller gave the Job up, where that says more than that its pod failed."""
    found = _first(job, "Failed", "FailureTarget") if job is not None else None
    return OUT_OF_TIME if found is not None and found.reason == "DeadlineExceeded" else None


def _first(job: Job, *kinds: str) -> Condition | None:
    found = (condition(job.status.conditions, kind) for kind in kinds)
    return next((each for each in found if each is not None and each.status == "True"), None)


def _words(found: Condition) -> str:
    return ": ".join(each for each in (found.reason, found.message) if each)


def is_only_scheduled(pod: Pod) -> bool:
    """Whether it has a node, on which nothing of it has begun."""
    return pod.spec.nodeName != "" and not any(each.began for each in pod.status.containerStatuses)


def status_of(
    pod: Pod, *, node_lost: bool = False, job_failed: str | None = None, expired: Trouble | None = None
) -> PodStatus:
    """The pod's status. `expired` is a trouble that has lasted too long; `job_failed` is from `job_failure`."""
    status = PodStatus(job=pod.job, uid=pod.metadata.uid, node=pod.spec.nodeName, steps=_steps(pod), image=_image(pod))
    if pod.status.phase == "Succeeded":
        status.phase = "Succeeded"
        status.agent_reports = pod.by_agent
        return status
    end = _failure(pod, job_failed) if pod.status.phase == "Failed" else _cut_short(pod, node_lost, job_failed, expired)
    if end is None:
        status.phase = _phase(pod)
    else:
        status.phase = "Failed"
        status.reason, status.disrupted, status.overrules = end.reason, end.disrupted, end.overrules
        # An agent that has not seen the task start has nothing to report; but one may be bringing inputs for hours.
        started = "task" in status.steps and _never_began(pod) is None
        fetching = expired is not None and expired.kind.startswith(f"{_START}:")
        status.agent_reports = pod.by_agent and not node_lost and (started or fetching)
    return status


def termination_message(pod: Pod, step: str) -> str | None:
    """What the step wrote to its termination log; None if nothing, or more than a step of ours would."""
    container = pod.container(step)
    ended = container.ended if container else None
    message = ended.message if ended else ""
    return message if 0 < len(message.encode()) <= MESSAGE_BYTES else None


def _cut_short(pod: Pod, node_lost: bool, job_failed: str | None, expired: Trouble | None) -> _End | None:
    """The end of a pod that the API server does not show as over."""
    if node_lost or pod.status.phase == "Unknown" or pod.status.reason == "NodeLost":
        return _End(f"its node {pod.spec.nodeName} was lost", disrupted=True)
    if pod.metadata.deletionTimestamp is not None:
        if (words := _disruption(pod)) is not None:
            return _End(words, disrupted=True)
        if not pod.spec.nodeName:
            return _End(job_failed or "its pod was deleted before it had a node", disrupted=job_failed is None)
    if expired is not None:
        disrupted = expired.disrupted and job_failed is None
        return _End(job_failed or expired.words, disrupted, expired.overrules or job_failed is not None)
    return None


def _failure(pod: Pod, job_failed: str | None) -> _End:
    """Why a pod failed that the API server shows as failed."""
    reason, message = pod.status.reason, pod.status.message
    if (words := _disruption(pod)) is not None:
        return _End(words, disrupted=True)
    ends = {step: ended for step in STEPS if (ended := _ended(pod, step)) is not None}
    for step, ended in ends.items():
        if ended.reason == "OOMKilled" and ended.exitCode:
            return _End(_out_of_memory(step))
    if job_failed or reason == "DeadlineExceeded":
        return _End(OUT_OF_TIME)
    if reason == "Evicted":
        return _End(f"it was evicted: {message or reason}")
    if reason in _REFUSED_BY_NODE or reason.startswith("OutOf"):
        return _End(f"its node {pod.spec.nodeName} refused it: {message or reason}", disrupted=True)
    for step, ended in ends.items():
        if ended.reason in _LOST_BY_NODE:
            return _End(f"its node lost {step}: {ended.message or 'how it ended is not known'}", disrupted=True)
    if _deleted_before(pod, list(ends.values())):
        return _End("its pod was deleted", disrupted=True)
    if _was_told_to_end(ends.get("fetch")):
        return _End(HOOK_FAILED, disrupted=True)
    if (found := _never_began(pod)) is not None:
        return _End(_not_started(*found))
    return _End(message or None, overrules=False)


def _disruption(pod: Pod) -> str | None:
    found = pod.condition("DisruptionTarget")
    if found is None or found.status != "True":
        return None
    return f"its pod was disrupted: {found.message or found.reason}"


def _deleted_before(pod: Pod, ends: list[Terminated]) -> bool:
    """Whether the pod was deleted while something of it ran, and a signal ended that."""
    deleted = pod.metadata.deletionTimestamp
    if deleted is None:
        return False
    asked = deleted.timestamp() - (pod.metadata.deletionGracePeriodSeconds or 0)
    killed = [each for each in ends if each.exitCode in (137, 143) and each.finishedAt is not None]
    # Times are whole seconds, of two clocks.
    return not ends or any(each.finishedAt.timestamp() >= asked - 2 for each in killed if each.finishedAt is not None)


def _phase(pod: Pod) -> str:
    fetch, task = pod.container("fetch"), pod.container("task")
    if pod.by_agent and (task is None or not task.began):
        return "Fetching" if pod.spec.nodeName else "Pending"
    if task is not None and task.ended is not None:
        return "Publishing"
    if task is not None and task.state.running is not None and (fetch is None or fetch.ended is not None):
        return "Running"
    return "Fetching" if fetch is not None and fetch.began else "Pending"


def _image(pod: Pod) -> str:
    """The digest of the task's image: container runtimes show it as `sha256:…` or `repository@sha256:…`."""
    task = pod.container("task")
    found = _IMAGE_DIGEST.search(task.imageID) if task is not None else None
    return found[0] if found else ""


def _steps(pod: Pod) -> dict[str, StepStatus]:
    steps: dict[str, StepStatus] = {}
    for name in STEPS:
        container = pod.container(name)
        if container is None or not container.began:
            continue
        ended, running = container.ended, container.state.running
        steps[name] = StepStatus(
            startedAt=_ms(ended.startedAt if ended else running.startedAt if running else None),
            endedAt=_ms(ended.finishedAt if ended else None),
            exitCode=ended.exitCode if ended else None,
        )
    return steps


def _ms(moment: datetime | None) -> int | None:
    return int(moment.timestamp() * 1000) if moment is not None and moment.year > 1970 else None
