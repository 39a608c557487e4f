"""Lines of a log, of which only those in sight are drawn; long ones are wrapped or cut."""

from collections.abc import Collection, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.model.log_lines import styled, wrapped

LINES_KEPT = 5_000


class LogView(ScrollView, can_focus=True):
    """The oldest lines go when there are too many. While it follows, the last line stays in sight."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll_down", "Down", id="log.down", show=False),
        Binding("up,k", "look_up", "Up", id="log.up", show=False),
        Binding("pageup", "look_page_up", "Page up", id="log.page-up", show=False),
        Binding("pagedown", "page_down", "Page down", id="log.page-down", show=False),
        Binding("home,g", "look_home", "First line", id="log.home", show=False),
        Binding("end,G", "follow", "Last line", id="log.end", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--match", "log--current", "log--number"}
    DEFAULT_CSS = """
    LogView {
        height: 1fr; background: $background; color: $foreground; scrollbar-size-vertical: 1;
        & > .log--match { background: $warning 30%; }
        & > .log--current { background: $primary 40%; text-style: bold; }
        & > .log--number { color: $text-muted; }
    }
    """

    class FollowChanged(Message):
        """It follows from now on, or no longer."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[str] = []
        self.gone = 0
        """How many lines there were before those."""
        self.follows = True
        self.wraps = False
        self._pieces: list[tuple[int, int]] = []
        """Of each line on screen the number of its line in the log, and where in it it begins."""
        self._matches: frozenset[int] = frozenset()
        self._current: int | None = None
        self._width = 0

    def clear(self) -> None:
        self.lines, self._pieces, self.gone = [], [], 0
        self._matches, self._current, self.follows = frozenset(), None, True
        self._measure()

    def add(self, lines: Sequence[str]) -> int:
        """Append lines; returns how many old ones went."""
        self.lines.extend(lines)
        gone = max(0, len(self.lines) - LINES_KEPT)
        first = self._pieces[-1][0] + 1 if self._pieces else 0
        for number in range(max(first, gone), len(self.lines)):
            self._cut(number)
        rows = self._drop(gone) if gone else 0
        self._measure()
        if rows and not self.follows:  # what is looked at stays where it is
            self.scroll_to(y=max(0, self.scroll_offset.y - rows), animate=False, force=True, immediate=True)
        return gone

    def _drop(self, gone: int) -> int:
        """Forget the oldest lines; returns how many rows they had."""
        before = len(self._pieces)
        del self.lines[:gone]
        self.gone += gone
        self._pieces = [(number - gone, start) for number, start in self._pieces if number >= gone]
        self._matches = frozenset(number - gone for number in self._matches if number >= gone)
        current = self._current
        self._current = current - gone if current is not None and current >= gone else None
        return before - len(self._pieces)

    def light(self, matches: Collection[int]) -> None:
        """Which lines are lit; what is in sight stays so."""
        self._matches = frozenset(matches)
        self.refresh()

    def mark(self, matches: Collection[int], current: int | None) -> None:
        """Which lines are lit, and which of them is brought into sight."""
        self._matches, self._current = frozenset(matches), current
        if current is not None:
            self.show(current)
        self.refresh()

    def show(self, line: int) -> None:
        """Bring a line into sight, and stay there."""
        self.set_follows(False)
        self._current = line
        row = next((index for index, (number, _) in enumerate(self._pieces) if number == line), 0)
        self.scroll_to(y=max(0, row - self.size.height // 3), animate=False)
        self.refresh()

    def set_follows(self, follows: bool) -> None:
        if self.follows != follows:
            self.follows = follows
            self.post_message(self.FollowChanged())

    def set_wrap(self, wraps: bool) -> None:
        self.wraps = wraps
        self._lay_out()

    def on_resize(self) -> None:
        if self.size.width != self._width:
            self._lay_out()

    def _lay_out(self) -> None:
        self._width = self.size.width
        self._pieces = []
        for number in range(len(self.lines)):
            self._cut(number)
        self._measure()

    def _cut(self, number: int) -> None:
        starts = wrapped(self.lines[number], self._room) if self.wraps else [0]
        self._pieces += [(number, start) for start in starts]

    @property
    def _room(self) -> int:
        """Cells for text on one row."""
        return max(10, self.size.width - 1)

    def _measure(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._pieces))
        if self.follows:
            self.call_after_refresh(self._show_end)
        self.refresh()

    def _show_end(self) -> None:
        if self.follows:
            self.scroll_end(animate=False)

    def action_follow(self) -> None:
        self.set_follows(True)
        self.scroll_end(animate=False)

    def action_look_up(self) -> None:
        self.set_follows(False)
        self.scroll_up(animate=False)

    def action_look_page_up(self) -> None:
        self.set_follows(False)
        self.scroll_page_up(animate=False)

    def action_look_home(self) -> None:
        self.set_follows(False)
        self.scroll_home(animate=False)

    def on_mouse_scroll_up(self) -> None:
        self.set_follows(False)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        index = self.scroll_offset.y + y
        if index >= len(self._pieces):
            return Strip([Segment(" " * width, base)], width)
        number, start = self._pieces[index]
        text = styled(self.lines[number])
        if self.wraps:
            after = self._pieces[index + 1] if index + 1 < len(self._pieces) else (-1, 0)
            text = text[start : after[1] if after[0] == number else len(text)]
        else:
            text = text[: self._room]
        style = base
        if number == self._current:
            style += self._lit("current")
        elif number in self._matches:
            style += self._lit("match")
        text.stylize_before(style)
        segments = [each for each in text.render(self.app.console) if each.text != "\n"]
        return Strip(segments).adjust_cell_length(width, style)

    def _lit(self, name: str) -> Style:
        return self.get_component_rich_style(f"log--{name}", partial=True)
