"""Follows Redis: a snapshot of all runs, then the events feed, in one thread. Whoever shows something takes what changed.

Rule: `lock` is held while the models are moved on and while they are read; nobody waits for Redis while holding it.
"""

import threading

import msgspec

from cli.connection import Link
from tui.model.runs import Runs
from tui.model.tasks import Board


class Connection(msgspec.Struct, frozen=True):
    """How the way to Redis is. `since_ms` and `retry_at_ms` are on this machine's clock."""

    state: str = "loading"
    """loading (the first snapshot is being read), live or lost."""
    since_ms: int = 0
    retry_at_ms: int = 0
    trouble: str = ""
    """Why it is lost, and what to do."""
    loaded: int = 0
    total: int = 0
    """Runs read, and runs there are, while loading."""


class Feed:
    """Runs, and the tasks of the run that is watched, as they are now."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.lock = threading.Lock()
        self.runs = Runs()
        self.board: Board | None = None
        self.connection = Connection()
        self.clock_offset_ms = 0
        """What to add to this machine's clock for that of the Redis server."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def watch(self, run: str | None) -> None:
        """Fill `board` with this run's tasks from now on; it is None until the first look at them is complete."""
        raise NotImplementedError

    def now_ms(self) -> int:
        """The Redis server's time."""
        raise NotImplementedError
