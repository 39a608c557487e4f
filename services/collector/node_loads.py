"""How many pods at work each node has, for whoever chooses a node: the field `pods` of what is known of it."""

from collections.abc import Callable, Mapping

import redis

from helios.keys import NODES, node_cache
from helios.wire import Command
from services.collector.nodes import ask

KEPT_SECONDS = 86_400
COUNT_SECONDS = 1.0
"""The pods are counted this often."""
UNKNOWN = -1
"""An earlier collector may have noted any number."""


class NodeLoads:
    """Notes what changed; every replica does, and all see the same pods. `at_work` leaves out nodes without pods."""

    def __init__(self, client: redis.Redis, at_work: Callable[[], Mapping[str, int]]) -> None:
        self.client = client
        self.at_work = at_work
        self.noted: dict[str, int] | None = None
        """What Redis holds by now; None until it was asked of which nodes it may hold something."""

    def note(self) -> None:
        """Raises redis.RedisError; what was not noted is noted the next time."""
        if self.noted is None:
            self.noted = dict.fromkeys(ask(self.client, [("ZRANGE", NODES, 0, -1)])[0], UNKNOWN)
        noted = self.noted
        now = {**dict.fromkeys(noted, 0), **self.at_work()}
        changed = {node: count for node, count in now.items() if noted.get(node) != count}
        commands: list[Command] = []
        for node, count in changed.items():
            commands += [("HSET", node_cache(node), "pods", count), ("EXPIRE", node_cache(node), KEPT_SECONDS)]
        ask(self.client, commands)
        self.noted = now
