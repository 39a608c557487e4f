"""The life of one pod: fetch, then task and publish side by side, then a status that says how it went.

Whatever goes wrong in here ends as a Failed pod with its reason, never as a dead node. What the task can reach is read
and written as if it had put a trap there (helios/localjobs.py).
"""

import errno
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cli.embedded.localpaths import localised
from cli.embedded.logfile import say
from cli.embedded.podenv import SecretMissing, agent_env, inherited, secrets_of, task_env
from cli.embedded.step import Step
from cli.embedded.strays import kill_strays
from helios.localjobs import (
    LocalJob,
    PodStatus,
    StepStatus,
    Unreadable,
    artifacts_folder,
    log_file,
    pod_folder,
    read_job,
    read_message,
    read_whole,
    write_status,
)

GRACE_SECONDS = 5.0
SHUTDOWN_GRACE_SECONDS = 2.0
RECORD_BYTES = 64 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)
NODE_STOPPED = "the local node stopped while the task ran"
DELETED = "its Job was deleted"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node works; the same for all pods."""

    directory: Path
    cache: Path
    secrets: Path
    agent: Path
    node: str
    environ: Mapping[str, str]
    lifeline_fd: int
    reserve_bytes: int
    """With less than that free on the disk no pod is started, and those that run are ended."""


class _ExitRecord(msgspec.Struct):
    """control/exit, as the wrapper leaves it."""

    exitCode: int | None = None
    signal: str | None = None
    timedOut: bool = False
    error: str | None = None


class _Message(msgspec.Struct):
    """What a termination message says of a failure: fetch calls it error, publish reason."""

    error: str | None = None
    reason: str | None = None


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """The pod is to end before its work is done."""

    reason: str
    grace_seconds: float
    disrupted: bool = False
    drop_artifacts: bool = False


class _Interrupted(Exception):
    """The order has come."""

    def __init__(self, order: _Order) -> None:
        super().__init__(order.reason)
        self.order = order


_DELETE = _Order(reason=DELETED, grace_seconds=GRACE_SECONDS)
_SHUT_DOWN = _Order(reason=NODE_STOPPED, grace_seconds=SHUTDOWN_GRACE_SECONDS, disrupted=True)


class Pod(threading.Thread):
    """One pod; its thread starts its processes and lives until they are gone."""

    def __init__(self, place: Place, status: PodStatus, on_end: Callable[["Pod"], None]) -> None:
        super().__init__(name=status.job, daemon=True)
        self.place = place
        self.status = status
        self._on_end = on_end
        self._events: queue.SimpleQueue[Step | _Order] = queue.SimpleQueue()
        self._steps: dict[str, Step] = {}
        self.unsaid = False
        """The last change of the status could not be written: whoever takes the pod's end goes on trying."""

    def delete(self) -> None:
        """End the pod because its Job is gone."""
        self._events.put(_DELETE)

    def shut_down(self) -> None:
        """End the pod because the node stops."""
        self._events.put(_SHUT_DOWN)

    def make_room(self, reason: str) -> None:
        """End the pod at once, with its artifacts, because the disk is full."""
        self._events.put(_Order(reason=reason, grace_seconds=0.0, disrupted=True, drop_artifacts=True))

    def run(self) -> None:
        try:
            self._live()
        except _Interrupted as interrupted:
            order = interrupted.order
            self._end_steps(order.grace_seconds)
            if order.drop_artifacts:
                shutil.rmtree(artifacts_folder(self.place.directory, self.status.job), ignore_errors=True)
            self._finish(order.reason, disrupted=order.disrupted)
        except (SecretMissing, Unreadable) as error:
            self._finish(str(error))
        except Exception as error:  # noqa: BLE001 -- reported as the pod's reason
            self._end_steps(0.0)
            full = isinstance(error, OSError) and error.errno in FULL
            self._finish(f"the local node failed to run it: {type(error).__name__}: {error}", disrupted=full)
        finally:
            self._on_end(self)

    def _live(self) -> None:
        place, name = self.place, self.status.job
        job = read_job(place.directory, name)
        if job is None:
            raise _Interrupted(_DELETE)
        secrets = secrets_of(job, place.secrets)
        pod = pod_folder(place.directory, name)
        for folder in (artifacts_folder(place.directory, name), pod / "control", pod / "state"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._change("Fetching")
        self._start(job, "fetch", [])
        self._wait_for("fetch")
        if self._exit_code("fetch") != 0:
            self._finish(self._told("fetch") or f"fetch {_ended(self._exit_code('fetch'))}")
            return
        folder = str(artifacts_folder(place.directory, name))
        self._start(job, "task", ["--", *(localised(word, folder) for word in job.command)], secrets)
        self._start(job, "publish", [])
        self._change("Running")
        self._wait_for("task")
        kill_strays()
        if not (pod / "control" / "started").exists():
            # publish waits for a start that will not come.
            self._steps["publish"].send(signal.SIGTERM)
        self._wait_for("publish")
        if self._exit_code("task") != 0:
            self._finish(self._why_the_task_failed(job))
        elif self._exit_code("publish") != 0:
            self._finish(self._told("publish") or f"publish {_ended(self._exit_code('publish'))}")
        else:
            self._finish(None)

    def _start(self, job: LocalJob, name: str, arguments: list[str], secrets: Mapping[str, str] | None = None) -> None:
        place = self.place
        env = agent_env(
            job,
            name,
            base=inherited(place.environ),
            directory=place.directory,
            cache=place.cache,
            uid=self.status.uid,
            node=place.node,
        )
        if name == "task":
            env = task_env(job, secrets or {}, env, place.lifeline_fd)
        verb = "exec" if name == "task" else name
        step = Step(
            name,
            [sys.executable, "-I", "-S", str(place.agent), verb, *arguments],
            env=env,
            cwd=artifacts_folder(place.directory, job.job),
            log=log_file(place.directory, job.job, name),
            ends=self._events,
            pass_fds=(place.lifeline_fd,) if name == "task" else (),
            dies_with_node=name != "task",
        )
        self._steps[name] = step
        self.status.steps[name] = StepStatus(startedAt=_now_ms())
        if name == "fetch":
            self._tell()

    def _wait_for(self, name: str) -> None:
        """Handle what happens until the step has ended; raises _Interrupted when the pod is to end."""
        while self._steps[name].exit_code is None:
            event = self._events.get()
            if isinstance(event, _Order):
                raise _Interrupted(event)
            self._note_end(event)
        self._note_end(self._steps[name])

    def _note_end(self, step: Step) -> None:
        status = self.status.steps[step.name]
        if status.endedAt is None:
            status.endedAt, status.exitCode = _now_ms(), step.exit_code
            self._tell()

    def _end_steps(self, grace_seconds: float) -> None:
        """SIGTERM for all steps (the wrapper passes it on to the task), then SIGKILL for the whole pod."""
        alive = [step for step in self._steps.values() if step.exit_code is None]
        for step in alive:
            step.send(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        self._collect_ends(deadline)
        for step in alive:
            # Without its wrapper the task is the node's own child, which only Linux sees to.
            if step.exit_code is None and (step.name != "task" or sys.platform == "linux"):
                step.send(signal.SIGKILL, group=True)
        self._collect_ends(time.monotonic() + 60.0)
        kill_strays()

    def _collect_ends(self, deadline: float) -> None:
        while any(step.exit_code is None for step in self._steps.values()):
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(event, Step):
                self._note_end(event)

    def _exit_code(self, name: str) -> int:
        code = self._steps[name].exit_code
        assert code is not None
        return code

    def _change(self, phase: str) -> None:
        self.status.phase = phase
        self._tell()

    def _tell(self) -> None:
        """Write the status. What the disk refuses comes with the next change, or in the end with the node's looks."""
        try:
            write_status(self.place.directory, self.status)
            self.unsaid = False
        except OSError as error:
            if not self.unsaid:
                say(f"the status of {self.status.job} cannot be written: {error}")
            self.unsaid = True

    def _finish(self, reason: str | None, *, disrupted: bool = False) -> None:
        self.status.reason, self.status.disrupted = reason, disrupted
        self._change("Succeeded" if reason is None else "Failed")

    def _told(self, step: str) -> str | None:
        """The failure that a step's termination message tells of."""
        text = read_message(self.place.directory, self.status.job, step)
        try:
            message = msgspec.json.decode(text or "", type=_Message)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return message.error or message.reason

    def _why_the_task_failed(self, job: LocalJob) -> str:
        try:
            file = pod_folder(self.place.directory, job.job) / "control" / "exit"
            record = msgspec.json.decode(read_whole(file, RECORD_BYTES), type=_ExitRecord)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return f"its wrapper {_ended(self._exit_code('task'))}"
        if record.error:
            return record.error
        if record.timedOut:
            return f"it ran longer than its timeoutSeconds, {job.timeoutSeconds}"
        if record.signal:
            return f"it was ended by {record.signal}"
        return f"it {_ended(self._exit_code('task'))}"


def _ended(code: int) -> str:
    try:
        return f"was killed by {signal.Signals(code - 128).name}" if code > 128 else f"exited with code {code}"
    except ValueError:
        return f"exited with code {code}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
