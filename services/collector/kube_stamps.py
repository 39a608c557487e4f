"""Lines of a log as Kubernetes gives them, each with its time, and the place in the log that follows from it."""

import calendar
import re
from collections.abc import Iterable, Iterator

NS = 10**9
PER_NS = 10**6
"""A position is a line's time in nanoseconds times this, plus its number among lines of the same time."""

LINE_BYTES = 64 * 1024
"""A line without an end is cut here, so that it takes no more memory."""

_STAMP = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))$")
"""The container runtime writes its node's local time, so only a node in UTC gives a Z."""


def position_of(stamp: bytes) -> int | None:
    """The position of the first line with this RFC 3339 time; None if it is none."""
    match = _STAMP.match(stamp)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(each) for each in match.groups()[:6])
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    if match[8]:
        ahead = int(match[9]) * 3600 + int(match[10]) * 60
        seconds -= ahead if match[8] == b"+" else -ahead
    return (seconds * NS + int((match[7] or b"0").ljust(9, b"0"))) * PER_NS


def entry_id(position: int) -> str:
    """A stream's id: milliseconds, then what is left. Ids are in the order of positions."""
    return f"{position // 10**12}-{position % 10**12}"


def split(chunks: Iterable[bytes], sizes: list[int], whole_below: int) -> Iterator[bytes]:
    """Complete lines of what comes in chunks, whose sizes it notes.

    A last line without an end is one, too, if fewer bytes than `whole_below` came: then nothing was cut off.
    """
    rest = b""
    for chunk in chunks:
        sizes.append(len(chunk))
        *complete, rest = (rest + chunk).split(b"\n")
        yield from complete
        rest = rest[:LINE_BYTES]
    if rest and sum(sizes) < whole_below:
        yield rest


def stamped(lines: Iterable[bytes], after: int) -> Iterator[tuple[int, bytes]]:
    """Each line's position and text, those up to the position `after` left out.

    Lines keep their order even where their times do not, because a process wrote to both its streams at once.
    """
    last = 0
    for line in lines:
        stamp, _, text = line.partition(b" ")
        position = position_of(stamp)
        if position is None:
            continue  # the kubelet's own words, such as «unable to retrieve container logs»
        last = position if position > last else last + 1
        if last > after:
            yield last, text
