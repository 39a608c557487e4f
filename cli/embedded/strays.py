"""Processes that outlived the wrapper of their task, found and killed.

A wrapper adopts what its task orphans and ends it; the node adopts the orphans of wrappers that were killed themselves.
So every child of the node that is no step is such a rest, whatever is in its environment. Elsewhere than on Linux,
where nobody can adopt, a process that left its group is not found.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

from cli.embedded.podenv import POD_UID


class _Starting:
    """Held while a step is started or reaped, so that nobody else takes its exit status; knows all steps' pids."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


STARTING = _Starting()


def kill_strays() -> None:
    """Kill the node's children that are no steps, and what is below them; returns when none is left to be killed."""
    while True:
        with STARTING:
            ended = [pid for pid in _children() if pid not in STARTING.pids and _end(pid)]
        if not ended:
            return


def _end(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError, PermissionError):  # the last for one that runs as another user
        return False
    return True


def kill_everywhere(uids: Iterable[str]) -> None:
    """Kill every process of these pods, whoever its parent is: for pods of a node that died."""
    markers = [f"{POD_UID}={uid}".encode() for uid in uids]
    if not markers or not Path("/proc/self").exists():
        return
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:  # noqa: PTH208 -- names are wanted
        if any(_has(pid, marker) for marker in markers):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def reap_orphans() -> None:
    """Take the exit status of orphans that ended by themselves."""
    with STARTING:
        for pid in _children():
            if pid not in STARTING.pids:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _children() -> list[int]:
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.extend(int(pid) for pid in file.read_text().split())
    return found


def _has(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
