"""How tests wait: for something to become true, never for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(description: str, predicate: Callable[[], Found], deadline_seconds: float = 60) -> Found:
    """What the predicate returns once that is true; fails with the description after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    pause = 0.002
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_seconds:g} s: {description}; last seen: {found!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
