"""The time axis of a run: where on it each stage of a task lies."""

from collections.abc import Sequence
from typing import NamedTuple

from cli.figures import duration
from tui.glyphs import STAGE_MARKS
from tui.model.tasks import Span


class Axis(NamedTuple):
    """From the run's start to its end, or to now, in epoch milliseconds."""

    begin: int
    end: int

    def column(self, at: int, width: int) -> int:
        """Where a moment lies among `width` columns; the end is one past the last."""
        length = max(1, self.end - self.begin)
        return min(width, max(0, (at - self.begin) * width // length))


def bar(spans: Sequence[Span], axis: Axis, width: int, *, ascii_only: bool = False) -> tuple[tuple[str, str], ...]:
    """Stretches of glyphs with their styles. What took no more than a column's time still has one column."""
    if not spans or width <= 0:
        return ()
    columns: list[str] = [""] * width
    for span in spans:
        first = min(width - 1, axis.column(span.begin, width))
        last = max(first, axis.column(span.end, width) - 1)
        for index in range(first, last + 1):
            columns[index] = span.stage
    parts: list[tuple[str, str]] = []
    start = 0
    for index in range(1, width + 1):
        if index < width and columns[index] == columns[start]:
            continue
        parts.append(_stretch(columns[start], index - start, ascii_only))
        start = index
    return tuple(parts)


def _stretch(stage: str, length: int, ascii_only: bool) -> tuple[str, str]:
    if not stage:
        return " " * length, "foreground"
    mark = STAGE_MARKS[stage]
    return (mark.plain if ascii_only else mark.glyph) * length, mark.style


def ruler(axis: Axis, width: int) -> str:
    """`0 s       2.5 s       5.0 s`: the axis' start, middle and end, as far as they fit."""
    length = axis.end - axis.begin
    left, right = "0", duration(length)
    middle = duration(length // 2)
    if width < len(left) + len(right) + 1:
        return left[:width]
    line = list(left.ljust(width - len(right)) + right)
    at = (width - len(middle)) // 2
    if at > len(left) and at + len(middle) < width - len(right):
        line[at : at + len(middle)] = middle
    return "".join(line)
