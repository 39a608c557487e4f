"""A declared output, opened safely and read as one stream of bytes of a known length.

The artifacts folder was the task's, so nothing in it is trusted: every component is opened from its parent without
following links, only a regular file or a folder of them is accepted, and what changes while it is read is refused
rather than stored half old, half new.
"""

import bisect
import contextlib
import errno
import os
import stat
import threading
from array import array
from collections.abc import Generator
from itertools import zip_longest

from agent.archive import UNSIGNED, ArchiveRefused, Entries, Entry, ending, kind_of, padding, walk_folder
from agent.download import BUFFER
from agent.folders import below, opened
from agent.names import HELIOS_FOLDER, escape, parts_of

OBJECT_BYTES = 5 * 1024**4
_LARGE = threading.Semaphore(2)
"""Of all folders that a process stores at once, so many may be large (archive.LARGE_ENTRIES)."""


class OutputRefused(Exception):
    """The output cannot be stored; the message names it and says why."""


class FileContent:
    """A regular file, as it is."""

    archive = False
    """Whether the bytes are a folder's tar."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        found = os.fstat(fd)
        self.size = found.st_size
        self._mtime_ns = found.st_mtime_ns

    def pieces(self, start: int, end: int) -> Generator[memoryview]:
        """The bytes [start, end) in pieces; each is valid until the next is asked for. Raises OutputRefused."""
        yield from _pieces(self.name, self.fd, start, end)

    def check(self) -> None:
        """Raises OutputRefused if the output is not what it was when it was opened."""
        found = os.fstat(self.fd)
        if (found.st_size, found.st_mtime_ns) != (self.size, self._mtime_ns):
            raise OutputRefused(f"output {escape(self.name)} changed while it was read")


class FolderContent:
    """A folder as its deterministic tar, which exists nowhere: headers are made and files are read when their bytes are
    asked for.
    """

    archive = True

    def __init__(self, name: str, fd: int, held: contextlib.ExitStack) -> None:
        """`held`: what is given back when the content is not used any more."""
        self.name = name
        self._fd = fd
        self._entries = Entries()
        self._starts = array("Q")
        offset = 0
        for entry in walk_folder(fd, lambda: held.enter_context(_LARGE)):
            self._entries.add(entry)
            self._starts.append(offset)
            offset += len(entry.header()) + entry.size + len(padding(entry.size))
        self._end = offset
        self.size = offset + len(ending())

    def pieces(self, start: int, end: int) -> Generator[memoryview]:
        index = max(0, bisect.bisect_right(self._starts, start) - 1)
        while start < end and index < len(self._entries):
            following = self._starts[index + 1] if index + 1 < len(self._starts) else self._end
            if start < following:
                first = start - self._starts[index]
                yield from self._entry_pieces(self._entries[index], first, min(end, following) - self._starts[index])
                start = min(end, following)
            index += 1
        if start < end:
            yield memoryview(ending())[start - self._end : end - self._end]

    def _entry_pieces(self, entry: Entry, start: int, end: int) -> Generator[memoryview]:
        header = entry.header()
        if start < len(header):
            yield memoryview(header)[start : min(end, len(header))]
        start, end = max(0, start - len(header)), end - len(header)
        if start < min(end, entry.size):
            with self._opened(entry) as fd:
                yield from _pieces(self.name, fd, start, min(end, entry.size))
                self._same(entry, os.fstat(fd))
        start, end = max(0, start - entry.size), end - entry.size
        if start < end:
            yield memoryview(padding(entry.size))[start:end]

    def check(self) -> None:
        try:
            pairs = zip_longest(self._entries, walk_folder(self._fd))
            if any(before != now for before, now in pairs):
                raise OutputRefused(f"output {escape(self.name)} changed while it was read")
        except (OSError, ArchiveRefused):
            raise OutputRefused(f"output {escape(self.name)} changed while it was read") from None

    @contextlib.contextmanager
    def _opened(self, entry: Entry) -> Generator[int]:
        parts = parts_of(entry.path)
        try:
            with below(self._fd, parts[:-1]) as folder:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(parts[-1], flags, dir_fd=folder)
        except OSError as error:
            raise OutputRefused(f"output {escape(self.name)}: {escape(entry.path)}: {error.strerror}") from None
        try:
            self._same(entry, os.fstat(fd))
            yield fd
        finally:
            os.close(fd)

    def _same(self, entry: Entry, found: os.stat_result) -> None:
        seen = ((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns & UNSIGNED)
        if seen != (entry.inode, entry.size, entry.mtime_ns):
            raise OutputRefused(f"output {escape(self.name)}: {escape(entry.path)} changed while it was read")


class MadeContent:
    """Bytes that publish made itself."""

    archive = False

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.size = len(data)
        self._data = memoryview(data)

    def pieces(self, start: int, end: int) -> Generator[memoryview]:
        yield self._data[start:end]

    def check(self) -> None:
        pass


Content = FileContent | FolderContent | MadeContent
"""An output's bytes. Any part can be read at any time, from several threads at once."""


@contextlib.contextmanager
def open_output(artifacts: str, name: str, limit_bytes: int = 0) -> Generator[Content]:
    """The output artifacts/<name>; raises OutputRefused when it is missing, a link, a device, a FIFO, a socket, leads
    out, or has more bytes than the limit, if there is one: a file of holes takes no disk, but as long to read.
    """
    parts = parts_of(name)
    if parts[0] == HELIOS_FOLDER:
        raise OutputRefused(f"output {escape(name)} is not the task's own")
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(opened(artifacts))
            folder = stack.enter_context(below(root, parts[:-1]))
            found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise OutputRefused(
                    f"output {escape(name)} is {kind_of(found.st_mode)}; only files and folders are stored"
                )
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(parts[-1], flags, dir_fd=folder)
            stack.callback(os.close, fd)
            # What was opened decides, not what had the name a moment before.
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                content: Content = FolderContent(name, fd, stack)
            elif stat.S_ISREG(mode):
                content = FileContent(name, fd)
            else:
                raise OutputRefused(f"output {escape(name)} is {kind_of(mode)}; only files and folders are stored")
        except FileNotFoundError:
            raise OutputRefused(f"output {escape(name)} was not written by the task") from None
        except ArchiveRefused as refusal:
            raise OutputRefused(f"output {escape(name)}: {refusal}; only files and folders are stored") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise OutputRefused(f"output {escape(name)}: its path goes through a symbolic link or a file") from None
            raise OutputRefused(f"output {escape(name)} cannot be read: {error.strerror}") from None
        for limit, what in ((limit_bytes, "HELIOS_VOLUME_BYTES"), (OBJECT_BYTES, "the most that an object can have")):
            if limit and content.size > limit:
                raise OutputRefused(f"output {escape(name)} has {content.size} bytes, more than {limit} ({what})")
        yield content


def _pieces(name: str, fd: int, start: int, end: int) -> Generator[memoryview]:
    buffer = memoryview(bytearray(min(BUFFER, max(1, end - start))))
    while start < end:
        try:
            count = os.preadv(fd, [buffer[: end - start]], start)
        except OSError as error:
            raise OutputRefused(f"output {escape(name)} cannot be read: {error.strerror}") from None
        if count == 0:
            raise OutputRefused(f"output {escape(name)} became shorter while it was read")
        yield buffer[:count]
        start += count
