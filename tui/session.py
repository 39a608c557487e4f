"""What every screen may ask for: the way to Redis, what is followed, the options it was started with."""

import time
from collections.abc import Callable

import msgspec

from cli.connection import Link
from tui.source.feed import Feed


class Options(msgspec.Struct, frozen=True):
    """How the dashboard was started."""

    read_only: bool = False
    ascii_only: bool = False
    theme: str = ""
    recording: str = ""
    """What a recording is shown from; empty when it is live."""


def wall_clock_ms() -> int:
    return int(time.time() * 1000)


LIVE = Options()


class Session:
    """One dashboard's link, feed and options; screens get it from `self.app.session`."""

    def __init__(
        self, link: Link, feed: Feed, options: Options = LIVE, clock: Callable[[], int] = wall_clock_ms
    ) -> None:
        self.link = link
        self.feed = feed
        self.options = options
        self.clock = clock
        """This machine's time, in epoch milliseconds; tests give one that stands still."""
