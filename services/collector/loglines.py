"""Lines of a log with the ids they keep in Redis, and how a growing file is cut into them. Pure functions.

Rule: a line's id follows from where it stands in its log, so that whoever copies it again adds nothing twice.
"""

from collections.abc import Callable
from typing import NamedTuple

LINES_KEPT = 5_000
"""Of each log in Redis."""
LINE_BYTES = 4_096
"""The beginning of a longer line is kept, and it says how much was cut."""
TAIL_BYTES = 256 * 1024
"""Of a log that is longer than this and that nobody followed, the end is kept."""
WATCHED_BYTES = 1024 * 1024
"""Of a log that somebody follows so much is kept: enough for whoever reads along."""
NOT_KEPT = "[HELIOS] lines before this are not kept"
PAGES_AT_ONCE = 64
"""A log that is followed is copied in pages of TAIL_BYTES, so that a burst of this many is not skipped."""


class LogLine(NamedTuple):
    """`id` is the line's entry id in its stream."""

    id: str
    text: str


class LogPart(NamedTuple):
    """Lines that are new, and the position after them, to be handed in again for what follows."""

    lines: list[LogLine]
    reached: int
    more: bool = False
    """Of a log that is over, this was a page and not all."""


def cut(read: Callable[[int, int], bytes], length: int, after: int, *, final: bool, followed: bool = False) -> LogPart:
    """The next lines of a file of `length` bytes from the offset `after` on; a line's id is its offset, plus one.

    `read` takes an offset and how many bytes are wanted. A last line without an end counts only when `final`. One page
    of a log that is followed; else, or when that is too far behind, its last lines and how much is left out before.
    """
    if length <= after:
        return LogPart([], after)
    if not followed or length - after > PAGES_AT_ONCE * TAIL_BYTES:
        return _end_of(read, length, after, final=final)
    text = read(after, TAIL_BYTES)
    is_last = after + len(text) >= length
    found, reached = _lines_of(text, after, ends=final and is_last, limit=LINES_KEPT)
    return LogPart([_at(offset, line) for offset, line in found], reached, final and reached < length)


def shortened(lines: list[LogLine], limit_bytes: int) -> list[LogLine]:
    """The last lines, as many as fit, and a line that says so where some do not."""
    left = limit_bytes
    for number in range(len(lines) - 1, -1, -1):
        left -= len(lines[number].text.encode())
        if left < 0:
            return [LogLine(lines[number].id, NOT_KEPT), *lines[number + 1 :]]
    return lines


def _end_of(read: Callable[[int, int], bytes], length: int, after: int, *, final: bool) -> LogPart:
    start = max(after, length - TAIL_BYTES)
    text = read(start, TAIL_BYTES)
    if start > after:
        first, newline, text = text.partition(b"\n")
        start += len(first) + len(newline)
    lines, reached = _lines_of(text, start, ends=final, limit=None)
    if len(lines) > LINES_KEPT:
        lines = lines[1 - LINES_KEPT :]
    found = [_at(offset, line) for offset, line in lines]
    if skipped := (lines[0][0] if lines else reached) - after:
        found.insert(0, _at(after, f"[HELIOS] {skipped} bytes of this log are not kept"))
    return LogPart(found, reached)


def _lines_of(text: bytes, at: int, *, ends: bool, limit: int | None) -> tuple[list[tuple[int, str]], int]:
    """The lines of a text that starts at the offset `at`, each with its own, and the offset that is reached with them.

    `ends`: a last line without an end is one all the same.
    """
    complete, newline, rest = text.rpartition(b"\n")
    found: list[tuple[int, str]] = []
    lines = complete.split(b"\n") if newline else []
    for line in lines if limit is None else lines[:limit]:
        found.append((at, readable(line)))
        at += len(line) + 1
    if limit is not None and len(lines) > limit:
        return found, at
    if rest and (ends or len(rest) > LINE_BYTES):
        found.append((at, readable(rest)))
        at += len(rest)
    return found, at


def readable(line: bytes) -> str:
    """At most LINE_BYTES of it, as text that says how much is missing."""
    line = line.rstrip(b"\r")
    text = line[:LINE_BYTES].decode("utf-8", "replace")
    return text if len(line) <= LINE_BYTES else f"{text} … {len(line) - LINE_BYTES:,} bytes cut"


def _at(offset: int, text: str) -> LogLine:
    return LogLine(f"{offset + 1}-0", text)
