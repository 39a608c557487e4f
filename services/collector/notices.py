"""Telling webhooks that runs ended: which notice is sent when, again after a failure, or given up.

Rules: finalisation only adds to a stream; whatever a receiver does, nobody but its own notices waits. An entry is
acknowledged once its notice was taken, refused or given up, so what a collector that dies had in hand another sends
again, under the same key. Sends run on threads of their own and touch nothing here; all else is the loop's.

Notices to one URL stand in one line. While it fails, one at a time is tried, ever more rarely.
"""

import hmac
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Literal

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import Notify
from helios.deadletter import acknowledge
from helios.keys import Keys, keys_of_run
from helios.logged import about
from helios.measures import NOTICES
from helios.messages import Ended, decode
from helios.notify import Destination, destination, idempotency_key, is_allowed, not_allowed, read_secrets
from helios.redaction import Redaction
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import commit_one, warn_run
from helios.version import VERSION
from helios.wire import TRANSIENT, error_code
from helios.worker import Failure, Refused
from services.collector.notice import notice_body, notify_of
from services.collector.webhook import Verdict, post

log = structlog.get_logger()

SENDS = 16
SENDS_TO_A_HOST = 4
"""At once; while a URL fails, one to it."""
HELD_AT_MOST = 10_000
"""Notices that one replica has in hand, at about a kilobyte each: as many as a stream holds."""
AGAIN_FIRST_SECONDS, AGAIN_AT_MOST_SECONDS = 1.0, 300.0
"""Until the second try; doubled each time, up to the latter. What is waited is from half of it to all of it."""
GIVEN_UP_AFTER_SECONDS = 3_600.0
"""So long after a run's end a notice is tried once at least, and not again."""
LOOK_MS = 20
"""How soon the end of a send is seen to."""
RENEWALS_IN_A_LEASE = 4
RENEWED_AT_A_TIME = 500
LAST_SENDS_SECONDS = 2.0
"""For sends that are under way when the process is to end."""

Outcome = Literal["sent", "dropped", "refused"]


class Held(msgspec.Struct, eq=False):
    """A notice in this replica's hands; its entry stays pending."""

    entry: Entry
    keys: Keys
    run: str
    told: Notify
    to: Destination
    began: float
    tries: int = 0
    due: float = 0.0
    lost: bool = False
    """Another replica took it over."""


class Line(msgspec.Struct, eq=False):
    """The notices to one URL."""

    to: Destination
    waiting: list[tuple[float, int, Held]] = []
    """A heap, by when they are due and in which order they came."""
    due: float = 0.0
    failures: int = 0
    """Since it took one."""
    busy: int = 0


class Notifier:
    """Handles the entries of `runs:notices`."""

    def __init__(self, client: redis.Redis, inbox: Inbox, settings: Settings) -> None:
        self.client = client
        self.inbox = inbox
        self.settings = settings
        self.secrets = read_secrets(settings.notify_secrets)
        self.redaction = Redaction(settings)
        self.context = ssl.create_default_context()
        self.held: dict[tuple[str, str], Held] = {}
        """By stream and entry id."""
        inbox.held = self.held.keys()
        self.lines: dict[str, Line] = {}
        """By URL; those whose turn was longest ago come first."""
        self.hosts: Counter[str] = Counter()
        """Sends under way."""
        self.running = 0
        self.ended: SimpleQueue[tuple[Held, Verdict]] = SimpleQueue()
        self.over: list[tuple[Held, Outcome, str]] = []
        """What is yet to be written and acknowledged, and why it was not sent."""
        self.order = 0
        self.next_renewal = 0.0

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        for entry in entries:
            if (entry.stream, entry.id) in self.held:
                continue
            try:
                self._take(entry)
            except (msgspec.ValidationError, Refused, ResponseError) as error:
                failures.append(Failure(entry, error))
        return failures

    def _take(self, entry: Entry) -> None:
        message = decode(entry.fields, Ended)
        keys = keys_of_run(message.run, self.settings.partitions)
        found = self.client.hmget(keys.run(message.run), ["notify", "endTime"])
        text, ended = found  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] -- the stubs mix in async
        if not isinstance(text, str) or ended is None:
            log.warning("a notice is given up: nothing is known of its run any more", run=message.run)
            NOTICES.add(("dropped",))
            acknowledge(self.inbox, entry)
            return
        try:
            told = notify_of(text)[message.number]
            to = destination(told.url)
        except (msgspec.DecodeError, UnicodeEncodeError, IndexError, ValueError):
            raise Refused(f"the record of run {message.run} has no notice {message.number}") from None
        held = Held(entry, keys, message.run, told, to, time.monotonic())
        full = len(self.held) >= HELD_AT_MOST
        self.held[entry.stream, entry.id] = held
        if not is_allowed(to, self.settings.notify_hosts):
            self.over.append((held, "refused", not_allowed(to)))
        elif told.secret is not None and told.secret not in self.secrets:
            words = f"no notice goes to {to.name}: HELIOS_NOTIFY_SECRETS has no {told.secret!r} to sign it with"
            self.over.append((held, "refused", words))
        elif full:
            self.over.append((held, "dropped", _given_up(held, f"{HELD_AT_MOST:,} others wait")))
        else:
            self._wait(held)

    def turn(self) -> int | None:
        """To be called before each read; how long that may wait, in milliseconds. Raises redis.RedisError."""
        self._gather()
        self._write()
        now = time.monotonic()
        if now >= self.next_renewal:
            self._renew()
            self.next_renewal = now + self.settings.lease_seconds / RENEWALS_IN_A_LEASE
        self._start(now)
        if self.running or self.over:
            return LOOK_MS
        soonest = min((max(line.due, line.waiting[0][0]) for line in self.lines.values() if line.waiting), default=None)
        return None if soonest is None else min(1000, max(1, int((soonest - now) * 1000)))

    def close(self) -> None:
        """Once the loop has ended, and handed back what it had: what was just sent is not to be sent again."""
        until = time.monotonic() + LAST_SENDS_SECONDS
        while self.running and (left := until - time.monotonic()) > 0:
            try:
                self._settle(*self.ended.get(timeout=left))
            except Empty:
                break
        try:
            self._write()
        except redis.RedisError as error:
            log.warning("notices that were sent will be sent again", error=str(error))

    def _wait(self, held: Held) -> None:
        line = self.lines.get(held.told.url)
        if line is None:
            line = self.lines[held.told.url] = Line(held.to)
        self.order += 1
        heappush(line.waiting, (held.due, self.order, held))

    def _start(self, now: float) -> None:
        """Send what is due, each line in its turn."""
        for url in list(self.lines):
            if self.running >= SENDS:
                return
            line = self.lines[url]
            while line.waiting and line.waiting[0][2].lost:
                heappop(line.waiting)
            if not line.waiting:
                if not line.busy:
                    del self.lines[url]
                continue
            if line.due > now or line.waiting[0][0] > now or self.hosts[line.to.name] >= SENDS_TO_A_HOST:
                continue
            if line.failures and line.busy:
                continue
            held = line.waiting[0][2]
            try:
                body, headers = self._notice(held)
            except (ValueError, ResponseError) as error:
                if error_code(error) in TRANSIENT:
                    raise
                heappop(line.waiting)
                self.over.append((held, "dropped", _given_up(held, f"the run's record is damaged: {error}"[:200])))
                continue
            heappop(line.waiting)
            line.busy += 1
            self.hosts[line.to.name] += 1
            self.running += 1
            held.tries += 1
            threading.Thread(target=self._send, args=(held, body, headers), name="notice", daemon=True).start()
            self.lines[url] = self.lines.pop(url)

    def _notice(self, held: Held) -> tuple[bytes, dict[str, str]]:
        fields: dict[str, str] = self.client.hgetall(held.keys.run(held.run))  # pyright: ignore[reportAssignmentType]
        if "endTime" not in fields:
            raise ValueError("nothing is known of it any more")
        said = notice_body(self.client, held.keys, held.run, fields)
        for each in (said["run"], *said["failedTasks"]):
            each["reason"] = self.redaction.clean(each["reason"]) if each["reason"] is not None else None
        body = msgspec.json.encode(said)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"helios/{VERSION}",
            "Helios-Event": str(said["event"]),
            "Idempotency-Key": idempotency_key(held.run, held.told.url),
        }
        if held.told.secret is not None:
            key = self.secrets[held.told.secret].encode("utf-8", "surrogateescape")
            headers["Helios-Signature"] = f"sha256={hmac.digest(key, body, 'sha256').hex()}"
        return body, headers

    def _send(self, held: Held, body: bytes, headers: dict[str, str]) -> None:
        """On a thread of its own."""
        verdict = Verdict("again", "it could not be sent")
        try:
            verdict = post(held.to, body, headers, self.context)
        except Exception:
            log.exception("a notice could not be sent", host=held.to.name)
        finally:
            self.ended.put((held, verdict))

    def _gather(self) -> None:
        while True:
            try:
                self._settle(*self.ended.get_nowait())
            except Empty:
                return

    def _settle(self, held: Held, verdict: Verdict) -> None:
        """Decide about a notice whose send has ended."""
        line = self.lines[held.told.url]
        line.busy -= 1
        self.running -= 1
        self.hosts[held.to.name] -= 1
        if not self.hosts[held.to.name]:
            del self.hosts[held.to.name]
        if verdict.outcome != "again":
            line.failures, line.due = 0, 0.0
        if verdict.outcome == "sent":
            self.over.append((held, "sent", ""))
            return
        if held.lost:
            return
        if verdict.outcome == "never":
            self.over.append((held, "dropped", _given_up(held, verdict.words)))
            return
        now = time.monotonic()
        if line.due <= now:
            line.failures += 1  # once for those that were sent side by side
        line.due = max(line.due, now + max(_pause(line.failures), verdict.wait_seconds))
        held.due = now + _pause(held.tries)
        self._wait(held)
        left: list[tuple[float, int, Held]] = []
        for each in line.waiting:
            other = each[2]
            if _age_seconds(other) > GIVEN_UP_AFTER_SECONDS:
                self.over.append((other, "dropped", _given_up(other, verdict.words)))
            else:
                left.append(each)
        line.waiting[:] = sorted(left)
        if any(each is held for _, _, each in left):
            NOTICES.add(("retried",))
        if line.failures == 1:
            with about(run=held.run, entry=held.entry.id):
                log.warning("a notice is tried again", host=held.to.name, reason=verdict.words)

    def _write(self) -> None:
        """What became of notices. Raises redis.RedisError; what is written by then is not written again."""
        while self.over:
            held, outcome, words = self.over[0]
            if words:
                with about(run=held.run, entry=held.entry.id):
                    log.warning("a notice is not sent", host=held.to.name, reason=words)
                self._warn(held, words)
            acknowledge(self.inbox, held.entry)
            NOTICES.add((outcome,))
            if self.held.get((held.entry.stream, held.entry.id)) is held:
                del self.held[held.entry.stream, held.entry.id]
            self.over.pop(0)

    def _warn(self, held: Held, words: str) -> None:
        try:
            commit_one(self.client, warn_run(held.keys, run=held.run, warning=words.replace("\n", " ")))
        except ResponseError as error:
            if error_code(error) in TRANSIENT:
                raise
            log.error("a run cannot be warned", error=str(error))

    def _renew(self) -> None:
        """Keep what is in hand; what another took over meanwhile is no longer ours."""
        streams: dict[str, list[str]] = {}
        for stream, entry in self.held:
            streams.setdefault(stream, []).append(entry)
        for stream, ids in streams.items():
            for start in range(0, len(ids), RENEWED_AT_A_TIME):
                some = ids[start : start + RENEWED_AT_A_TIME]
                for entry in set(some) - self.inbox.renew(stream, some):
                    self.held.pop((stream, entry)).lost = True


def _pause(failures: int) -> float:
    whole = min(AGAIN_AT_MOST_SECONDS, AGAIN_FIRST_SECONDS * 2 ** min(failures - 1, 20))
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 -- so that many do not come back at once


def _age_seconds(held: Held) -> float:
    """Since the run's end, or, where clocks differ, since it was taken in hand."""
    return max(time.time() - int(held.entry.id.partition("-")[0]) / 1000, time.monotonic() - held.began)


def _given_up(held: Held, why: str) -> str:
    tries = f" after {held.tries} {'try' if held.tries == 1 else 'tries'}" if held.tries else ""
    return f"the notice to {held.to.name} is given up{tries}: {why}"
