"""What is done to a soak's processes, and how long their work stood still. Each kind of victim has a thread of its own.

Rule: whatever is broken is mended by the same turn that broke it, so that a soak that stops breaking things is whole.
"""

import fcntl
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from helios.keys import all_partitions
from tests.faulty_link import Fault
from tests.soak.ledger import Durable, read
from tests.soak.processes import GROUPS, SERVICES, Crew, Server

POLL_SECONDS = 0.03
BUSY_WITHIN_SECONDS = 1.5
"""So long a victim is watched for work in its hands; then it is taken as it is."""
MOVES_WITHIN_SECONDS = 180.0
"""Work that stands still for so long is stuck; how long it takes is measured apart from that."""
GRACE_SECONDS = 1.0
"""A fault that ended so short a time ago still counts as one beside another."""
LINK_FAULTS = (
    *(Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY),
    *(Fault.HALF_OPEN, Fault.DELAY, Fault.BANDWIDTH, Fault.REFUSE, Fault.SILENT),
)


class Recovery(NamedTuple):
    """Work that moved again. `seconds` count from the restart, or from the end of the lease where a peer took over."""

    kind: str
    target: str
    seconds: float
    alone: bool
    """Nothing else that it needs was broken meanwhile."""


class Broken(NamedTuple):
    """Something that does not work, from when to when by the monotonic clock."""

    target: str
    since: float
    until: float


class Held(NamedTuple):
    """An entry in a replica's hands, and when it was last touched, by the monotonic clock."""

    stream: str
    entry: str
    touched: float


class Deck:
    """Draws kinds at random, each as often as it is in the deck before it is shuffled again."""

    def __init__(self, chance: random.Random, kinds: Sequence[str]) -> None:
        self.chance = chance
        self.kinds = list(kinds)
        self.left: list[str] = []
        self.rounds = 0

    def draw(self) -> str:
        if not self.left:
            self.left = self.chance.sample(self.kinds, len(self.kinds))
        kind = self.left.pop()
        self.rounds += not self.left
        return kind


class Pace(NamedTuple):
    """Seconds between the turns of each thread, from and to."""

    service: tuple[float, float] = (1.0, 4.0)
    redis: tuple[float, float] = (25.0, 45.0)
    node: tuple[float, float] = (8.0, 16.0)
    link: tuple[float, float] = (2.0, 5.0)
    duplicate: tuple[float, float] = (0.1, 0.6)
    link_fault: tuple[float, float] = (0.2, 2.0)
    """How long a link is not well."""
    rest: float = 1.0
    """Who was broken for a second is left alone for so many more, or a slow machine would never do anything."""
    service_deck: tuple[str, ...] = (*("restart",) * 6, *("takeover",) * 2, "pause", *("drain",) * 2)
    redis_deck: tuple[str, ...] = ("kill", "power cut", "power cut", "restart")


class Faults:
    """Breaks things until told to stop."""

    def __init__(self, crew: Crew, server: Server, seed: int, pace: Pace) -> None:
        self.crew = crew
        self.server = server
        self.pace = pace
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.recoveries: list[Recovery] = []
        self.drains: list[float] = []
        self.stuck: list[str] = []
        self.broken: list[Broken] = []
        self.lost_seconds: list[float] = []
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self.decks: list[Deck] = []
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        chance = random.Random(self.seed)
        for service in SERVICES:
            self._loop(self._service_turns(service, chance.random()), self.pace.service, chance.random())
        self._loop(self._redis_turns(chance.random()), self.pace.redis, chance.random())
        self._loop(self._others_turns(chance.random()), self.pace.node, chance.random())
        self._loop(self._link_turns(chance.random()), self.pace.link, chance.random())
        self._loop(self._duplicate_turns(chance.random()), self.pace.duplicate, chance.random())

    def stop(self) -> None:
        """Ends after the turns in hand, which mend what they broke."""
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    @property
    def rounds(self) -> int:
        """How often every kind of every deck has come, at least."""
        return min(deck.rounds for deck in self.decks)

    def _loop(self, turns: Iterator[None], pause: tuple[float, float], seed: float) -> None:
        chance = random.Random(seed)

        def run() -> None:
            took = 0.0
            try:
                while not self.stopping.wait(chance.uniform(*pause) + self.pace.rest * took):
                    began = time.monotonic()
                    next(turns)
                    took = time.monotonic() - began
            except BaseException as error:  # noqa: BLE001 -- it is raised again where the faults are stopped
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _deck(self, seed: float, kinds: Sequence[str]) -> Deck:
        deck = Deck(random.Random(seed), kinds)
        self.decks.append(deck)
        return deck

    # The services.

    def _service_turns(self, service: str, seed: float) -> Iterator[None]:
        chance = random.Random(seed)
        deck = self._deck(seed, self.pace.service_deck)
        client = self.server.client()
        names = [name for name in self.crew.replicas if name.startswith(service)]
        while True:
            name = chance.choice(names)
            kind = deck.draw()
            self._await_work(client, service, name)
            match kind:
                case "restart":
                    self._kill_and_restart(client, service, name)
                case "takeover":
                    self._kill_for_long(client, service, name)
                case "pause":
                    self._pause(client, service, name)
                case _:
                    self._drain(client, service, name)
            yield

    def _kill_and_restart(self, client: redis.Redis, service: str, name: str) -> None:
        """It comes back under its name, as a container does that is started again in its pod."""
        began = time.monotonic()
        self.crew.kill(name)
        self.counts[f"{service} killed, started again"] += 1
        held = self._in_hands(client, service, name)
        at = self.crew.start(name)
        if held and (moved := self._moved(client, service, held, at)):
            self._note("after its restart", name, max(moved) - at, began, service)

    def _kill_for_long(self, client: redis.Redis, service: str, name: str) -> None:
        """A peer has to take over what it held, once nobody has touched that for a lease."""
        began = time.monotonic()
        self.crew.kill(name)
        self.counts[f"{service} killed, not started again"] += 1
        held = self._in_hands(client, service, name)
        self._see_taken_over(client, service, name, held, began, time.monotonic())
        self.crew.start(name)

    def _pause(self, client: redis.Redis, service: str, name: str) -> None:
        """It sleeps past its lease and wakes with everything in its hands that others have dealt with."""
        began = time.monotonic()
        self.crew.signal(name, signal.SIGSTOP)
        self.counts[f"{service} paused beyond its lease"] += 1
        held = self._in_hands(client, service, name)
        self._see_taken_over(client, service, name, held, began, time.monotonic())
        self.crew.signal(name, signal.SIGCONT)

    def _drain(self, client: redis.Redis, service: str, name: str) -> None:
        self.counts[f"{service} told to end"] += 1
        self.drains.append(self.crew.stop(name))
        self.crew.start(name)

    def _see_taken_over(
        self, client: redis.Redis, service: str, name: str, held: list[Held], began: float, since: float
    ) -> None:
        late: list[float] = []
        moved = self._moved(client, service, held, since) if held else []
        for each, at in zip(held, moved, strict=bool(moved)):
            late.append(at - (each.touched + self.crew.lease))
        # Before the end of the lease nobody may: what moved then had been handled when its holder died.
        if late and max(late) > 0:
            self._note("after its lease, by a peer", name, max(late), began, service)

    def _await_work(self, client: redis.Redis, service: str, name: str) -> None:
        deadline = time.monotonic() + BUSY_WITHIN_SECONDS
        while time.monotonic() < deadline and not self.stopping.is_set():
            if self._in_hands(client, service, name):
                return
            time.sleep(POLL_SECONDS)

    def _in_hands(self, client: redis.Redis, service: str, name: str) -> list[Held]:
        rows = self._pending(client, service, name)
        now = time.monotonic()
        return [Held(stream, entry, now - idle / 1000) for (stream, entry), idle in rows.items()]

    def _pending(self, client: redis.Redis, service: str, name: str | None = None) -> dict[tuple[str, str], int]:
        """Entries in the hands of one replica or of all, with their idle milliseconds; none while Redis is away."""
        streams = self.crew.streams_of(service)
        pipeline = client.pipeline(transaction=False)
        for stream in streams:
            pipeline.xpending_range(stream, GROUPS[service], "-", "+", 10_000, consumername=name)
        try:
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        except redis.RedisError:
            time.sleep(POLL_SECONDS)
            return {}
        return {
            (stream, row["message_id"]): row["time_since_delivered"]
            for stream, rows in zip(streams, replies, strict=True)
            if isinstance(rows, list)
            for row in rows
        }

    def _moved(self, client: redis.Redis, service: str, held: list[Held], since: float) -> list[float]:
        """When each entry was finished, or touched by whoever has it now. Notes what stands still for too long."""
        moved: dict[tuple[str, str], float] = {}
        deadline = time.monotonic() + MOVES_WITHIN_SECONDS
        while len(moved) < len(held):
            if not self._is_there(client):
                deadline = time.monotonic() + MOVES_WITHIN_SECONDS
                time.sleep(POLL_SECONDS)
                continue
            pending = self._pending(client, service)
            now = time.monotonic()
            for each in held:
                at = (each.stream, each.entry)
                if at in moved:
                    continue
                idle = pending.get(at)
                if idle is None:
                    moved[at] = now
                elif now - idle / 1000 > max(since, each.touched + POLL_SECONDS):
                    moved[at] = now - idle / 1000
            if now > deadline:
                self.stuck.append(
                    f"{service}: {len(held) - len(moved)} entries stood still for {MOVES_WITHIN_SECONDS} s"
                )
                return []
            time.sleep(POLL_SECONDS)
        return [moved[each.stream, each.entry] for each in held]

    @staticmethod
    def _is_there(client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    def _note(self, kind: str, name: str, seconds: float, began: float, service: str) -> None:
        now = time.monotonic()
        others = [
            each
            for each in list(self.broken)
            if each.since <= now
            and each.until + GRACE_SECONDS >= began
            and (each.target == "redis" or each.target.startswith(service))
        ]
        self.recoveries.append(Recovery(kind, name, seconds, alone=not others))

    # Everything else.

    def _redis_turns(self, seed: float) -> Iterator[None]:
        deck = self._deck(seed, self.pace.redis_deck)
        while True:
            kind = deck.draw()
            began = time.monotonic()
            self.broken.append(Broken("redis", began, float("inf")))
            place = len(self.broken) - 1
            before = self._progress(self.server.client())
            if kind == "restart":
                self.server.stop()
                self.server.start()
            else:
                with (Path(self.crew.config.durable_lock)).open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    lost = self.server.crash(power_cut=kind == "power cut", keep_bytes=self._confirmed_bytes())
                    if kind == "power cut":
                        self.lost_seconds.append(lost)
            at = time.monotonic()
            self.counts[f"Redis: {kind}"] += 1
            self.broken[place] = Broken("redis", began, at)
            self._await_progress(before, at)
            yield

    def _confirmed_bytes(self) -> int:
        """How much of the file WAITAOF has confirmed to a client: no power cut can take that."""
        name = max((file.name for file in (self.server.folder / "appendonlydir").glob("*.incr.aof")), default="")
        lines = [line for file in Path(self.crew.config.ledgers).glob("client-*") for line in read(file)]
        return max((line.offset for line in lines if isinstance(line, Durable) and line.file == name), default=0)

    def _progress(self, client: redis.Redis) -> tuple[str, ...]:
        """The newest event of each partition."""
        found: list[str] = []
        for keys in all_partitions(self.crew.config.partitions):
            try:
                newest: Any = client.xrevrange(keys.events, count=1)
            except redis.RedisError:
                newest = ()
            found.append(newest[0][0] if newest else "")
        return tuple(found)

    def _await_progress(self, before: tuple[str, ...], at: float) -> None:
        """Until something happens anywhere, as far as there is something to do."""
        client = self.server.client()
        before = self._progress(client) or before
        while time.monotonic() < at + MOVES_WITHIN_SECONDS:
            if self._progress(client) != before:
                self.recoveries.append(Recovery("after Redis's restart", "redis", time.monotonic() - at, alone=True))
                return
            time.sleep(POLL_SECONDS)

    def _others_turns(self, seed: float) -> Iterator[None]:
        """Whoever runs the tasks, and whoever submits."""
        deck = self._deck(seed, ("node", "client"))
        chance = random.Random(seed)
        while True:
            kind = deck.draw()
            with self.crew.lock:
                names = [name for name in self.crew.processes if name.startswith(kind)]
            if names:
                name = chance.choice(names)
                self.crew.kill(name)
                self.counts[f"{kind} killed, started again"] += 1
                self.crew.start(name)
            yield

    def _link_turns(self, seed: float) -> Iterator[None]:
        deck = self._deck(seed, [str(fault) for fault in LINK_FAULTS])
        chance = random.Random(seed)
        while True:
            fault, name = Fault(deck.draw()), chance.choice(self.crew.replicas)
            link = self.crew.links[name]
            self.broken.append(Broken(name, time.monotonic(), float("inf")))
            place = len(self.broken) - 1
            link.on(fault, seconds=0.05, jitter=0.1, bytes_per_second=20_000)
            self.counts[f"link: {fault}"] += 1
            self.stopping.wait(chance.uniform(*self.pace.link_fault))
            link.heal()
            # A connection that died silently is given up by its client's own timeout.
            more = 10.0 if fault in (Fault.HALF_OPEN, Fault.SILENT) else 0.0
            self.broken[place] = Broken(name, self.broken[place].since, time.monotonic() + more)
            yield

    def _duplicate_turns(self, seed: float) -> Iterator[None]:
        """Entries of the work streams come again, at once or when their attempts are long over."""
        chance = random.Random(seed)
        client = self.server.client()
        partitions = all_partitions(self.crew.config.partitions)
        streams = [
            stream
            for keys in partitions
            for stream in (keys.ready, keys.launched, keys.finished, keys.settled, keys.cancelled)
        ]
        known: list[tuple[str, dict[str, str]]] = []
        while True:
            try:
                for stream in streams:
                    found: Any = client.xrange(stream, count=2)
                    known += [(stream, fields) for _, fields in found]
                del known[:-200]
                if known:
                    stream, fields = chance.choice(known)
                    client.xadd(stream, dict(fields.items()))
                    self.counts["an entry repeated"] += 1
            except redis.RedisError:
                pass
            yield


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed; 0 where there is none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
