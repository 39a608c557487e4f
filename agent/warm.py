"""Putting a task's outputs into its node's cache in the same read that hashes and stores them, so that a task that
follows on this node has them without a download.

Nothing here can fail an output: what the cache does not take is not in the cache.
"""

import contextlib
import fcntl
import os
import signal
import stat
from collections.abc import Callable

from agent.download import PartFile, SinkFault
from agent.folders import below, opened, remove
from agent.logs import Log, one_line
from agent.names import escape, parts_of
from agent.outputs import Content, FileContent
from agent.place import FICLONE
from agent.store import CacheFault, Origin, Store
from agent.web import Sending, Web, WebError

KEEPER_SECONDS = 5.0
"""A keeper that takes nothing for so long is gone: the store is not kept waiting for it."""


class Warming:
    """One output on its way into the cache. `restart` and then `take` follow the reading, from its first byte each
    time; `finish` makes it a blob; `close` drops what was not finished.
    """

    def __init__(self, content: Content, log: Log) -> None:
        self._content = content
        self._log = log
        self._given_up = False

    def restart(self) -> None:
        if not self._given_up:
            self._guarded(self._restart)

    def take(self, piece: memoryview) -> None:
        if not self._given_up:
            self._guarded(lambda: self._take(piece))

    def finish(self, digest: str) -> bool:
        """Whether the content with this digest is in the cache now."""
        if not self._given_up:
            self._guarded(lambda: self._finish(digest))
        return not self._given_up

    def leave(self, artifacts: str) -> None:
        """The content is in the cache, and noted: what need not be in the task's folder any more goes."""

    def close(self) -> None:
        self._given_up = True
        with contextlib.suppress(CacheFault, OSError):
            self._drop()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (CacheFault, SinkFault, WebError, OSError) as fault:
            self._log.line(f"Output {escape(self._content.name)} is not cached: {one_line(str(fault))}")
            self.close()

    def _restart(self) -> None:
        raise NotImplementedError

    def _take(self, piece: memoryview) -> None:
        raise NotImplementedError

    def _finish(self, digest: str) -> None:
        raise NotImplementedError

    def _drop(self) -> None:
        raise NotImplementedError


class IntoFolder(Warming):
    """Into a cache folder that this process may write: a reflink where the file system has it, else a copy. Without
    `reflink` always a copy, which is the bytes that were hashed even if somebody writes to the output meanwhile.
    """

    def __init__(self, store: Store, content: Content, log: Log, *, reflink: bool = True) -> None:
        super().__init__(content, log)
        self._reflink = reflink
        self._store = store
        self._held = contextlib.ExitStack()
        self._part: PartFile | None = None
        self._lock = ""
        self._offset = 0
        self._cloned = False

    def _restart(self) -> None:
        self._drop()
        self._part, self._lock = self._held.enter_context(self._store.own_part(self._content.size))
        self._offset = 0
        self._cloned = False
        if self._reflink and isinstance(self._content, FileContent) and self._content.size > 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._part.fd, FICLONE, self._content.fd)
                self._cloned = True

    def _take(self, piece: memoryview) -> None:
        if self._part is not None and not self._cloned:
            self._part.write_at(self._offset, piece)
            self._offset += len(piece)

    def _finish(self, digest: str) -> None:
        assert self._part is not None
        self._store.admit(self._part, self._lock, digest, self._content.size, Origin("output", None))
        self._drop()

    def _drop(self) -> None:
        self._part = None
        self._held.close()


def from_volume(store: Store, content: Content, log: Log) -> Warming:
    """For the outputs in a volume of the same file system: nothing is copied where nobody can write to them any more.
    To be asked before the content is read.
    """
    if isinstance(content, FileContent) and _closed_to_writers(content.fd):
        return ByRename(store, content, log)
    return IntoFolder(store, content, log, reflink=False)


class ByRename(Warming):
    """The output's own file becomes the blob. It was closed to writers before it was read: it is the agent's and
    read-only, has no other name, and a lease on it shows that nobody had it open for writing then, or has since.
    """

    def __init__(self, store: Store, content: FileContent, log: Log) -> None:
        super().__init__(content, log)
        self._store = store
        self._file = content

    def leave(self, artifacts: str) -> None:
        parts = parts_of(self._file.name)
        with contextlib.suppress(OSError), opened(artifacts) as root, below(root, parts[:-1]) as folder:
            # Whatever has the name by now was the task's to lose.
            remove(parts[-1], folder)

    def _restart(self) -> None:
        pass

    def _take(self, piece: memoryview) -> None:
        pass

    def _finish(self, digest: str) -> None:
        if fcntl.fcntl(self._file.fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise CacheFault("somebody opened it for writing")
        self._store.adopt(self._file.fd, digest, self._file.size, Origin("output", None))

    def _drop(self) -> None:
        pass


def _closed_to_writers(fd: int) -> bool:
    """Takes the file away from the task, as far as writing goes. The lease ends when the descriptor is closed."""
    try:
        if os.fstat(fd).st_nlink != 1:
            return False
        # The owner first: as long as it is the task's, the task can undo the mode.
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o444)
        # Should somebody be in the middle of opening it, the kernel says so by a signal; SIGIO would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        found = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


class IntoKeeper(Warming):
    """To the node's keeper, for a step that may not write the cache."""

    def __init__(self, web: Web, url: str, content: Content, log: Log) -> None:
        super().__init__(content, log)
        self._web = web
        self._url = url
        self._sending: Sending | None = None

    def _restart(self) -> None:
        self._drop()
        self._sending = self._web.sending("PUT", self._url, {}, self._content.size, KEEPER_SECONDS)

    def _take(self, piece: memoryview) -> None:
        if self._sending is not None:
            self._sending.send(piece)

    def _finish(self, digest: str) -> None:
        assert self._sending is not None
        with self._sending.answer() as response:
            if response.status != 200:
                raise WebError(f"the keeper answers HTTP {response.status}")
            if f'"{digest}"'.encode() not in response.read(4096):
                raise WebError("the keeper took other bytes than were stored")
        self._sending = None

    def _drop(self) -> None:
        if self._sending is not None:
            self._sending.close()
            self._sending = None
