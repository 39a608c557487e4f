# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH108, PTH116, PTH208
"""keep: look after one node's cache for as long as the node lives, and say what it holds.

Every round waits for the disk on behalf of pending blobs (agent.stamp), removes the views of pods that are gone and
what dead downloads left in tmp/, and now and then prints the inventory as one line of JSON, and leaves it for fetch.

Whose pod is gone is asked of the kernel, not of Kubernetes, so no token has to lie on every node: a task's wrapper
(agent/exec.c) holds a shared flock on its view's folder, which ends with the process, however that ends. A view that
was seen held and is free now is removed at once. One that was not belongs to a task that has not started yet, or that
was over between two rounds; it stays for `view_hours` after its fetch.

fetch holds the view too, but alone, so that its end is not taken for the task's: between the two an image may be pulled
for minutes.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Mapping

from agent.folders import opened, remove_tree
from agent.inventory import leave_inventory
from agent.settings import KeepSettings, SettingsError, keep_settings
from agent.stamp import Seal, boot_id, read_seal
from agent.store import CacheFault, Store

_VIEW = "keep"
"""A Store belongs to a job. This one's view is removed as soon as it exists; no Job has a name without a digest."""

_TMP = "tmp"
_DIGEST_CHARACTERS = 64
_TICK_NS = 2_000_000_000
"""A folder's mtime is trusted to tell of changes only when it is older than this: clocks of file systems are coarse."""


class _Shelf:
    """One folder of blobs as it was seen at `mtime_ns`."""

    def __init__(self, mtime_ns: int) -> None:
        self.mtime_ns = mtime_ns
        self.blobs = 0
        self.bytes = 0
        self.pending: list[str] = []


class Keeper:
    """One node's cache, and what earlier rounds saw of it."""

    def __init__(self, root: str, node: str, view_hours: float) -> None:
        self._root = root
        self._node = node
        self._view_ns = int(view_hours * 3600e9)
        self._store = Store(root, _VIEW)
        self._boot = boot_id()
        self._shelves: dict[str, _Shelf] = {}
        self._held: dict[str, tuple[int, int]] = {}
        """Views that a task was seen to hold, with inode and mtime: a second pod of the same Job begins anew."""
        self._views = 0
        self._settled = 0
        self._removed = 0
        self._faults = 0

    def prepare(self) -> None:
        """Makes the folders that are missing. Raises CacheFault when the cache is not ours to write."""
        try:
            if os.stat(self._root).st_mode & 0o7777 != 0o755:
                os.chmod(self._root, 0o755)  # noqa: S103 -- tasks, of whatever user, read their views in it
        except OSError as error:
            raise CacheFault(f"{self._root}: {error.strerror}") from error
        self._store.prepare()
        self._store.drop_view()

    def round(self) -> None:
        """Looks at everything once. What fails now is tried again in the next round."""
        for look in (self._settle, self._drop_views, self._drop_leftovers):
            try:
                look()
            except (OSError, CacheFault):
                self._faults += 1

    def inventory(self) -> dict[str, object]:
        """What the cache holds now, and what was done since the last inventory."""
        shelves = self._shelves.values()
        disk = os.statvfs(self._root)
        done = {"settled": self._settled, "viewsRemoved": self._removed, "faults": self._faults}
        self._settled = self._removed = self._faults = 0
        return {
            "event": "cache-inventory",
            "node": self._node,
            "blobs": sum(shelf.blobs for shelf in shelves),
            "bytes": sum(shelf.bytes for shelf in shelves),
            "pending": sum(len(shelf.pending) for shelf in shelves),
            "views": self._views,
            "freeBytes": disk.f_bavail * disk.f_frsize,
            **done,
        }

    def _settle(self) -> None:
        self._look_at_shelves()
        for shelf in self._shelves.values():
            for digest in list(shelf.pending):
                try:
                    self._settled += self._store.settle(digest)
                    shelf.pending.remove(digest)
                except CacheFault:
                    self._faults += 1

    def _look_at_shelves(self) -> None:
        """Only folders that changed are read again, since a cache may hold very many blobs."""
        now_ns = time.time_ns()
        found: dict[str, _Shelf] = {}
        with os.scandir(f"{self._root}/blobs/sha256") as folders:
            for folder in folders:
                mtime_ns = folder.stat(follow_symlinks=False).st_mtime_ns
                known = self._shelves.get(folder.name)
                if known is not None and known.mtime_ns == mtime_ns and not known.pending:
                    found[folder.name] = known
                else:
                    # A folder that is still changing is remembered as never seen.
                    found[folder.name] = self._shelf(folder.path, mtime_ns if now_ns - mtime_ns > _TICK_NS else 0)
        self._shelves = found

    def _shelf(self, path: str, mtime_ns: int) -> _Shelf:
        shelf = _Shelf(mtime_ns)
        with os.scandir(path) as blobs:
            for blob in blobs:
                if len(blob.name) != _DIGEST_CHARACTERS:
                    continue
                try:
                    status = blob.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                shelf.blobs += 1
                shelf.bytes += status.st_size
                if read_seal(status.st_mtime_ns, blob.name, self._boot) is Seal.PENDING:
                    shelf.pending.append(blob.name)
        return shelf

    def _drop_views(self) -> None:
        with opened(f"{self._root}/views") as views:
            names = os.listdir(views)
            self._held = {name: seen for name, seen in self._held.items() if name in names}
            removed = sum(self._drop_view(name, views) for name in names)
        self._views = len(names) - removed
        self._removed += removed

    def _drop_view(self, name: str, views: int) -> bool:
        """Removes the view if its pod is gone; True if it did."""
        try:
            view = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=views)
        except OSError:
            return False
        try:
            before = _state(view)
            if not _lock(view, fcntl.LOCK_SH):
                return False  # fetch is at work
            if not _lock(view, fcntl.LOCK_EX):
                # A fetch may slip in where one lock becomes the other. It leaves another mtime behind than `before`.
                self._held[name] = before
                return False
            now = _state(view)
            if self._held.get(name) != now and time.time_ns() - now[1] < self._view_ns:
                return False
            remove_tree(name, views)
        finally:
            os.close(view)
        self._held.pop(name, None)
        return True

    def _drop_leftovers(self) -> None:
        """A file in tmp/ is its lock's holder's; without a holder nobody will finish it."""
        for name in os.listdir(f"{self._root}/{_TMP}"):
            try:
                lock = os.open(f"{self._root}/locks/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _lock(lock, fcntl.LOCK_EX):
                    os.unlink(f"{self._root}/{_TMP}/{name}")
            except FileNotFoundError:
                continue
            finally:
                os.close(lock)


def _state(view: int) -> tuple[int, int]:
    status = os.fstat(view)
    return status.st_ino, status.st_mtime_ns


def _lock(fd: int, kind: int) -> bool:
    """Whether nobody else's lock is in its way; then we hold it, until it is closed."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def keep(settings: KeepSettings, say: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Goes round until `wait` returns False. Raises CacheFault when the cache cannot be used at all."""
    keeper = Keeper(settings.cache_dir, settings.node, settings.view_hours)
    keeper.prepare()
    report_due = 0.0
    while True:
        keeper.round()
        if time.monotonic() >= report_due:
            line = json.dumps(keeper.inventory(), separators=(",", ":"))
            say(line.encode() + b"\n")
            with contextlib.suppress(OSError):  # it is there for people to look at, and comes again
                leave_inventory(settings.cache_dir, line)
            report_due = time.monotonic() + settings.report_seconds
        if not wait(settings.period_seconds):
            return


def keep_verb(env: Mapping[str, str]) -> int:
    """The verb: runs until SIGTERM; 1 when the cache cannot be used, 2 for a wrong environment."""
    try:
        settings = keep_settings(env)
    except SettingsError as error:
        os.write(2, f"[HELIOS] Error: {error}\n".encode())
        return 2
    # Every step is safe against being cut off, so a stop need not wait for a disk that is slow.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    try:
        keep(settings, lambda line: os.write(1, line), _sleep)
    except CacheFault as fault:
        os.write(2, f"[HELIOS] Error: {fault}\n".encode())
        return 1
    return 0


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
