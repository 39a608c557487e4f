"""Telling the collector what a node's cache holds, and asking it what tasks still need.

The keeper's rounds never wait for it. What they hand over is sent by a thread of its own, in order, each report until
it is taken; meanwhile changes gather where they are noted (agent.shelves). When the collector says that something is
missing, all is sent again. A collector that is away costs an eviction one short wait, and then none for a while.
"""

import os
import queue
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.collector import Collector, CollectorAway
from agent.frozen import TYPE_CHECKING, Frozen
from agent.logs import Log, one_line
from agent.pace import Backoff

if TYPE_CHECKING:
    from agent.shelves import Deltas

CHUNK = 1_000
"""Blobs in one report."""
AGAIN_SECONDS = (0.5, 20.0)
"""Pauses after a report that was not taken grow to that at most: a node counts as lost after a minute."""
WHOLE_SECONDS = 6 * 3600.0
"""So often all is told anew, whatever may have been lost unseen."""
DEMAND_SECONDS = 3.0
"""An eviction waits no longer for an answer."""
SILENT_SECONDS = 30.0
"""After no answer, so long nobody asks."""


class _Report(Frozen):
    full: bool
    added: Sequence[tuple[str, int]]
    removed: Sequence[str]


class Sync:
    """One keeper's side. `round` and `needed` are for the thread that goes round, and so are the Deltas."""

    def __init__(self, collector: Collector, log: Log, *, told: Callable[[], object]) -> None:
        """`told` is called, by the sending thread, whenever all of the cache has been told."""
        self._collector = collector
        self._url = ""
        self._log = log
        self._told = told
        self._epoch = os.urandom(8).hex()
        self._seq = 0
        self._state: Mapping[str, int] = {}
        self._outbox: queue.SimpleQueue[Iterator[_Report]] = queue.SimpleQueue()
        self._sending = False
        """Whether the thread has something that it has not sent; set by whoever gives it, cleared by the thread."""
        self._missing = False
        """Everything is to be told anew."""
        self._backoff = Backoff(*AGAIN_SECONDS)
        self._away_said = False
        self._whole_due = time.monotonic() + WHOLE_SECONDS
        self._closed = threading.Event()
        self._asking = threading.Lock()
        """Held while a question is out."""
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._send_all, name="sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What is being told is told no further, and the thread ends."""
        self._closed.set()
        self._outbox.put(iter(()))

    def round(self, changes: "Deltas", state: Mapping[str, int], url: str) -> None:
        """Hands over what changed, if what was handed over before has been sent; how full the cache is, and where the
        keeper listens, in any case.
        """
        self._state, self._url = state, url
        if self._sending:
            return
        if self._missing or time.monotonic() >= self._whole_due:
            changes.lose()
            self._missing = False
        found = changes.take()
        if found is None:
            self._whole_due = time.monotonic() + WHOLE_SECONDS * (0.5 + random.random())  # noqa: S311 -- not a secret
            reports = _Whole(changes.snapshot()).reports()
        else:
            reports = _changed(*found)
        self._sending = True
        self._outbox.put(reports)

    def needed(self, digests: Sequence[str]) -> set[str] | None:
        """Which of these tasks still need; None when nobody says so in time."""
        if time.monotonic() < self._silent_until or not self._asking.acquire(blocking=False):
            return None
        answer: queue.SimpleQueue[set[str] | None] = queue.SimpleQueue()
        threading.Thread(target=self._ask, args=(list(digests), answer), name="demand", daemon=True).start()
        try:
            found = answer.get(timeout=DEMAND_SECONDS)
        except queue.Empty:
            found = None
        if found is None:
            self._silent_until = time.monotonic() + SILENT_SECONDS
        return found

    def _ask(self, digests: list[str], answer: "queue.SimpleQueue[set[str] | None]") -> None:
        try:
            needed = self._collector.call("/v1/demand", {"candidates": digests}).get("needed")
            answer.put({str(each) for each in needed} if isinstance(needed, list) else None)
        except CollectorAway:
            answer.put(None)
        finally:
            self._asking.release()

    def _send_all(self) -> None:
        while not self._closed.is_set():
            reports = self._outbox.get()
            whole = False
            for report in reports:
                whole = whole or report.full
                if not self._send(report):
                    self._missing = True
                    whole = False
                    break
            self._sending = False
            if whole:
                self._told()

    def _send(self, report: _Report) -> bool:
        """Sends until it is taken; False if everything is to be told anew: the collector misses an earlier one, or this
        one is a snapshot that grew old, which would undo what the collector was told of the cache by others since.
        """
        while not self._closed.is_set():
            document = {
                "v": 1,
                "url": self._url,
                "epoch": self._epoch,
                "seq": self._seq + 1,
                "full": report.full,
                "added": report.added,
                "removed": report.removed,
                "state": self._state,
            }
            try:
                resync = self._collector.call("/v1/node", document).get("resync") is True
            except CollectorAway as away:
                if not self._away_said:
                    self._log.line(f"The collector does not take this node's report: {one_line(str(away))}")
                    self._away_said = True
                self._backoff.pause()
                if report.full:
                    return False
                continue
            self._backoff.reset()
            if self._away_said:
                self._log.line("The collector takes this node's reports again")
                self._away_said = False
            self._seq += 1
            return not resync
        return False


class _Whole:
    """All blobs of a cache, in 44 bytes each while they are sent, the largest first: of more than the collector keeps
    of one node those matter most.
    """

    def __init__(self, blobs: Iterator[tuple[str, int]]) -> None:
        self._digests = bytearray()
        self._sizes = array("Q")
        for digest, size in blobs:
            self._digests += bytes.fromhex(digest)
            self._sizes.append(size)

    def reports(self) -> Iterator[_Report]:
        order = array("L", sorted(range(len(self._sizes)), key=self._sizes.__getitem__, reverse=True))
        for start in range(0, max(len(order), 1), CHUNK):
            added = [(self._digest(index), self._sizes[index]) for index in order[start : start + CHUNK]]
            yield _Report(start == 0, added, ())

    def _digest(self, index: int) -> str:
        return self._digests[index * 32 : index * 32 + 32].hex()


def _changed(added: Sequence[tuple[str, int]], removed: Sequence[str]) -> Iterator[_Report]:
    """At least one report, which also says that the keeper lives."""
    for start in range(0, max(len(added), len(removed), 1), CHUNK):
        yield _Report(False, added[start : start + CHUNK], removed[start : start + CHUNK])
