"""Aligned columns of text, without a frame, so that a pipe can cut and sort them. No I/O happens here."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cli.output import inert


class Column(NamedTuple):
    title: str
    right: bool = False


class Cell(NamedTuple):
    text: str
    style: str = ""


Row = Sequence[Cell | str]
Painter = Callable[[str, str], str]
"""Gives a text its style."""


def plain(text: str, _style: str) -> str:
    return text


def lay_out(columns: Sequence[Column], rows: Sequence[Row], paint: Painter = plain) -> list[str]:
    """The lines of a table, headed by its titles. A column without any text in it is left out."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i].text for row in cells)]
    shown = [columns[i] for i in used]
    widths = [max(width(columns[i].title), *(width(row[i].text) for row in cells)) for i in used]
    lines = [_line([Cell(column.title, "dim") for column in shown], shown, widths, paint)]
    lines += [_line([row[i] for i in used], shown, widths, paint) for row in cells]
    return lines


def _cell(cell: Cell | str) -> Cell:
    text, style = cell if isinstance(cell, Cell) else (cell, "")
    return Cell(inert(text), style)


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], paint: Painter) -> str:
    parts: list[str] = []
    for cell, column, wide in zip(cells, columns, widths, strict=True):
        gap = " " * (wide - width(cell.text))
        parts.append(gap + paint(cell.text, cell.style) if column.right else paint(cell.text, cell.style) + gap)
    return "  ".join(parts).rstrip()


def width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def shortened(text: str, limit: int) -> str:
    """The text on one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
