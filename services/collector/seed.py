"""What a node that joins should bring before work comes to it: what queued tasks need most, within a budget.

Its order: what tasks need that only wait for a node, then what tasks need that wait for others; of each the most wanted
first, and of those as much wanted the smallest, so that a budget serves many.
"""

from collections.abc import Iterable, Sequence

import redis

from helios.keys import node_blobs
from helios.podwire import SeedBlob
from services.collector.demand import Demand, Need
from services.collector.locate import Locator
from services.collector.nodes import ask, checked_node
from services.collector.store import ObjectRefused, Store

BLOBS_AT_MOST = 256
"""A node asks once; what it lacks beyond that it brings when a task wants it."""
LOOKED_AT = 10_000


class Seeding:
    """Answers which blobs a node should bring. Safe from many threads."""

    def __init__(self, client: redis.Redis, demand: Demand, locator: Locator, store: Store) -> None:
        self.client = client
        self.demand = demand
        self.locator = locator
        self.store = store

    def seeds(self, node: str, budget_bytes: int) -> list[SeedBlob]:
        """Raises Refused for what is no node's name."""
        checked_node(node)
        ranked = rank(self.demand.current().values())[:LOOKED_AT]
        if not ranked:
            return []
        held = ask(self.client, [("HMGET", node_blobs(node), *(need.sha256 for need in ranked))])[0]
        lacking = [need for need, size in zip(ranked, held, strict=True) if size is None]
        chosen = within(lacking, budget_bytes)
        peers = self.locator.peers(node, [(need.sha256, need.bytes) for need in chosen])
        seeds: list[SeedBlob] = []
        for need, found in zip(chosen, peers, strict=True):
            try:
                url = self.store.get_url(*need.place)
            except ObjectRefused:
                continue
            seeds.append(SeedBlob(sha256=need.sha256, bytes=need.bytes, url=url, stored=need.stored, peers=found))
        return seeds


def rank(needs: Iterable[Need]) -> list[Need]:
    """Without those that only running tasks need, which have them already."""
    wanted = [need for need in needs if need.queued or need.waiting]
    return sorted(wanted, key=lambda need: (-need.queued, -need.waiting, need.bytes, need.sha256))


def within(needs: Sequence[Need], budget_bytes: int) -> list[Need]:
    """The first that fit into the budget; one that does not fit leaves its room to later ones."""
    chosen: list[Need] = []
    for need in needs:
        if need.bytes <= budget_bytes and len(chosen) < BLOBS_AT_MOST:
            chosen.append(need)
            budget_bytes -= need.bytes
    return chosen
