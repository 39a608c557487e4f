"""The top line: the screen's title, and how the connection stands."""

from typing import TYPE_CHECKING, cast

from textual.widgets import Static

if TYPE_CHECKING:
    from tui.app import HeliosApp


class StatusLine(Static):
    DEFAULT_CSS = """
    StatusLine { dock: top; height: 1; background: $panel; color: $foreground; padding: 0 1; }
    """

    def __init__(self, title: str) -> None:
        super().__init__(title, markup=False)
        self.title = title

    def show_state(self) -> None:
        app = cast("HeliosApp", self.app)
        self.update(f"Helios  {self.title}  {app.session.feed.connection.state}")
