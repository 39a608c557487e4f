"""What a trigger is, and what an event comes to: parameters for its DAG, or why not. No I/O happens here.

An event is an object, as JSON has it; an entry of a stream is one of texts. A path leads into it: `order.items.0.id`,
where a text that is JSON itself is gone into as well.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, cast
from urllib.parse import unquote_plus

import msgspec

from helios.dag import DagInvalid, dag_params, parse_dag
from helios.dag_names import name_fault
from helios.dag_params import ParamsUnreadable, read_params
from helios.dag_problem import LIMITS, nearest, quoted
from helios.param_templates import fill

TRIGGERS_AT_MOST = 200
DAG_BYTES_AT_MOST = 1024 * 1024
"""Of the text of a trigger's DAG: each event that waits for room is a copy of it."""
EVENT_BYTES_AT_MOST = 1024 * 1024
RECORDS_AT_MOST = 1_000
"""Objects that one notification of a bucket may name."""
NAME_CHARACTERS = 100
STREAM_CHARACTERS = 512
FILTER_CHARACTERS = 1_024
PATH_CHARACTERS = 256
EVENT_ID_CHARACTERS = 64
"""A longer id stands as its digest in a request id."""
PROBLEMS_TOLD = 20
PATH_STEPS = 16
"""How deep a path may lead."""
SUBMISSIONS_WAITING = 100
"""So many that wait for room leave none for events: each is a copy of a DAG."""

ACTIONS = ("trigger-add", "trigger-remove", "trigger-pause", "trigger-resume", "trigger-seen")
"""The `action` of control entries about triggers; the last is what the HTTP API says of events that it had."""

FIELDS = (
    *("id", "kind", "stream", "start", "dagName", "params", "declared", "paused", "eventId", "bucket", "prefix"),
    *("suffix", "lastEntry", "lastEvent", "lastTime", "lastRun", "runs", "refused", "refusedTime", "refusedWhy"),
)

Kind = Literal["stream", "webhook"]


class TriggerInvalid(ValueError):
    """No such trigger can be; the message says what is wrong and what would do."""


class EventRefused(ValueError):
    """The event cannot start the DAG; the message says why."""


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger's record. `id` is the control entry that added it, so that one of the same name which comes later is
    another one.
    """

    id: str
    kind: Kind
    stream: str = ""
    start: str = ""
    """The entry after which it began."""
    dagName: str = ""
    params: str = ""
    """JSON object: a template for each parameter, as `${event.date}`. Empty: fields and parameters of one name."""
    declared: str = ""
    """JSON object: the DAG's parameters, and whether each can be left out."""
    paused: bool = False
    eventId: str = ""
    """Of a webhook: the path at which its events have their ids."""
    bucket: str = ""
    prefix: str = ""
    suffix: str = ""
    """Of a webhook: only these objects of a bucket's notifications."""
    lastEntry: str = ""
    """Of a stream: the latest entry that was dealt with."""
    lastEvent: str = ""
    lastTime: int | None = None
    lastRun: str = ""
    runs: int = 0
    refused: int = 0
    refusedTime: int | None = None
    refusedWhy: str = ""

    @property
    def group(self) -> str:
        return f"helios:{self.id}"

    @property
    def filters(self) -> bool:
        return bool(self.bucket or self.prefix or self.suffix)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that came. `id`: by which a second delivery of it is known."""

    id: str
    value: Mapping[str, Any]
    is_object: bool = False
    """Of a bucket: its fields are ours, so those that the DAG does not know are no mistake of anybody's."""


def trigger_of(values: Mapping[str, str | None]) -> Trigger | None:
    """A record as Redis has it; None where there is none. Raises msgspec.ValidationError for a damaged one."""
    found = {name: text for name, text in values.items() if text and name in FIELDS}
    return msgspec.convert(found, Trigger, strict=False) if "id" in found else None


def check_name(name: str) -> None:
    """Raises TriggerInvalid."""
    fault = name_fault(name, NAME_CHARACTERS)
    if fault is not None:
        raise TriggerInvalid(f"{name[:120]!r} is no name of a trigger: it {fault}")


def check_trigger(name: str, trigger: Trigger) -> None:
    """Raises TriggerInvalid for what no trigger can have; its DAG is looked at by `check_dag`."""
    check_name(name)
    if trigger.kind == "stream":
        if not 0 < len(trigger.stream) <= STREAM_CHARACTERS:
            raise TriggerInvalid(f"a stream's key has 1 to {STREAM_CHARACTERS} characters")
        if trigger.stream.startswith("helios:"):
            raise TriggerInvalid(f"{trigger.stream[:80]!r} is Helios' own; a trigger reads other streams")
        if trigger.filters or trigger.eventId:
            raise TriggerInvalid("bucket, prefix, suffix and the path of an event's id are a webhook's")
    elif trigger.stream:
        raise TriggerInvalid("a trigger reads a stream or is a webhook, not both")
    if len(trigger.eventId) > PATH_CHARACTERS:
        raise TriggerInvalid(f"the path of an event's id has at most {PATH_CHARACTERS} characters")
    if max(map(len, (trigger.bucket, trigger.prefix, trigger.suffix))) > FILTER_CHARACTERS:
        raise TriggerInvalid(f"bucket, prefix and suffix have at most {FILTER_CHARACTERS:,} characters")


def may_read(stream: str, patterns: str) -> bool:
    """Whether the setting HELIOS_TRIGGER_STREAMS lets triggers read it; Helios' own streams never."""
    words = re.split(r"[\s,]+", patterns.strip())
    return not stream.startswith("helios:") and any(fnmatchcase(stream, each) for each in words if each)


def check_dag(text: bytes, params: str) -> tuple[str, dict[str, bool]]:
    """The name of a trigger's DAG, and its parameters with whether each can be left out. Raises TriggerInvalid.

    `params`: the trigger's templates. Parameters whose values come with events have none yet, so what depends on them
    is checked when a run is opened.
    """
    if len(text) > DAG_BYTES_AT_MOST:
        raise TriggerInvalid(f"the DAG has {len(text):,} bytes; that of a trigger has {DAG_BYTES_AT_MOST:,} at most")
    templates = read_templates(params)
    constants = {name: value for name, value in templates.items() if "${event." not in value}
    try:
        dag_name, defaults = dag_params(text)
        declared = {name: default is not None for name, default in defaults.items()}
        for name in templates:
            if name not in declared:
                near = nearest(name, declared)
                hint = f"; did you mean {quoted(near)}?" if near else ""
                raise TriggerInvalid(f"the DAG has no parameter {quoted(name)}{hint}")
        for name, optional in declared.items():
            if templates and not optional and name not in templates:
                raise TriggerInvalid(
                    f"the DAG's parameter {quoted(name)} has no default; say where its value comes from, such as "
                    f"-p {name}='${{event.FIELD}}'"
                )
        samples = {name: fill_one(template, "sample", {}, "sample") for name, template in constants.items()}
        parse_dag(text, params=samples, draft=True)
    except DagInvalid as invalid:
        problems = [str(problem) for problem in invalid.problems[:PROBLEMS_TOLD]]
        raise TriggerInvalid("\n".join(["the DAG is not valid:", *problems])) from None
    except EventRefused as refused:
        raise TriggerInvalid(str(refused)) from None
    return dag_name, declared


def read_templates(params: str) -> dict[str, str]:
    """Raises TriggerInvalid."""
    if len(params) > LIMITS.max_params_bytes:
        raise TriggerInvalid(f"the parameters have more than {LIMITS.max_params_bytes:,} characters")
    try:
        return read_params(params)
    except ParamsUnreadable as error:
        raise TriggerInvalid(str(error)) from None


def request_of(name: str, trigger: Trigger, event: str) -> str:
    """The submission's request id: one for each event, so that sending it again is the same run."""
    if len(event) > EVENT_ID_CHARACTERS or not event.isprintable() or not event.isascii():
        event = "sha256:" + hashlib.sha256(event.encode("utf-8", "backslashreplace")).hexdigest()
    return f"trigger:{name}:{trigger.id}:{event}"


def params_for(name: str, trigger: Trigger, event: Event) -> dict[str, str]:
    """The values of the DAG's parameters. Raises EventRefused, TriggerInvalid for a record that is damaged."""
    try:
        declared = msgspec.json.decode(trigger.declared or "{}", type=dict[str, bool])
    except msgspec.DecodeError as error:
        raise TriggerInvalid(f"the record is damaged: {error}") from None
    if trigger.params:
        templates = read_templates(trigger.params)
        values = {each: fill_one(template, name, event.value, event.id) for each, template in templates.items()}
    else:
        values = _of_equal_names(declared, event)
    missing = [each for each, optional in declared.items() if not optional and each not in values]
    if missing:
        raise EventRefused(f"the event has no {quoted(missing[0])}, which the DAG needs; it has {_listed(event.value)}")
    try:
        size = sum(len(each.encode()) + len(value.encode()) for each, value in values.items())
    except UnicodeEncodeError:
        raise EventRefused("a value is not UTF-8") from None
    if size > LIMITS.max_params_bytes:
        raise EventRefused(f"the parameters have {size:,} bytes; the limit is {LIMITS.max_params_bytes:,}")
    return values


def _of_equal_names(declared: Mapping[str, bool], event: Event) -> dict[str, str]:
    # A DAG without parameters takes every event: it is only told that there was one.
    unknown = [each for each in event.value if each not in declared] if declared and not event.is_object else []
    if unknown:
        near = nearest(unknown[0], declared)
        hint = f"; did you mean {quoted(near)}?" if near else ""
        raise EventRefused(
            f"the DAG has no parameter {quoted(unknown[0])}{hint}; "
            "helios trigger add -p NAME='${event.FIELD}' takes what is named and nothing else"
        )
    return {each: text_of(value) for each, value in event.value.items() if each in declared and value is not None}


def fill_one(template: str, name: str, event: Mapping[str, Any], event_id: str) -> str:
    """A parameter's value. Raises EventRefused where the event has not what it asks for."""

    def of_trigger(path: str) -> str:
        known = {"name": name, "event": event_id}
        if path not in known:
            raise EventRefused(f"there is no ${{trigger.{path[:40]}}}; there are ${{trigger.name}}, ${{trigger.event}}")
        return known[path]

    return fill(template, {"event": lambda path: look_up(event, path), "trigger": of_trigger})


def look_up(event: Mapping[str, Any], path: str) -> str:
    """The text at a path. Raises EventRefused."""
    found: Any = event
    steps = [path] if path in event else path.split(".")
    for step in steps[:PATH_STEPS]:
        found = _step(found, step)
    if found is None or len(steps) > PATH_STEPS:
        raise EventRefused(f"the event has no {quoted(path)}; it has {_listed(event)}")
    return text_of(found)


def _step(value: Any, step: str) -> Any:
    """None where there is nothing."""
    whole = _parsed(value) if isinstance(value, str) else value
    if isinstance(whole, dict):
        return cast("dict[str, Any]", whole).get(step)
    items = cast("list[Any]", whole) if isinstance(whole, list) else []
    return items[int(step)] if step.isdecimal() and len(step) < 9 and int(step) < len(items) else None


def _parsed(text: str) -> Any:
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return None


def read_json(text: str | bytes) -> Any:
    """With numbers as they are written. Raises ValueError, RecursionError."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def text_of(value: Any) -> str:
    """Of an object or a list its JSON."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case _:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _listed(names: Collection[str]) -> str:
    return ", ".join(quoted(each, 40) for each in list(names)[:10]) or "no fields"


CREATED = frozenset(f"ObjectCreated:{each}" for each in ("Put", "Post", "Copy", "CompleteMultipartUpload"))
"""What makes an object. MinIO has more under that name, as PutTagging and PutRetention, that leave it as it is."""


def is_of_bucket(body: Any) -> bool:
    """Whether it is a notification of a bucket, as S3, MinIO and others send them."""
    match body:
        case {"Records": [_, *_] as records}:
            return all(isinstance(each, dict) and "s3" in each for each in cast("list[Any]", records))
        case _:
            return False


def objects_of(body: Mapping[str, Any], trigger: Trigger) -> list[Event]:
    """The objects that a notification tells of and that are the trigger's: what was created, in its bucket and under
    its names. Raises EventRefused for one that is not understood.
    """
    records = body["Records"]
    if len(records) > RECORDS_AT_MOST:
        raise EventRefused(f"{len(records):,} records; one notification has {RECORDS_AT_MOST:,} at most")
    found: list[Event] = []
    for record in records:
        try:
            event = _object_of(record)
        except (KeyError, TypeError, AttributeError):
            raise EventRefused(
                "a record of a bucket's notification has no eventName, s3.bucket.name or s3.object.key"
            ) from None
        kind, bucket, key = (str(event.value[each]) for each in ("eventName", "bucket", "key"))
        if (
            kind.removeprefix("s3:") in CREATED
            and trigger.bucket in ("", bucket)
            and key.startswith(trigger.prefix)
            and key.endswith(trigger.suffix)
        ):
            found.append(event)
    return found


def _object_of(record: Mapping[str, Any]) -> Event:
    stored: Mapping[str, Any] = record["s3"]["object"]
    # As in a form: a space comes as +.
    key, bucket = unquote_plus(stored["key"]), record["s3"]["bucket"]["name"]
    version = stored.get("versionId") or ""
    fields = {
        "bucket": bucket.strip(),
        "key": key,
        "size": stored.get("size"),
        "etag": stored.get("eTag"),
        "versionId": version,
        "sequencer": stored.get("sequencer"),
        "eventName": record["eventName"].strip(),
        "eventTime": record.get("eventTime"),
    }
    sequence = stored.get("sequencer") or f"{record.get('eventTime')}/{stored.get('eTag')}"
    which = sequence if version in ("", "null") else version
    return Event(id=f"{bucket}/{key}#{which}", value={**record, **fields}, is_object=True)
