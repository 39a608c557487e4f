"""What a table is made of: headings with widths, and cells. How both fit a line of the terminal."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size


class Cell(NamedTuple):
    """What one cell says. `style` is one of tui/glyphs.py's; `short` is shown where the text has no room."""

    text: str
    style: str = "foreground"
    short: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    """Stretches of text, each with its style, in place of the text: they must come to the column's width, or less."""


class Heading(NamedTuple):
    """A column. Widths are in cells of the terminal; `need` 0 is for what is always there, the highest goes first."""

    title: str
    least: int
    most: int = 0
    """What it grows to where there is room; 0 is `least`."""
    need: int = 0
    right: bool = False
    """Whether text stands at the right, as numbers do."""


def fit(headings: Sequence[Heading], room: int, gap: int = 1) -> list[int]:
    """The width of each column in `room` cells with gaps between them; 0 leaves one out."""
    widths = [heading.least for heading in headings]
    for index in sorted(range(len(headings)), key=lambda each: -headings[each].need):
        if headings[index].need and _taken(widths, gap) > room:
            widths[index] = 0
    left = room - _taken(widths, gap)
    while left > 0:
        growing = [i for i, heading in enumerate(headings) if 0 < widths[i] < (heading.most or heading.least)]
        if not growing:
            break
        for index in growing[:left]:
            widths[index] += 1
            left -= 1
    return widths


def _taken(widths: Sequence[int], gap: int) -> int:
    shown = [width for width in widths if width]
    return sum(shown) + gap * max(0, len(shown) - 1)


def printable(text: str) -> str:
    """The text without what could move the cursor or cannot be written."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "�" for each in text)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly this width: cut with an ellipsis, or filled with blanks. What could move the cursor goes."""
    text = printable(text)
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * (width - length) + text if right else text + " " * (width - length)
