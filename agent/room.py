# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH108, PTH110, PTH116
"""Room on a full disk: a fetch leaves a wish in the cache's folder, and the keeper evicts for it before its next round.

    <root>/room    {"v": 1, "bytes": what has to be free, "for": the digest, or ""}
         /kept    locked by the keeper as long as it lives: without one nobody waits

One wish at a time. The keeper removes it when it has done what it could; whoever finds it gone and still no room, as
when somebody else's wish took its place, goes around the cache.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Generator

from agent.folders import write_whole
from agent.frozen import Frozen
from agent.locks import is_locked, try_lock
from agent.saved import read_saved, whole

_WISH = "room"
_KEPT = "kept"
PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class Wish(Frozen):
    """Bytes that should be free, and the digest of what is to fill them; that is empty where it is not known."""

    size: int
    digest: str


def free_bytes(root: str) -> int:
    """What can still be written on the cache's file system. Raises OSError."""
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize


def has_room(root: str, size: int, digest: str = "") -> bool:
    """Whether so many bytes are free. Where they are not, and a keeper lives, it is asked and waited for. Raises
    OSError.
    """
    if free_bytes(root) >= size:
        return True
    if not _is_kept(root):
        return False
    deadline = time.monotonic() + PATIENCE_SECONDS
    _leave(root, Wish(size, digest))
    while is_wished(root) and time.monotonic() < deadline and free_bytes(root) < size:
        time.sleep(_LOOK_SECONDS)
    return free_bytes(root) >= size


def is_wished(root: str) -> bool:
    """Whether somebody waits for room."""
    return os.path.exists(f"{root}/{_WISH}")


def read_wish(root: str) -> Wish:
    """What is wished for: no bytes when nothing is, or when whoever left it has long given up."""
    path = f"{root}/{_WISH}"
    try:
        age = time.time() - os.stat(path, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return Wish(0, "")
    document = read_saved(path)
    digest = document.get("for")
    size = whole(document, "bytes") if age < PATIENCE_SECONDS else 0
    return Wish(size, digest if isinstance(digest, str) else "")


def end_wish(root: str) -> None:
    """Tells whoever waits that there will be no more room than there is now."""
    try:
        os.unlink(f"{root}/{_WISH}")
    except FileNotFoundError:
        return


def _is_kept(root: str) -> bool:
    """Whether a keeper lives: its lock ends with it, however it dies."""
    return is_locked(f"{root}/{_KEPT}")


@contextlib.contextmanager
def attended(root: str) -> Generator[Callable[[], object]]:
    """For the keeper: what it calls in each round says that it lives, until the end. One of several is enough, and
    another follows it. A disk that is too full for the lock's file is no error: the next round has more room.
    """
    held: list[int] = []

    def attend() -> None:
        with contextlib.suppress(OSError):
            if not held:
                held.append(os.open(f"{root}/{_KEPT}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            try_lock(held[0], fcntl.LOCK_EX)

    try:
        yield attend
    finally:
        for fd in held:
            os.close(fd)


def _leave(root: str, wish: Wish) -> None:
    document = {"v": 1, "bytes": wish.size, "for": wish.digest}
    write_whole(f"{root}/{_WISH}", json.dumps(document).encode(), 0o600)
