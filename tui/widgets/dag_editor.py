"""The editor of a DAG: YAML with colours, and the lines underlined that problems were found in."""

from collections.abc import Iterable

from rich.text import Text
from textual.widgets import TextArea


class DagEditor(TextArea):
    DEFAULT_CSS = """
    DagEditor { border: round $panel; padding: 0; height: 1fr; }
    DagEditor:focus { border: round $primary; }
    """

    def __init__(self, text: str) -> None:
        super().__init__(
            text,
            language="yaml",
            theme="css",
            soft_wrap=False,
            show_line_numbers=True,
            tab_behavior="indent",
            id="editor",
        )
        self.indent_width = 2
        self._faulty: frozenset[int] = frozenset()

    def mark(self, lines: Iterable[int]) -> None:
        """Underline these lines, counted from 1, and no others."""
        faulty = frozenset(line - 1 for line in lines)
        if faulty != self._faulty:
            self._faulty = faulty
            self.notify_style_update()
            self.refresh()

    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        if line_index in self._faulty:
            line.stylize("underline")
        return line

    def go_to(self, line: int, column: int | None) -> None:
        """Put the cursor there, both counted from 1, as far as the text goes."""
        row = max(0, min(line - 1, self.document.line_count - 1))
        place = max(0, min((column or 1) - 1, len(self.document.get_line(row))))
        self.move_cursor((row, place), center=True)
        self.focus()
