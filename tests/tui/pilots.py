"""How a pilot waits: for something to become true, while the application goes on."""

import time
from collections.abc import Callable
from typing import Any

from textual import on
from textual.app import App
from textual.events import Mount
from textual.pilot import Pilot
from textual.screen import Screen

from tui.app import HeliosApp
from tui.intents import OpenRun
from tui.model.connection import Connection
from tui.session import Session


async def until(pilot: Pilot[Any], description: str, predicate: Callable[[], Any], deadline_seconds: float = 15) -> Any:
    deadline = time.monotonic() + deadline_seconds
    while not (found := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_seconds:g} s: {description}")
        await pilot.pause(0.01)
    return found


class OneScreen(HeliosApp):
    """The dashboard with one screen, which remembers what it was asked to open."""

    def __init__(self, session: Session, screen: Screen[Any]) -> None:
        super().__init__(session)
        self.only = screen
        self.opened: list[str] = []

    def on_mount(self, event: Mount) -> None:
        event.prevent_default()  # else the dashboard's own would follow
        self.session.feed.connection = Connection("live")
        self.push_screen(self.only)

    @on(OpenRun)
    def remember(self, intent: OpenRun) -> None:
        intent.prevent_default()
        self.opened.append(intent.run)


def notes(app: App[Any]) -> str:
    """What was notified, in order."""
    return "\n".join(each.message for each in app._notifications)  # pyright: ignore[reportPrivateUsage] -- no public list
