"""The editor of a DAG: YAML with colours, and the lines underlined that problems were found in."""

from collections.abc import Iterable

from rich.text import Text
from textual import on
from textual.widgets import TextArea

MOST_COLOURED_LINES = 3_000
"""Each key colours the whole text anew: with 30,000 lines that takes half a second."""


def language_of(lines: int) -> str | None:
    return "yaml" if lines <= MOST_COLOURED_LINES else None


class DagEditor(TextArea):
    DEFAULT_CSS = """
    DagEditor { border: round $panel; padding: 0; height: 1fr; }
    DagEditor:focus { border: round $primary; }
    """

    def __init__(self, text: str) -> None:
        super().__init__(
            text,
            language=language_of(text.count("\n") + 1),
            theme="css",
            soft_wrap=False,
            show_line_numbers=True,
            tab_behavior="indent",
            id="editor",
        )
        self.indent_width = 2
        self._faulty: frozenset[int] = frozenset()

    @on(TextArea.Changed)
    def colour_what_is_small(self) -> None:
        language = language_of(self.document.line_count)
        if language != self.language:
            self.language = language

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
