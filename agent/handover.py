"""What a step leaves behind in files: its termination message, what fetch tells publish beside its manifest, and the
task's wrapper.
"""

import os

from agent import logs
from agent.folders import write_whole
from agent.logs import Log
from agent.settings import WrapperPlace

KEPT_BYTES = 4096
"""Nobody reads more of a termination message."""


def write_message(path: str | None, message: bytes, log: Log) -> None:
    """Writes a step's termination message, in place: Kubernetes mounts the very file. One that is there is replaced in
    one go, so that a death at any moment leaves one of the two.
    """
    if path is None:
        return
    try:
        # Where the task can reach this path it may have put a FIFO there; nobody waits for its reader.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            # Padded over the old one, since what is left of that behind the new would make both unreadable.
            os.write(fd, message.ljust(min(os.fstat(fd).st_size, KEPT_BYTES)))
            os.ftruncate(fd, len(message))
        finally:
            os.close(fd)
    except OSError as failure:
        log.line(logs.error(f"the termination message cannot be written: {failure.strerror}"))


def note_nothing_to_store(state_dir: str) -> None:
    """Tells publish that the plan has no outputs, so that it need not ask for it. May raise OSError."""
    os.close(os.open(f"{state_dir}/nothing-to-store", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def nothing_to_store(state_dir: str) -> bool:
    return os.access(f"{state_dir}/nothing-to-store", os.F_OK)


def place_wrapper(place: WrapperPlace) -> None:
    """Puts the wrapper where the task's container, which may be any user's, executes it. May raise OSError, but not
    for a full disk where it is in place.
    """
    source = os.open(place.source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        binary = os.read(source, os.fstat(source).st_size)
    finally:
        os.close(source)
    target = f"{place.control_dir}/exec"
    if not _is_in_place(target, binary):
        # Where one is replaced, a task may be about to execute it: it has its mode before it has its name.
        write_whole(target, binary, 0o555)


def _is_in_place(path: str, binary: bytes) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_mode & 0o777 == 0o555 and os.read(fd, len(binary) + 1) == binary
    finally:
        os.close(fd)
