"""Bytes, durations and moments as people read them. Pure functions."""

import re
import time

UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
FACTORS = {"": 1, "b": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("kmgtp", 1)
    for end, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}


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


def seconds_of(text: str) -> float:
    """The seconds in `90s`, `5m`, `1h30m`, `7d`. Raises ValueError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no span of time; one looks like 90s, 5m, 1h30m or 7d")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def bytes_of(text: str) -> int:
    """The bytes in `512`, `10GB`, `1.5 MiB`: powers of 1,000, or of 1,024 with an i. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    factor = FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no size; one looks like 512, 10GB or 1.5MiB")
    return round(float(match[1]) * factor)
