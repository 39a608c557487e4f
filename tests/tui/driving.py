"""Runs the dashboard without a terminal, over a real Valkey, and takes steps in it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
from textual.pilot import Pilot

from tests.tui.pictures import NARROW
from tests.tui.stage import session_of, until
from tui.app import HeliosApp
from tui.preferences import Preferences

Steps = Callable[[HeliosApp, Pilot[None]], Awaitable[None]]


def drive(
    client: redis.Redis,
    state: Path,
    steps: Steps,
    *,
    size: tuple[int, int] = NARROW,
    preferences: Preferences | None = None,
    **options: bool | str,
) -> None:
    """Start the dashboard, wait until its feed is live, and take the steps; `state` is the folder for its state."""

    async def run() -> None:
        app = HeliosApp(session_of(client, **options), preferences or Preferences(), state=state)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, "the feed is live", lambda: app.session.feed.connection.state == "live")
            await steps(app, pilot)

    asyncio.run(run())
