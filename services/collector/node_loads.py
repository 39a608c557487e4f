"""How many pods at work each node has, for whoever chooses a node: the field `pods` of what is known of it."""

from collections.abc import Callable, Mapping

import redis

from helios.keys import node_cache
from helios.wire import Command, send

KEPT_SECONDS = 86_400
COUNT_SECONDS = 1.0
"""The pods are counted this often."""


class NodeLoads:
    """Notes what changed; every replica does, and all see the same pods. `at_work` leaves out nodes without pods."""

    def __init__(self, client: redis.Redis, at_work: Callable[[], Mapping[str, int]]) -> None:
        self.client = client
        self.at_work = at_work
        self.noted: dict[str, int] = {}

    def note(self) -> None:
        """Raises redis.RedisError; what was not noted is noted the next time."""
        found = self.at_work()
        now = {**dict.fromkeys(self.noted, 0), **found}
        changed = {node: count for node, count in now.items() if self.noted.get(node) != count}
        commands: list[Command] = []
        for node, count in changed.items():
            commands += [("HSET", node_cache(node), "pods", count), ("EXPIRE", node_cache(node), KEPT_SECONDS)]
        for reply in send(self.client, commands):
            if isinstance(reply, redis.RedisError):
                raise reply
        self.noted = now
