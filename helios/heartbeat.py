"""How replicas tell each other, and people, that they live and which version they run."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import redis

from helios.keys import SERVICES_PREFIX, heartbeat
from helios.measures import WAITING
from helios.transitions import pipelined
from helios.version import VERSION, image_tag

HEARTBEAT_SECONDS = 5
HEARTBEAT_KEPT_SECONDS = 20

Trouble = Callable[[], str]
"""Says what a replica waits for, without which it cannot work; empty when there is nothing. Asks nobody."""


class Heartbeat:
    """Tells the others that this replica lives, which version it runs, and what it waits for: while that is anything it
    lives and is not ready.
    """

    def __init__(self, client: redis.Redis, service: str, replica: str) -> None:
        self.client = client
        self.troubles: list[Trouble] = []
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
        self.told: str | None = None
        self.beaten: float | None = None
        """When Redis last took one."""
        WAITING.source = lambda: {(): float(bool(self.waits_for()))}

    def beat(self) -> None:
        """When it is time, or there is something new to say."""
        trouble = self._trouble()
        if time.monotonic() < self.due and trouble == self.told:
            return
        pipeline = pipelined(self.client)
        pipeline.hset(self.key, mapping={**self.fields, "waitsFor": trouble})
        pipeline.expire(self.key, HEARTBEAT_KEPT_SECONDS)
        pipeline.execute()
        self.told = trouble
        self.beaten = time.monotonic()
        self.due = self.beaten + HEARTBEAT_SECONDS

    def waits_for(self) -> str:
        """What this replica waits for; empty when it is ready."""
        if self.beaten is None or time.monotonic() - self.beaten > HEARTBEAT_KEPT_SECONDS:
            return "Redis, which has taken no heartbeat lately"
        return self._trouble()

    def _trouble(self) -> str:
        return next((words for trouble in self.troubles if (words := trouble())), "")

    def say(self, field: str, text: str) -> None:
        """Tell this as well, at the next beat and from then on."""
        self.fields[field] = text
        self.due = 0.0

    def end(self) -> None:
        """Tells that this replica is no more, unless Redis has been out of reach of late."""
        if time.monotonic() > self.due + HEARTBEAT_SECONDS / 2:
            return
        with contextlib.suppress(redis.RedisError):  # it expires by itself
            self.client.delete(self.key)


def live_services(client: redis.Redis) -> list[dict[str, str]]:
    """The heartbeats of all replicas alive, as service, replica, version, image (its tag), pid, since (epoch ms) and
    waitsFor (empty when it is ready); of a submitter also `waits`, why it takes up no submission just now.
    """
    found: Any = [client.hgetall(key) for key in _keys_like(client, f"{SERVICES_PREFIX}*")]
    beats: list[dict[str, str]] = [beat for beat in found if beat]
    return sorted(beats, key=lambda beat: (beat["service"], beat["replica"]))


def _keys_like(client: redis.Redis, pattern: str) -> set[str]:
    """Each once, which SCAN does not promise."""
    return set(client.scan_iter(match=pattern, count=1000))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- no stub
