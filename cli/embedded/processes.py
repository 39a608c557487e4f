"""Who a process is, and how it is ended: a pid alone names nobody, because pids are given out again.

A process is known by its pid and the time it started; no signal goes to a pid whose start differs.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Loaded once, before any fork: the child between fork and exec must not load anything.
_libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


class Known(msgspec.Struct, frozen=True):
    """One process that cannot be mistaken for a later one with its pid."""

    pid: int
    started: str


def known(pid: int) -> Known | None:
    """The process with this pid; None if there is none, or only its zombie."""
    started = _started(pid)
    return None if started is None else Known(pid, started)


def this_process() -> Known:
    me = known(os.getpid())
    assert me is not None
    return me


def is_alive(process: Known) -> bool:
    return _started(process.pid) == process.started


def _started(pid: int) -> str | None:
    if _libc is not None:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        fields = stat[stat.rindex(b")") + 2 :].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    found = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    state, _, started = found.partition(" ")
    return None if not found or state.startswith("Z") else started.strip()


def send(process: Known, number: signal.Signals) -> None:
    """Signal the process, if it is still that one."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def end_all(processes: Iterable[Known], grace_seconds: float) -> None:
    """SIGTERM, then SIGKILL for what is left after the grace; returns when all are gone."""
    left = [process for process in processes if is_alive(process)]
    for process in left:
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [process for process in left if is_alive(process)]
    for process in left:
        send(process, signal.SIGKILL)
    while left:
        time.sleep(0.005)
        left = [process for process in left if is_alive(process)]


def dies_with_parent() -> Callable[[], None] | None:
    """A preexec function: the kernel kills the child when the *thread* that started it ends. None where it cannot.

    So a child may only be started by a thread that outlives it.
    """
    libc, parent = _libc, os.getpid()
    if libc is None:
        return None

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return in_child


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, where it can."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, so that it can find and end them."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
