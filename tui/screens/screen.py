"""What all screens share: the session, the pace at which they look for news, the line that says how things stand."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer

from tui.session import Session
from tui.source.saving import save
from tui.widgets.dialogs import Confirm
from tui.widgets.status_line import StatusLine

if TYPE_CHECKING:
    from tui.app import HeliosApp


class HeliosScreen(Screen[None]):
    """A screen that shows something live. Subclasses give `compose_body` and `tick`."""

    TITLE = ""
    TICKS_PER_SECOND: ClassVar[float] = 4.0

    @property
    def helios(self) -> "HeliosApp":
        return cast("HeliosApp", self.app)

    @property
    def session(self) -> Session:
        return self.helios.session

    def compose(self) -> ComposeResult:
        yield StatusLine(self.TITLE or "")
        yield from self.compose_body()
        yield Footer(show_command_palette=False, compact=True)

    def compose_body(self) -> ComposeResult:
        yield from ()

    def on_mount(self) -> None:
        self.set_interval(1 / self.TICKS_PER_SECOND, self._tick)

    def on_screen_resume(self) -> None:
        self._tick()

    def _tick(self) -> None:
        if self.is_current and self.is_mounted:
            self.query_one(StatusLine).show_state()
            if not self.helios.paused:
                self.tick()

    async def save_asking(self, path: Path, content: bytes) -> bool:
        """Write a file, over another only if that is wanted; returns whether it was written. Raises CommandFailed."""
        try:
            await asyncio.to_thread(save, path, content)
        except FileExistsError:
            if not await self.app.push_screen_wait(Confirm(f"{path} exists. Replace it?", yes="Replace")):
                return False
            await asyncio.to_thread(save, path, content, replace=True)
        return True

    def tick(self) -> None:
        """Take what changed and show it; called while the screen is in front and not paused."""
