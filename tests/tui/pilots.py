"""The dashboard with one screen only, and what it notified."""

from typing import Any

from textual import on
from textual.app import App
from textual.events import Mount
from textual.screen import Screen

from tui.app import HeliosApp
from tui.intents import OpenRun
from tui.model.connection import Connection
from tui.session import Session


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
