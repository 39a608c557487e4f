"""`helios trigger`: DAGs that an event starts: an entry of a stream, a call of a webhook, an object in a bucket."""

import json
import sys
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from cyclopts import Parameter

from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.control import ask, last_run
from cli.failure import SUCCEEDED, CommandFailed
from cli.figures import moment
from cli.output import Format, narrate, put, put_json, styled
from cli.submission import Params, name_of, read_dag, read_param_options
from cli.table import Column, lay_out
from helios.dag_params import recorded_params
from helios.keys import TRIGGERS, trigger_answer
from helios.keys import trigger as trigger_key
from helios.triggers import Trigger, TriggerInvalid, check_dag, check_trigger, trigger_of

Action = Literal["add", "list", "show", "remove", "pause", "resume"]


COLUMNS = (
    *(Column("NAME"), Column("ON"), Column("DAG"), Column("RUNS"), Column("REFUSED"), Column("LAST")),
    *(Column("RUN"), Column("STATUS")),
)


class Seen(NamedTuple):
    """A trigger as people are shown it; `run` and `status` are its last run's, `status` empty if that is forgotten."""

    name: str
    trigger: Trigger
    run: str
    status: str


def trigger(
    what: Action = "list",
    /,
    *words: str,
    stream: str | None = None,
    from_start: Annotated[bool, Parameter(negative=())] = False,
    webhook: Annotated[bool, Parameter(negative=())] = False,
    event_id: str = "",
    bucket: str = "",
    prefix: str = "",
    suffix: str = "",
    param: Params = (),
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Start DAGs by events: `helios trigger add orders dag.yaml --stream events:orders -p id='${event.id}'`.

    Each event makes one run. The DAG is kept as it is when the trigger is added. docs/triggers.md tells the rest.

    Parameters
    ----------
    what
        add NAME FILE, list, show NAME, remove NAME, pause NAME, resume NAME.
    words
        The trigger's name; to add one, also its DAG.
    stream
        The key of a Redis stream: each entry is an event. Which keys may be read is the submitter's setting
        HELIOS_TRIGGER_STREAMS, events:* unless set.
    from_start
        Begin with the entries that the stream has; without it only what is added from now on counts.
    webhook
        Each POST /api/v1/triggers/NAME of the HTTP API is an event; a bucket's notification is one for each object.
    event_id
        Of a webhook: where an event has its own id, as id or delivery.guid. One that comes again starts nothing.
    bucket
        Of a webhook: only objects of this bucket.
    prefix
        Of a webhook: only objects whose keys begin like that.
    suffix
        Of a webhook: only objects whose keys end like that.
    param
        -p NAME=VALUE: the value of a parameter of the DAG. In it ${event.FIELD} is the event's field; a dotted path
        leads into JSON. Without any -p the fields are the parameters of the same names. Mind the shell's quotes.
    output
        table for people, json for list and show.
    """
    wanted = {"add": 2, "list": 0}.get(what, 1)
    if len(words) != wanted:
        takes = {0: "nothing more", 1: "a trigger's name", 2: "a name and a file"}[wanted]
        raise CommandFailed(f"helios trigger {what} takes {takes}", hint="helios trigger --help")
    match what:
        case "add":
            if (stream is None) is not webhook:
                raise CommandFailed("a trigger is added with --stream KEY or --webhook", hint="helios trigger --help")
            params = read_param_options(param)
            new = Trigger(
                id="",
                kind="webhook" if stream is None else "stream",
                stream=stream or "",
                params=json.dumps(params, sort_keys=True) if params else "",
                eventId=event_id,
                bucket=bucket,
                prefix=prefix,
                suffix=suffix,
            )
            return _add(words[0], words[1], new, from_start=from_start)
        case "list":
            return _list(output)
        case "show":
            return _show(words[0], output)
        case "remove" | "pause" | "resume":
            with connected() as link:
                ask(link, {"action": f"trigger-{what}", "name": words[0]}, trigger_answer, "trigger")
            done = {"remove": "removed", "pause": "paused", "resume": "resumed"}[what]
            narrate(f"trigger {words[0]}: {done}")
            return SUCCEEDED


def _add(name: str, file: str, new: Trigger, *, from_start: bool) -> int:
    text = read_dag(file)
    try:
        check_trigger(name, new)
        check_dag(text, new.params)
    except TriggerInvalid as error:
        raise CommandFailed(f"{name_of(file)}: {error}", hint="helios trigger --help") from None
    fields: dict[str, str | bytes] = {
        "action": "trigger-add",
        "name": name,
        "fromStart": "true" if from_start else "false",
        "dag": text,
    }
    for each in ("kind", "stream", "params", "eventId", "bucket", "prefix", "suffix"):
        fields |= {each: value} if (value := getattr(new, each)) else {}
    with connected() as link:
        ask(link, fields, trigger_answer, "trigger")
        narrate(f"trigger {name} is added")
        if new.kind == "webhook":
            narrate(f"an event is POST /api/v1/triggers/{name} with a token of scope submit; see docs/triggers.md")
        if link.stack is not None:
            narrate(f"local mode: it runs while `helios up{' --http PORT' if new.kind == 'webhook' else ''}` does")
    return SUCCEEDED


def _list(output: Format) -> int:
    with connected() as link:
        found = [seen for name in _names(link) if (seen := _seen(link, name))]
        if output == "json":
            put_json([_object(each) for each in found])
        elif found:
            put("\n".join(lay_out(COLUMNS, [_row(each) for each in found], paint)))
        else:
            narrate("there is no trigger")
            narrate("  next: helios trigger add NAME dag.yaml --stream events:KEY, or --webhook")
    return SUCCEEDED


def _names(link: Link) -> list[str]:
    found: Any = link.client.zrange(TRIGGERS, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- no stub
    return sorted(found)


def _show(name: str, output: Format) -> int:
    with connected() as link:
        seen = _seen(link, name)
        if seen is None:
            raise CommandFailed(f"there is no trigger {name!r}", hint="`helios trigger` lists those that there are")
        if output == "json":
            put_json(_object(seen))
            return SUCCEEDED
        found = seen.trigger
        facts = {
            "trigger": name,
            "on": _on(name, found),
            "begun": f"after {found.start}" if found.start else "",
            "bucket": found.bucket,
            "prefix": found.prefix,
            "suffix": found.suffix,
            "event id": found.eventId,
            "dag": found.dagName,
            "params": " ".join(f"{each}={value}" for each, value in recorded_params(found.params).items()),
            "state": "paused" if found.paused else "",
            "runs": f"{found.runs:,}",
            "last event": f"{moment(found.lastTime)} {found.lastEvent}".strip(),
            "last run": f"{seen.run} {seen.status}".strip(),
            "refused": f"{found.refused:,}" if found.refused else "",
            "last refused": f"{moment(found.refusedTime)}: {found.refusedWhy}" if found.refusedTime else "",
        }
        put("\n".join(f"{styled(f'{fact:<12}', 'dim', sys.stdout)} {text}" for fact, text in facts.items() if text))
    return SUCCEEDED


def _seen(link: Link, name: str) -> Seen | None:
    values: Any = link.client.hgetall(trigger_key(name))
    try:
        found = trigger_of(values)
    except msgspec.ValidationError as error:
        raise CommandFailed(f"the record of trigger {name!r} is damaged: {error}", hint="remove and add it") from None
    if found is None:
        return None
    return Seen(name, found, *last_run(link, found.lastRun))


def _on(name: str, found: Trigger) -> str:
    return found.stream if found.kind == "stream" else f"POST /api/v1/triggers/{name}"


def _row(seen: Seen) -> tuple[str, ...]:
    found = seen.trigger
    on = "paused" if found.paused else _on(seen.name, found)
    last = moment(found.lastTime)
    return seen.name, on, found.dagName, f"{found.runs:,}", f"{found.refused:,}", last, seen.run, seen.status


def _object(seen: Seen) -> dict[str, Any]:
    found = seen.trigger
    return {
        "name": seen.name,
        "kind": found.kind,
        "stream": found.stream or None,
        "group": found.group if found.kind == "stream" else None,
        "bucket": found.bucket or None,
        "prefix": found.prefix or None,
        "suffix": found.suffix or None,
        "eventIdPath": found.eventId or None,
        "dagName": found.dagName,
        "params": recorded_params(found.params),
        "paused": found.paused,
        "runs": found.runs,
        "lastEvent": found.lastEvent or None,
        "lastTime": found.lastTime,
        "lastRun": seen.run or None,
        "lastStatus": seen.status or None,
        "refused": found.refused,
        "refusedTime": found.refusedTime,
        "refusedWhy": found.refusedWhy or None,
    }
