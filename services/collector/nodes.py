"""What the nodes' keepers tell of their caches: which blobs each holds, how full it is, where it listens.

Nothing that must be right hangs on it. Whoever asks a node for a blob checks the digest of what comes, and goes to the
store when nothing does.
"""

import hmac
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import redis
from redis.exceptions import ResponseError

from helios.grants import GRANT_SECONDS, PUT_SECONDS, blob_url, keeper_token, output_url
from helios.keys import NODES, node_blobs, node_cache
from helios.podwire import NodeAnswer, NodeReport, Peer
from helios.tokens import Attempt
from helios.wire import Command, send

KEPT_SECONDS = 86_400
"""So long after its last word a node is still listed."""
ALIVE_SECONDS = 60
"""Nobody is sent to a node whose keeper was not heard of for this long."""
CHANGES_AT_MOST = 20_000
"""In one report."""
NODES_AT_MOST = 10_000
OVER_ITS_SHARE = 1.25
"""A node that holds so many times its share of the inventory, as when others joined, is asked to tell it anew."""

_NODE = re.compile(r"[A-Za-z0-9.-]{1,253}")
_EPOCH = re.compile(r"[A-Za-z0-9-]{1,64}")
_URL = re.compile(r"http://(\[[0-9A-Fa-f:]{2,45}\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")


class Refused(Exception):
    """The request makes no sense; the message says why."""


def checked_node(node: str) -> str:
    """The name, if a node can have it; raises Refused."""
    if not _NODE.fullmatch(node):
        raise Refused("that is no name of a node")
    return node


def ask(client: redis.Redis, commands: Iterable[Command]) -> list[Any]:
    """The replies to commands that are sent together; raises the first that is an error."""
    replies = send(client, commands)
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


class Nodes:
    """The nodes' inventories in Redis, and signed URLs of their keepers. Safe from many threads and processes."""

    def __init__(self, client: redis.Redis, key: str, blobs_in_all: int) -> None:
        self.client = client
        self.key = key
        self.blobs_in_all = blobs_in_all

    def is_keeper(self, node: str, token: str) -> bool:
        """Whether the token is that of the node's keeper. Without a key there are no keepers."""
        known = keeper_token(self.key, node).encode()
        return bool(self.key) and hmac.compare_digest(known, token.encode("utf-8", "replace"))

    def report(self, report: NodeReport) -> NodeAnswer:
        """Takes what changed in a node's cache. A repeated report changes nothing more; one after a gap is not taken,
        and everything is asked for. Raises Refused.

        Of more blobs than are a node's share those count that come first.
        """
        node = _check(report)
        (epoch, seq), held, listed, heard = ask(
            self.client,
            [
                ("HMGET", node_cache(node), "epoch", "seq"),
                ("HLEN", node_blobs(node)),
                ("ZCARD", NODES),
                ("ZSCORE", NODES, node),
            ],
        )
        if heard is None and listed >= NODES_AT_MOST:
            raise Refused(f"there are {NODES_AT_MOST} nodes already")
        if not report.full and (epoch != report.epoch or report.seq not in (int(seq), int(seq) + 1)):
            return NodeAnswer(resync=True)
        share = self.blobs_in_all // (listed + (heard is None))
        room = share if report.full else share - held + len(report.removed)
        ask(self.client, _writes(node, report, max(0, room)))
        return NodeAnswer(resync=not report.full and held > OVER_ITS_SHARE * share)

    def alive(self) -> list[str]:
        """The nodes whose keepers live, whether they listen or not."""
        since = int((time.time() - ALIVE_SECONDS) * 1000)
        return ask(self.client, [("ZRANGE", NODES, since, "+inf", "BYSCORE")])[0]

    def peer(self, node: str, url: str, digest: str) -> Peer:
        return Peer(node=node, url=blob_url(url, self.key, digest, int(time.time()) + GRANT_SECONDS))

    def put_url(self, node: str, attempt: Attempt) -> str | None:
        """Where the keeper of the node takes the attempt's outputs; None where none listens."""
        if not self.key or not _NODE.fullmatch(node):
            return None
        url, heard = ask(self.client, [("HGET", node_cache(node), "url"), ("ZSCORE", NODES, node)])
        if not url or heard is None or float(heard) < (time.time() - ALIVE_SECONDS) * 1000:
            return None
        expires = int(time.time()) + PUT_SECONDS
        return output_url(url, self.key, attempt.run, attempt.task, attempt.attempt, expires)


def adding(node: str, blobs: Mapping[str, int]) -> list[Command]:
    """What adds blobs to a node's inventory ahead of its keeper's next report."""
    if not blobs:
        return []
    fields = [item for pair in blobs.items() for item in pair]
    return [("HSET", node_blobs(node), *fields), ("EXPIRE", node_blobs(node), KEPT_SECONDS)]


def _check(report: NodeReport) -> str:
    if not _EPOCH.fullmatch(report.epoch):
        raise Refused("that is no epoch")
    if report.url and not _URL.fullmatch(report.url):
        raise Refused("a keeper's URL is http://host:port")
    if len(report.added) + len(report.removed) > CHANGES_AT_MOST:
        raise Refused(f"a report has at most {CHANGES_AT_MOST} changes")
    return checked_node(report.node)


def _writes(node: str, report: NodeReport, room: int) -> list[Command]:
    """The place in the sequence comes last: what fails before it is sent again by the keeper, and may come twice."""
    now_ms = int(time.time() * 1000)
    blobs, cache = node_blobs(node), node_cache(node)
    commands: list[Command] = [("UNLINK", blobs)] if report.full else []
    if report.removed:
        commands.append(("HDEL", blobs, *report.removed))
    commands += adding(node, dict(report.added[:room]))
    fields: dict[str, str | int] = {"node": node, "url": report.url, "at": now_ms}
    if report.state is not None:
        fields |= {name: getattr(report.state, name) for name in report.state.__struct_fields__}
    fields |= {"epoch": report.epoch, "seq": report.seq}
    return [
        *commands,
        ("EXPIRE", blobs, KEPT_SECONDS),
        ("HSET", cache, *(item for pair in fields.items() for item in pair)),
        ("EXPIRE", cache, KEPT_SECONDS),
        ("ZADD", NODES, now_ms, node),
        ("ZREMRANGEBYSCORE", NODES, "-inf", now_ms - KEPT_SECONDS * 1000),
    ]
