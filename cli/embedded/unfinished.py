"""Whether runs are still going on, for whose sake a stack stays although no command uses it."""

import os


def unfinished_runs(redis_url: str) -> bool:
    """Whether a submission waits or a run has not ended; False when Valkey does not answer."""
    import redis

    from helios.keys import SUBMISSIONS, all_partitions

    client = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
    try:
        partitions = all_partitions(int(os.environ.get("HELIOS_PARTITIONS") or 1))
        return bool(client.xlen(SUBMISSIONS)) or any(client.zcard(keys.active) for keys in partitions)
    except (redis.RedisError, ValueError):
        return False
    finally:
        client.close()
