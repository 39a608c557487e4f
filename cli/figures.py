"""Bytes, durations and moments as people read them. Pure functions."""

import time

UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def size(count: int) -> str:
    """`512 B`, `1.2 MB`: powers of 1,000."""
    value = float(count)
    for unit in UNITS:
        if value < 999.5 or unit == UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def duration(milliseconds: int | None) -> str:
    """`340 ms`, `3.4 s`, `2 m 05 s`, `3 h 07 m`; nothing for None."""
    if milliseconds is None:
        return ""
    seconds = max(0, milliseconds) / 1000
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m"


def moment(milliseconds: int | None) -> str:
    """`2026-11-25 09:30:12` in the reader's time zone; nothing for None."""
    if milliseconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))


def count(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
