"""What is asked and answered, as structs; the OpenAPI description is made of them.

Rule: names and meanings are those of `helios show -o json` and of the run hash. They are added, never renamed or
removed.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from helios.dag_format import Priority
from helios.dag_problem import Problem

Limit = Annotated[int, Meta(ge=1, le=100)]
Params = Annotated[str, Meta(max_length=4_096)]
"""Written as %XX these still fit the 64 KiB that a request's head may have."""
RequestId = Annotated[str, Meta(min_length=1, max_length=256)]
Attempt = Annotated[int, Meta(ge=1, le=1_000_000)]
Tail = Annotated[int, Meta(ge=0, le=100_000)]


class SubmitQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Said beside the DAG, as by the options of `helios run`; what is left out is as the DAG says."""

    useCache: bool | None = None
    memoize: bool | None = None
    priority: Priority | None = None
    params: Params | None = None
    """A JSON object: values of the DAG's parameters by name."""
    requestId: RequestId | None = None


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing can be said."""


class RunQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tasks: bool = True
    """Whether the tasks are listed; a DAG can have 10,000."""


class RunsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 20
    """So many, newest first."""


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    follow: bool = False
    """Stay until the task has ended, through its retries unless `attempt` is given."""
    step: Literal["fetch", "task", "publish"] = "task"
    attempt: Attempt | None = None
    """The current one unless given."""
    tail: Tail | None = None
    """Only so many lines from the end of what is there."""


class EventsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dagId: str | None = None
    """Only what concerns this run."""


class Submitted(Struct, frozen=True, kw_only=True):
    """A DAG that was taken. Its run exists once a submitter has come to it."""

    dagId: str
    dagName: str
    taskCount: int
    repeated: bool = False
    """The requestId was used before for the same DAG: this is its first run, and no second one was started."""
    warnings: Sequence[Problem] = ()
    """What is in the DAG without effect."""
    waits: str = ""
    """Why submissions wait for room just now; empty while they do not."""


class TriggeredEvent(Struct, frozen=True, kw_only=True):
    """An event that a trigger took: its run, or why it has none. An event that was sent before has its first run."""

    event: str
    dagId: str | None = None
    repeated: bool = False
    refused: str | None = None


class Triggered(Struct, frozen=True, kw_only=True):
    """What a webhook was told of. Of a bucket's notification `events` has the objects that are the trigger's, each
    with its own run; none where all are somebody else's.
    """

    trigger: str
    dagName: str
    events: list[TriggeredEvent]


class Run(Struct, frozen=True, kw_only=True):
    """The run hash, with numbers as numbers. Times are epoch milliseconds of the Redis server's clock; what is not
    known is null. `status`: SUBMITTED, RUNNING, SUCCEEDED, FAILED, CANCELLED or REJECTED.
    """

    dagId: str
    dagName: str
    status: str
    startTime: int | None
    endTime: int | None
    durationMs: int | None
    cacheEnabled: bool
    memoize: bool
    params: dict[str, str]
    cacheHit: str
    taskCount: int
    taskSucceeded: int
    taskFailed: int
    taskUpstreamFailed: int
    taskCancelled: int
    taskSkipped: int
    cacheHitTasks: int
    cachePartialTasks: int
    cacheMissTasks: int
    cacheHitBytes: int
    cacheMissBytes: int
    cacheFetchMs: int | None
    cacheSavedMs: int | None
    cachePeerBytes: int | None
    cacheStoreBytes: int | None
    nodes: str
    reason: str | None
    problems: list[str]
    warnings: list[str]


class Input(Struct, frozen=True, kw_only=True):
    name: str
    bytes: int
    cause: str
    source: str | None
    ms: int | None
    savedMs: int | None
    sha256: str | None
    version: str | None
    detail: str | None


class SkippedFor(Struct, frozen=True):
    run: str
    task: str


class Output(Struct, frozen=True, kw_only=True):
    name: str
    bytes: int
    sha256: str


class Task(Struct, frozen=True, kw_only=True):
    name: str
    status: str
    attempt: int
    node: str
    cache: str
    cacheHitBytes: int
    cacheMissBytes: int
    fetchMs: int
    savedMs: int
    peerBytes: int
    storeBytes: int
    inputs: list[Input]
    startTime: int | None
    endTime: int | None
    exitCode: int | None
    reason: str | None
    skipped: SkippedFor | None
    outputs: list[Output]


class WholeRun(Run, frozen=True, kw_only=True):
    """A run with its tasks, in the order of its DAG; none are there with tasks=false."""

    tasks: list[Task] | UnsetType = UNSET


class Runs(Struct, frozen=True, kw_only=True):
    runs: list[Run]


class DagMetrics(Struct, frozen=True, kw_only=True):
    """The metrics of a DAG's last runs, newest first."""

    dagName: str
    runs: list[Run]


class Cancelling(Struct, frozen=True, kw_only=True):
    """`status` is what the run was when it was asked to end; one that has ended stays as it is."""

    dagId: str
    status: str


class Artifact(Struct, frozen=True, kw_only=True):
    """A stored output. `archive`: a folder, as a tar. `codec`: how the object lies in the store, if not as it is; then
    `storedBytes` are its bytes there. `bytes` and `sha256` are always the content's.
    """

    task: str
    name: str
    bytes: int
    storedBytes: int
    codec: str | None
    sha256: str
    archive: bool
    url: str
    """Where this API redirects to the bytes."""


class Artifacts(Struct, frozen=True, kw_only=True):
    artifacts: list[Artifact]


class Replica(Struct, frozen=True, kw_only=True):
    replica: str
    version: str
    since: int
    """Epoch milliseconds."""
    waitsFor: str
    """What it cannot work without and has not; empty: it is ready."""


class Service(Struct, frozen=True, kw_only=True):
    """A service without replicas is not alive."""

    service: str
    replicas: list[Replica]


class StreamStatus(Struct, frozen=True, kw_only=True):
    """`pending`: delivered and not done; `lag`: not delivered yet, null where Redis cannot tell."""

    stream: str
    group: str
    length: int
    pending: int
    lag: int | None
    oldestMs: int | None
    """Since when its oldest entry is there."""


class RedisStatus(Struct, frozen=True, kw_only=True):
    version: str
    role: str
    usedBytes: int
    maxBytes: int
    """0: no bound."""


class ObjectStoreStatus(Struct, frozen=True, kw_only=True):
    """As the settings name it, where downloads are sent to: this service does not ask it."""

    endpoint: str
    bucket: str


class SystemStatus(Struct, frozen=True, kw_only=True):
    services: list[Service]
    streams: list[StreamStatus]
    deadLetters: int
    runsActive: int
    runsStored: int
    submissionsWait: str
    """Why submissions are not taken up; empty while they are."""
    redis: RedisStatus
    objectStore: ObjectStoreStatus
