"""Local mode's stand-in for the API server: a folder where Jobs go in and pod statuses come out.

Shared by the jobrunner (creates and deletes Jobs), the local node (runs them) and the collector (reads statuses and
logs). Jobs and statuses appear whole: written beside their place, then linked or renamed into it.

    <dir>/jobs/<job>.json            a LocalJob (0600: it holds a token); removing it asks the node to end its pod
    <dir>/pods/<job>/status.json     a PodStatus, replaced at each change
    <dir>/pods/<job>/<step>.log      what the step printed (fetch, task, publish)
    <dir>/pods/<job>/<step>.message  its termination message, at most 4,096 bytes
    <dir>/pods/<job>/control, state  what the steps tell each other
    <dir>/pods/<job>/released        the collector needs the pod no more: the node may remove both its folders
    <dir>/work/<job>/artifacts/      the task's working folder

Rule: a task runs as the same user and can put anything anywhere in here, so every read takes regular files only, up to
a size, and never waits; what else is there is Unreadable, or None where nothing hangs on it.
"""

import contextlib
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

import msgspec

STEPS = ("fetch", "task", "publish")
MESSAGE_BYTES = 4096
STATUS_BYTES = 64 * 1024
JOB_BYTES = 16 * 1024 * 1024
PARTIAL_SECONDS = 60.0
"""A Job is written at once; what is not whole after this never will be."""


class Unreadable(Exception):
    """What is there cannot be what was written there; the message says why."""


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
    image: str = ""
    """The digest, `sha256:…`, of the image that the task's container ran; empty where there is none, as here."""
    scheduledAt: int | None = None
    """When the collector first saw it with a node, in epoch milliseconds of its clock; None where it came too late to
    see that, or there is no scheduler, as here."""
    logs_known: bool = True
    """Of a pod that is over: nothing of its logs is still to come."""
    agent_reports: bool = False
    """Of a pod that is over, or that does not start: its node's agent does fetch and publish for it, may still be at
    work, and reports."""

    @property
    def final(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def jobs_folder(directory: Path) -> Path:
    return directory / "jobs"


def job_file(directory: Path, job: str) -> Path:
    return directory / "jobs" / f"{job}.json"


def pod_folder(directory: Path, job: str) -> Path:
    return directory / "pods" / job


def artifacts_folder(directory: Path, job: str) -> Path:
    return directory / "work" / job / "artifacts"


def work_folder(directory: Path, job: str) -> Path:
    """The folder of the task's own: nothing but its artifacts is in it."""
    return directory / "work" / job


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
    partial = target.with_name(f".{job.job}.{secrets.token_hex(4)}.partial")
    try:
        _write_new(partial, msgspec.json.encode(job))
        os.link(partial, target)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def remove_partials(directory: Path) -> None:
    """Remove what jobrunners left of Jobs that they were writing when they were killed. There may be tokens in it."""
    for name in _names(jobs_folder(directory)):
        if name.startswith(".") and name.endswith(".partial"):
            partial = jobs_folder(directory) / name
            with contextlib.suppress(OSError):
                if time.time() - partial.lstat().st_mtime > PARTIAL_SECONDS:
                    partial.unlink()


def delete_job(directory: Path, job: str) -> bool:
    """Ask the node to end the Job's pod; False if there is no such Job. The pod's folder stays until it is released."""
    file = job_file(directory, job)
    if not os.path.lexists(file):
        return False
    make_way(file)
    file.unlink(missing_ok=True)
    return True


def release_pod(directory: Path, job: str) -> None:
    """Let the Job and its pod go: what the pod left has been read."""
    delete_job(directory, job)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (pod_folder(directory, job) / "released").touch()


def is_released(directory: Path, job: str) -> bool:
    """Whether nobody needs the pod any more. A folder that cannot be looked into counts as one that nobody can read."""
    try:
        return os.path.lexists(pod_folder(directory, job) / "released") or not pod_folder(directory, job).is_dir()
    except OSError:
        return True


def list_pods(directory: Path) -> list[str]:
    """Jobs that have a pod which is not released."""
    return [name for name in _names(directory / "pods") if not is_released(directory, name)]


def read_job(directory: Path, job: str) -> LocalJob | None:
    """The Job; None if there is none of that name. Raises Unreadable."""
    try:
        text = read_whole(job_file(directory, job), JOB_BYTES)
        return msgspec.json.decode(text, type=LocalJob)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"the file of Job {job} is unreadable: {error}") from error


def list_jobs(directory: Path) -> list[str]:
    """Names of all Jobs that exist."""
    names = _names(jobs_folder(directory))
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 -- names are all that is wanted
    except FileNotFoundError:
        return []


def read_status(directory: Path, job: str) -> PodStatus | None:
    """The pod's status; None before the node has taken it up. Raises Unreadable."""
    try:
        status = msgspec.json.decode(read_whole(status_file(directory, job), STATUS_BYTES), type=PodStatus)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"its status is unreadable: {error}") from error
    if status.job != job:
        raise Unreadable(f"its status is unreadable: it is that of {status.job[:100]!r}")
    return status


def write_status(directory: Path, status: PodStatus) -> None:
    """Replace the pod's status, whatever is in its place. Raises OSError when the disk refuses."""
    target = status_file(directory, status.job)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"status.{secrets.token_hex(4)}.partial")
    try:
        _write_new(partial, msgspec.json.encode(status))
        make_way(target)
        partial.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_message(directory: Path, job: str, step: str) -> str | None:
    """The step's termination message; None when it is missing, oversized, no file or no text."""
    try:
        return read_whole(message_file(directory, job, step), MESSAGE_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return None


def read_log(directory: Path, job: str, step: str, offset: int, limit: int) -> bytes:
    """At most `limit` bytes of the step's log from `offset`; none when it is missing or no file."""
    try:
        fd = open_regular(log_file(directory, job, step), os.O_RDONLY)
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)
    except OSError:
        return b""


def log_length(directory: Path, job: str, step: str) -> int:
    """How many bytes the step has printed; 0 when there is no such file."""
    try:
        found = log_file(directory, job, step).lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def read_whole(file: Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes. Raises OSError for everything else, and never waits."""
    fd = open_regular(file, os.O_RDONLY)
    with os.fdopen(fd, "rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it is longer than {limit} bytes")
    return content


def open_regular(file: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a regular file. Raises OSError for a link, a folder, a FIFO or a device, and never waits."""
    fd = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("it is no regular file")
    return fd


def make_way(file: Path) -> None:
    """Remove what stands in a file's place and is none. Raises OSError when it cannot be removed."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(file)
    elif not stat.S_ISREG(mode):
        file.unlink(missing_ok=True)


def _write_new(file: Path, content: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
