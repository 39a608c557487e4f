"""What is looked for in a log, and how it stands. Pure functions."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from cli.figures import count
from tui.model.status import Part

ERROR = re.compile(r"\b(?:errors?|exceptions?|traceback|fatal|panic(?:ked)?|failed|failure)\b", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LogState(NamedTuple):
    """`kind` is loading, following, complete, dropped or lost; `trouble` says why it is lost."""

    kind: str
    trouble: str = ""


def plain(line: str) -> str:
    """The line without its colours."""
    return _COLOUR.sub("", line)


def matches(lines: Sequence[str], wanted: str) -> list[int]:
    """Numbers of the lines that have the text in them, whatever its case."""
    if not wanted:
        return []
    folded = wanted.casefold()
    return [number for number, line in enumerate(lines) if folded in plain(line).casefold()]


def first_error(lines: Sequence[str]) -> int | None:
    """The first line that speaks of an error."""
    return next((number for number, line in enumerate(lines) if ERROR.search(plain(line))), None)


def state_part(state: LogState, lines: int, *, follows: bool, ascii_only: bool = False) -> Part:
    """How the log stands, as a sign, words and a style."""
    known = count(lines, "line")
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
        case "lost":
            return Part(f"{'x' if ascii_only else '✘'} {known}, disconnected: {state.trouble}", "error")
        case _:
            return Part(f"{'-' if ascii_only else '…'} loading", "muted")
