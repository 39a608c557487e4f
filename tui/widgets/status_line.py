"""The top line: the screen's title, how the connection stands, and below it, while it is lost, why."""

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.widgets import Static

from cli.output import harmless
from tui.model.status import Part, connection_part, mode_parts
from tui.palette import style_of

if TYPE_CHECKING:
    from tui.app import HeliosApp


class StatusLine(Static):
    DEFAULT_CSS = """
    StatusLine { dock: top; height: auto; max-height: 3; background: $panel; color: $foreground; padding: 0 1; }
    """

    def __init__(self, title: str) -> None:
        super().__init__("", markup=False)
        self.title = title
        self._shown: tuple[object, ...] = ()

    def on_mount(self) -> None:
        self.show_state()

    def show_state(self) -> None:
        """Write the line anew if anything it says has changed."""
        app = cast("HeliosApp", self.app)
        session, options = app.session, app.session.options
        connection = session.feed.connection
        parts = [
            Part(f"Helios {self.title}", "foreground"),
            connection_part(connection, session.clock(), options.ascii_only),
            *mode_parts(paused=app.paused, read_only=options.read_only, recording=options.recording),
        ]
        trouble = harmless(connection.trouble) if connection.state == "lost" else ""
        shown = (tuple(parts), trouble, app.theme)
        if shown == self._shown:
            return
        self._shown = shown
        line = Text("   ").join(Text(part.text, style=style_of(app, part.style)) for part in parts)
        if trouble:
            line.append(f"\n{' '.join(trouble.split())}", style=style_of(app, "error"))
        self.update(line)
