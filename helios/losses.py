"""What Redis lost: it had acknowledged writes, and after a restart or a failover it does not have them any more.

A stream never forgets the newest id that it gave out, even when its entries are deleted. So where a stream's newest id
is smaller than one that was read from it, its last entries are gone, and whatever was written with them. Each consumer
remembers the newest id that it was handed and compares when it has lost its connection or its group: at no other time
can anything get lost. What nobody had read yet goes unnoticed here; its sender notices.
"""

from typing import Any, NamedTuple

import redis
import structlog
from redis.exceptions import ResponseError

from helios.keys import LOSSES
from helios.wire import send

log = structlog.get_logger()

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
"""The highest id of any stream. After it Redis adds no entry."""

LOSSES_KEPT = 1_000
LOSSES_KEPT_SECONDS = 7 * 86_400


class Loss(NamedTuple):
    """A stream whose entries after `after` and up to `until`, both ids, are gone. `at`: when it was seen, epoch ms.

    `entries`: so many were trimmed by somebody's XADD before they were read; 0: Redis itself lost them.
    """

    stream: str
    after: str
    until: str
    at: int = 0
    entries: int = 0


def newest_id(client: redis.Redis, stream: str) -> str | None:
    """The newest id that the stream gave out, `0-0` if none; None for a key that is no stream or is not there."""
    try:
        found: Any = client.xinfo_stream(stream)
    except ResponseError as error:
        if str(error).startswith(("no such key", "WRONGTYPE")):
            return None
        raise
    return str(found["last-generated-id"])


def order(entry: str) -> tuple[int, int]:
    """Entry ids in the order of their stream."""
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence or 0)


def note_loss(client: redis.Redis, loss: Loss) -> None:
    """Say it in the log and leave it in Redis, for `helios doctor` and the dashboard. Raises redis.RedisError."""
    told = {"stream": loss.stream, "after": loss.after, "until": loss.until}
    if loss.entries:
        log.error("entries were trimmed away that nobody had read: an XADD with MAXLEN", **told, entries=loss.entries)
    else:
        log.error("redis has lost entries that it had acknowledged, and what was written with them", **told)
    fields = ("stream", loss.stream, "after", loss.after, "until", loss.until, "entries", loss.entries)
    for reply in send(
        client,
        [
            ("XADD", LOSSES, "MAXLEN", "~", LOSSES_KEPT, "*", *fields),
            ("EXPIRE", LOSSES, LOSSES_KEPT_SECONDS),
        ],
    ):
        if isinstance(reply, Exception):
            log.warning("the loss is not noted in redis", error=str(reply))
            return


def losses_since(client: redis.Redis, since_ms: int) -> list[Loss]:
    """What was noted since then, oldest first."""
    found: Any = client.xrange(LOSSES, min=str(max(0, since_ms)))
    return [
        Loss(
            fields.get("stream", ""),
            fields.get("after", "0-0"),
            fields.get("until", "0-0"),
            order(entry)[0],
            int(fields.get("entries", "0")),
        )
        for entry, fields in found
    ]
