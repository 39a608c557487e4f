"""What stands in place of everything while the terminal is too small to show anything right."""

from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static

LEAST_WIDTH, LEAST_HEIGHT = 72, 18


def is_too_small(width: int, height: int) -> bool:
    return width < LEAST_WIDTH or height < LEAST_HEIGHT


class TooSmall(ModalScreen[None]):
    DEFAULT_CSS = """
    TooSmall { align: center middle; background: $background; }
    TooSmall Static { width: auto; max-width: 100%; text-align: center; }
    """

    def compose(self) -> ComposeResult:
        yield Static("", markup=False)

    def on_mount(self) -> None:
        self.say(self.app.size.width, self.app.size.height)

    def say(self, width: int, height: int) -> None:
        needed = f"{LEAST_WIDTH}x{LEAST_HEIGHT}"
        self.query_one(Static).update(
            f"The terminal is too small: {width}x{height}.\nHelios needs {needed}; enlarge it."
        )
