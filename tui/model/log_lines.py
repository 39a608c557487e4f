"""What is looked for in a log, and how it stands. Pure functions."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from cli.figures import count
from cli.output import harmless
from helios.run_object import readable
from tui.model.status import Part

ERROR = re.compile(
    r"(?<!\b0 )(?<!\bno )"
    r"(?:\b|(?-i:(?<=[A-Za-z])(?=[A-Z][a-z])))"
    r"(?:errors?|exceptions?|traceback|fatal|panic(?:ked)?|failed|failure)\b",
    re.IGNORECASE,
)
"""Whole words, and the last ones of names like `ValueError`; `0 failed` and `no errors` tell of none."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LogState(NamedTuple):
    """`kind` is loading, following, complete, dropped, unstarted, gone or lost; `trouble` says why it is lost."""

    kind: str
    trouble: str = ""


def plain(line: str) -> str:
    """The line without its colours."""
    return _COLOUR.sub("", line)


def shown(line: str) -> str:
    """A line fit for the screen: its colours and tabs stay, everything else that could move the cursor is escaped, and
    what no terminal has a place for is replaced."""
    line = harmless(readable(line).replace("\n", " "))
    if line.isascii():
        return line
    return "".join(each if each.isprintable() or each in "\x1b\t" else _stand_in(each) for each in line)


def _stand_in(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else "�"


TAB = 8


def styled(line: str) -> Text:
    """The line as it is drawn, with its colours, and blanks for its tabs."""
    text = Text.from_ansi(shown(line))
    text.expand_tabs(TAB)
    return text


def wrapped(line: str, room: int) -> list[int]:
    """Where in the drawn line each piece begins when no piece is wider than `room` cells of the terminal, 2 or more."""
    clean = shown(line)
    if clean.isascii():  # each is one cell wide, so that the many lines of this kind need not be looked through
        return list(range(0, max(1, len(plain(clean).expandtabs(TAB))), room))
    starts, used = [0], 0
    for index, char in enumerate(styled(line).plain):
        width = cell_len(char)
        if used + width > room:
            starts.append(index)
            used = 0
        used += width
    return starts


def matches(lines: Sequence[str], wanted: str) -> list[int]:
    """Numbers of the lines that have the text in them, whatever its case."""
    if not wanted:
        return []
    folded = wanted.casefold()
    return [number for number, line in enumerate(lines) if folded in plain(line).casefold()]


def first_error(lines: Sequence[str]) -> int | None:
    """The first line that speaks of an error."""
    return next((number for number, line in enumerate(lines) if ERROR.search(plain(line))), None)


def state_part(state: LogState, lines: int, *, follows: bool, hidden: int = 0, ascii_only: bool = False) -> Part:
    """How the log stands, as a sign, words and a style. `hidden` lines before those `lines` are not shown."""
    known = count(lines, "line") + (f" (the {hidden:,} before are not shown)" if hidden else "")
    match state.kind:
        case "following":
            words = f"{known}, follows" if follows else f"{known}, it goes on; f follows"
            return Part(f"{'>' if ascii_only else '▶'} {words if lines else 'no log yet'}", "primary")
        case "complete":
            words = f"complete, {known}" if lines else "nothing was printed"
            return Part(f"{'+' if ascii_only else '✔'} {words}", "success")
        case "dropped":
            return Part(
                f"{'/' if ascii_only else '⊘'} not kept any more: it made room for those of newer runs", "warning"
            )
        case "unstarted":
            return Part(f"{'-' if ascii_only else '–'} this task was never started", "muted")
        case "gone":
            return Part(f"{'/' if ascii_only else '⊘'} this run is no longer kept", "warning")
        case "lost":
            return Part(f"{'x' if ascii_only else '✘'} {known}, disconnected: {state.trouble}", "error")
        case _:
            return Part(f"{'-' if ascii_only else '…'} loading", "muted")
