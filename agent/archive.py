"""A folder as one deterministic tar: the same content gives the same bytes, whoever wrote it and when.

Entries are sorted by their path's bytes; owner, group and time are zero; a file is 0644, or 0755 when its owner may
execute it; a folder is 0755. Only regular files and folders exist in such an archive: packing refuses everything else,
and so does unpacking, where every entry is made below the target folder without following links and without replacing
anything. That is stricter than tarfile's data filter and the same on every Python.
"""

import errno
import os
import stat

from agent.folders import below, give
from agent.frozen import TYPE_CHECKING, Frozen
from agent.names import NameRefused, escape, parts_of

# Imported only where a tar is written or read: it costs four milliseconds, and most inputs and outputs are plain files.
if TYPE_CHECKING:
    import tarfile

BLOCK = 512
MAX_ENTRIES = 1_000_000
_END = bytes(2 * BLOCK)


class ArchiveRefused(Exception):
    """Something that an archive must not hold; the message names it."""


class Entry(Frozen):
    """One path of a folder to be packed, `path` relative to it; folders have a size of 0."""

    path: str
    is_folder: bool
    executable: bool
    size: int
    inode: tuple[int, int]
    mtime_ns: int

    def header(self) -> bytes:
        import tarfile

        info = tarfile.TarInfo(self.path)
        info.type = tarfile.DIRTYPE if self.is_folder else tarfile.REGTYPE
        info.mode = 0o755 if self.is_folder or self.executable else 0o644
        info.size = self.size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """The zeros that fill a file's last block."""
    return bytes(-size % BLOCK)


def ending() -> bytes:
    """The two empty blocks that end an archive."""
    return _END


def list_folder(folder: int) -> list[Entry]:
    """Every path below the open folder, sorted. Raises ArchiveRefused for what is neither a file nor a folder, OSError
    as it comes.
    """
    found: list[Entry] = []
    _list(folder, "", found)
    found.sort(key=lambda entry: os.fsencode(entry.path).split(b"/"))
    return found


def _list(folder: int, prefix: str, found: list[Entry]) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        path = prefix + name
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_folder = stat.S_ISDIR(status.st_mode)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            raise ArchiveRefused(f"{escape(path)} in it is {kind_of(status.st_mode)}")
        try:
            parts_of(path)
        except NameRefused as refusal:
            raise ArchiveRefused(str(refusal)) from None
        size = 0 if is_folder else status.st_size
        executable = bool(status.st_mode & stat.S_IXUSR)
        found.append(Entry(path, is_folder, executable, size, (status.st_dev, status.st_ino), status.st_mtime_ns))
        if len(found) > MAX_ENTRIES:
            raise ArchiveRefused(f"it holds more than {MAX_ENTRIES} files")
        if is_folder:
            with below(folder, (name,)) as inner:
                _list(inner, path + "/", found)


def kind_of(mode: int) -> str:
    """What a file of this mode is, for a reason."""
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a folder" if stat.S_ISDIR(mode) else "a regular file"


def unpack_below(fd: int, folder: int, owner: int | None = None) -> None:
    """Unpacks the tar in the open file `fd` below the open folder, as the `owner`'s if one is given. Raises
    ArchiveRefused or OSError.
    """
    import tarfile

    os.lseek(fd, 0, os.SEEK_SET)
    allowed = stat.S_IMODE(os.fstat(folder).st_mode) & 0o777
    try:
        with open(fd, "rb", closefd=False) as raw, tarfile.open(fileobj=raw, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_ENTRIES:
                    raise ArchiveRefused(f"it holds more than {MAX_ENTRIES} entries")
                _unpack_one(archive, member, folder, allowed, owner)
    except tarfile.TarError as error:
        raise ArchiveRefused(f"not a readable tar: {error}") from None


def _unpack_one(
    archive: "tarfile.TarFile", member: "tarfile.TarInfo", folder: int, allowed: int, owner: int | None
) -> None:
    try:
        parts = parts_of(member.name.rstrip("/") if member.isdir() else member.name)
    except NameRefused as refusal:
        raise ArchiveRefused(str(refusal)) from None
    if member.isdir():
        with below(folder, parts, create=True, owner=owner):
            return
    if not member.isreg() or member.issparse():
        raise ArchiveRefused(f"entry {escape(member.name)} is neither a plain file nor a folder")
    content = archive.extractfile(member)
    assert content is not None
    with below(folder, parts[:-1], create=True, owner=owner) as parent:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(parts[-1], flags, 0o600, dir_fd=parent)
        try:
            left = member.size
            while left > 0:
                data = content.read(min(left, 1024 * 1024))
                if not data:
                    raise OSError(errno.EIO, "the archive is cut short")
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view) :]
            os.fchmod(target, (allowed & (0o777 if member.mode & 0o100 else 0o666)) | 0o600)
            give(target, owner)
        finally:
            os.close(target)
