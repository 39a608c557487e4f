"""One holder for each name, by flock on files that are not unlinked while anybody may wait for them.

flock ends with the holder, however it dies, so the next in line takes over. Waiting is bounded by the holder's
progress, not by the size of what it does: a waiter gives up when `progress` has shown the same value for the whole
patience.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator


class LockTimeout(Exception):
    """The holder neither finished nor moved within the patience."""


@contextlib.contextmanager
def held(path: str, patience_seconds: float, progress: Callable[[], object]) -> Generator[bool]:
    """Holds the lock file `path`; yields whether another holder was waited for. Raises LockTimeout or OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield acquire(fd, patience_seconds, progress)
    finally:
        os.close(fd)


def acquire(fd: int, patience_seconds: float, progress: Callable[[], object]) -> bool:
    """Locks what is open as `fd`, until it is closed; the same answer and errors as of `held`."""
    if try_lock(fd):
        return False
    seen = progress()
    deadline = time.monotonic() + patience_seconds
    pause = 0.002
    while not try_lock(fd):
        now = time.monotonic()
        if (moved := progress()) != seen:
            seen = moved
            deadline = now + patience_seconds
        elif now >= deadline:
            raise LockTimeout(f"its holder made no progress for {patience_seconds:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


def is_locked(path: str) -> bool:
    """Whether somebody has the file `path` locked for himself alone. One that cannot be looked at is nobody's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether nobody else's lock is in its way; then it is held, until it is closed."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
