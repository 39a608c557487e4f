# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH108, PTH116
"""Which blobs a full cache lets go of, and letting go of them.

The policy is pure (`room_wanted`, `value`, `choose`); bench/cache_sim.py replays recorded work through the same
functions. `Evictor` does it:

- A blob that a view links to is in use and stays, whatever happens.
- A blob that tasks which wait, are queued or run still need is never evicted for the limit's sake. Only when the floor
  of free disk is threatened, which endangers the whole node, do such blobs go too: last, and no more of them than the
  floor needs.
- Of the rest those of the least value go first.

Whoever is killed on the way leaves a whole blob or none, and at most a ref that says "evicted" of a blob that is still
there, which nobody reads as long as it is. A fetcher that comes at the same time has linked the blob and keeps it, or
finds it missing and downloads it: links are taken first and checked after.
"""

import math
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence

from agent.frozen import Frozen
from agent.room import Wish, end_wish, free_bytes, is_wished, read_wish
from agent.saved import content_ref, note_end, read_saved, save, whole
from agent.shelves import Shelf, Shelves

Needed = Callable[[Sequence[str]], "set[str] | None"]
"""Which of these digests somebody still needs; None when nobody answers."""

ASSUMED_BYTES_PER_SECOND = 50e6
"""What a download is taken to have run at where nothing was ever measured."""
ASKED_AT_ONCE = 2_000
FLOOR_SLACK = 0.1
"""How much more than the floor of free disk is made free, as a share of it, so that it is not met at once again."""
_REST_FACTOR = 50
"""A search that found too little is repeated after this many times what it took: 2 % of a core at most."""
_STATE = "evicted.json"


class Limits(Frozen):
    """When to evict, and down to where. Shares are of the limit."""

    limit_bytes: int
    """All blobs together; 0 for none."""
    high: float
    low: float
    free_bytes: int
    """The floor of free disk."""


class Room(Frozen):
    """Bytes to evict."""

    wanted: int
    """Of blobs that nobody is known to need."""
    must: int
    """Of any that are not in use; part of `wanted`."""


class Choice(Frozen):
    """Which blobs go, the least valuable first, as the numbers that `choose` was given."""

    victims: list[int]
    asked: bool
    """Whether the demand was known for all of them."""


def room_wanted(limits: Limits, used: int, free: int, wished: int) -> Room:
    """From above the high watermark down to the low one, from below the floor of free disk to a little above it, and
    what somebody wishes for; whichever is most.
    """
    over = 0
    if limits.limit_bytes and used > limits.limit_bytes * limits.high:
        over = used - int(limits.limit_bytes * limits.low)
    below = limits.free_bytes - free
    short = below + int(limits.free_bytes * FLOOR_SLACK) if below > 0 else 0
    wish = wished + limits.free_bytes - free if wished else 0
    return Room(wanted=max(over, short, wish, 0), must=max(below, 0))


def value(size: int, seconds_per_byte: float, idle_seconds: float) -> float:
    """What keeping a blob is worth: its bytes, times what one took to download, over the time since it was used.

    Seconds of download saved, then, if it is used again as soon as it was long unused. The same for each byte that it
    occupies does not hit more in bench/cache_sim.py once the demand is known.
    """
    return size * seconds_per_byte / max(idle_seconds, 1.0)


def ranked(values: Sequence[float]) -> Iterator[int]:
    """The numbers of the values from the least to the greatest; sorts no more of them than are taken, since a cache may
    hold very many blobs and lets go of few at a time.
    """
    buckets: dict[int, array[int]] = {}
    for number, each in enumerate(values):
        exponent = math.frexp(each)[1] if each > 0 else -(1 << 20)
        buckets.setdefault(exponent, array("L")).append(number)
    for exponent in sorted(buckets):
        yield from sorted(buckets.pop(exponent), key=values.__getitem__)


def choose(
    order: Iterator[int], sizes: Sequence[int], room: Room, needed: Callable[[list[int]], "set[int] | None"]
) -> Choice:
    """Takes from `order`, the least valuable first, until the room is found. `sizes` are in bytes, by number. `needed`
    says of some what tasks still need, or None when nobody knows; it is asked of no more than have to be considered.

    What is needed and has to go all the same goes in the other order, the most recently used first: tasks are served
    in the order in which they became ready, so that is what is needed again last.
    """
    victims: list[int] = []
    spared: list[int] = []
    freed = 0
    asked = True
    while freed < room.wanted and (batch := _batch(order, sizes, room.wanted - freed)):
        kept = needed(batch) if asked else None
        asked = kept is not None
        for number in batch:
            if kept and number in kept:
                spared.append(number)
            else:
                victims.append(number)
                freed += sizes[number]
    for number in reversed(spared):
        if freed >= room.must:
            break
        victims.append(number)
        freed += sizes[number]
    return Choice(victims, asked)


def _batch(order: Iterator[int], sizes: Sequence[int], goal: int) -> list[int]:
    found = 0
    batch: list[int] = []
    for number in order:
        batch.append(number)
        found += sizes[number]
        if found >= goal or len(batch) == ASKED_AT_ONCE:
            break
    return batch


class _Candidates:
    """What may be evicted, in columns: as many entries as the cache has blobs that no view links to."""

    def __init__(self) -> None:
        self.shelves: list[Shelf] = []
        self.places = array("Q")
        self.sizes = array("Q")
        self.values = array("d")

    def digest(self, number: int) -> str:
        place = self.places[number]
        return self.shelves[place >> 32].raw(place & 0xFFFFFFFF).hex()


class Evictor:
    """Keeps one cache within its limits. One thread at a time."""

    def __init__(self, root: str, shelves: Shelves, limits: Limits, needed: Needed | None) -> None:
        self._root = root
        self._shelves = shelves
        self._limits = limits
        self._needed = needed
        self._rest_until = 0.0
        state = read_saved(f"{root}/{_STATE}")
        self.blobs = whole(state, "blobs")
        self.bytes = whole(state, "bytes")
        """What was evicted since the cache exists."""
        self.demand_unknown = False
        """Whether the last eviction had to do without knowing what tasks still need."""

    def is_wished(self) -> bool:
        """Whether somebody waits for room."""
        return is_wished(self._root)

    def make_room(self) -> int:
        """Evicts what has to go now; how many blobs went. Raises OSError when the cache cannot be read."""
        wish = read_wish(self._root)
        try:
            return self._make_room(wish)
        finally:
            end_wish(self._root)

    def _make_room(self, wish: Wish) -> int:
        room = room_wanted(self._limits, self._shelves.bytes, free_bytes(self._root), wish.size)
        if not room.wanted or (time.monotonic() < self._rest_until and not wish.size):
            return 0
        began = time.monotonic()
        scanned_ns = time.time_ns()
        found = self._candidates(scanned_ns)
        choice = choose(ranked(found.values), found.sizes, room, lambda some: self._ask(found, some))
        if choice.victims:
            self.demand_unknown = self._needed is not None and not choice.asked
        reason = wish.digest or self._shelves.arrived[1] or "other files on the disk"
        gone = [number for number in choice.victims if self._evict(found.digest(number), reason, scanned_ns)]
        freed = sum(found.sizes[number] for number in gone)
        if freed < room.wanted:
            self._rest_until = time.monotonic() + _REST_FACTOR * (time.monotonic() - began)
        if gone:
            self._shelves.look()
            self._shelves.arrived = (-1, "")
            self.blobs += len(gone)
            self.bytes += freed
            save(f"{self._root}/{_STATE}", {"v": 1, "blobs": self.blobs, "bytes": self.bytes})
        return len(gone)

    def _candidates(self, now_ns: int) -> _Candidates:
        found = _Candidates()
        usual = self._usual_seconds()
        low = self._limits.limit_bytes * self._limits.low
        for shelf in self._shelves.shelves():
            found.shelves.append(shelf)
            for index, size in enumerate(shelf.sizes):
                digest = shelf.raw(index).hex()
                try:
                    status = os.stat(self._blob(digest), follow_symlinks=False)
                except OSError:
                    continue
                if status.st_nlink > 1 or not size:
                    continue
                if math.isnan(shelf.seconds[index]):
                    shelf.seconds[index] = self._seconds(digest, size)
                seconds = shelf.seconds[index]
                found.places.append((len(found.shelves) - 1) << 32 | index)
                found.sizes.append(size)
                idle = (now_ns - status.st_ctime_ns) / 1e9
                worth = value(size, seconds if seconds >= 0 else usual, idle)
                # For one that the cache can never hold, all others would go, and then it.
                found.values.append(0.0 if self._limits.limit_bytes and size > low else worth)
        return found

    def _ask(self, found: _Candidates, numbers: list[int]) -> "set[int] | None":
        if self._needed is None:
            return None
        by_digest = {found.digest(number): number for number in numbers}
        kept = self._needed(list(by_digest))
        return None if kept is None else {by_digest[digest] for digest in kept if digest in by_digest}

    def _evict(self, digest: str, reason: str, scanned_ns: int) -> bool:
        """False for one that was used since it was looked at, or is gone already."""
        try:
            before = os.stat(self._blob(digest), follow_symlinks=False)
            if before.st_nlink > 1 or before.st_ctime_ns >= scanned_ns:
                return False
            # A disk that is too full to note it is the more reason to evict.
            note_end(self._root, digest, before.st_size, {"evictedAt": int(time.time()), "evictedFor": reason})
            # Again: writing takes long enough for somebody to come.
            now = os.stat(self._blob(digest), follow_symlinks=False)
            if now.st_ino != before.st_ino or now.st_nlink > 1:
                return False
            os.unlink(self._blob(digest))
        except FileNotFoundError:
            return False
        return True

    def _seconds(self, digest: str, size: int) -> float:
        """What a byte of the blob took to download; negative if nothing tells."""
        spent = read_saved(content_ref(self._root, digest)).get("ms")
        return spent / 1000 / size if isinstance(spent, int) and spent > 0 else -1.0

    def _usual_seconds(self) -> float:
        rate = read_saved(f"{self._root}/rate.json").get("bytesPerSecond")
        return 1 / (rate if isinstance(rate, int | float) and rate > 0 else ASSUMED_BYTES_PER_SECOND)

    def _blob(self, digest: str) -> str:
        return f"{self._root}/blobs/sha256/{digest[:2]}/{digest}"
