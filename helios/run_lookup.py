"""Which runs there are: the stored ones by their indexes, those that wait to be accepted, those that were forgotten."""

import re
from collections.abc import Sequence
from typing import Any

import redis

from helios.keys import SUBMISSIONS, Keys

FORGOTTEN_LOOKED_AT = 5_000

_RUN_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


def is_run_id(text: str) -> bool:
    """Whether it looks like the id of a run; no key is ever made of what does not."""
    return _RUN_ID.fullmatch(text) is not None and all(int(part) < 2**64 for part in text.split("-"))


def id_order(run: str) -> tuple[int, int]:
    milliseconds, _, sequence = run.partition("-")
    return int(milliseconds), int(sequence or 0)


def newest_runs(client: redis.Redis, partitions: Sequence[Keys], limit: int, dag_name: str | None = None) -> list[str]:
    """Ids of stored runs, newest first, over all partitions."""
    found: list[tuple[float, str]] = []
    for keys in partitions:
        index = keys.dag_runs(dag_name) if dag_name else keys.runs
        page: Any = client.zrevrange(  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
            index, 0, limit - 1, withscores=True
        )
        found += [(score, run) for run, score in page]
    return [run for _, run in sorted(found, key=lambda each: (each[0], id_order(each[1])), reverse=True)[:limit]]


def is_submitted(client: redis.Redis, run: str) -> bool:
    """Whether it stands in the submissions stream, and no submitter has taken it up."""
    return bool(client.xrange(SUBMISSIONS, run, run))


def is_forgotten(client: redis.Redis, keys: Keys, run: str) -> bool:
    """Whether it is among those that fell out of the window lately."""
    found: Any = client.xrevrange(keys.forgotten, count=FORGOTTEN_LOOKED_AT)
    return any(fields.get("run") == run for _, fields in found)
