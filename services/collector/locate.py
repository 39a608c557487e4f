"""Where a node gets a blob that it lacks: from nodes that have it, else one node brings it from the store and the
others wait for that one.

All of it is advice. A node that is told wrong things, or nothing, goes to the store. What pods tell is believed only of
inputs that their own task declares, and of those only what nobody has told otherwise.
"""

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis
import structlog

from helios.keys import flight, node_blobs, node_cache, source_known
from helios.podwire import Located, LocateInput, Peer, SourceKnown
from helios.transitions import Call, commit, take_flight
from helios.wire import Command
from services.collector.nodes import Nodes, Refused, adding, ask, checked_node

log = structlog.get_logger()

FLIGHT_SECONDS = 20
"""A node that brings a blob asks again before this is over; then its flight goes on."""
PEERS_AT_MOST = 3
NODES_ASKED = 256
"""Of more nodes that live, so many are looked at, another choice each time."""
VERSION_CHARACTERS = 1024
NOTED_SECONDS = 3600.0
"""What a source contained is noted again after this, though it is the same: what is known expires."""
NOTED_AT_MOST = 100_000
SOURCE_KEPT_SECONDS = 30 * 86_400

_source_decoder = msgspec.json.Decoder(SourceKnown)


class Declared(msgspec.Struct, frozen=True):
    """An input as the attempt's task declares it; digest and bytes are None for an external object."""

    source: str
    sha256: str | None = None
    bytes: int | None = None


class Locator:
    """Answers for one Redis. Safe from many threads and processes."""

    def __init__(self, client: redis.Redis, nodes: Nodes) -> None:
        self.client = client
        self.nodes = nodes
        self._noted: dict[str, tuple[tuple[str | None, str | None], float]] = {}

    def locate(
        self, node: str, pod: str, wanted: Sequence[LocateInput], declared: Mapping[str, Declared]
    ) -> list[Located]:
        """An answer for each input, in order. Raises Refused for one that the task does not declare."""
        checked_node(node)
        _check_declared(wanted, declared)
        digests = self._digests(wanted, declared)
        if not self.nodes.key:  # nobody could fetch from the node that brings it
            return [Located(name=each.name, sha256=digest) for each, digest in zip(wanted, digests, strict=True)]
        holders, listens = self._holders(node, {digest for digest in digests if digest is not None})
        found: list[Located | None] = []
        for each, digest in zip(wanted, digests, strict=True):
            peers = self._peers(holders.get(digest, []), digest, each.bytes) if digest is not None else []
            found.append(Located(name=each.name, sha256=digest, peers=peers) if peers else None)
        waits = self._fly(
            node,
            pod,
            [
                _flight_key(each, digest, declared[each.name])
                for each, digest, located in zip(wanted, digests, found, strict=True)
                if located is None
            ],
            may_take=listens,
        )
        return [
            located or Located(name=each.name, sha256=digest, wait=waits.pop(0))
            for each, digest, located in zip(wanted, digests, found, strict=True)
        ]

    def brought(self, node: str, brought: Sequence[LocateInput], declared: Mapping[str, Declared]) -> None:
        """Takes down that a node's cache holds these inputs now. Raises Refused for one that the task does not
        declare; one with another digest than is known is passed over.
        """
        checked_node(node)
        _check_declared(brought, declared)
        right = [
            (each, each.sha256)
            for each in brought
            if each.sha256 is not None and declared[each.name].sha256 in (None, each.sha256)
        ]
        outside = [(each, digest) for each, digest in right if declared[each.name].sha256 is None and each.version]
        commands = adding(node, {digest: each.bytes for each, digest in right})
        commands += self._notes(outside, declared)
        for each, digest in right:
            keys = {_flight_key(each, digest, declared[each.name]), _flight_key(each, None, declared[each.name])}
            commands.append(("UNLINK", *(flight(key) for key in keys)))
        ask(self.client, commands)

    def note_sources(self, brought: Sequence[LocateInput], declared: Mapping[str, Declared]) -> None:
        """Takes down what external objects contained, as tasks that ended tell it; soon again is passed over."""
        news: list[tuple[LocateInput, str]] = []
        now = time.monotonic()
        for each in brought:
            told = (each.version, each.sha256)
            source = declared[each.name].source
            known = self._noted.get(source)
            if (
                each.sha256 is None
                or len(each.version or "") > VERSION_CHARACTERS
                or (known is not None and known[0] == told and now < known[1] + NOTED_SECONDS)
            ):
                continue
            if len(self._noted) >= NOTED_AT_MOST:
                self._noted.clear()
            self._noted[source] = (told, now)
            news.append((each, each.sha256))
        if news:
            ask(self.client, self._notes(news, declared))

    def peers(self, node: str, blobs: Sequence[tuple[str, int]]) -> list[list[Peer]]:
        """For each blob, by digest and bytes, a few other nodes that have it."""
        if not self.nodes.key:
            return [[] for _ in blobs]
        holders, _ = self._holders(node, {digest for digest, _ in blobs})
        return [self._peers(holders.get(digest, []), digest, size) for digest, size in blobs]

    def _digests(self, wanted: Sequence[LocateInput], declared: Mapping[str, Declared]) -> list[str | None]:
        """Of another task's output what its record says, of an external object what was in that very version."""
        known = self._known([declared[each.name].source for each in wanted if declared[each.name].sha256 is None])
        digests: list[str | None] = []
        for each in wanted:
            at = declared[each.name]
            digest = at.sha256
            if digest is None:
                newest = known.get(at.source)
                if newest is not None and (newest.version, newest.bytes) == (each.version, each.bytes):
                    digest = newest.sha256
            digests.append(digest)
        return digests

    def _known(self, sources: Sequence[str]) -> dict[str, SourceKnown]:
        if not sources:
            return {}
        return read_sources(sources, ask(self.client, [("MGET", *map(source_known, sources))])[0])

    def _holders(self, node: str, digests: set[str]) -> tuple[dict[str, list[tuple[str, str, int]]], bool]:
        """For each digest the (node, url, bytes) that have it, and whether the asking node's own keeper listens."""
        alive = self.nodes.alive()
        others = [each for each in alive if each != node]
        if len(others) > NODES_ASKED:
            others = random.sample(others, NODES_ASKED)
        asked = others + [node] * (node in alive)
        wanted = sorted(digests)
        urls = [("HGET", node_cache(each), "url") for each in asked]
        blobs: list[Command] = [("HMGET", node_blobs(each), *wanted) for each in others] if wanted else []
        replies = ask(self.client, [*urls, *blobs])
        url_of: dict[str, str] = dict(zip(asked, replies, strict=False))
        holders: dict[str, list[tuple[str, str, int]]] = {}
        for other, sizes in zip(others, replies[len(asked) :], strict=bool(wanted)):
            for digest, size in zip(wanted, sizes, strict=True):
                if size is not None and url_of[other]:
                    holders.setdefault(digest, []).append((other, url_of[other], int(size)))
        return holders, bool(url_of.get(node))

    def _peers(self, holders: Sequence[tuple[str, str, int]], digest: str, size: int) -> list[Peer]:
        sound = [(node, url) for node, url, held in holders if held == size]
        chosen = random.sample(sound, min(PEERS_AT_MOST, len(sound)))
        return [self.nodes.peer(node, url, digest) for node, url in chosen]

    def _fly(self, node: str, pod: str, keys: Sequence[str], *, may_take: bool) -> list[bool]:
        """For each flight whether another node has it. A node from which nobody could fetch takes none."""
        if not may_take:
            holders: list[str | None] = ask(self.client, [("GET", flight(key)) for key in keys])
            return [holder is not None and holder.partition(" ")[0] != node for holder in holders]
        calls: list[Call] = [take_flight(key, node=node, pod=pod, seconds=FLIGHT_SECONDS) for key in keys]
        taken: list[Any] = commit(self.client, calls)
        for result in taken:
            if isinstance(result, redis.ResponseError):
                raise result
        return [result != 1 for result in taken]

    def _notes(self, outside: Sequence[tuple[LocateInput, str]], declared: Mapping[str, Declared]) -> list[Command]:
        """What the sources' versions contained. Two digests of one version cannot both be right: then neither is kept.

        Of two that are told at the same moment the later one stays, which the next that differs undoes.
        """
        known = self._known([declared[each.name].source for each, _ in outside])
        commands: list[Command] = []
        for each, digest in outside:
            source = declared[each.name].source
            before = known.get(source)
            if before is not None and (before.version, before.bytes) == (each.version, each.bytes):
                if before.sha256 != digest:
                    log.warning("two nodes tell different digests of one version", source=source, version=each.version)
                    commands.append(("UNLINK", source_known(source)))
                    continue
                commands.append(("EXPIRE", source_known(source), SOURCE_KEPT_SECONDS))
                continue
            told = SourceKnown(version=each.version or "", bytes=each.bytes, sha256=digest, at=int(time.time() * 1000))
            commands.append(("SET", source_known(source), msgspec.json.encode(told), "EX", SOURCE_KEPT_SECONDS))
        return commands


def read_sources(sources: Sequence[str], texts: Sequence[str | None]) -> dict[str, SourceKnown]:
    """What is known of sources, from the values of their keys; what cannot be read is not known."""
    found: dict[str, SourceKnown] = {}
    for source, text in zip(sources, texts, strict=True):
        if text is not None:
            try:
                found[source] = _source_decoder.decode(text)
            except msgspec.DecodeError:
                continue
    return found


def _check_declared(wanted: Sequence[LocateInput], declared: Mapping[str, Declared]) -> None:
    if len({each.name for each in wanted}) != len(wanted):
        raise Refused("an input is named twice")
    for each in wanted:
        if each.name not in declared:
            raise Refused(f"the task declares no input {each.name[:80]!r}")
        if each.version is not None and len(each.version) > VERSION_CHARACTERS:
            raise Refused("no store has versions that long")


def _flight_key(each: LocateInput, digest: str | None, declared: Declared) -> str:
    """The same for all who want the same bytes, as far as is known."""
    if digest is not None:
        return f"content\n{digest}"
    return f"object\n{declared.source}\n{each.version}\n{each.bytes}"
