"""The events feed as server-sent events: every partition's, from any place on.

Rule: a client's place in the feed is an id that it has and not this process. It names, for each partition, the last
entry that was sent, so whoever comes back with it, to whichever replica, misses nothing that the feed still holds; and
what the feed holds no more is told with an event `gap`.
"""

import threading
import time
from asyncio import AbstractEventLoop
from asyncio import Event as Signal
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
import structlog

from helios.keys import Keys
from helios.wire import send
from helios.worker import Stop
from services.api.problems import Refused

log = structlog.get_logger()

PAGE_EVENTS = 200
"""Read at a time for one client: what a slow one keeps here is no more."""
WAKE_SECONDS = 0.05
"""At most so often are clients woken: what came meanwhile they read together."""
BLOCK_MS = 1_000
AWAY_SECONDS = 1.0

Place = list[str]
"""An entry's id for each partition."""


class Page(msgspec.Struct):
    """What a client is sent next, and the place after it."""

    text: bytes
    place: Place
    is_full: bool


def place_of(text: str, partitions: int) -> Place:
    """A Last-Event-ID. Raises Refused for what is none."""
    parts = text.strip().split(",")
    if len(parts) != partitions or not all(_is_entry(part) for part in parts):
        raise Refused(400, "Last-Event-ID is no place in this feed: send the id of the last event, or leave it out")
    return parts


def _is_entry(text: str) -> bool:
    milliseconds, dash, sequence = text.partition("-")
    return (
        bool(dash)
        and len(text) <= 41
        and all(part.isascii() and part.isdecimal() and int(part) < 2**64 for part in (milliseconds, sequence))
    )


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)


def now_of(client: redis.Redis, partitions: Sequence[Keys]) -> Place:
    """The end of the feed."""
    found = send(client, [("XINFO", "STREAM", keys.events) for keys in partitions])
    return [_info(each).get("last-generated-id", "0-0") for each in found]


def _info(answer: Any) -> dict[str, Any]:
    """Of a stream; empty for one that is not there."""
    return {} if isinstance(answer, Exception) else dict(zip(answer[::2], answer[1::2], strict=True))


def read_page(client: redis.Redis, partitions: Sequence[Keys], place: Place, run: str | None) -> Page:
    """The events after a place. Raises redis.RedisError."""
    streams = [keys.events for keys in partitions]
    # XREAD first: what is trimmed between the two is a gap told once too often, and never one that is not told.
    found, *infos = send(
        client,
        [
            ("XREAD", "COUNT", PAGE_EVENTS, "STREAMS", *streams, *place),
            *(("XINFO", "STREAM", stream) for stream in streams),
        ],
    )
    if isinstance(found, Exception):
        raise found
    after = list(place)
    pieces: list[bytes] = []
    for number, answer in enumerate(infos):
        if _has_gap(_info(answer), place[number]):
            after[number] = min(place[number], _info(answer).get("last-generated-id", "0-0"), key=_order)
            pieces.append(_gap(after))
    pages: dict[str, Any] = dict(found or ())
    for number, stream in enumerate(streams):
        for entry, fields in pages.get(stream, ()):
            after[number] = entry
            event = _event(entry, dict(zip(fields[::2], fields[1::2], strict=True)).get("event", ""), run)
            if event is not None:
                pieces.append(b"id: %s\ndata: %s\n\n" % (",".join(after).encode(), event))
    return Page(b"".join(pieces), after, any(len(page) >= PAGE_EVENTS for page in pages.values()))


def _has_gap(info: dict[str, Any], last: str) -> bool:
    """Whether entries after `last` are gone: trimmed, or lost by a Redis that gives out smaller ids now."""
    if _order(last) > _order(info.get("last-generated-id", "0-0")):
        return True
    first = info.get("first-entry")
    trimmed = int(info.get("entries-added", 0)) > int(info.get("length", 0))
    return trimmed and last != info.get("last-generated-id") and (not first or _order(first[0]) > _order(last))


def _gap(place: Place) -> bytes:
    return b'event: gap\nid: %s\ndata: {"type":"Gap"}\n\n' % ",".join(place).encode()


def _event(entry: str, text: str, run: str | None) -> bytes | None:
    """The event's own JSON and when it was, `at`; None for one that is not wanted, or no event."""
    if run is not None and run not in text:
        return None
    try:
        event: Any = msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(event, dict) or (run is not None and event.get("run") != run):  # pyright: ignore[reportUnknownMemberType] -- of any shape
        return None
    return msgspec.json.encode({**event, "at": int(entry.partition("-")[0])})


class Bell:
    """Wakes whoever follows the feed. One thread looks for all of them, so that a client costs no connection."""

    def __init__(self, client: redis.Redis, partitions: Sequence[Keys], loop: AbstractEventLoop, stop: Stop) -> None:
        self.client = client
        self.partitions = partitions
        self.loop = loop
        self.stop = stop
        self.news = Signal()
        """Set at the next news; take it before reading, and wait for it after."""

    def start(self) -> None:
        threading.Thread(target=self._listen, name="events", daemon=True).start()

    def _listen(self) -> None:
        place: Place | None = None
        while not self.stop.wanted:
            try:
                place = place or now_of(self.client, self.partitions)
                streams: dict[Any, Any] = {keys.events: last for keys, last in zip(self.partitions, place, strict=True)}
                if self.client.xread(streams, count=1, block=BLOCK_MS):
                    time.sleep(WAKE_SECONDS)
                    place = now_of(self.client, self.partitions)
                    self._ring()
            except redis.RedisError as error:
                log.warning("the events feed cannot be read", error=str(error))
                place = None
                self._ring()  # whoever reads on will see for itself
                self.stop.wait(AWAY_SECONDS)

    def _ring(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._swap)

    def _swap(self) -> None:
        self.news.set()
        self.news = Signal()
