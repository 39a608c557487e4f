"""Keeps all logs together within a budget, because Redis has one memory for logs and for the work.

Rule: the oldest runs lose their logs first, and those that have ended before those that go on.
"""

from typing import Any

import redis
import structlog

from helios.keys import Keys, all_partitions, run_score
from helios.settings import Settings
from helios.transitions import commit_one, drop_logs

log = structlog.get_logger()

LOOK_SECONDS = 5
"""How often the budget is looked at; what two hundred logs can grow by meanwhile is far below what Redis has."""

LEFT_SHARE = 0.8
"""So much of the budget is left in use, so that not every look has something to drop."""


def make_room(client: redis.Redis, settings: Settings) -> None:
    partitions = all_partitions(settings.partitions)
    for keys in partitions:
        _make_room(client, keys, settings.log_bytes / len(partitions))


def _make_room(client: redis.Redis, keys: Keys, budget_bytes: float) -> None:
    found: Any = client.zrange(keys.log_sizes, 0, -1, withscores=True)  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
    sizes: dict[str, float] = dict(found)
    total = sum(sizes.values())
    if total <= budget_bytes:
        return
    active: Any = client.zrange(keys.active, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- as above
    going_on = set(active)
    for run in sorted(sizes, key=lambda run: (run in going_on, run_score(run))):
        if total <= budget_bytes * LEFT_SHARE:
            break
        commit_one(client, drop_logs(keys, run=run))
        total -= sizes[run]
        log.info("the logs of a run made room for newer ones", run=run, bytes=int(sizes[run]))
