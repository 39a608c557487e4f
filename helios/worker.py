"""The loop of every service: read a batch, handle it, decide about what failed. And what surrounds the loop.

Rule: an entry ends in exactly one of three ways: acknowledged by the script that applied it, moved to the dead letters
with its reason (and its run failed with that reason), or left pending for a later delivery.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.events import RunEnded
from helios.keys import SERVICES_PREFIX, Keys, heartbeat, partition_of
from helios.settings import Settings
from helios.streams import BACKOFF_SECONDS, CLIENT_OPTIONS, Entry, Inbox
from helios.transitions import abandon_run, cancel_run, commit, commit_one, dead_letter, pipelined

log = structlog.get_logger()

HEARTBEAT_SECONDS = 5
HEARTBEAT_KEPT_SECONDS = 20

TRANSIENT = ("OOM", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "BUSY")
"""Error codes by which Redis says «not now»: the entry is kept and tried again without counting against it."""

PERMANENT = ("WRONGTYPE",)
"""Error codes that no repetition cures."""


LETTER_FIELDS = 16
LETTER_CHARACTERS = 4_096
"""So much of an entry goes with it to the dead letters: enough to recognise it, whatever it holds."""


def error_code(error: Exception) -> str:
    """`OOM`, `WRONGTYPE` and so on; redis-py moves the code out of the text of those errors that have a class."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


class Later(Exception):
    """What the entry needs is not there yet; it is tried again without counting against it."""


class Refused(Exception):
    """The entry can never be handled; it goes to the dead letters with these words."""


class Failure(msgspec.Struct):
    """An entry whose handling failed, and why."""

    entry: Entry
    error: Exception


Handler = Callable[[list[Entry]], Sequence[Failure]]
"""Handles entries, commits their effects and returns those that failed. May raise when it cannot tell which did."""


class Stop:
    """Set by SIGTERM or SIGINT; loops end after the batch in hand."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self.event.set()

    @property
    def wanted(self) -> bool:
        return self.event.is_set()

    def wait(self, seconds: float) -> bool:
        return self.event.wait(seconds)


class Heartbeat:
    """Tells the others that this replica lives, and which version it runs."""

    def __init__(self, client: redis.Redis, service: str, replica: str) -> None:
        self.client = client
        self.key = heartbeat(service, replica)
        self.fields = {
            "service": service,
            "replica": replica,
            "version": version("helios"),
            "pid": str(os.getpid()),
            "since": str(int(time.time() * 1000)),
        }
        self.due = 0.0

    def beat(self) -> None:
        if time.monotonic() < self.due:
            return
        pipeline = pipelined(self.client)
        pipeline.hset(self.key, mapping=self.fields)
        pipeline.expire(self.key, HEARTBEAT_KEPT_SECONDS)
        pipeline.execute()
        self.due = time.monotonic() + HEARTBEAT_SECONDS

    def end(self) -> None:
        with contextlib.suppress(redis.RedisError):  # it expires by itself
            self.client.delete(self.key)


def live_services(client: redis.Redis) -> list[dict[str, str]]:
    """The heartbeats of all replicas alive, as service, replica, version, pid and since (epoch ms)."""
    found: Any = [client.hgetall(key) for key in _keys_like(client, f"{SERVICES_PREFIX}*")]
    beats: list[dict[str, str]] = [beat for beat in found if beat]
    return sorted(beats, key=lambda beat: (beat["service"], beat["replica"]))


def _keys_like(client: redis.Redis, pattern: str) -> list[str]:
    return list(client.scan_iter(match=pattern, count=1000))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- no stub


def configure_logging(service: str, level: str) -> None:
    """One JSON object a line on stderr."""
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels.get(level.lower(), 20)),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def run_loops(stop: Stop, first: Callable[[], None], *others: Callable[[], None]) -> None:
    """Run the loops side by side until stopped. One that dies ends them all: half a service must not look alive."""
    crashed: list[BaseException] = []

    def guarded(loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 -- it is raised again below
            crashed.append(error)
        finally:
            stop.event.set()

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in others]
    for thread in threads:
        thread.start()
    guarded(first)
    for thread in threads:
        thread.join()
    if crashed:
        raise crashed[0]


def repeat(stop: Stop, seconds: float, look: Callable[[], object]) -> None:
    """Call `look` at once and then every so many seconds until stopped; Redis out of reach only puts it off."""
    while True:
        try:
            look()
        except redis.RedisError as error:
            log.warning("a periodic look is put off", look=getattr(look, "__qualname__", ""), error=str(error))
        if stop.wait(seconds):
            return


def connect(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url, **CLIENT_OPTIONS)  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open


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
    entry and the reason before it goes to the dead letters.
    """
    trouble = 0
    while not stop.wanted:
        try:
            if heartbeat:
                heartbeat.beat()
            block_ms = on_turn() if on_turn else None
            entries = inbox.read() if block_ms is None else inbox.read(block_ms)
            if entries:
                _handle(inbox, handle, entries, settings, on_bury)
            trouble = 0
        except redis.RedisError as error:
            log.warning("redis is not usable", error=str(error), retry_in_seconds=_backoff(trouble))
            inbox.history_unread = True
            stop.wait(_backoff(trouble))
            trouble += 1


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
                log.error("nobody can be told of a dead letter", entry=entry.id, error=str(error))
        bury(inbox, entry, reason, settings)

    sound: list[Entry] = []
    for entry in entries:
        if entry.deliveries > settings.deliveries_before_dead_letter:
            reason = f"it was delivered {entry.deliveries - 1} times and never finished"
            give_up(entry, reason)
        else:
            sound.append(entry)
    try:
        failures = handle(sound) if sound else ()
    except redis.ResponseError as error:
        failures = _one_by_one(handle, sound, error)
    except redis.RedisError:
        raise
    except Exception as error:
        log.exception("a batch failed")
        failures = _one_by_one(handle, sound, error)
    for failure in failures:
        entry, error, text = failure.entry, failure.error, str(failure.error)
        if isinstance(error, Later) or error_code(error) in TRANSIENT:
            log.warning("an entry is put off", reason=text, stream=entry.stream, entry=entry.id)
            inbox.put_off(entry)
        elif (
            isinstance(error, msgspec.ValidationError | UnicodeEncodeError | Refused) or error_code(error) in PERMANENT
        ):
            give_up(entry, text)
        elif entry.deliveries >= settings.deliveries_before_dead_letter:
            give_up(entry, f"it failed {entry.deliveries} times: {text}")
        else:
            log.error("an entry failed and will be delivered again", error=text, stream=entry.stream, entry=entry.id)


def _one_by_one(handle: Handler, entries: list[Entry], error: Exception) -> list[Failure]:
    if len(entries) == 1:
        return [Failure(entries[0], error)]
    failures: list[Failure] = []
    for entry in entries:
        try:
            failures += handle([entry])
        except redis.ResponseError as own:
            failures.append(Failure(entry, own))
        except redis.RedisError:
            raise
        except Exception as own:  # noqa: BLE001 -- as above
            failures.append(Failure(entry, own))
    return failures


def bury(inbox: Inbox, entry: Entry, reason: str, settings: Settings) -> None:
    """Fail the entry's run with the reason, then move the entry to the dead letters."""
    log.error("dead letter", stream=entry.stream, entry=entry.id, reason=reason)
    run = entry.fields.get("run", "")
    run = "" if has_raw_bytes(run) else run
    keys = Keys(partition_of(run, settings.partitions))
    letter = {"stream": entry.stream, "entry": entry.id, "reason": reason, "deliveries": str(entry.deliveries)}
    small = {
        _readable(name[:LETTER_CHARACTERS]): _readable(text[:LETTER_CHARACTERS])
        for name, text in list(entry.fields.items())[:LETTER_FIELDS]
        if name not in letter
    }
    if entry.stream.startswith(keys.prefix):
        subject = f"task {entry.fields['task'][:300]!r}: " if "task" in entry.fields else ""
        words = f"{subject}an entry of {entry.stream} was dead-lettered: {reason}"
        try:
            if entry.stream == keys.settled:
                # Asking for the run's finalisation once more would only bring it back here.
                commit_one(inbox.client, abandon_run(keys, run=run, reason=words, event=RunEnded(run, "FAILED")))
            else:
                fail_run(inbox.client, keys, run, words)
        except ResponseError as error:
            if error_code(error) in TRANSIENT:
                raise
            log.error("the run of a dead letter cannot be failed", run=run, error=str(error))
        commit_one(
            inbox.client,
            dead_letter(
                keys.dead,
                entry.stream,
                group=inbox.group,
                entry=entry.id,
                reason=reason,
                deliveries=entry.deliveries,
                fields=small,
            ),
        )
        return
    # An ingress stream shares no partition with the dead letters, so this takes two steps: the letter may be doubled.
    pipelined(inbox.client).xadd(keys.dead, {**small, **letter}).execute()
    acknowledge(inbox, entry)


def has_raw_bytes(text: str) -> bool:
    """Whether it came as bytes that are not UTF-8. Such text can be read from Redis but not sent to it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def acknowledge(inbox: Inbox, entry: Entry) -> None:
    """For ingress entries only: their effect is keyed by their id and lies in another slot."""
    pipeline = pipelined(inbox.client)
    pipeline.xack(entry.stream, inbox.group, entry.id)
    pipeline.xdel(entry.stream, entry.id)
    pipeline.execute()


def fail_run(client: redis.Redis, keys: Keys, run: str, reason: str) -> None:
    """Fail a run as a whole: its tasks are cancelled, it ends FAILED with the reason. One that ended is left alone."""
    tasks: list[str] = client.lrange(keys.task_names(run), 0, -1)  # pyright: ignore[reportAssignmentType] -- the stubs mix in async
    for result in commit(client, cancel_run(keys, run=run, tasks=tasks, reason=reason)):
        if isinstance(result, ResponseError):
            raise result
