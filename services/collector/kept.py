"""Failures that were reported ahead of their pod's status, and how long that is still waited for.

Only this process knows of them, so it keeps each until its end is committed. When it dies, the pod's status ends the
attempt as it does without any report.
"""

import threading
import time
from collections.abc import Callable

from helios.podwire import Report
from helios.tokens import Attempt

PATIENCE_SECONDS = 5.0
"""Only the pod's status knows OOM kills and evictions; but a run does not wait for it for ever."""

KILLED_PATIENCE_SECONDS = 150.0
"""For a task that a signal ended: its whole node may be going down, the task a moment before the rest. Kubernetes takes
up to 50 s to call a node not ready, and then it is given HELIOS_NODE_LOST_SECONDS; a node that lives tells much sooner.
"""

AGAIN_SECONDS = 1.0
"""After this an end is tried again that Redis did not take."""


class KeptReports:
    """Filled by the endpoint's threads, emptied by the loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.waiting: dict[Attempt, float] = {}
        """And until when."""

    def add(self, attempt: Attempt, report: Report) -> None:
        patience = KILLED_PATIENCE_SECONDS if _was_killed(report) else PATIENCE_SECONDS
        with self.lock:
            self.waiting.setdefault(attempt, self.clock() + patience)

    def overdue(self) -> list[Attempt]:
        """Those whose pod's status was waited for long enough."""
        with self.lock:
            now = self.clock()
            return [attempt for attempt, until in self.waiting.items() if until <= now]

    def put_off(self, attempt: Attempt) -> None:
        with self.lock:
            self.waiting[attempt] = self.clock() + AGAIN_SECONDS

    def done(self, attempt: Attempt) -> None:
        with self.lock:
            self.waiting.pop(attempt, None)


def _was_killed(report: Report) -> bool:
    """By a signal, as far as can be told: a shell passes its child's on as an exit code."""
    if report.timedOut:
        return False
    return report.signal in ("SIGKILL", "SIGTERM") or report.exitCode in (None, 137, 143)
