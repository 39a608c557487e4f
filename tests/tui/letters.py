"""Dead letters as `bury` leaves them, without failing the run first: as when its hash could not be written."""

from collections.abc import Mapping

import redis

from helios.keys import Keys


def bury_entry(
    client: redis.Redis,
    keys: Keys,
    stream: str,
    fields: Mapping[str, str],
    *,
    entry: str = "*",
    reason: str = "[poison]",
) -> str:
    letter = {"stream": stream, "entry": "1-1", "reason": reason, "deliveries": "5"}
    return str(client.xadd(keys.dead, {**letter, **fields}, id=entry))
