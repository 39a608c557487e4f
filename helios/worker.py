"""The loop of every service: read a batch, handle it, decide about what failed.

Rule: an entry ends in exactly one of three ways: acknowledged by the script that applied it, moved to the dead letters
with its reason (and its run failed with that reason), or left pending for a later delivery.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import FrameType

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.deadletter import bury
from helios.heartbeat import Heartbeat
from helios.keys import without_partition
from helios.logged import about_entry
from helios.measures import ENTRIES_FAILED, REDIS_ERRORS
from helios.settings import Settings
from helios.streams import BACKOFF_SECONDS, Entry, Inbox
from helios.wire import PERMANENT, TRANSIENT, error_code

log = structlog.get_logger()


class Later(Exception):
    """What the entry needs is not there yet; it is tried again without counting against it."""


class Waits(Later):
    """The same, and it is as it should be: nobody is to be told."""


class Refused(Exception):
    """The entry can never be handled; it goes to the dead letters with these words."""


class Failure(msgspec.Struct):
    """An entry whose handling failed, and why."""

    entry: Entry
    error: Exception


Handler = Callable[[list[Entry]], Sequence[Failure]]
"""Handles entries, commits their effects and returns those that failed. May raise when it cannot tell which did."""


class Stop:
    """Set by SIGTERM or SIGINT, however often; loops end after the batch in hand."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.listens = False
        """To signals, as in a process of its own."""
        self.signals: SimpleQueue[None] = SimpleQueue()

    def listen(self) -> None:
        self.listens = True
        threading.Thread(target=self._pass_on, name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        """The event has a lock, which the code that is interrupted may hold: another signal's handler, or a wait. To
        put into a SimpleQueue is safe there (https://docs.python.org/3/library/queue.html#queue.SimpleQueue.put).
        """
        self.signals.put(None)

    def _pass_on(self) -> None:
        self.signals.get()
        self.event.set()

    @property
    def wanted(self) -> bool:
        return self.event.is_set()

    def wait(self, seconds: float) -> bool:
        return self.event.wait(seconds)


def work(
    inbox: Inbox,
    handle: Handler,
    *,
    settings: Settings,
    stop: Stop,
    heartbeat: Heartbeat | None = None,
    on_turn: Callable[[], int | None] | None = None,
    on_bury: Callable[[Entry, str], None] | None = None,
) -> None:
    """Run until stopped.

    `on_turn` is called before each read and may shorten its wait by returning milliseconds. `on_bury` is told of an
    entry and the reason before it goes to the dead letters. At the end whatever is in hand is handed back.
    """
    trouble = 0
    while not stop.wanted:
        try:
            inbox.turned = time.monotonic()
            if heartbeat:
                heartbeat.beat()
            block_ms = on_turn() if on_turn else None
            if stop.wanted:
                break
            entries = inbox.read() if block_ms is None else inbox.read(block_ms)
            if entries:
                _handle(inbox, handle, entries, settings, on_bury)
            trouble = 0
        except redis.RedisError as error:
            REDIS_ERRORS.add()
            log.warning("redis is not usable", error=str(error), retry_in_seconds=_backoff(trouble))
            inbox.history_unread = True
            if not isinstance(error, ResponseError):
                # What cut or silenced one connection has probably met the others; each would cost a wait of its own.
                inbox.client.connection_pool.disconnect(inuse_connections=False)
            stop.wait(_backoff(trouble))
            trouble += 1
    given = inbox.leave()
    if given:
        log.info("entries in hand are handed back", entries=given, group=inbox.group)


def _backoff(trouble: int) -> float:
    return BACKOFF_SECONDS[min(trouble, len(BACKOFF_SECONDS) - 1)]


def _handle(
    inbox: Inbox,
    handle: Handler,
    entries: list[Entry],
    settings: Settings,
    on_bury: Callable[[Entry, str], None] | None,
) -> None:
    """Handle a batch and decide about what failed. Raises redis.RedisError when Redis is out of reach."""

    def give_up(entry: Entry, reason: str) -> None:
        if on_bury:
            try:
                on_bury(entry, reason)
            except ResponseError as error:
                if error_code(error) in TRANSIENT:
                    raise
                log.error("nobody can be told of a dead letter", error=str(error))
        bury(inbox, entry, reason, settings)

    sound: list[Entry] = []
    for entry in entries:
        if entry.deliveries > settings.deliveries_before_dead_letter:
            with about_entry(entry.stream, entry.id, entry.fields):
                give_up(entry, f"it was delivered {entry.deliveries - 1} times and never finished")
        else:
            sound.append(entry)
    for failure in _handled(handle, sound):
        entry = failure.entry
        with about_entry(entry.stream, entry.id, entry.fields):
            _decide(inbox, entry, failure.error, settings, give_up)


def _handled(handle: Handler, sound: list[Entry]) -> Sequence[Failure]:
    """Those that failed; where the handler cannot tell which did, each by itself."""
    try:
        if len(sound) == 1:
            with about_entry(sound[0].stream, sound[0].id, sound[0].fields):
                return handle(sound)
        return handle(sound) if sound else ()
    except redis.ResponseError as error:
        return _one_by_one(handle, sound, error)
    except redis.RedisError:
        raise
    except Exception as error:
        if len(sound) > 1:
            log.exception("a batch failed, and its entries are handled one by one", entries=len(sound))
        return _one_by_one(handle, sound, error)


def _decide(
    inbox: Inbox, entry: Entry, error: Exception, settings: Settings, give_up: Callable[[Entry, str], None]
) -> None:
    """What becomes of an entry whose handling failed."""
    text = str(error)
    later = isinstance(error, Later) or error_code(error) in TRANSIENT
    ENTRIES_FAILED.add((without_partition(entry.stream), "later" if later else "error"))
    if later:
        if not isinstance(error, Waits):
            log.warning("an entry is put off", reason=text, stream=entry.stream)
        inbox.put_off(entry)
    elif isinstance(error, msgspec.ValidationError | UnicodeEncodeError | Refused) or error_code(error) in PERMANENT:
        give_up(entry, text)
    elif entry.deliveries >= settings.deliveries_before_dead_letter:
        give_up(entry, f"it failed {entry.deliveries} times: {text}")
    else:
        inbox.failed.add((entry.stream, entry.id))
        trace = None if isinstance(error, redis.RedisError | OSError) else error
        log.error("an entry failed and will be delivered again", error=text, stream=entry.stream, exc_info=trace)


def _one_by_one(handle: Handler, entries: list[Entry], error: Exception) -> list[Failure]:
    if len(entries) == 1:
        return [Failure(entries[0], error)]
    failures: list[Failure] = []
    for entry in entries:
        try:
            with about_entry(entry.stream, entry.id, entry.fields):
                failures += handle([entry])
        except redis.ResponseError as own:
            failures.append(Failure(entry, own))
        except redis.RedisError:
            raise
        except Exception as own:  # noqa: BLE001 -- as above
            failures.append(Failure(entry, own))
    return failures
