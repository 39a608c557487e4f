"""How far a task's inputs are, for whoever waits for them, and whether anybody does. Threads write, others read."""

import threading
from collections.abc import Callable, Sequence

from agent.frozen import TYPE_CHECKING
from agent.plan import PlannedInput

if TYPE_CHECKING:
    from agent.download import Wanted

GIVEN_UP = "the task's volume was given up"
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class Progress:
    """One task's. All counts are 0 until its plan is here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inputs = 0
        self._done = 0
        self._sizes: dict[str, int] = {}
        self._here: dict[str, int] = {}
        self.given_up = False

    def give_up(self) -> None:
        """Nobody waits any more: downloads end as failed ones, and no other begins."""
        self.given_up = True

    def planned(self, inputs: Sequence[PlannedInput]) -> None:
        with self._lock:
            self._inputs = len(inputs)
            self._sizes = {item.name: item.size for item in inputs if item.size is not None}

    def coming(self, wanted: "Wanted") -> Callable[[int], None]:
        """Takes how many bytes of the object are here, and raises DownloadFailed when nobody waits for them."""
        size = wanted.size
        whole = size if wanted.stored is None else wanted.stored.size
        with self._lock:
            self._sizes[wanted.name] = size

        def note(received: int) -> None:
            if self.given_up:
                from agent.download import DownloadFailed

                raise DownloadFailed(GIVEN_UP)
            with self._lock:
                self._here[wanted.name] = size * received // whole if whole else 0

        return note

    def brought(self, name: str, size: int) -> None:
        with self._lock:
            self._done += 1
            self._sizes[name] = self._here[name] = size

    def words(self) -> str:
        """As in "3 of 5 inputs, 1.2 GB of 8.0 GB"; of inputs outside the store of artifacts, whose size is not known
        before they are looked at, only those count that were.
        """
        with self._lock:
            here, whole = sum(self._here.values()), sum(self._sizes.values())
            return f"{self._done} of {self._inputs} inputs, {_amount(here)} of {_amount(whole)}"


def _amount(count: int) -> str:
    amount, unit = float(count), 0
    while amount >= 999.95 and unit + 1 < len(_UNITS):
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"
