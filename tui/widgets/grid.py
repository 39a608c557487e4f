"""A table of any length that draws only what is in sight, from keys in order and a function that makes a row's cells.

Rule: widths come from the columns, never from the rows; a row that changed costs one line, and out of sight nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.model.table import Cell, Heading, fit, fitted


def _index(order: Sequence[str], key: str, before: int) -> int:
    """Where the key is now, or near where it was."""
    try:
        return order.index(key)
    except ValueError:
        return max(0, min(before, len(order) - 1))


class Grid(ScrollView, can_focus=True):
    """Rows known by their keys. The cursor stays on its key when the order changes; until the user has moved it, it
    stays in the first line instead."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", id="grid.down", show=False),
        Binding("up,k", "move(-1)", "Up", id="grid.up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", id="grid.page-down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", id="grid.page-up", show=False),
        Binding("home,g", "go(0)", "First", id="grid.first", show=False),
        Binding("end,G", "go(-1)", "Last", id="grid.last", show=False),
        Binding("enter", "choose", "Open", id="grid.choose", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "grid--header",
        "grid--cursor",
        "grid--success",
        "grid--error",
        "grid--warning",
        "grid--primary",
        "grid--accent",
        "grid--foreground",
        "grid--muted",
    }
    DEFAULT_CSS = """
    Grid {
        height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1;
        background: $background; color: $foreground;
        & > .grid--header { background: $panel; color: $foreground; text-style: bold; }
        & > .grid--cursor { background: $panel; }
        &:focus > .grid--cursor { background: $panel-lighten-2; text-style: bold; }
        & > .grid--success { color: $text-success; }
        & > .grid--error { color: $text-error; }
        & > .grid--warning { color: $text-warning; }
        & > .grid--primary { color: $text-primary; }
        & > .grid--accent { color: $text-accent; }
        & > .grid--foreground { color: $foreground; }
        & > .grid--muted { color: $text-muted; }
    }
    """

    class Chosen(Message):
        """Enter or a double click on the row of this key."""

        def __init__(self, grid: "Grid", key: str) -> None:
            super().__init__()
            self.grid, self.key = grid, key

        @property
        def control(self) -> "Grid":
            return self.grid

    class Moved(Message):
        """The cursor is on another row now; None when there is none."""

        def __init__(self, grid: "Grid", key: str | None) -> None:
            super().__init__()
            self.grid, self.key = grid, key

        @property
        def control(self) -> "Grid":
            return self.grid

    class HeadingChosen(Message):
        """A click on the title of a column."""

        def __init__(self, grid: "Grid", column: int) -> None:
            super().__init__()
            self.grid, self.column = grid, column

        @property
        def control(self) -> "Grid":
            return self.grid

    def __init__(
        self,
        headings: Sequence[Heading],
        cells: Callable[[str], Sequence[Cell]],
        *,
        ascii_only: bool = False,
        id: str | None = None,
    ) -> None:
        """`cells` makes the cells of a key's row, one for each heading; it is called for what is drawn only."""
        super().__init__(id=id)
        self.headings = headings
        self.cells = cells
        self.ascii_only = ascii_only
        self.order: list[str] = []
        self.cursor = 0
        self.is_moved = False
        """Whether the user, or `select`, has put the cursor somewhere."""
        self._sorted: tuple[int, bool] | None = None
        self._marked: Collection[str] = ()
        self._is_dim = False
        self._notice = ""
        self._told: str | None = None
        self._widths: list[int] = []

    # What is shown.

    @property
    def key(self) -> str | None:
        """The key that the cursor is on."""
        return self.order[self.cursor] if self.cursor < len(self.order) else None

    @property
    def visible_keys(self) -> Sequence[str]:
        top = self.scroll_offset.y
        return self.order[top : top + max(0, self.room.height - 1)]

    @property
    def room(self) -> Size:
        """What there is for the header and the rows, beside the scrollbar."""
        return self.scrollable_content_region.size

    def is_shown(self, column: int) -> bool:
        """Whether there is room for the column."""
        return fit(self.headings, max(0, self.room.width - 1))[column] > 0

    def set_rows(self, order: Sequence[str]) -> None:
        """Show these keys in this order. Costs nothing when that is how they are."""
        order = list(order)
        if order == self.order:
            return
        key, seen, top = self.key, self.visible_keys, self.scroll_offset.y
        in_sight = top <= self.cursor < top + len(seen)
        anchor, line = (key, self.cursor - top) if in_sight else (seen[0] if seen else None, 0)
        self.order = order
        if not self.is_moved or key is None:
            self.cursor = 0
        else:
            self.cursor = _index(order, key, self.cursor)
        self.virtual_size = Size(0, len(order) + 1)
        if top and anchor is not None:  # what is looked at stays where it is
            top = _index(order, anchor, top + line) - line
        elif in_sight and self.is_moved:
            top = self.cursor - line
        self.scroll_to(y=max(0, min(top, self.max_scroll_y)), animate=False, force=True)
        if in_sight:
            self._show_cursor()
        if self.visible_keys != seen or self.key != key:
            self.refresh()
        self._tell()

    def refresh_rows(self, keys: Collection[str]) -> None:
        """Draw again those of the keys that are in sight."""
        if not keys:
            return
        for line, key in enumerate(self.visible_keys, start=1):
            if key in keys:
                self.refresh(Region(0, line, self.room.width, 1))

    def set_sorted(self, column: int, *, descending: bool) -> None:
        """Which column's title carries the arrow."""
        if self._sorted != (column, descending):
            self._sorted = (column, descending)
            self.refresh(Region(0, 0, self.room.width, 1))

    def set_marked(self, keys: Collection[str]) -> None:
        """Rows with a mark at their left."""
        if self._marked != keys:
            self._marked = keys
            self.refresh()

    def set_dim(self, is_dim: bool) -> None:
        """Whether what is shown is out of date."""
        if self._is_dim != is_dim:
            self._is_dim = is_dim
            self.refresh()

    def set_notice(self, text: str) -> None:
        """What stands in place of rows when there are none."""
        if self._notice != text:
            self._notice = text
            self.refresh()

    def select(self, key: str) -> bool:
        """Put the cursor on this row; False when there is none of that key."""
        if key not in self.order:
            return False
        self._move_to(self.order.index(key))
        return True

    # How it moves.

    def action_move(self, step: int) -> None:
        self._move_to(self.cursor + step)

    def action_page(self, step: int) -> None:
        self._move_to(self.cursor + step * max(1, self.room.height - 2))

    def action_go(self, index: int) -> None:
        self._move_to(index if index >= 0 else len(self.order) + index)

    def action_choose(self) -> None:
        if self.key is not None:
            self.post_message(self.Chosen(self, self.key))

    def _move_to(self, index: int) -> None:
        before, self.is_moved = self.cursor, True
        self.cursor = max(0, min(index, len(self.order) - 1))
        self._show_cursor()
        for each in {before, self.cursor}:
            self.refresh(Region(0, each - self.scroll_offset.y + 1, self.room.width, 1))
        self._tell()

    def _show_cursor(self) -> None:
        top, lines = self.scroll_offset.y, max(1, self.room.height - 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + lines:
            self.scroll_to(y=self.cursor - lines + 1, animate=False, force=True)

    def _tell(self) -> None:
        if self.key != self._told:
            self._told = self.key
            self.post_message(self.Moved(self, self.key))

    def on_resize(self) -> None:
        self._show_cursor()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.post_message(self.HeadingChosen(self, column))
            return
        index = self.scroll_offset.y + event.y - 1
        if index < len(self.order):
            self._move_to(index)
            if event.chain == 2:
                self.action_choose()

    def _column_at(self, x: int) -> int | None:
        left = 1
        for index, width in enumerate(self._widths):
            if width:
                if left <= x < left + width + 1:
                    return index
                left += width + 1
        return None

    # How it is drawn.

    def render_line(self, y: int) -> Strip:
        width = self.room.width
        self._widths = fit(self.headings, width - 1)
        if y == 0:
            return self._header(width)
        index = self.scroll_offset.y + y - 1
        if index < len(self.order):
            return self._row(index, width)
        plain = self._style("foreground")
        if not self.order and y == 2:
            return Strip([Segment(fitted(f"  {self._notice}", width), self._style("muted"))], width)
        return Strip([Segment(" " * width, plain)], width)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"grid--{name}", partial=name == "cursor")

    def _header(self, width: int) -> Strip:
        up, down = ("^", "v") if self.ascii_only else ("▲", "▼")
        titles = [""]
        for index, (heading, room) in enumerate(zip(self.headings, self._widths, strict=True)):
            if not room:
                continue
            if self._sorted is not None and self._sorted[0] == index:
                arrow = down if self._sorted[1] else up
                title = heading.title[: room - 1] + arrow
            else:
                title = heading.title
            titles.append(fitted(title, room, right=heading.right))
        line = " ".join(titles) if len(titles) > 1 else ""
        return Strip([Segment(fitted(line, width), self._style("header"))], width)

    def _row(self, index: int, width: int) -> Strip:
        key, is_cursor = self.order[index], index == self.cursor
        over = self._style("cursor") if is_cursor else Style.null()
        if self._is_dim:
            over += Style(dim=True)
        plain = self._style("foreground") + over
        segments = [Segment(self._gutter(key, is_cursor), plain)]
        used, gap = 1, ""
        for heading, cell, room in zip(self.headings, self.cells(key), self._widths, strict=True):
            if not room:
                continue
            text = cell.short if cell.short and cell_len(cell.text) > room else cell.text
            if gap:
                segments.append(Segment(gap, plain))
            if cell.parts:
                segments += self._parts(cell, room, over)
            else:
                shown = fitted(text, room, right=heading.right)
                if self.ascii_only:
                    shown = shown.replace("…", "~")
                segments.append(Segment(shown, self._style(cell.style) + over))
            used, gap = used + len(gap) + room, " "
        segments.append(Segment(" " * max(0, width - used), plain))
        return Strip(segments, max(used, width)).crop(0, width)

    def _parts(self, cell: Cell, room: int, over: Style) -> Iterator[Segment]:
        left = room
        for text, style in cell.parts:
            yield Segment(text[:left], self._style(style) + over)
            left = max(0, left - len(text))
        yield Segment(" " * left, self._style("foreground") + over)

    def width_of(self, column: int) -> int:
        """The width that a column has now; 0 where there is no room for it."""
        return fit(self.headings, self.size.width - 1)[column]

    def _gutter(self, key: str, is_cursor: bool) -> str:
        if key in self._marked:
            return "*" if self.ascii_only else "◆"
        if is_cursor:
            return ">" if self.ascii_only else "▌"
        return " "
