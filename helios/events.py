"""The events feed: what happened, for whoever watches. Each is written inside the script that made it true.

One stream for each partition; an entry has one field, `event`, holding the JSON of one of these structs. The entry's
id carries the time, in milliseconds of the Redis server's clock.
"""

import msgspec

EVENTS_KEPT = 100_000
"""The feed is capped at about this many entries; who was away longer takes a snapshot."""


class Producer(msgspec.Struct, frozen=True):
    """The task whose success stands for a skipped one."""

    run: str
    task: str

    def words(self) -> str:
        return f"skipped, from run {self.run} task {self.task}"


class Event(msgspec.Struct, frozen=True, tag_field="type"):
    run: str


class RunAccepted(Event, frozen=True, tag=True):
    """The run is open and its root tasks are queued."""

    dag: str
    tasks: int
    cacheEnabled: bool


class RunRejected(Event, frozen=True, tag=True):
    dag: str
    problems: int


class TasksQueued(Event, frozen=True, tag=True):
    attempt: int
    tasks: list[str]


class TasksAdded(Event, frozen=True, tag=True):
    """The run has more tasks, which `by` made and now waits for: for the items of its `forEach`."""

    by: str
    tasks: list[str]


class TaskLaunched(Event, frozen=True, tag=True):
    task: str
    attempt: int
    job: str


class TaskPhase(Event, frozen=True, tag=True):
    """The pod moved on: Pending, Fetching or Running."""

    task: str
    attempt: int
    phase: str
    node: str


class TaskEnded(Event, frozen=True, tag=True):
    """An attempt ended. A failed one may be followed by TasksQueued with the next attempt."""

    task: str
    attempt: int
    status: str
    cache: str
    cacheHitBytes: int
    cacheMissBytes: int
    node: str
    reason: str | None = None
    skipped: Producer | None = None
    """It did not run: this one's success stands for it."""


class TaskFailed(Event, frozen=True, tag=True):
    """The task failed for good: no attempt follows."""

    task: str
    attempt: int


class TasksUpstreamFailed(Event, frozen=True, tag=True):
    tasks: list[str]
    cause: str


class TasksCancelled(Event, frozen=True, tag=True):
    tasks: list[str]


class RunEnded(Event, frozen=True, tag=True):
    status: str


AnyEvent = (
    RunAccepted
    | RunRejected
    | TasksQueued
    | TasksAdded
    | TaskLaunched
    | TaskPhase
    | TaskEnded
    | TaskFailed
    | TasksUpstreamFailed
    | TasksCancelled
    | RunEnded
)

_decoder: "msgspec.json.Decoder[AnyEvent]" = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes:
    return _encoder.encode(event)


def decode_event(text: str | bytes) -> AnyEvent:
    """Raises msgspec.DecodeError for anything else than one of the events above, such as one of a newer version."""
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None
