# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH116
"""Which blobs a node's cache holds, in little memory: 52 bytes a blob, in one packed shelf for each folder.

Folders that did not change are not read again, and in one that did only blobs that are new are looked at, since a cache
may hold very many. What changed between two looks is told as deltas.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator, Set

from agent.stamp import Seal, read_seal

_DIGEST_BYTES = 32
_TICK_NS = 2_000_000_000
"""A folder's mtime is trusted to tell of changes only when it is older than this: clocks of file systems are coarse."""
_MOST_CHANGES = 20_000
"""More than these are not remembered one by one: a snapshot tells them in less."""

UNKNOWN = float("nan")


class Shelf:
    """The blobs of one folder as they were at `mtime_ns`; the four columns have one entry a blob."""

    __slots__ = ("digests", "inodes", "mtime_ns", "seconds", "sizes")

    def __init__(self, mtime_ns: int) -> None:
        self.mtime_ns = mtime_ns
        self.digests = bytearray()
        self.sizes = array("Q")
        self.inodes = array("Q")
        self.seconds = array("f")
        """What a byte of it took to download; UNKNOWN until somebody asks, negative when nothing tells."""

    def raw(self, index: int) -> bytes:
        return bytes(self.digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES])

    def names(self) -> list[str]:
        whole = self.digests.hex()
        return [whole[start : start + 2 * _DIGEST_BYTES] for start in range(0, len(whole), 2 * _DIGEST_BYTES)]

    def copy(self, mtime_ns: int, without: Set[str]) -> "Shelf":
        """The shelf as it is at `mtime_ns`, before anything new is put there; this one is not used any more."""
        made = Shelf(mtime_ns)
        if not without:
            made.digests, made.sizes = self.digests, self.sizes
            made.inodes, made.seconds = self.inodes, self.seconds
            return made
        for index, name in enumerate(self.names()):
            if name not in without:
                made.put(self.raw(index), self.sizes[index], self.inodes[index], self.seconds[index])
        return made

    def put(self, raw: bytes, size: int, inode: int, seconds: float) -> None:
        self.digests += raw
        self.sizes.append(size)
        self.inodes.append(inode)
        self.seconds.append(seconds)


class Deltas:
    """What a reader that follows the cache from afar has not been told yet.

    It begins with a snapshot. Changes are counted from there on; when they are too many, or the reader lost some, a
    snapshot is due again.
    """

    def __init__(self, entries: Callable[[], Iterator[tuple[str, int]]]) -> None:
        self._entries = entries
        self._changes: dict[bytes, int] | None = None
        """Digest to its bytes, or to -1 for one that is gone; None while a snapshot is due."""

    def snapshot(self) -> Iterator[tuple[str, int]]:
        """Every blob with its bytes, as of the last look; read it to its end before the next one."""
        self._changes = {}
        return self._entries()

    def take(self) -> tuple[list[tuple[str, int]], list[str]] | None:
        """(added with their bytes, removed) since the last call; None when a snapshot is due."""
        if self._changes is None:
            return None
        changes, self._changes = self._changes, {}
        added = [(raw.hex(), size) for raw, size in changes.items() if size >= 0]
        return added, [raw.hex() for raw, size in changes.items() if size < 0]

    def lose(self) -> None:
        """What was taken did not arrive."""
        self._changes = None

    def note(self, raw: bytes, size: int) -> None:
        """A blob is there with that size, or is gone (-1)."""
        if self._changes is not None:
            self._changes[raw] = size
            if len(self._changes) > _MOST_CHANGES:
                self._changes = None


class Shelves:
    """The index. One thread at a time."""

    def __init__(self, root: str, boot: str | None) -> None:
        self._folder = f"{root}/blobs/sha256"
        self._boot = boot
        self._shelves: dict[str, Shelf] = {}
        self._looked = False
        self.pending: set[str] = set()
        """Digests of blobs that nobody has waited for the disk for yet."""
        self.blobs = 0
        self.bytes = 0
        self.arrived: tuple[int, str] = (-1, "")
        """(bytes, digest) of the largest blob that came between two looks since somebody last set this back."""
        self.deltas = Deltas(self.entries)

    def look(self) -> None:
        """Reads what changed. Raises OSError; then what was known of folders that were not read stays."""
        now_ns = time.time_ns()
        with os.scandir(self._folder) as folders:
            found = {folder.name: folder.stat(follow_symlinks=False).st_mtime_ns for folder in folders}
        for name, mtime_ns in found.items():
            known = self._shelves.get(name)
            if known is None or known.mtime_ns != mtime_ns:
                # A folder that is still changing is remembered as never seen.
                self._shelves[name] = self._read(name, known, mtime_ns if now_ns - mtime_ns > _TICK_NS else 0)
        for name in self._shelves.keys() - found.keys():
            for raw, _size in _entries(self._shelves.pop(name)):
                self._gone(raw)
        self.blobs = sum(len(shelf.sizes) for shelf in self._shelves.values())
        self.bytes = sum(sum(shelf.sizes) for shelf in self._shelves.values())
        self._looked = True

    def entries(self) -> Iterator[tuple[str, int]]:
        """(digest, bytes) of every blob."""
        for shelf in self._shelves.values():
            for raw, size in _entries(shelf):
                yield raw.hex(), size

    def shelves(self) -> list[Shelf]:
        return list(self._shelves.values())

    def after(self, digest: str) -> list[tuple[str, int]]:
        """The blobs that come next after that digest in the order of digests: the rest of its folder or, where nothing
        is left of it, the whole next one that has any; empty at the end.
        """
        for name in sorted(each for each in self._shelves if each >= digest[:2]):
            found = sorted((raw.hex(), size) for raw, size in _entries(self._shelves[name]))
            if rest := [entry for entry in found if entry[0] > digest]:
                return rest
        return []

    def _read(self, name: str, known: Shelf | None, mtime_ns: int) -> Shelf:
        known = known or Shelf(0)
        before = dict(zip(known.names(), known.inodes, strict=True))
        try:
            with os.scandir(f"{self._folder}/{name}") as entries:
                found = {entry.name: entry.inode() for entry in entries}
        except NotADirectoryError:
            found = {}
        gone = before.keys() - found.keys()
        new = [each for each, inode in found.items() if before.get(each) != inode]
        shelf = known.copy(mtime_ns, without=gone.union(new) if gone or not before.keys().isdisjoint(new) else set())
        for each in gone:
            self._gone(bytes.fromhex(each))
        for each in new:
            self._read_blob(shelf, f"{self._folder}/{name}", each)
        return shelf

    def _read_blob(self, shelf: Shelf, folder: str, name: str) -> None:
        raw = _raw(name)
        if raw is None:
            return
        try:
            status = os.stat(f"{folder}/{name}", follow_symlinks=False)
        except FileNotFoundError:
            self._gone(raw)
            return
        shelf.put(raw, status.st_size, status.st_ino, UNKNOWN)
        if read_seal(status.st_mtime_ns, name, self._boot) is Seal.PENDING:
            self.pending.add(name)
        self.deltas.note(raw, status.st_size)
        if self._looked:
            self.arrived = max(self.arrived, (status.st_size, name))

    def _gone(self, raw: bytes) -> None:
        self.pending.discard(raw.hex())
        self.deltas.note(raw, -1)


def _entries(shelf: Shelf) -> Iterator[tuple[bytes, int]]:
    return ((shelf.raw(index), size) for index, size in enumerate(shelf.sizes))


def _raw(name: str) -> bytes | None:
    """A digest's bytes, or None for a name that is no digest."""
    if len(name) != 2 * _DIGEST_BYTES:
        return None
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    # fromhex takes capitals and spaces too.
    return raw if raw.hex() == name else None
