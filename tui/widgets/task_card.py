"""The card of one task: everything that is known of it, scrolled where it is long."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from tui.model.card import Line
from tui.palette import style_of

LABEL_COLUMNS = 11


class TaskCard(VerticalScroll):
    DEFAULT_CSS = """
    TaskCard { border: round $panel; border-title-color: $foreground; padding: 0 1; }
    TaskCard:focus { border: round $primary; }
    TaskCard Static { height: auto; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._text = Static("", markup=False)
        self._shown: tuple[Line, ...] = ()

    def compose(self) -> Iterable[Static]:
        yield self._text

    def show_task(self, name: str, lines: Iterable[Line]) -> None:
        """Write the card anew if anything it says has changed."""
        shown = tuple(lines)
        if shown == self._shown and self.border_title == name:
            return
        self._shown = shown
        self.border_title = Text(name).plain
        table = Table.grid(padding=(0, 1))
        table.add_column(width=LABEL_COLUMNS, no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for line in shown:
            table.add_row(
                Text(line.label, style=style_of(self.app, "muted")),
                Text(line.text, style=style_of(self.app, line.style)),
            )
        self._text.update(table)
