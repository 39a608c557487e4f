"""The dashboard's session over a real Valkey, with a clock that stands still."""

import redis

from cli.connection import Link
from helios.settings import Settings
from tui.session import Options, Session
from tui.source.feed import Feed

NOW_MS = 1_764_027_300_000
"""2025-11-24 23:35:00 UTC: what the clock of every picture says."""


def session_of(client: redis.Redis, **options: bool | str) -> Session:
    link = Link(client, Settings())
    return Session(link, Feed(link), Options(**options), clock=lambda: NOW_MS)  # pyright: ignore[reportArgumentType]
