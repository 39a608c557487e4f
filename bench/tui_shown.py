"""The dashboard itself, in a process of its own, with a look inside: how late its event loop is, and what it shows.

    python -m bench.tui_shown URL FILE RUNS

At each SIGUSR1 it writes a report to FILE. It looks at its event loop until it shows RUNS runs, and from SIGUSR2 on:
the look itself takes one or two hundredths of a core.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import msgspec
import redis

from cli.connection import Link
from helios.settings import settings_from
from helios.streams import CLIENT_OPTIONS
from tui.app import HeliosApp
from tui.session import Session
from tui.source.feed import Feed
from tui.widgets.grid import Grid

BEAT_SECONDS = 0.005


class Report(msgspec.Struct):
    """Moments are seconds of the wall clock, late is in seconds."""

    late_p99: float
    late_worst: float
    beats: int
    painted_at: float | None
    """When the first row was on screen."""
    complete_at: float | None
    """When all of the history was in the table."""
    rows: int
    connection: str
    lines: list[str]


class MeasuredApp(HeliosApp):
    def __init__(self, session: Session, file: Path, history: int) -> None:
        super().__init__(session)
        self.file, self.history = file, history
        self.late: list[float] = []
        self.painted_at: float | None = None
        self.complete_at: float | None = None

    def on_ready(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.report)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self.begin)
        self.begin()

    def begin(self) -> None:
        """Look at the event loop anew."""
        self.late = []
        self.is_busy = self.complete_at is not None
        self.beating = asyncio.create_task(self.beat())

    async def beat(self) -> None:
        """Sleep a little, again and again, and see how much longer it took."""
        while self.is_busy or self.complete_at is None:
            began = time.perf_counter()
            await asyncio.sleep(BEAT_SECONDS)
            self.late.append(max(0.0, time.perf_counter() - began - BEAT_SECONDS))
            if self.complete_at is None:
                self.look()

    def look(self) -> None:
        rows = len(self.home.query_one(Grid).order)
        now = time.time()
        if rows and self.painted_at is None:
            self.painted_at = now
        if rows >= self.history:
            self.complete_at = now

    def report(self) -> None:
        late = sorted(self.late) or [0.0]
        strips = self.screen._compositor.render_strips(self.size)
        report = Report(
            late_p99=late[int(len(late) * 0.99)],
            late_worst=late[-1],
            beats=len(late),
            painted_at=self.painted_at,
            complete_at=self.complete_at,
            rows=len(self.home.query_one(Grid).order),
            connection=self.session.feed.connection.state,
            lines=["".join(segment.text for segment in strip).rstrip() for strip in strips],
        )
        part = self.file.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(report))
        part.replace(self.file)


def main() -> None:
    url, file, history = sys.argv[1:]
    settings = settings_from({"HELIOS_REDIS_URL": url})
    link = Link(redis.Redis.from_url(url, **CLIENT_OPTIONS), settings)
    MeasuredApp(Session(link, Feed(link)), Path(file), int(history)).run()


if __name__ == "__main__":
    main()
