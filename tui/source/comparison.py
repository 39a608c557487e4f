"""Reads two runs to compare them."""

from typing import Any

import msgspec

from cli.checkup import server_ms
from cli.connection import Link, reaching
from cli.failure import CommandFailed
from cli.run_object import read_run, read_views
from helios.dag import Dag
from tui.model.comparison import Comparison, Side, compare


def read_comparison(link: Link, left: str, right: str) -> Comparison:
    """Raises CommandFailed when Redis cannot be used; a run that is gone is a note of the comparison."""
    with reaching(link.settings, embedded=link.stack is not None):
        return compare(_side(link, left), _side(link, right), server_ms(link))


def _side(link: Link, run: str) -> Side:
    keys = link.keys(run)
    if link.client.hget(keys.run(run), "status") is None:
        return Side(run)
    try:
        fields = read_run(link, run)
    except CommandFailed:  # it went between the two looks, or is damaged: there is nothing to compare
        return Side(run)
    stored: Any = link.client.get(keys.dag(run))
    return Side(run, fields, read_views(link, run), _dag(stored))


def _dag(stored: str | None) -> Dag | None:
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored.encode("utf-8", "surrogateescape"), type=Dag)
    except msgspec.DecodeError:
        return None
