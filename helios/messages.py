"""What travels on the work streams: one struct for each stream, decoded once, where the entry is read.

Messages evolve by adding fields with defaults only.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `submissions`; its id is the run's id."""

    dag: str
    useCache: str | None = None
    requestId: str | None = None
    memoize: str | None = None
    priority: str | None = None
    traceparent: str | None = None
    params: str | None = None
    """JSON object: values of the DAG's parameters by name."""


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `controls`: `action` is `cancel`, or `recover` with what helios/recovery.py has of the run."""

    run: str
    action: str
    onExit: str = ""
    """`true`: a cancel ends the run's onExit task too, or keeps it from starting."""
    dag: str = ""
    useCache: str | None = None
    memoize: str | None = None


class ScheduleControl(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `controls` whose `action` is one of helios/schedules.py's; all but the name are for adding."""

    name: str
    action: str
    cron: str = ""
    timezone: str = "UTC"
    concurrency: str = "allow"
    deadlineSeconds: int | None = None
    dag: str = ""
    params: str = ""


class TriggerControl(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `controls` whose `action` is one of helios/triggers.py's. From `event` on the fields are what the
    HTTP API says of an event of a webhook, the others are for adding.
    """

    name: str
    action: str
    kind: str = ""
    stream: str = ""
    fromStart: bool = False
    params: str = ""
    eventId: str = ""
    bucket: str = ""
    prefix: str = ""
    suffix: str = ""
    dag: str = ""
    trigger: str = ""
    event: str = ""
    run: str = ""
    why: str = ""
    value: str = ""
    """Of an event that nobody will send again: the beginning of what it said."""


class Ready(msgspec.Struct, frozen=True):
    """An entry of `tasks:ready`: this attempt wants a Job."""

    run: str
    task: str
    attempt: int


class Check(msgspec.Struct, frozen=True):
    """An entry of `tasks:checks`: this attempt of a memoized task waits to be skipped, or to be ready again."""

    run: str
    task: str
    attempt: int


class Launched(msgspec.Struct, frozen=True):
    """An entry of `jobs:launched`: this attempt's Job exists; pending until its pod has been wrapped up.

    `refused`: there is no Job and never will be, for this reason; the attempt failed.
    """

    run: str
    task: str
    attempt: int
    job: str
    refused: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """An entry of `jobs:cancelled`: this attempt's Job must go."""

    run: str
    task: str
    attempt: int
    job: str


class Finished(msgspec.Struct, frozen=True):
    """An entry of `tasks:finished`: this attempt ended, and the submitter has yet to settle the task."""

    run: str
    task: str
    attempt: int


class Settled(msgspec.Struct, frozen=True):
    """An entry of `runs:settled`: no task of the run is left; its metrics can be finalised."""

    run: str


class Ended(msgspec.Struct, frozen=True):
    """An entry of `runs:notices`: the run ended, and entry `number` of its `notify` is to be told."""

    run: str
    number: int


Message = TypeVar(
    "Message",
    Submission,
    Control,
    ScheduleControl,
    TriggerControl,
    Ready,
    Check,
    Launched,
    Cancelled,
    Finished,
    Settled,
    Ended,
)


def decode(fields: Mapping[str, str], kind: type[Message]) -> Message:
    """An entry's fields as a message; raises msgspec.ValidationError, naming the field at fault."""
    return msgspec.convert(fields, kind, strict=False)
