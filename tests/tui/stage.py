"""The dashboard's session over a real Valkey, with a clock that stands still."""

import time
from collections.abc import Callable
from typing import Any

import redis
from textual.pilot import Pilot

from cli.connection import Link
from helios.settings import Settings
from tests.tui.pictures import screen_text
from tui.session import Options, Session
from tui.source.feed import Feed

NOW_MS = 1_764_027_300_000
"""2025-11-24 23:35:00 UTC: what the clock of every picture says."""


def session_of(client: redis.Redis, **options: bool | str) -> Session:
    link = Link(client, Settings())
    return Session(link, Feed(link, clock=lambda: NOW_MS), Options(**options), clock=lambda: NOW_MS)  # pyright: ignore[reportArgumentType]


async def until(pilot: Pilot[Any], description: str, predicate: Callable[[], object], seconds: float = 20) -> None:
    """Let the dashboard go on until something is true; fails with the description and the screen after the deadline."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {description}\n{screen_text(pilot.app)}")
        await pilot.pause(0.02)
    await pilot.pause()


async def still(pilot: Pilot[Any], seconds: float = 20) -> None:
    """Let the dashboard go on until its screen has not changed for several ticks."""
    deadline, seen, same = time.monotonic() + seconds, "", 0
    while same < 6:
        if time.monotonic() > deadline:
            raise AssertionError(f"the screen is not still within {seconds:g} s\n{seen}")
        await pilot.pause(0.05)
        now = screen_text(pilot.app)
        seen, same = now, same + 1 if now == seen else 0
