"""Turns between the test processes of one checkout: many at once, or one alone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOOR, ROOM = Path(__file__), Path(__file__).with_name("conftest.py")
"""What is locked, and never written: two files that are there anyway."""


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Waits for its turn. Who waits for the room to be empty holds the door, so that nobody else enters meanwhile."""
    with DOOR.open("rb") as door, ROOM.open("rb") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        # Explicitly, here and below: a process that a test forks keeps the open file, and would keep the lock with it.
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)
