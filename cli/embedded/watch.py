"""Waiting for a folder to change: inotify where the kernel has it, else a look at its time every 20 ms."""

import ctypes
import os
import select
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.02
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200


class FolderWatch:
    """Tells when names came into a folder or went; may tell too often, and a caller looks now and then regardless."""

    def __init__(self, folder: Path, wake: int) -> None:
        self._folder = folder
        self._wake = wake
        self._notices = _inotify(folder)
        self._seen = 0

    def wait(self, seconds: float) -> None:
        """Return when the folder changed, when the wake pipe has something, or when the time is over."""
        if self._notices is not None:
            self._drain(select.select([self._wake, self._notices], [], [], seconds)[0])
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._drain(select.select([self._wake], [], [], POLL_SECONDS)[0])
            changed = self._folder.stat().st_mtime_ns
            # A change within one tick of the file system's clock would show the same time: fresh counts as changed.
            if changed != self._seen or time.time_ns() - changed < 50_000_000:
                self._seen = changed
                return

    def _drain(self, ready: list[int]) -> None:
        for fd in ready:
            os.read(fd, 65536)


def _inotify(folder: Path) -> int | None:
    """A descriptor that is readable when the folder changed; None where there is no inotify or it is exhausted."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(folder), _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE) < 0:
        os.close(fd)
        return None
    return fd
