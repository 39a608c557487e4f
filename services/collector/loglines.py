"""Lines of a log with the ids they keep in Redis, and how a growing file is cut into them. Pure functions.

Rule: a line's id follows from where it stands in its log, so that whoever copies it again adds nothing twice.
"""

from collections.abc import Callable
from typing import NamedTuple

LINE_BYTES = 4_096
TAIL_BYTES = 256 * 1024
"""Of a log that is longer than this and that nobody followed, the end is kept."""


class LogLine(NamedTuple):
    """`id` is the line's entry id in its stream."""

    id: str
    text: str


class LogPart(NamedTuple):
    """Lines that are new, and the position after them, to be handed in again for what follows."""

    lines: list[LogLine]
    reached: int


def cut(read: Callable[[int, int], bytes], length: int, after: int, *, final: bool) -> LogPart:
    """The lines of a file of `length` bytes from the offset `after` on; a line's id is its offset, plus one.

    `read` takes an offset and how many bytes are wanted. A last line without an end counts only when `final`.
    """
    if length <= after:
        return LogPart([], after)
    found: list[LogLine] = []
    skipped = max(0, length - TAIL_BYTES - after)
    text = read(after + skipped, TAIL_BYTES)
    if skipped:
        first, newline, rest = text.partition(b"\n")
        skipped += len(first) + len(newline)
        found.append(_at(after, f"[HELIOS] {skipped} bytes of this log are not kept"))
        text = rest
    at = after + skipped
    complete, newline, rest = text.rpartition(b"\n")
    for line in complete.split(b"\n") if newline else ():
        found.append(_at(at, readable(line)))
        at += len(line) + 1
    if rest and (final or len(rest) > LINE_BYTES):
        found.append(_at(at, readable(rest)))
        at += len(rest)
    return LogPart(found, at)


def readable(line: bytes) -> str:
    """At most LINE_BYTES of it, as text."""
    return line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r")


def _at(offset: int, text: str) -> LogLine:
    return LogLine(f"{offset + 1}-0", text)
