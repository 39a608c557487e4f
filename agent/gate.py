# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101
"""How fetch, which runs beside the task, keeps the task's command from starting before its inputs are there.

kubelet starts a pod's containers in their order, and the next one only when the hook of the one before has returned
(https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/). So fetch's hook, `exec --placed DIR`, waits
for `placed`: from then on the wrapper and the view are where the task's container wants them. The wrapper and publish
then wait for the lock on `fetching`, which fetch holds from before `placed` until it is done or dead, and go by whether
`fetched` is there then. An init container would keep them away for up to a second longer, since that is how often
kubelet looks whether a container has ended.
"""

import contextlib
import fcntl
import os
import time

HOOK_SECONDS = 30.0


class Gate:
    """fetch's side. May raise OSError."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # Readable to any user, since the wrapper is a stranger's.
        self._lock = os.open(f"{folder}/fetching", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(self._lock, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def place(self) -> None:
        """The task's container may be made."""
        self._mark("placed")

    def open(self) -> None:
        """The command may start."""
        self._mark("fetched")
        os.close(self._lock)

    def _mark(self, name: str) -> None:
        path = f"{self._folder}/{name}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        os.chmod(path, 0o644)  # whatever the umask, as above


def wait_for_hook(folder: str) -> None:
    """Until the hook has returned: one that dies with this container would count as failed. It has failed when nothing
    was placed: then it waits for that, and nobody for it.
    """
    if not os.access(f"{folder}/placed", os.F_OK):
        return
    deadline = time.monotonic() + HOOK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(f"{folder}/hook", os.O_RDONLY | os.O_CLOEXEC)
            try:
                pid = int(os.read(fd, 32))
            finally:
                os.close(fd)
            if not os.access(f"/proc/{pid}", os.F_OK):
                return
        time.sleep(0.002)


def wait_for_fetch(folder: str) -> bool:
    """Sleeps in the kernel until fetch has ended; whether it has brought everything. May raise OSError."""
    try:
        fd = os.open(f"{folder}/fetching", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # this container was only made because the hook had returned, or failed
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)
    return os.access(f"{folder}/fetched", os.F_OK)
