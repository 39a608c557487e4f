"""How full each node's cache is, as a pod of that node tells it: for people to look at, nothing is decided by it."""

import re
import time

import msgspec
import redis
import structlog

from helios.keys import node_cache
from helios.podwire import CacheInventory
from helios.transitions import pipelined

log = structlog.get_logger()

KEPT_SECONDS = 86_400
"""So long after its last task a node is still listed."""
BETWEEN_SECONDS = 10.0
"""Of one node no more is taken than this often, however many pods it starts."""
NODES_AT_MOST = 10_000

_decoder = msgspec.json.Decoder(CacheInventory)
_NODE = re.compile(r"[A-Za-z0-9.-]{1,253}")


class NodeCaches:
    """What was told of each node, and when. Safe to use from many threads: at worst something is noted twice."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._noted: dict[str, float] = {}

    def note(self, told: str) -> None:
        """Keep a node's inventory; anything else than one is ignored."""
        if not told:
            return
        try:
            inventory = _decoder.decode(told.encode("utf-8", "replace"))
        except msgspec.DecodeError:
            return
        now = time.monotonic()
        known = self._noted.get(inventory.node)
        if not _NODE.fullmatch(inventory.node) or (known is not None and now < known + BETWEEN_SECONDS):
            return
        if known is None and len(self._noted) >= NODES_AT_MOST:
            return
        self._noted[inventory.node] = now
        key = node_cache(inventory.node)
        pipeline = pipelined(self.client)
        pipeline.hset(
            key,
            mapping={
                "node": inventory.node,
                "blobs": inventory.blobs,
                "bytes": inventory.bytes,
                "freeBytes": inventory.freeBytes,
                "at": int(time.time() * 1000),
            },
        )
        pipeline.expire(key, KEPT_SECONDS)
        try:
            pipeline.execute()
        except redis.RedisError as error:  # nobody's plan waits for it, and an older list of rights may not have it
            log.warning("what a node told of its cache is not kept", node=inventory.node, error=str(error))
