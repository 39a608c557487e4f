"""The life of one pod: fetch, then task and publish side by side, then a status that says how it went.

Whatever goes wrong in here ends as a Failed pod with its reason, never as a dead node.
"""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cli.embedded.podenv import SecretMissing, agent_env, inherited, secrets_of, task_env
from cli.embedded.step import Step
from cli.embedded.strays import kill_everywhere, kill_strays
from helios.localjobs import (
    LocalJob,
    PodStatus,
    StepStatus,
    log_file,
    message_file,
    pod_folder,
    read_job,
    write_status,
)

GRACE_SECONDS = 5.0
SHUTDOWN_GRACE_SECONDS = 2.0
RETRY_SECONDS = 0.5
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


class _Interrupted(Exception):
    """The pod is to end before its work is done."""


class Pod(threading.Thread):
    """One pod; its thread starts its processes and lives until they are gone."""

    def __init__(self, place: Place, status: PodStatus, on_end: Callable[["Pod"], None]) -> None:
        super().__init__(name=status.job, daemon=True)
        self.place = place
        self.status = status
        self._on_end = on_end
        self._events: queue.SimpleQueue[Step | str] = queue.SimpleQueue()
        self._steps: dict[str, Step] = {}

    def delete(self) -> None:
        """End the pod because its Job is gone."""
        self._events.put("delete")

    def shut_down(self) -> None:
        """End the pod because the node stops."""
        self._events.put("shut down")

    def run(self) -> None:
        try:
            self._live()
        except _Interrupted as order:
            stopped = str(order) == "shut down"
            self._end_steps(SHUTDOWN_GRACE_SECONDS if stopped else GRACE_SECONDS)
            self._finish(NODE_STOPPED if stopped else DELETED, disrupted=stopped)
        except SecretMissing as error:
            self._finish(str(error))
        except Exception as error:  # noqa: BLE001 -- reported as the pod's reason
            self._end_steps(0.0)
            self._finish(f"the local node failed to run it: {type(error).__name__}: {error}", disrupted=False)
        finally:
            self._on_end(self)

    def _live(self) -> None:
        place, name = self.place, self.status.job
        job = read_job(place.directory, name)
        if job is None:
            raise _Interrupted("delete")
        secrets = secrets_of(job, place.secrets)
        for folder in ("artifacts", "control", "state"):
            (pod_folder(place.directory, name) / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._change("Fetching")
        self._start(job, "fetch", [])
        self._wait_for("fetch")
        if self._exit_code("fetch") != 0:
            self._finish(self._told("fetch") or f"fetch {_ended(self._exit_code('fetch'))}")
            return
        self._start(job, "task", ["--", *job.command], secrets)
        self._start(job, "publish", [])
        self._change("Running")
        self._wait_for("task")
        kill_strays(self.status.uid)
        if not (pod_folder(place.directory, name) / "control" / "started").exists():
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
            cwd=pod_folder(place.directory, job.job) / "artifacts",
            log=log_file(place.directory, job.job, name),
            ends=self._events,
            pass_fds=(place.lifeline_fd,) if name == "task" else (),
            dies_with_node=name != "task",
        )
        self._steps[name] = step
        self.status.steps[name] = StepStatus(startedAt=_now_ms())
        if name == "fetch":
            write_status(place.directory, self.status)

    def _wait_for(self, name: str) -> None:
        """Handle what happens until the step has ended; raises _Interrupted when the pod is to end."""
        while self._steps[name].exit_code is None:
            event = self._events.get()
            if isinstance(event, str):
                raise _Interrupted(event)
            self._note_end(event)
        self._note_end(self._steps[name])

    def _note_end(self, step: Step) -> None:
        status = self.status.steps[step.name]
        if status.endedAt is None:
            status.endedAt, status.exitCode = _now_ms(), step.exit_code
            write_status(self.place.directory, self.status)

    def _end_steps(self, grace_seconds: float) -> None:
        """SIGTERM for all steps (the wrapper passes it on to the task), then SIGKILL for the whole pod."""
        alive = [step for step in self._steps.values() if step.exit_code is None]
        for step in alive:
            step.send(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        self._collect_ends(deadline)
        for step in alive:
            if step.exit_code is None and step.name != "task":
                step.send(signal.SIGKILL, group=True)
        if any(step.exit_code is None for step in alive):
            kill_everywhere([self.status.uid])
        self._collect_ends(time.monotonic() + 60.0)
        kill_strays(self.status.uid)

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
        write_status(self.place.directory, self.status)

    def _finish(self, reason: str | None, *, disrupted: bool = False) -> None:
        """Write the final status; while the disk refuses it, go on trying, because an attempt hangs on it."""
        self.status.reason, self.status.disrupted = reason, disrupted
        while True:
            try:
                self._change("Succeeded" if reason is None else "Failed")
            except OSError:
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _told(self, step: str) -> str | None:
        """The failure that a step's termination message tells of."""
        try:
            message = msgspec.json.decode(
                message_file(self.place.directory, self.status.job, step).read_bytes(), type=_Message
            )
        except (OSError, msgspec.MsgspecError):
            return None
        return message.error or message.reason

    def _why_the_task_failed(self, job: LocalJob) -> str:
        try:
            file = pod_folder(self.place.directory, job.job) / "control" / "exit"
            record = msgspec.json.decode(file.read_bytes(), type=_ExitRecord)
        except (OSError, msgspec.MsgspecError):
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
