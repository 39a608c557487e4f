# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH116
"""The control folder, by which the wrapper tells publish of the task's life: `lock`, `started` and `exit`.

The wrapper holds an exclusive flock on `lock` from before `started` exists until it is gone, however it goes; so once
`started` is seen, a shared lock is granted exactly when the task has ended. `exit` is written before the lock is
released and is missing when the wrapper was killed. agent/exec.c keeps the same rules in containers.
"""

import fcntl
import os
import signal
import time
from collections.abc import Mapping

from agent.frozen import Frozen
from agent.locks import is_locked

MAX_RECORD_BYTES = 65536
MAX_SIGNAL_CHARACTERS = 16


class NotStarted(Exception):
    """The task did not start within the patience."""


class Stopped(Exception):
    """The pod was ended before the task started."""


class ExitRecord(Frozen):
    """How the command ended; times in epoch ms, memory in bytes. `exit_code` and `signal` are None when nobody lived to
    tell.
    """

    exit_code: int | None
    signal: str | None
    timed_out: bool
    cpu_ms: int
    peak_memory_bytes: int
    started_at: int
    ended_at: int
    error: str | None
    """Why the command could not be run at all."""

    def document(self) -> dict[str, object]:
        record: dict[str, object] = {
            "exitCode": self.exit_code,
            "signal": self.signal,
            "timedOut": self.timed_out,
            "cpuMs": self.cpu_ms,
            "peakMemoryBytes": self.peak_memory_bytes,
            "startedAt": self.started_at,
            "endedAt": self.ended_at,
        }
        if self.error is not None:
            record["error"] = self.error
        return record


def signal_name(number: int) -> str:
    """SIGKILL for 9; SIG40 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def wait_for_start(control_dir: str, patience_seconds: float | None) -> int:
    """Returns the start's time in epoch ms. Polls, a few milliseconds apart at first: the start is near, and nothing
    hangs on it.
    """
    deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
    pause = 0.002
    while True:
        try:
            return os.stat(f"{control_dir}/started").st_mtime_ns // 1_000_000
        except FileNotFoundError:
            pass
        if deadline is not None and time.monotonic() >= deadline:
            raise NotStarted(f"the task did not start within {patience_seconds:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)


def wait_for_end(control_dir: str) -> None:
    """Sleeps in the kernel until the wrapper is gone."""
    fd = os.open(f"{control_dir}/lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def is_held(control_dir: str) -> bool:
    """Whether a wrapper is at work. A lock that cannot be looked at is nobody's."""
    return is_locked(f"{control_dir}/lock")


def read_exit(control_dir: str) -> ExitRecord | None:
    """The exit record, or None when there is none that can be read."""
    # exec, which imports this module too, starts its command without JSON.
    from agent.documents import read_object
    from agent.logs import one_line

    try:
        fd = os.open(f"{control_dir}/exit", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = read_object(os.read(fd, MAX_RECORD_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)
    if fields is None:
        return None
    exit_code, signal_text, error = fields.get("exitCode"), fields.get("signal"), fields.get("error")
    # The file is the task's: only what a wrapper may write goes on from here.
    if not isinstance(exit_code, int) or isinstance(exit_code, bool) or not 0 <= exit_code <= 255:
        return None
    is_name = isinstance(signal_text, str) and signal_text.isascii() and signal_text.isalnum()
    return ExitRecord(
        exit_code=exit_code,
        signal=str(signal_text)[:MAX_SIGNAL_CHARACTERS] if is_name else None,
        timed_out=fields.get("timedOut") is True,
        cpu_ms=_whole(fields, "cpuMs"),
        peak_memory_bytes=_whole(fields, "peakMemoryBytes"),
        started_at=_whole(fields, "startedAt"),
        ended_at=_whole(fields, "endedAt"),
        error=one_line(error) if isinstance(error, str) else None,
    )


def _whole(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else 0
