"""What the top line says of the connection, in words and a style. Pure functions."""

from typing import NamedTuple

from cli.figures import duration
from tui.model.connection import Connection


class Part(NamedTuple):
    """A stretch of the line, and its style as in tui/glyphs.py."""

    text: str
    style: str = "muted"


def connection_part(connection: Connection, now_ms: int, ascii_only: bool = False) -> Part:
    """How the way to Redis is: loading with its progress, live, or lost with the age of what is shown."""
    match connection.state:
        case "live":
            return Part("* live" if ascii_only else "● live", "success")
        case "lost":
            age = duration(max(0, now_ms - connection.since_ms))
            wait = max(0, -(-(connection.retry_at_ms - now_ms) // 1000))
            retry = f"reconnecting in {wait} s" if wait else "reconnecting"
            return Part(f"{'x' if ascii_only else '✘'} disconnected, data {age} old, {retry}", "error")
        case _:
            known = f" {connection.loaded:,} of {connection.total:,} runs" if connection.total else ""
            return Part(f"{'-' if ascii_only else '…'} loading{known}", "warning")


def mode_parts(*, paused: bool, read_only: bool, recording: str) -> list[Part]:
    """What is out of the ordinary and chosen by the user."""
    parts: list[Part] = []
    if paused:
        parts.append(Part("paused", "warning"))
    if recording:
        parts.append(Part(f"recording {recording}", "accent"))
    elif read_only:
        parts.append(Part("read-only", "accent"))
    return parts
