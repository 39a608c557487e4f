"""Putting inputs into the artifacts folder: as a link, as a private copy, as an unpacked folder, or downloaded straight
there.

What is made here is as writable as the folder it is made in, because the task may run as another user than fetch does;
where an `owner` is given, what the task may write to becomes that user's. Nothing follows a link below the artifacts
folder. Failures are OSErrors; the caller knows whether the cache or the task's folder is to blame.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Generator

from agent.download import BUFFER, PartFile
from agent.folders import below, give, opened, remove
from agent.names import parts_of

FICLONE = 0x40049409
_COPY_AT_ONCE = 64 * 1024 * 1024


def link(artifacts: str, name: str, target: str, owner: int | None = None) -> None:
    """Makes artifacts/<name> a symbolic link to `target`, a view's file."""
    with _slot(artifacts, name, owner) as (folder, last):
        remove(last, folder)
        os.symlink(target, last, dir_fd=folder)


def copy(artifacts: str, name: str, origin: str, owner: int | None = None) -> None:
    """Makes artifacts/<name> a private, writable copy of the file `origin`: a reflink where the file system has it."""
    source = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _new_file(artifacts, name, owner, writable=True) as target:
            _copy_bytes(source, target)
    finally:
        os.close(source)


def unpack(artifacts: str, name: str, origin: str, owner: int | None = None) -> None:
    """Unpacks the tar file `origin` into the new folder artifacts/<name>/."""
    from agent.archive import unpack_below

    fd = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with opened(artifacts) as root, below(root, parts_of(name), create=True, owner=owner) as folder:
            unpack_below(fd, folder, owner)
    finally:
        os.close(fd)


@contextlib.contextmanager
def direct(artifacts: str, name: str, owner: int | None = None, *, writable: bool) -> Generator[PartFile]:
    """A file under way beside artifacts/<name> that takes this name when the block ends well, and is gone when it does
    not.
    """
    with _new_file(artifacts, name, owner, writable=writable) as fd:
        yield PartFile(fd)


@contextlib.contextmanager
def direct_archive(artifacts: str, name: str, owner: int | None = None) -> Generator[PartFile]:
    """A file without a name on the artifacts folder's file system, unpacked into artifacts/<name>/ when the block ends
    well.
    """
    from agent.archive import unpack_below

    with opened(artifacts) as root:
        passing = f".helios-{os.urandom(6).hex()}"
        fd = os.open(passing, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            os.unlink(passing, dir_fd=root)
            yield PartFile(fd)
            with below(root, parts_of(name), create=True, owner=owner) as folder:
                unpack_below(fd, folder, owner)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _slot(artifacts: str, name: str, owner: int | None) -> Generator[tuple[int, str]]:
    """The folder that will hold artifacts/<name>, made if missing, and the name within it."""
    parts = parts_of(name)
    with opened(artifacts) as root, below(root, parts[:-1], create=True, owner=owner) as folder:
        yield folder, parts[-1]


@contextlib.contextmanager
def _new_file(artifacts: str, name: str, owner: int | None, *, writable: bool) -> Generator[int]:
    with _slot(artifacts, name, owner) as (folder, last):
        passing = f".helios-{os.urandom(6).hex()}"
        fd = os.open(passing, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            yield fd
            allowed = stat.S_IMODE(os.fstat(folder).st_mode) & 0o666
            os.fchmod(fd, (allowed | 0o600) if writable else 0o444)
            give(fd, owner if writable else None)
            os.rename(passing, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            remove(passing, folder)
            raise
        finally:
            os.close(fd)


def _copy_bytes(source: int, target: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, FICLONE, source)
        return
    try:
        while os.copy_file_range(source, target, _COPY_AT_ONCE):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM):
            raise
        _copy_plainly(source, target)


def _copy_plainly(source: int, target: int) -> None:
    os.ftruncate(target, 0)
    buffer = memoryview(bytearray(BUFFER))
    offset = 0
    while count := os.preadv(source, [buffer], offset):
        written = 0
        while written < count:
            written += os.pwrite(target, buffer[written:count], offset + written)
        offset += count
