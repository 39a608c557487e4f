"""The sections of the health screen as text. Nothing here asks anybody anything."""

from typing import Any

from rich.table import Table
from rich.text import Text
from textual.app import App

from cli.figures import count, duration, size
from cli.output import harmless
from cli.table import shortened
from helios.keys import COLLECTOR_GROUP, JOBRUNNER_GROUP, SUBMITTER_GROUP
from tui.glyphs import Mark
from tui.model.health import CacheSize, Health
from tui.widgets.tint import marked, tint

GOOD = Mark("✔", "ok", "success", "+")
BAD = Mark("✘", "failed", "error", "x")


def streams(app: App[Any], health: Health, plain: bool) -> Table:
    """One row for each stream; red where the doctor finds fault with it."""
    faulty = {each.check for each in health.failed}
    table = _table("stream", "length", "pending", "lag", "oldest", "readers", "state")
    for row in health.streams:
        mark = BAD if row.name in faulty or row.trouble else GOOD
        table.add_row(
            row.name.removeprefix("helios:"),
            f"{row.length:,}",
            f"{row.pending:,}",
            "?" if row.lag is None else f"{row.lag:,}",
            duration(row.oldest_ms) or "–",
            str(row.consumers),
            marked(app, mark, plain, f": {shortened(row.trouble, 30)}" if row.trouble else ""),
        )
    return table


def services(app: App[Any], health: Health, plain: bool) -> Table:
    faulty = {each.check for each in health.failed}
    table = _table("service", "replicas", "version", "since", "state", left=5)
    for service in (SUBMITTER_GROUP, JOBRUNNER_GROUP, COLLECTOR_GROUP):
        alive = [each for each in health.replicas if each.service == service]
        versions = ", ".join(sorted({each.version for each in alive}))
        oldest = min((each.since for each in alive if each.since is not None), default=None)
        ago = "" if oldest is None else duration(max(0, health.now_ms - oldest))
        mark = BAD if service in faulty else GOOD
        table.add_row(service, str(len(alive)), harmless(versions), ago, marked(app, mark, plain))
    return table


def jobs(health: Health) -> Text:
    found = health.jobs
    text = Text("  ".join(f"{state} {number:,}" for state, number in found.by_state.items()))
    text.append(f"\n{count(found.active, 'run')} active, {found.launched_entries:,} in jobs:launched")
    if found.looked_at < found.active:
        text.append(f"; Jobs counted in the oldest {found.looked_at} only")
    return text


def caches(app: App[Any], health: Health) -> Text:
    if not health.caches:
        return tint(app, "no node has told of its cache yet: each does with the first task that starts there", "muted")
    return Text("\n".join(_cache_words(each, health.now_ms) for each in health.caches))


def _cache_words(cache: CacheSize, now_ms: int) -> str:
    """`n1: 12 GB of 50 GB in 310 files, 80 GB free, 3 GB evicted, 1 corrupt, 2 m 05 s ago`."""
    limit = f" of {size(cache.limit_bytes)}" if cache.limit_bytes else ""
    more = "" if cache.is_whole else "more than "
    words = f"{cache.node}: {more}{size(cache.bytes)}{limit} in {count(cache.files, 'file')}"
    if cache.free_bytes is not None:
        words += f", {size(cache.free_bytes)} free"
    if cache.evicted_bytes:
        words += f", {size(cache.evicted_bytes)} evicted"
    if cache.corrupt_files:
        words += f", {cache.corrupt_files:,} corrupt"
    return words if cache.told_at is None else f"{words}, {duration(now_ms - cache.told_at)} ago"


def _table(*titles: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for number, title in enumerate(titles):
        is_text = number < left or title == "state"
        table.add_column(title, justify="left" if is_text else "right", no_wrap=True)
    return table
