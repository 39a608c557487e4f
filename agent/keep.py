# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH104, PTH108, PTH112, PTH116, PTH208
"""keep: look after one node's cache for as long as the node lives, and say what it holds.

Every round waits for the disk on behalf of pending blobs (agent.stamp), removes the views of pods that are gone and
what dead downloads left in tmp/, evicts blobs when the cache is too full (agent.evict), reads some again to check them
(agent.scrub), and now and then prints the inventory as one line of JSON. With a key it works with the rest of the
cluster as well (agent.follow).

Every step may be cut off at any point: nothing that a later round or a fetch relies on is left half-done.

Whose pod is gone is asked of the kernel, not of Kubernetes, so no token has to lie on every node: a task's wrapper
(agent/exec.c) holds a shared flock on its view's folder, which ends with the process, however that ends. A view that
was seen held and is free now is removed at once. One that was not belongs to a task that has not started yet, or that
was over between two rounds; it stays until the collector says that its pod is over, which agent.follow asks, and for
`view_hours` after its fetch where nobody says so.

fetch holds the view too, but alone, so that its end is not taken for the task's: between the two an image may be pulled
for minutes.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Mapping

from agent.evict import Evictor, Limits, Needed
from agent.folders import opened, remove_tree
from agent.follow import Follower
from agent.locks import try_lock
from agent.logs import Log
from agent.room import attended, free_bytes
from agent.scrub import Scrub
from agent.settings import FREE_SHARE, KeepSettings, SettingsError, keep_settings, sync_settings
from agent.shelves import Deltas, Shelves
from agent.stamp import boot_id
from agent.store import CacheFault, Store

_VIEW = "keep"
"""A Store belongs to a job. This one's view is removed as soon as it exists; no Job has a name without a digest."""

_TMP = "tmp"
_UNHELD_SECONDS = 20.0
"""A view that nobody holds is asked about when it is older: a task that starts takes no longer, as a rule."""
_WISH_SECONDS = 0.5
"""How often it is looked whether a fetch wishes for room."""
_LEFTOVER_SECONDS = 3600.0


DRAIN_SECONDS = 5.0
"""For transfers to other nodes under way, once it is told to stop; Kubernetes waits for 10 s."""


class Keeper:
    """One node's cache, and what earlier rounds saw of it. One thread at a time."""

    def __init__(self, settings: KeepSettings, needed: Needed | None = None) -> None:
        self._root = settings.cache_dir
        self._node = settings.node
        self._limit_bytes = settings.limit_bytes
        self._view_ns = None if settings.view_hours is None else int(settings.view_hours * 3600e9)
        self._store = Store(self._root, _VIEW)
        self._shelves = Shelves(self._root, boot_id())
        self._evictor = Evictor(self._root, self._shelves, _limits(settings), needed)
        self._scrub = Scrub(self._root, self._store, self._shelves, boot_id(), settings.scrub_bytes_per_second)
        self._looks = (
            self._look,
            self._settle,
            self._drop_views,
            self._drop_leftovers,
            self._evictor.make_room,
            self._scrub_some,
        )
        self._held: dict[str, tuple[int, int]] = {}
        """Views that a task was seen to hold, with inode and mtime: a second pod of the same Job begins anew."""
        self.unheld: dict[str, tuple[int, int]] = {}
        """Views of which it is not known whether their tasks are over, with inode and mtime, as of the last round."""
        self._over: dict[str, tuple[int, int]] = {}
        self._views = 0
        self._settled = 0
        self._removed = 0
        self._faults = 0
        self._leftovers_at = 0.0

    def note_over(self, views: Mapping[str, tuple[int, int]]) -> None:
        """Some of `unheld` belong to pods that are over: the next round removes them, if they are what they were."""
        self._over = dict(views)

    @property
    def deltas(self) -> Deltas:
        """What changed in the cache, for whoever follows it from afar."""
        return self._shelves.deltas

    def prepare(self) -> None:
        """Makes the folders that are missing. Raises CacheFault when the cache is not ours to write."""
        try:
            if os.stat(self._root).st_mode & 0o7777 != 0o755:
                os.chmod(self._root, 0o755)  # noqa: S103 -- tasks, of whatever user, read their views in it
        except OSError as error:
            raise CacheFault(f"{self._root}: {error.strerror}") from error
        self._replace_foreign_views()
        try:
            self._store.prepare()
            self._store.drop_view()
        except CacheFault as fault:
            # A disk on which nothing can be made any more is what a keeper is there for.
            full = isinstance(fault.__cause__, OSError) and fault.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or not os.path.isdir(f"{self._root}/views"):
                raise

    def _replace_foreign_views(self) -> None:
        """A task whose pod came to the node before its keeper had its view made for it, as root's, and with it the
        folder of all views: nothing could ever be linked there. Where it is now, its mount follows it.
        """
        views = f"{self._root}/views"
        with contextlib.suppress(OSError):
            if os.stat(views).st_uid != os.geteuid():
                os.rename(views, f"{views}-{time.time_ns()}")

    def round(self) -> None:
        """Looks at everything once. What fails now is tried again in the next round."""
        for look in self._looks:
            try:
                look()
            except (OSError, CacheFault):
                self._faults += 1

    def make_room(self) -> None:
        """The part of a round that somebody waits for, if somebody does."""
        if self._evictor.is_wished():
            try:
                self._evictor.make_room()
            except OSError:
                self._faults += 1

    def state(self) -> dict[str, int]:
        """How full the cache is, and what was done since it exists: podwire.NodeState without what seeding did. Raises
        OSError.
        """
        return {
            "blobs": self._shelves.blobs,
            "bytes": self._shelves.bytes,
            "freeBytes": free_bytes(self._root),
            "limitBytes": self._limit_bytes,
            "evictedBlobs": self._evictor.blobs,
            "evictedBytes": self._evictor.bytes,
            "scrubbedBytes": self._scrub.bytes,
            "corruptBlobs": self._scrub.corrupt,
        }

    def inventory(self) -> dict[str, object]:
        """What the cache holds now, and what was done: settled, viewsRemoved and faults since the last inventory, the
        others since the cache exists. `demandUnknown`: the last eviction went by value alone, since nobody answered
        what tasks still need.
        """
        done = {"settled": self._settled, "viewsRemoved": self._removed, "faults": self._faults}
        self._settled = self._removed = self._faults = 0
        return {
            "event": "cache-inventory",
            "node": self._node,
            **self.state(),
            "pending": len(self._shelves.pending),
            "views": self._views,
            "demandUnknown": self._evictor.demand_unknown,
            **done,
        }

    def _look(self) -> None:
        try:
            self._shelves.look()
        except FileNotFoundError:
            # Somebody has emptied the cache by hand.
            self._store.prepare()
            self._store.drop_view()
            self._shelves.look()

    def _settle(self) -> None:
        for digest in list(self._shelves.pending):
            try:
                self._settled += self._store.settle(digest)
                self._shelves.pending.discard(digest)
            except CacheFault:
                self._faults += 1

    def _scrub_some(self) -> None:
        if self._scrub.step():
            self._shelves.look()

    def _drop_views(self) -> None:
        view_ns = self._view_ns
        if view_ns is None:
            return
        with opened(f"{self._root}/views") as views:
            names = os.listdir(views)
            self._held = {name: seen for name, seen in self._held.items() if name in names}
            self.unheld = {}
            removed = sum(self._drop_view(name, views, view_ns) for name in names)
        self._views = len(names) - removed
        self._removed += removed

    def _drop_view(self, name: str, views: int, view_ns: int) -> bool:
        """Removes the view if its pod is gone; True if it did."""
        try:
            view = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=views)
        except OSError:
            return False
        try:
            before = _state(view)
            if not try_lock(view, fcntl.LOCK_SH):
                return False  # fetch is at work
            if not try_lock(view, fcntl.LOCK_EX):
                # A fetch may slip in where one lock becomes the other. It leaves another mtime behind than `before`.
                self._held[name] = before
                return False
            now = _state(view)
            age_ns = time.time_ns() - now[1]
            if now not in (self._held.get(name), self._over.get(name)) and age_ns < view_ns:
                if age_ns > _UNHELD_SECONDS * 1e9:
                    self.unheld[name] = now
                return False
            remove_tree(name, views)
        finally:
            os.close(view)
        self._held.pop(name, None)
        return True

    def _drop_leftovers(self) -> None:
        """A file in tmp/ is its lock's holder's; without a holder nobody will finish it. The same of a ref that was cut
        off.
        """
        for name in os.listdir(f"{self._root}/{_TMP}"):
            try:
                lock = os.open(f"{self._root}/locks/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if try_lock(lock, fcntl.LOCK_EX):
                    os.unlink(f"{self._root}/{_TMP}/{name}")
            except FileNotFoundError:
                continue
            finally:
                os.close(lock)
        if time.monotonic() >= self._leftovers_at:
            self._leftovers_at = time.monotonic() + _LEFTOVER_SECONDS
            self._drop_unfinished(f"{self._root}/refs")

    def _drop_unfinished(self, folder: str) -> None:
        """What folders.write_whole has begun and not ended."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".new"):
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_SECONDS:
                            os.unlink(entry.path)


def _limits(settings: KeepSettings) -> Limits:
    free = settings.free_bytes
    if free is None:
        disk = os.statvfs(settings.cache_dir)
        free = int(disk.f_blocks * disk.f_frsize * FREE_SHARE)
    return Limits(settings.limit_bytes, settings.high, settings.low, free)


def _state(view: int) -> tuple[int, int]:
    status = os.fstat(view)
    return status.st_ino, status.st_mtime_ns


def keep(
    settings: KeepSettings,
    say: Callable[[bytes], object],
    wait: Callable[[float], bool],
    sync: Callable[[Keeper], None] | None = None,
    needed: Needed | None = None,
) -> None:
    """Goes round until `wait` returns False. Raises CacheFault when the cache cannot be used at all.

    `sync` is called after every round and must raise nothing; `needed` is asked before blobs are evicted.
    """
    try:
        keeper = Keeper(settings, needed)
    except OSError as error:
        raise CacheFault(f"{settings.cache_dir}: {error.strerror}") from error
    keeper.prepare()
    report_due = 0.0
    with attended(settings.cache_dir) as attend:
        while True:
            attend()
            keeper.round()
            if sync is not None:
                sync(keeper)
            if time.monotonic() >= report_due:
                _report(keeper, say)
                report_due = time.monotonic() + settings.report_seconds
            left = settings.period_seconds
            while left > 0:
                if not wait(min(left, _WISH_SECONDS)):
                    return
                left -= _WISH_SECONDS
                keeper.make_room()


def _report(keeper: Keeper, say: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):  # it is there for people to look at, and comes again
        line = json.dumps(keeper.inventory(), separators=(",", ":"))
        say(line.encode() + b"\n")


def keep_verb(env: Mapping[str, str]) -> int:
    """The verb: runs until SIGTERM; 1 when the cache cannot be used, 2 for a wrong environment."""
    try:
        settings, sync = keep_settings(env), sync_settings(env)
    except SettingsError as error:
        os.write(2, f"[HELIOS] Error: {error}\n".encode())
        return 2
    # Every step is safe against being cut off, so a stop need not wait for a disk that is slow.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    try:
        follower = Follower(sync, Log()) if sync is not None else None
        if follower is not None:
            end_at_sigterm(follower)
        followed, needed = (follower.round, follower.needed) if follower is not None else (None, None)
        keep(settings, lambda line: os.write(1, line), _sleep, followed, needed)
    except CacheFault as fault:
        os.write(2, f"[HELIOS] Error: {fault}\n".encode())
        return 1
    return 0


def end_at_sigterm(follower: Follower | None, withdraw: Callable[[], None] | None = None) -> None:
    """From now on a SIGTERM ends the process, once those to whom it gives blobs have them: they would begin anew."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if withdraw is not None:
            withdraw()
        if follower is not None:
            follower.drain(DRAIN_SECONDS)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
