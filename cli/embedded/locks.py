"""The two locks of a home, both flock: the kernel gives them back however their holder ends.

run/supervisor.lock   exclusive: held by the one supervisor for its whole life, handed to it by the command that
                      starts it
run/leases.lock       shared: held by each command that uses the stack. The supervisor takes it exclusively to see
                      that nobody does, and keeps it while it stops, so that a new command waits for the end
"""

import fcntl
import os
from pathlib import Path

from cli.embedded.home import Home


def supervisor_lock(home: Home) -> Path:
    return home.run / "supervisor.lock"


def leases_lock(home: Home) -> Path:
    return home.run / "leases.lock"


def open_lock(file: Path) -> int:
    """A descriptor to lock with; lock files are never removed."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(fd: int, *, shared: bool) -> bool:
    """Take the lock if it is to be had now."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)
