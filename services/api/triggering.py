"""An event that comes by HTTP: its run, or a run for each object that a bucket's notification names.

Plain synchronous code: a thread runs it. What it changes are a submission for each event, and a control that notes it.
A notification is answered 2xx once all of it is dealt with, however: whoever sends those repeats one until then, and
none that comes after it is sent. So an object that cannot start the DAG goes to the dead letters.
"""

import json
import uuid
from typing import Any, cast

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.deadletter import LETTER_CHARACTERS
from helios.keys import CONTROLS, SUBMISSIONS, trigger, trigger_dag
from helios.submitting import add_submission, submission_fields
from helios.triggers import (
    FIELDS,
    SUBMISSIONS_WAITING,
    Event,
    EventRefused,
    Trigger,
    TriggerInvalid,
    check_name,
    is_of_bucket,
    look_up,
    objects_of,
    params_for,
    read_json,
    request_of,
    trigger_of,
)
from services.api.asking import Asking
from services.api.problems import Refused
from services.api.sending import first_run
from services.api.shapes import Triggered, TriggeredEvent

log = structlog.get_logger()

FULL_RETRY_SECONDS = 5
KEY_CHARACTERS = 256
"""Of an Idempotency-Key."""


def start(asking: Asking, name: str, body: bytes, key: str | None, token: str) -> Triggered:
    """Raises Refused: 400 for what cannot start the DAG, 404 without such a trigger, 409 while it is paused, or for
    another event under a used id.
    """
    found, text = _read(asking, name)
    try:
        value = read_json(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "an event is a JSON object") from None
    if not isinstance(value, dict):
        raise Refused(400, "an event is a JSON object")
    event = cast("dict[str, Any]", value)
    try:
        if is_of_bucket(event):
            events = objects_of(event, found)
        elif found.filters:
            raise EventRefused("this trigger takes notifications of a bucket, with Records[].s3")
        else:
            events = [Event(id=_event_id(found, event, key), value=event)]
    except EventRefused as refused:
        raise Refused(400, str(refused)) from None
    answers = [_start_one(asking, name, found, text, each, token) for each in events]
    return Triggered(trigger=name, dagName=found.dagName, events=answers)


def _read(asking: Asking, name: str) -> tuple[Trigger, bytes]:
    try:
        check_name(name)
        values: Any = asking.client.hmget(trigger(name), *FIELDS)
        found = trigger_of(dict(zip(FIELDS, values, strict=True)))
    except TriggerInvalid:
        found = None
    except msgspec.ValidationError as error:
        raise _damaged(name, error) from None
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        raise _damaged(name, error) from None
    text: Any = asking.client.get(trigger_dag(name)) if found is not None else None
    if found is None or found.kind != "webhook" or text is None:
        raise Refused(404, "there is no trigger of that name that is a webhook")
    if found.paused:
        raise Refused(409, "the trigger is paused; send the event again when it is resumed")
    return found, text.encode("utf-8", "surrogateescape")


def _damaged(name: str, error: Exception) -> Refused:
    log.error("the record of a trigger is damaged", trigger=name, error=str(error))
    return Refused(500, "the record of this trigger is damaged; remove and add it")


def _event_id(found: Trigger, value: dict[str, Any], key: str | None) -> str:
    """Raises EventRefused."""
    if key is not None:
        if not 0 < len(key) <= KEY_CHARACTERS:
            raise EventRefused(f"an Idempotency-Key has 1 to {KEY_CHARACTERS} characters")
        return f"key:{key}"
    if found.eventId:
        return f"id:{look_up(value, found.eventId)}"
    return f"http-{uuid.uuid4().hex}"


def _start_one(asking: Asking, name: str, found: Trigger, text: bytes, event: Event, token: str) -> TriggeredEvent:
    shown = event.id.encode("utf-8", "backslashreplace").decode()[:1024]
    note = {"action": "trigger-seen", "name": name, "trigger": found.id, "event": shown}
    try:
        values = params_for(name, found, event)
    except TriggerInvalid as error:
        raise _damaged(name, error) from None
    except EventRefused as refused:
        why = str(refused)
        log.warning("a trigger's event is refused", trigger=name, event_id=shown, reason=why, token=token)
        if not event.is_object:
            asking.client.xadd(CONTROLS, {**note, "why": why})
            raise Refused(400, why) from None
        asking.client.xadd(CONTROLS, {**note, "why": why, "value": json.dumps(event.value)[:LETTER_CHARACTERS]})
        return TriggeredEvent(event=shown, refused=why)
    request = request_of(name, found, event.id)
    params = json.dumps(values, sort_keys=True) if values else None
    fields = submission_fields(text, params=params, request_id=request)
    try:
        first = first_run(asking, request, fields, "this event's id was used for another event")
    except Refused as refused:
        if refused.answer.status != 409 or not event.is_object:
            raise
        # Of a notification nothing may be refused for good: it would come again for ever, and no other after it.
        log.warning("an object was told of before, in other words", trigger=name, event_id=shown, token=token)
        return TriggeredEvent(event=shown, refused=refused.answer.detail)
    if first is not None:
        return TriggeredEvent(event=shown, dagId=first, repeated=True)
    waiting: Any = asking.client.xlen(SUBMISSIONS)
    if waiting >= SUBMISSIONS_WAITING:
        raise Refused(503, f"{waiting:,} submissions wait already; send it again", retry_seconds=FULL_RETRY_SECONDS)
    run = add_submission(asking.client, fields)
    log.info("a trigger's event is submitted", trigger=name, event_id=shown, run=run, token=token)
    try:
        asking.client.xadd(CONTROLS, {**note, "run": run})
    except redis.RedisError as error:
        log.warning("an event could not be noted", trigger=name, event_id=shown, error=str(error))
    return TriggeredEvent(event=shown, dagId=run)
