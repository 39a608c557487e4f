"""A folder as one deterministic tar: the same content gives the same bytes, whoever wrote it and when.

Entries are sorted by their path's bytes; owner, group and time are zero; a file is 0644, or 0755 when its owner may
execute it; a folder is 0755. Only regular files and folders exist in such an archive: packing refuses everything else,
and so does unpacking, where every entry is made below the target folder without following links and without replacing
anything. That is stricter than tarfile's data filter and the same on every Python.
"""

import errno
import io
import os
import stat
from array import array
from collections.abc import Callable, Iterator

from agent.folders import below, give
from agent.frozen import TYPE_CHECKING, Frozen
from agent.names import NameRefused, escape, parts_of

# Imported only where a tar is written or read: it costs four milliseconds, and most inputs and outputs are plain files.
if TYPE_CHECKING:
    import tarfile
    from typing import BinaryIO

BLOCK = 512
MAX_ENTRIES = 1_000_000
LARGE_ENTRIES = 50_000
"""A folder with more takes memory, up to some hundred megabytes."""
_PIECE = 1024 * 1024
"""Of a file's content at once; and no name needs a longer header."""
UNSIGNED = 2**64 - 1
"""Times are compared and kept modulo this and one: a file's may be before 1970, or centuries ahead."""
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
    """See UNSIGNED."""

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


class Entries:
    """Many entries in their order, packed: 50 bytes each and their paths. As objects, a million would take half a
    gigabyte.
    """

    def __init__(self) -> None:
        self._paths = bytearray()
        self._ends = array("Q")
        self._kinds = bytearray()
        self._numbers = array("Q")
        """Four of each entry."""

    def add(self, entry: Entry) -> None:
        self._paths += os.fsencode(entry.path)
        self._ends.append(len(self._paths))
        self._kinds.append(entry.is_folder | entry.executable << 1)
        self._numbers.extend((entry.size, *entry.inode, entry.mtime_ns))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Entry:
        path = os.fsdecode(bytes(self._paths[self._ends[index - 1] if index else 0 : self._ends[index]]))
        size, device, inode, mtime_ns = self._numbers[4 * index : 4 * index + 4]
        kind = self._kinds[index]
        return Entry(path, bool(kind & 1), bool(kind & 2), size, (device, inode), mtime_ns)

    def __iter__(self) -> Iterator[Entry]:
        return (self[index] for index in range(len(self)))


def walk_folder(folder: int, many: Callable[[], object] = lambda: None) -> Iterator[Entry]:
    """Every path below the open folder, sorted; `many` is called once when they are more than LARGE_ENTRIES. Raises
    ArchiveRefused for what is neither a file nor a folder, OSError as it comes.
    """
    return _walk(folder, "", _Count(many))


class _Count:
    """How many paths were seen."""

    def __init__(self, many: Callable[[], object]) -> None:
        self._seen = 0
        self._many = many

    def one_more(self) -> None:
        self._seen += 1
        if self._seen == LARGE_ENTRIES + 1:
            self._many()
        if self._seen > MAX_ENTRIES:
            raise ArchiveRefused(f"it holds more than {MAX_ENTRIES} files")


def _walk(folder: int, prefix: str, count: _Count) -> Iterator[Entry]:
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            count.one_more()
            names.append(entry.name)
    names.sort()  # those that are valid Unicode, and others are refused, sort like their bytes
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
        mtime_ns = status.st_mtime_ns & UNSIGNED
        yield Entry(path, is_folder, executable, size, (status.st_dev, status.st_ino), mtime_ns)
        if is_folder:
            with below(folder, (name,)) as inner:
                yield from _walk(inner, path + "/", count)


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
        with open(fd, "rb", closefd=False) as raw, tarfile.open(fileobj=_Pieces(raw), mode="r:") as archive:
            count = 0
            while (member := archive.next()) is not None:
                count += 1
                if count > MAX_ENTRIES:
                    raise ArchiveRefused(f"it holds more than {MAX_ENTRIES} entries")
                _unpack_one(archive, member, folder, allowed, owner)
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would remember every one
    except (tarfile.TarError, ValueError, RecursionError) as error:
        # tarfile follows headers that only announce others by recursion, and takes some damage for what it is not.
        raise ArchiveRefused(f"not a readable tar: {error}") from None


class _Pieces(io.RawIOBase):
    """The open file, of which nobody reads a large piece at once: tarfile would read the whole of a header that
    announces a name, however long it says that this is.
    """

    def __init__(self, file: "BinaryIO") -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _PIECE:
            raise ArchiveRefused("a header in it is larger than any name needs")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _unpack_one(
    archive: "tarfile.TarFile", member: "tarfile.TarInfo", folder: int, allowed: int, owner: int | None
) -> None:
    try:
        parts = parts_of(member.name.rstrip("/") if member.isdir() else member.name)
    except NameRefused as refusal:
        raise ArchiveRefused(str(refusal)) from None
    if member.size < 0:  # what follows it would be itself
        raise ArchiveRefused(f"entry {escape(member.name)} has no size")
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
                data = content.read(min(left, _PIECE))
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
