"""Failures that were reported ahead of their pod's status, and how long that is still waited for.

Only this process knows of them. When it dies, the pod's status ends the attempt as it does without any report.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from helios.tokens import Attempt

PATIENCE_SECONDS = 5.0
"""Only the pod's status knows OOM kills, evictions and lost nodes; but a run does not wait for it for ever."""


class KeptReports:
    """Filled by the endpoint's threads, emptied by the loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.waiting: deque[tuple[float, Attempt]] = deque()

    def add(self, attempt: Attempt) -> None:
        with self.lock:
            self.waiting.append((self.clock() + PATIENCE_SECONDS, attempt))

    def overdue(self) -> list[Attempt]:
        """Those whose pod's status was waited for long enough, each once."""
        found: list[Attempt] = []
        with self.lock:
            while self.waiting and self.waiting[0][0] <= self.clock():
                found.append(self.waiting.popleft()[1])
        return found
