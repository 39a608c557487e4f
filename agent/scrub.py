# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH108, PTH116
"""Blobs are read through and their digests computed again, a little at a time, so that what a disk or a task damaged
without a trace in its seal is found before a task reads it.

Goes round in the order of digests. Where it is is written down, so a keeper that is started again goes on there; the
blob that was cut off is read in the next pass. What is damaged goes to quarantine/, where it stays for a day.
"""

import contextlib
import errno
import hashlib
import os
import time

from agent.saved import note_end, read_saved, save, whole
from agent.shelves import Shelves
from agent.stamp import Seal, durable_ns, read_seal
from agent.store import Store

QUARANTINED_SECONDS = 24 * 3600.0
"""How long a damaged blob is kept for whoever wants to know what happened to it."""
_SWEEP_SECONDS = 600.0
_PASS_SECONDS = 3600.0
"""From the beginning of one pass to that of the next at least: a small cache need not be read all the time."""
_BUFFER = 256 * 1024
_LEAST_CHARGE = 64 * 1024
"""What a blob counts for at least: opening one takes as long as reading this much."""
_MOST_SAVED_SECONDS = 60.0
"""Time that was not used for reading does not add up beyond this."""
_STATE = "scrub.json"


class _Reading:
    """The blob that is being read, from one step to the next."""

    def __init__(self, digest: str, fd: int) -> None:
        self.digest = digest
        self.fd = fd
        self.hasher = hashlib.sha256()
        self.offset = 0


class Scrub:
    """One cache's scrubbing. One thread at a time."""

    def __init__(self, root: str, store: Store, shelves: Shelves, boot: str | None, bytes_per_second: float) -> None:
        self._root = root
        self._store = store
        self._shelves = shelves
        self._boot = boot
        self._rate = bytes_per_second
        state = read_saved(f"{root}/{_STATE}")
        after = state.get("after")
        self._after: str = after if isinstance(after, str) else ""
        self.bytes = whole(state, "bytes")
        self.corrupt = whole(state, "corrupt")
        """Bytes read, and blobs found damaged, since the cache exists."""
        self._coming: list[tuple[str, int]] = []
        self._reading: _Reading | None = None
        self._budget = 0.0
        self._stepped_at = time.monotonic()
        self._sweep_at = self._next_pass_at = self._stepped_at
        self._buffer = memoryview(bytearray(_BUFFER))

    def step(self) -> int:
        """Reads what the rate allows since the step before, and empties the quarantine; how many blobs were damaged.

        Raises OSError and CacheFault for what is not a blob's own fault; the next step goes on behind it.
        """
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            self._empty_quarantine()
        spare = min(now - self._stepped_at, _MOST_SAVED_SECONDS)
        self._stepped_at = now
        return self.read(self._rate * spare) if self._rate and now >= self._next_pass_at else 0

    def read(self, budget: float) -> int:
        """Reads that many bytes more, to the end of the cache at most; how many blobs were damaged."""
        self._budget = min(self._budget, 0.0) + budget
        began_at, corrupt = self._after, self.corrupt
        try:
            while self._budget > 0:
                if self._reading is not None:
                    self._go_on(self._reading)
                elif not self._begin():
                    break
        finally:
            if began_at != self._after or corrupt != self.corrupt:
                state = {"v": 1, "after": self._after, "bytes": self.bytes, "corrupt": self.corrupt}
                save(f"{self._root}/{_STATE}", state)
        return self.corrupt - corrupt

    def _begin(self) -> bool:
        """Opens the next blob; False at the end of the cache."""
        if not self._coming:
            self._coming = self._shelves.after(self._after)[::-1]
        if not self._coming:
            self._after = ""
            self._next_pass_at = max(self._next_pass_at + _PASS_SECONDS, time.monotonic())
            return False
        # Passed by from here on, so that one that is never read to its end does not keep others from being read.
        self._after, _ = self._coming.pop()
        self._budget -= _LEAST_CHARGE
        try:
            fd = os.open(self._blob(self._after), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        self._reading = _Reading(self._after, fd)
        if self._seal(self._reading) is Seal.BROKEN:
            self._end(self._reading, damaged=True)
        return True

    def _go_on(self, reading: _Reading) -> None:
        """Reads what the budget allows of the blob, and judges it at its end."""
        try:
            if not os.fstat(reading.fd).st_nlink:
                self._end(reading, damaged=False)  # evicted: as long as it is open its bytes are not free
                return
            while self._budget > 0:
                count = os.preadv(reading.fd, [self._buffer], reading.offset)
                if not count:
                    self._judge(reading)
                    return
                reading.hasher.update(self._buffer[:count])
                reading.offset += count
                self.bytes += count
                self._budget -= count
        except OSError as error:
            self._end(reading, damaged=error.errno == errno.EIO)
            if error.errno != errno.EIO:
                raise

    def _judge(self, reading: _Reading) -> None:
        sound = reading.hasher.hexdigest() == reading.digest
        if sound and self._seal(reading) is Seal.PENDING_ELSEWHERE:
            # Whole although the machine went down before it was synced: the same as after a hit.
            os.fsync(reading.fd)
            os.utime(reading.fd, ns=(durable_ns(reading.digest), durable_ns(reading.digest)))
        self._end(reading, damaged=not sound)

    def _end(self, reading: _Reading, *, damaged: bool) -> None:
        self._reading = None
        try:
            if damaged and self._is_in_place(reading):
                self._store.quarantine(reading.digest)
                self.corrupt += 1
                note_end(self._root, reading.digest, os.fstat(reading.fd).st_size, {"corruptAt": int(time.time())})
        finally:
            os.close(reading.fd)

    def _is_in_place(self, reading: _Reading) -> bool:
        """False when a fetcher has replaced the blob meanwhile."""
        try:
            return os.path.samestat(os.fstat(reading.fd), os.stat(self._blob(reading.digest), follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _seal(self, reading: _Reading) -> Seal:
        return read_seal(os.fstat(reading.fd).st_mtime_ns, reading.digest, self._boot)

    def _empty_quarantine(self) -> None:
        with os.scandir(f"{self._root}/quarantine") as entries:
            for entry in entries:
                # Local mode's node empties it too.
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    # A blob's mtime is its seal; its ctime is at the latest when it was moved there.
                    if time.time() - entry.stat(follow_symlinks=False).st_ctime >= QUARANTINED_SECONDS:
                        os.unlink(entry.path)

    def _blob(self, digest: str) -> str:
        return f"{self._root}/blobs/sha256/{digest[:2]}/{digest}"
