"""Local mode's stand-in for the API server: a folder where Jobs go in and pod statuses come out.

Shared by the jobrunner (creates and deletes Jobs), the local node (runs them) and the collector (reads statuses and
logs). Every file appears whole: written beside its place, then linked or renamed into it.

    <dir>/jobs/<job>.json            a LocalJob; removing it asks the node to end its pod
    <dir>/pods/<job>/status.json     a PodStatus, replaced at each change
    <dir>/pods/<job>/<step>.log      what the step printed (fetch, task, publish)
    <dir>/pods/<job>/<step>.message  its termination message, at most 4,096 bytes
    <dir>/pods/<job>/artifacts/      the task's working folder
    <dir>/pods/<job>/released        the collector needs the pod no more: the node may remove it
"""

import contextlib
import os
from pathlib import Path

import msgspec

STEPS = ("fetch", "task", "publish")
MESSAGE_BYTES = 4096


class EnvFromSecret(msgspec.Struct, frozen=True):
    """A variable whose value the node reads from `<home>/secrets/<secret>/<key>`."""

    name: str
    secret: str
    key: str


class LocalJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the node needs to run one attempt."""

    job: str
    run: str
    task: str
    attempt: int
    command: list[str]
    env: dict[str, str] = {}
    secrets: list[EnvFromSecret] = []
    timeoutSeconds: int | None = None
    agentEnv: dict[str, str] = {}
    """HELIOS_* variables of the agent's steps that the jobrunner decides: endpoint, token, attempt, cache."""
    specHash: str = ""


class StepStatus(msgspec.Struct, kw_only=True):
    """One container of the pod. Times are epoch milliseconds on the node's clock."""

    startedAt: int | None = None
    endedAt: int | None = None
    exitCode: int | None = None


class PodStatus(msgspec.Struct, kw_only=True):
    """The pod as the node sees it.

    `phase`: Pending, Fetching, Running, Publishing, Succeeded or Failed; the last two are final.
    """

    job: str
    uid: str
    node: str
    phase: str = "Pending"
    steps: dict[str, StepStatus] = {}
    reason: str | None = None
    disrupted: bool = False
    """The pod was lost to the node, not to its own doing: the attempt does not count against the user's retries."""
    overrules: bool = False
    """`reason` says what the task itself cannot know, such as an OOM kill, and so outranks its own report."""

    @property
    def final(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def jobs_folder(directory: Path) -> Path:
    return directory / "jobs"


def job_file(directory: Path, job: str) -> Path:
    return directory / "jobs" / f"{job}.json"


def pod_folder(directory: Path, job: str) -> Path:
    return directory / "pods" / job


def status_file(directory: Path, job: str) -> Path:
    return directory / "pods" / job / "status.json"


def log_file(directory: Path, job: str, step: str) -> Path:
    return directory / "pods" / job / f"{step}.log"


def message_file(directory: Path, job: str, step: str) -> Path:
    return directory / "pods" / job / f"{step}.message"


def create_job(directory: Path, job: LocalJob) -> bool:
    """Create the Job; False if one of that name exists. Raises OSError when the disk refuses."""
    target = job_file(directory, job.job)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{job.job}.{os.getpid()}.partial")
    partial.write_bytes(msgspec.json.encode(job))
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def delete_job(directory: Path, job: str) -> bool:
    """Ask the node to end the Job's pod; False if there is no such Job. The pod's folder stays until it is released."""
    try:
        job_file(directory, job).unlink()
    except FileNotFoundError:
        return False
    return True


def release_pod(directory: Path, job: str) -> None:
    """Let the Job and its pod go: what the pod left has been read."""
    delete_job(directory, job)
    with contextlib.suppress(FileNotFoundError):
        (pod_folder(directory, job) / "released").touch()


def list_pods(directory: Path) -> list[str]:
    """Jobs that have a pod which is not released."""
    try:
        names = os.listdir(directory / "pods")  # noqa: PTH208 -- names are all that is wanted
    except FileNotFoundError:
        return []
    return [name for name in names if not (pod_folder(directory, name) / "released").exists()]


def read_job(directory: Path, job: str) -> LocalJob | None:
    try:
        return msgspec.json.decode(job_file(directory, job).read_bytes(), type=LocalJob)
    except FileNotFoundError:
        return None


def list_jobs(directory: Path) -> list[str]:
    """Names of all Jobs that exist."""
    try:
        names = os.listdir(jobs_folder(directory))  # noqa: PTH208 -- names are all that is wanted
    except FileNotFoundError:
        return []
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]


def read_status(directory: Path, job: str) -> PodStatus | None:
    """The pod's status; None before the node has taken it up."""
    try:
        return msgspec.json.decode(status_file(directory, job).read_bytes(), type=PodStatus)
    except FileNotFoundError:
        return None


def write_status(directory: Path, status: PodStatus) -> None:
    target = status_file(directory, status.job)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name("status.partial")
    partial.write_bytes(msgspec.json.encode(status))
    partial.replace(target)
