"""How replicas tell each other, and people, that they live and which version they run."""

import contextlib
import os
import time
from typing import Any

import redis

from helios.keys import SERVICES_PREFIX, heartbeat
from helios.transitions import pipelined
from helios.version import VERSION, image_tag

HEARTBEAT_SECONDS = 5
HEARTBEAT_KEPT_SECONDS = 20


class Heartbeat:
    """Tells the others that this replica lives, and which version it runs."""

    def __init__(self, client: redis.Redis, service: str, replica: str) -> None:
        self.client = client
        self.key = heartbeat(service, replica)
        self.fields = {
            "service": service,
            "replica": replica,
            "version": VERSION,
            "image": image_tag(),
            "pid": str(os.getpid()),
            "since": str(int(time.time() * 1000)),
        }
        self.due = 0.0

    def beat(self) -> None:
        if time.monotonic() < self.due:
            return
        pipeline = pipelined(self.client)
        pipeline.hset(self.key, mapping=self.fields)
        pipeline.expire(self.key, HEARTBEAT_KEPT_SECONDS)
        pipeline.execute()
        self.due = time.monotonic() + HEARTBEAT_SECONDS

    def say(self, field: str, text: str) -> None:
        """Tell this as well, at the next beat and from then on."""
        self.fields[field] = text
        self.due = 0.0

    def end(self) -> None:
        with contextlib.suppress(redis.RedisError):  # it expires by itself
            self.client.delete(self.key)


def live_services(client: redis.Redis) -> list[dict[str, str]]:
    """The heartbeats of all replicas alive, as service, replica, version, image (its tag), pid and since (epoch
    ms); of a submitter also `waits`, why it takes up no submission just now.
    """
    found: Any = [client.hgetall(key) for key in _keys_like(client, f"{SERVICES_PREFIX}*")]
    beats: list[dict[str, str]] = [beat for beat in found if beat]
    return sorted(beats, key=lambda beat: (beat["service"], beat["replica"]))


def _keys_like(client: redis.Redis, pattern: str) -> list[str]:
    return list(client.scan_iter(match=pattern, count=1000))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- no stub
