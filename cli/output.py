"""Where words go: data to stdout, narration to stderr, colours only to a terminal that wants them.

Rule: a closed stderr never stops a command; a closed stdout raises BrokenPipeError, which ends the command quietly.
"""

import contextlib
import os
import re
import sys
from typing import Any, Literal, TextIO

Format = Literal["table", "json"]

STYLES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}

_TURNING = r"\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""What ends a line or turns the order of letters around, so that a text reads otherwise than it is."""
_CONTROL = re.compile(rf"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f{_TURNING}]")
_IN_A_CELL = re.compile(rf"[\x00-\x1f\x7f-\x9f{_TURNING}]")
_IN_JSON = re.compile(rf"[\x7f-\x9f{_TURNING}]")


def put(text: str) -> None:
    """A line, or several, of data for people: whatever they quote, they do not command the terminal."""
    put_as_it_is(harmless(text))


def put_as_it_is(text: str) -> None:
    """Data for a program, to the letter."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def put_json(value: Any) -> None:
    """One JSON value. Text that is not Unicode, which raw entries can carry, is made so."""
    import msgspec

    put_as_it_is(_escaped(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def put_json_line(value: Any) -> None:
    """One JSON value on one line."""
    import msgspec

    put_as_it_is(_escaped(msgspec.json.encode(value).decode()))


def _escaped(document: str) -> str:
    """The same JSON: what a terminal may take for a command and JSON lets stand is only within strings."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def narrate(text: str) -> None:
    """A line of narration, which may quote anything."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()


def colourful(stream: TextIO) -> bool:
    """Whether colours may be written: a terminal, and neither NO_COLOR nor TERM=dumb says otherwise."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(stream)


def is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def styled(text: str, style: str, stream: TextIO) -> str:
    if not style or not colourful(stream):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def harmless(text: str) -> str:
    """A line fit for a terminal: colours stay, everything else that could move the cursor is shown escaped."""

    cleaned = _CONTROL.sub(_shown, text)
    return f"{cleaned}\x1b[0m" if "\x1b[" in cleaned and not cleaned.endswith("\x1b[0m") else cleaned


def inert(text: str) -> str:
    """A text fit for one cell of a table, where not even a colour or a line end is its own to choose."""
    return _IN_A_CELL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) > 1:
        return found
    return f"\\x{ord(found):02x}" if ord(found) < 0x100 else f"\\u{ord(found):04x}"


def silence_stdout() -> None:
    """After a broken pipe: nothing more is written, not even at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
