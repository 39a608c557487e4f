# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH104, PTH108
"""Walking below a folder without ever following a link: each component is opened on its own, from its parent's
descriptor.

All functions raise OSError as the system calls do; a symlink in the way is ELOOP or ENOTDIR.
"""

import contextlib
import os
import stat
from collections.abc import Generator, Sequence

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: str) -> Generator[int]:
    """A descriptor of the folder `path`, which is trusted up to its last component."""
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def below(root: int, parts: Sequence[str], *, create: bool = False, owner: int | None = None) -> Generator[int]:
    """A descriptor of root/parts[0]/parts[1]/...; `create` makes what is missing, as writable as the root is, and the
    `owner`'s if one is given.
    """
    fd = os.dup(root)
    try:
        mode = stat.S_IMODE(os.fstat(root).st_mode) & 0o777
        for part in parts:
            made = _make(part, fd) if create else False
            inner = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
            if made:
                os.fchmod(fd, mode)
                give(fd, owner)
        yield fd
    finally:
        os.close(fd)


def give(fd: int, owner: int | None) -> None:
    """Makes what is open another user's, and its group's of the same number."""
    if owner is not None:
        os.fchown(fd, owner, owner)


def _make(name: str, parent: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def remove(name: str, parent: int) -> None:
    """Removes a file or link if it is there; a folder is an error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def remove_tree(name: str, parent: int) -> None:
    """Removes a folder with all below it, links as links; nothing happens when it is not there."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError:
        remove(name, parent)
        return
    try:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_folder in found:
            if is_folder:
                remove_tree(inner, fd)
            else:
                remove(inner, fd)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def write_whole(path: str, data: bytes, mode: int = 0o644) -> None:
    """Writes a small file so that a reader sees the old content or the new, never half of it; with all of the `mode`,
    whatever the umask.
    """
    beside = f"{path}.{os.urandom(6).hex()}.new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(beside, path)
    except BaseException:
        # On a full disk it is tried again and again, and each try has a name of its own.
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
