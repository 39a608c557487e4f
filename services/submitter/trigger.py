"""Triggers: what people want of them, and the events that are read from streams.

Each event makes one run, whatever is killed and whoever else reads. A replica submits the run, notes it and only then
acknowledges the entry. The request id is the trigger's and the event's own, so a replica that takes an entry over after
a lease makes the same run. Of the stream nothing is trimmed or deleted.
"""

import contextlib
import json
import time
from collections import Counter
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import NoPermissionError, ResponseError

from helios.deadletter import letter_of
from helios.keys import CONTROLS, SUBMISSIONS, TRIGGERS, Keys, partition_of, trigger, trigger_answer, trigger_dag
from helios.measures import DEAD_LETTERS, TRIGGER_EVENTS
from helios.messages import TriggerControl, decode
from helios.streams import Entry
from helios.submitting import submission_fields
from helios.transitions import (
    ANSWER_KEPT_SECONDS,
    commit_one,
    pipelined,
    trigger_add,
    trigger_change,
    trigger_seen,
)
from helios.triggers import (
    ACTIONS,
    FIELDS,
    SUBMISSIONS_WAITING,
    TRIGGERS_AT_MOST,
    Event,
    EventRefused,
    Trigger,
    TriggerInvalid,
    check_dag,
    check_name,
    check_trigger,
    may_read,
    params_for,
    request_of,
    trigger_of,
)
from helios.wire import TRANSIENT, error_code
from helios.worker import Refused
from services.submitter.schedule import server_clock
from services.submitter.told import Told

log = structlog.get_logger()

EVERY_SECONDS = 0.5
CONSUMER = "submitter"
"""Of all replicas: what one of them has in hand is told by how long ago it was delivered, not by a name."""
EVENTS_AT_A_TIME = 4
"""Each may be as large as Redis lets it be."""
REFUSED_IN_A_ROW = 100
"""Then the trigger is paused: more of the same would only fill Redis with dead letters."""
ROUNDS = 40
LETTERS_OF = "trigger"


class _Stopped(Exception):
    """The trigger is another by now, or paused; what was not handled is handed back."""


def is_about_triggers(entry: Entry) -> bool:
    return entry.stream == CONTROLS and entry.fields.get("action") in ACTIONS


def control_trigger(client: redis.Redis, entry: Entry, streams: str, partitions: int) -> None:
    """Carry out a control entry and leave its answer, for a day. Raises Refused for one that is not understood.

    `streams`: the setting HELIOS_TRIGGER_STREAMS.
    """
    try:
        message = decode(entry.fields, TriggerControl)
    except msgspec.ValidationError as error:
        raise Refused(f"a control about a trigger is not understood: {error}") from None
    if message.action == "trigger-seen":
        _note(client, message, partitions)
        return
    try:
        if message.action == "trigger-add":
            answer = _add(client, entry.id, message, streams)
        else:
            check_name(message.name)
            action = message.action.removeprefix("trigger-")
            answer = commit_one(client, trigger_change(message.name, entry=entry.id, action=action))
    except TriggerInvalid as invalid:
        answer = str(invalid)
        client.set(trigger_answer(entry.id), answer, ex=ANSWER_KEPT_SECONDS, nx=True)
    log.info("trigger", name=message.name[:100], action=message.action, answer=answer)


def _add(client: redis.Redis, entry: str, message: TriggerControl, streams: str) -> str:
    if message.kind not in ("stream", "webhook"):
        raise TriggerInvalid(f"a trigger is of kind stream or webhook, not {message.kind[:40]!r}")
    wanted = Trigger(
        id=entry,
        kind=message.kind,
        stream=message.stream,
        params=message.params,
        eventId=message.eventId,
        bucket=message.bucket,
        prefix=message.prefix,
        suffix=message.suffix,
    )
    check_trigger(message.name, wanted)
    text = message.dag.encode("utf-8", "surrogateescape")
    dag_name, declared = check_dag(text, message.params)
    start = ""
    if wanted.kind == "stream" and client.get(trigger_answer(entry)) is None:
        if not may_read(wanted.stream, streams):
            raise TriggerInvalid(
                f"triggers may not read {wanted.stream[:80]!r}: HELIOS_TRIGGER_STREAMS of the submitter is {streams!r}"
            )
        if client.hget(trigger(message.name), "id") is None:
            start = _begin(client, wanted, from_start=message.fromStart)
    fields = {
        "kind": wanted.kind,
        "stream": wanted.stream,
        "start": start,
        "dagName": dag_name,
        "params": wanted.params,
        "declared": json.dumps(declared),
        "eventId": wanted.eventId,
        "bucket": wanted.bucket,
        "prefix": wanted.prefix,
        "suffix": wanted.suffix,
    }
    return commit_one(client, trigger_add(message.name, entry=entry, at_most=TRIGGERS_AT_MOST, dag=text, fields=fields))


def _begin(client: redis.Redis, wanted: Trigger, *, from_start: bool) -> str:
    """Make the trigger's group, and the stream if there is none; returns the entry after which it begins."""
    try:
        start = "0-0" if from_start else _newest(client, wanted.stream)
        _create_group(client, wanted, start)
    except NoPermissionError:
        raise TriggerInvalid(
            f"the submitter's Redis user may not read {wanted.stream[:80]!r}; k8s/users.acl says which it may"
        ) from None
    except ResponseError as error:
        if error_code(error) != "WRONGTYPE":
            raise
        raise TriggerInvalid(f"{wanted.stream[:80]!r} is no stream") from None
    return start


def _newest(client: redis.Redis, stream: str) -> str:
    try:
        return str(client.xinfo_stream(stream)["last-generated-id"])  # pyright: ignore[reportIndexIssue, reportUnknownMemberType, reportUnknownArgumentType] -- the stubs mix in async
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return "0-0"


def _create_group(client: redis.Redis, found: Trigger, start: str) -> None:
    try:
        client.xgroup_create(found.stream, found.group, id=start, mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def _note(client: redis.Redis, message: TriggerControl, partitions: int) -> None:
    """What the HTTP API says of an event. One that cannot start its DAG, and that nobody sends again, is set aside."""
    check = msgspec.structs.replace(message, name=message.name[:200], why=message.why[:1000])
    if check.why and check.value:
        letter = Entry(
            stream=f"webhook {check.name}", id=check.event, fields={"trigger": check.name, "value": check.value}
        )
        _write_letter(client, letter, check.why, partitions)
    commit_one(client, trigger_seen(check.name, trigger=check.trigger, event=check.event, run=check.run, why=check.why))
    log.info("an event of a webhook", trigger=check.name, event_id=check.event, run=check.run, refused=check.why)


def _write_letter(client: redis.Redis, entry: Entry, reason: str, partitions: int) -> None:
    letter, small = letter_of(entry, reason)
    pipelined(client).xadd(Keys(partition_of("", partitions)).dead, {**small, **letter}).execute()
    DEAD_LETTERS.add((LETTERS_OF,))


class TriggerReader:
    """Starts what comes. Any number of replicas read side by side."""

    def __init__(
        self,
        client: redis.Redis,
        partitions: int,
        *,
        streams: str,
        lease_seconds: float,
        deliveries_at_most: int,
    ) -> None:
        """`streams`: the setting HELIOS_TRIGGER_STREAMS. What was delivered so often and never finished is set aside
        unread.
        """
        self.client = client
        self.partitions = partitions
        self.streams = streams
        self.lease_ms = int(lease_seconds * 1000)
        self.deliveries_at_most = deliveries_at_most
        self.told = Told()
        self.next_reclaim = 0.0
        self.first = ""
        """Looks begin behind this one, so that a busy trigger is not always before the others."""
        self.is_refused = False
        """Redis took no writes at the last look: what is pending comes first, and nothing new with it."""
        self.refusals: Counter[str] = Counter()
        """In a row, by trigger's id."""

    def look(self) -> int:
        """Everything that has come, as far as there is room; returns how many events that was. Raises redis.RedisError
        when Redis is out of reach or takes no writes; a trigger that is damaged keeps no other from its events.
        """
        names: Any = self.client.zrange(TRIGGERS, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- no stub
        self.told.keep(names)
        reclaims = self.is_refused or time.monotonic() >= self.next_reclaim
        if reclaims:
            self.next_reclaim = time.monotonic() + self.lease_ms / 6000
        listed: list[str] = sorted(names)
        behind = [name for name in listed if name > self.first]
        ordered = behind + listed[: len(listed) - len(behind)]
        found = {name: read for name in ordered if (read := self._read(name))}
        self.first = next(iter(found), "")
        handled = 0
        for _ in range(ROUNDS):
            more = 0
            for name, each in list(found.items()):
                try:
                    more += self._guarded(name, each, reclaims=reclaims, among=len(found))
                except _Stopped:
                    del found[name]
            handled += more
            if not more:
                break
        self.is_refused = False
        return handled

    def _read(self, name: str) -> Trigger | None:
        """One that is to be read now."""
        try:
            values: Any = self.client.hmget(trigger(name), *FIELDS)
            found = trigger_of(dict(zip(FIELDS, values, strict=True)))
        except (ResponseError, msgspec.ValidationError) as error:
            self._fail(name, error)
            return None
        return found if found is not None and found.kind == "stream" and not found.paused else None

    def _guarded(self, name: str, found: Trigger, *, reclaims: bool, among: int) -> int:
        """`among`: so many triggers share the room."""
        try:
            try:
                return self._look_at(name, found, reclaims=reclaims, among=among)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            log.warning("the group of a trigger is gone and is made anew", trigger=name, stream=found.stream)
            _create_group(self.client, found, found.lastEntry or found.start or "0-0")
        except (ResponseError, TriggerInvalid) as error:
            self._fail(name, error)
        return 0

    def _fail(self, name: str, error: Exception) -> None:
        """Tell of what concerns this trigger alone; what concerns all is raised."""
        if isinstance(error, ResponseError) and error_code(error) in TRANSIENT:
            self.is_refused = True
            raise error
        if self.told.is_news(name, str(error), server_clock(self.client)):
            log.error("a trigger cannot be served", trigger=name, error=str(error))

    def _look_at(self, name: str, found: Trigger, *, reclaims: bool, among: int = 1) -> int:
        if not may_read(found.stream, self.streams):
            raise TriggerInvalid(f"HELIOS_TRIGGER_STREAMS is {self.streams!r}, which {found.stream!r} is not among")
        waiting: Any = self.client.xlen(SUBMISSIONS)
        if waiting >= SUBMISSIONS_WAITING:
            return 0
        room = min(EVENTS_AT_A_TIME, max(1, (SUBMISSIONS_WAITING - waiting) // among))
        handled = self._take_over(name, found, room) if reclaims else 0
        if handled:
            return handled
        read: Any = self.client.xreadgroup(found.group, CONSUMER, {found.stream: ">"}, count=room)
        new = [
            Entry(stream=found.stream, id=entry, fields=fields)
            for _, entries in read or ()
            for entry, fields in entries
        ]
        self._handle_all(name, found, new)
        return len(new)

    def _take_over(self, name: str, found: Trigger, count: int) -> int:
        """What a replica was handed a lease ago and has not finished, one by one."""
        rows: Any = self.client.xpending_range(found.stream, found.group, "-", "+", count, idle=self.lease_ms)
        for row in rows:
            entry, deliveries = row["message_id"], row["times_delivered"]
            is_poison = deliveries >= self.deliveries_at_most
            claimed: Any = self.client.xclaim(
                found.stream, found.group, CONSUMER, self.lease_ms, [entry], justid=is_poison
            )
            if is_poison and claimed:
                self._set_aside(
                    name,
                    found,
                    Entry(stream=found.stream, id=entry, fields={"trigger": name}, deliveries=deliveries),
                    f"it was delivered {deliveries} times and never finished",
                )
            elif claimed:
                self._handle_all(
                    name,
                    found,
                    [Entry(stream=found.stream, id=entry, fields=claimed[0][1], deliveries=deliveries + 1)],
                )
        return len(rows)

    def _handle_all(self, name: str, found: Trigger, entries: list[Entry]) -> None:
        """What cannot be handled now, through no fault of its own, is handed back as if it had not been delivered."""
        for number, entry in enumerate(entries):
            try:
                self._handle(name, found, entry)
            except (ResponseError, _Stopped) as error:
                if isinstance(error, _Stopped) or error_code(error) in TRANSIENT:
                    self._hand_back(found, entries[number:])
                raise

    def _hand_back(self, found: Trigger, entries: list[Entry]) -> None:
        """XCLAIM is one of the few that a Redis without memory still takes."""
        for entry in entries:
            ids: Any = [entry.id]
            with contextlib.suppress(redis.RedisError):
                self.client.xclaim(
                    *(found.stream, found.group, CONSUMER, 0, ids),
                    idle=self.lease_ms,
                    retrycount=entry.deliveries - 1,
                    justid=True,
                )

    def _handle(self, name: str, found: Trigger, entry: Entry) -> None:
        try:
            values = params_for(name, found, Event(id=entry.id, value=entry.fields))
        except EventRefused as refused:
            self._set_aside(name, found, entry, str(refused))
            return
        text: Any = self.client.get(trigger_dag(name))
        current: Any = self.client.hmget(trigger(name), "id", "paused")
        if text is None or current[0] != found.id or current[1] == "true":
            raise _Stopped
        self.refusals.pop(found.id, None)
        params = json.dumps(values, sort_keys=True) if values else None
        fields = submission_fields(text, params=params, request_id=request_of(name, found, entry.id))
        run: Any = self.client.xadd(SUBMISSIONS, fields)
        commit_one(self.client, trigger_seen(name, trigger=found.id, event=entry.id, run=run, stream_entry=entry.id))
        self.client.xack(found.stream, found.group, entry.id)
        TRIGGER_EVENTS.add(("submitted",))
        log.info("a trigger's event is submitted", trigger=name, stream=found.stream, event_id=entry.id, run=run)

    def _set_aside(self, name: str, found: Trigger, entry: Entry, reason: str) -> None:
        log.error("a trigger's event is set aside", trigger=name, stream=found.stream, event_id=entry.id, reason=reason)
        _write_letter(self.client, entry, f"trigger {name}: {reason}", self.partitions)
        commit_one(self.client, trigger_seen(name, trigger=found.id, event=entry.id, why=reason, stream_entry=entry.id))
        self.client.xack(found.stream, found.group, entry.id)
        TRIGGER_EVENTS.add(("refused",))
        self.refusals[found.id] += 1
        if self.refusals[found.id] >= REFUSED_IN_A_ROW:
            del self.refusals[found.id]
            commit_one(self.client, trigger_change(name, entry=f"{found.id}:{entry.id}", action="pause"))
            log.error("a trigger is paused", trigger=name, reason=f"it refused {REFUSED_IN_A_ROW} events in a row")
            raise _Stopped
