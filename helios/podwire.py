"""What a pod and the collector's endpoint say to each other, and the termination messages its steps leave.

The agent has no part in this module, because it runs without our libraries; docs/design.md holds the same schemas, and
a test sends the agent's own messages through these structs. Sizes are in bytes, times in epoch milliseconds.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
NodeName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._-]{0,253}\Z")]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """How an object lies in the store when it is not stored as it is. `bytes` are the object's; everywhere else digest
    and bytes are the content's.
    """

    codec: Annotated[str, msgspec.Meta(max_length=16)]
    """zstd."""
    bytes: Size


class PlanInput(msgspec.Struct, frozen=True, kw_only=True):
    """One input to bring. Another task's output comes with its digest, an external object with a signed HEAD."""

    name: str
    mode: str
    verify: str
    url: str
    headUrl: str | None
    source: str
    sha256: str | None
    bytes: int | None
    archive: bool
    stored: Stored | None = None


class PlanOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One output to store, by a signed PUT."""

    name: str
    key: str
    url: str


class PlanKeeper(msgspec.Struct, frozen=True, kw_only=True):
    """Where publish may stream outputs to, so that they are in the node's cache for the tasks that follow."""

    putUrl: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /v1/plan`."""

    run: str
    task: str
    attempt: int
    cacheEnabled: bool
    inputs: Sequence[PlanInput]
    outputs: Sequence[PlanOutput]
    singlePutLimit: int
    manifest: PlanOutput | None = None
    """Where the list of outputs goes when the termination message has no room for it."""
    locate: bool = False
    """Other nodes' caches are known: it is worth asking before a download."""
    keeper: PlanKeeper | None = None
    """The keeper of the pod's node, if it is known where it listens."""


class MultipartWanted(msgspec.Struct, frozen=True):
    """The body of `POST /v1/multipart`: an output too large for one PUT. An object that is compressed on the way has at
    most `bytes`; fewer parts are used then.
    """

    name: str
    bytes: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    partBytes: Annotated[int, msgspec.Meta(ge=5 * 1024**2, le=5 * 1024**3)] | None = None
    """Of each part but the last; larger ones are given only where S3 would not take so many."""
    codec: str | None = None
    """What the object is compressed with, for its Content-Encoding."""


class Multipart(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: one signed PUT for each part, then a signed POST that completes the object."""

    partBytes: int
    urls: Sequence[str]
    completeUrl: str


class FetchedInput(msgspec.Struct, frozen=True, kw_only=True):
    """One input's account. An account from fetch's log lacks everything below `cause`."""

    name: str
    bytes: int
    hit: bool
    cause: str
    sha256: str | None = None
    source: str = ""
    """Where its bytes came from: cache, peer or store."""
    ms: int = 0
    """What it took to bring it."""
    savedMs: int = 0
    """What the hit saved against bringing the bytes anew."""
    version: str | None = None
    """Of an external object: its version id, or its ETag where it has none."""
    detail: str = ""
    """More on the cause, for people."""


class FetchManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What fetch did. As a termination message it lacks `inputs` when they would not fit."""

    v: int = 1
    step: str = "fetch"
    ok: bool
    cacheEnabled: bool = True
    hits: int
    misses: int
    hitBytes: int
    missBytes: int
    causes: dict[str, int] = {}
    inputs: Sequence[FetchedInput] | None = None
    error: str | None = None
    elapsedMs: int = 0
    endedAt: int | None = None
    disrupted: bool = False
    """It failed by no fault of the task's: it was told that its attempt is not, or no longer, wanted."""
    manifestSha256: str | None = None


class StoredOutput(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key: Annotated[str, msgspec.Meta(max_length=1_024)]
    bytes: Size
    sha256: Digest
    archive: bool = False
    stored: Stored | None = None
    warm: bool = False
    """It is in the cache of the pod's node."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/result`. `reason` says why the attempt fails although its command may have exited 0."""

    v: int = 1
    run: str
    task: str
    attempt: int
    podUid: str
    node: NodeName = ""
    exitCode: int | None = None
    signal: str | None = None
    timedOut: bool = False
    cpuMs: int | None = None
    peakMemoryBytes: int | None = None
    fetch: FetchManifest | None = None
    outputs: Sequence[StoredOutput] = ()
    reason: str | None = None
    disrupted: bool = False
    """The attempt fails by no fault of its own and is repeated without using up the user's retries."""
    startedAt: int | None = None
    endedAt: int | None = None
    publishedAt: int | None = None
    form: str = "init"
    """csi: the node's agent reports, and not a container of the pod."""
    final: bool = False
    """Of the csi form: a failure that no status of the pod explains better, such as of the fetch ahead of the task.
    It ends the attempt at once, and its pod with it."""


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/lines`: the next lines of the log of a step that the node's agent does."""

    step: Literal["fetch", "publish"]
    after: Annotated[int, msgspec.Meta(ge=0, le=2**50)]
    """How many lines were sent before; those that came already are passed over."""
    lines: Annotated[Sequence[str], msgspec.Meta(max_length=1_000)]


class MessageOutput(msgspec.Struct, frozen=True, array_like=True):
    """One stored output in few bytes; its key follows from the attempt, the pod and its name."""

    name: str
    bytes: Size
    sha256: Digest
    archive: bool = False
    compressed: Size = 0
    """Bytes of its object, if that is compressed with zstd; 0: it is stored as it is."""


class OutputManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The object that lists a pod's outputs when they have no room in its termination message."""

    v: int = 1
    outputs: Sequence[MessageOutput]


class PublishMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The termination message of publish: what serves when its report is lost."""

    v: int = 1
    step: str = "publish"
    ok: bool
    exitCode: int | None = None
    outputs: int = 0
    outputBytes: int = 0
    stored: Sequence[MessageOutput] | None = None
    """The outputs, if they fit; else `manifest` is the digest of the object that lists them."""
    manifest: Digest | None = None
    reason: str | None = None
    disrupted: bool = False
    cpuMs: int | None = None
    peakMemoryBytes: int | None = None
    startedAt: int | None = None
    endedAt: int | None = None


class LocateInput(msgspec.Struct, frozen=True, kw_only=True):
    """An input that a node lacks, or has just brought. `sha256` is None for an external object not known yet."""

    name: str
    bytes: Size
    version: str | None = None
    sha256: Digest | None = None


class Locate(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/locate`, and of `POST /v1/brought`."""

    node: str
    inputs: Sequence[LocateInput]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has the blob, and a signed GET for it at its keeper."""

    node: str
    url: str


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """`wait`: another node brings it from the store now. Neither peers nor wait: the asker is the one to bring it."""

    name: str
    sha256: str | None = None
    peers: Sequence[Peer] = ()
    wait: bool = False


class LocateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `POST /v1/locate`, one entry for each input that was asked for, in order."""

    inputs: Sequence[Located]


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """How full a node's cache is, and what its keeper did since it first ran there."""

    blobs: Size = 0
    bytes: Size = 0
    freeBytes: Size = 0
    limitBytes: Size = 0
    """0: no limit but the floor of free disk."""
    evictedBlobs: Size = 0
    evictedBytes: Size = 0
    scrubbedBytes: Size = 0
    corruptBlobs: Size = 0
    seededBytes: Size = 0
    seedWastedBytes: Size = 0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/node`: what changed in a node's cache since the report before."""

    v: int = 1
    node: str
    url: str = ""
    """Where the keeper listens, http://host:port; empty when it does not."""
    epoch: str
    """Of one life of a keeper; `seq` counts its reports from 1."""
    seq: Size
    full: bool = False
    """Forget what was known before."""
    added: Sequence[tuple[Digest, Size]] = ()
    removed: Sequence[Digest] = ()
    state: NodeState | None = None


class NodeAnswer(msgspec.Struct, frozen=True):
    """`resync`: a report is missing; send everything again, the first with `full`."""

    resync: bool = False


class Demanded(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/demand`: blobs that may be evicted."""

    node: str
    candidates: Sequence[Digest]


class DemandAnswer(msgspec.Struct, frozen=True):
    """Those of them that tasks which wait, are queued or run still need."""

    needed: Sequence[str]


class ViewsAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/views`: views in a node's cache, by their Jobs, that no task was seen to hold."""

    node: str
    views: Annotated[Sequence[str], msgspec.Meta(max_length=10_000)]


class ViewsAnswer(msgspec.Struct, frozen=True):
    """Those whose pods are over, or gone with their Jobs."""

    over: Sequence[str]


class SeedWanted(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/seed`."""

    node: str
    budgetBytes: Size


class SeedBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that queued work will need; `url` is a signed GET of its object."""

    sha256: str
    bytes: int
    url: str
    stored: Stored | None = None
    peers: Sequence[Peer] = ()


class SeedAnswer(msgspec.Struct, frozen=True):
    blobs: Sequence[SeedBlob]


class SourceKnown(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of an external object that any node brought; `at` in epoch milliseconds."""

    version: str
    bytes: int
    sha256: str
    at: int = 0


class ResultAnswer(msgspec.Struct, frozen=True):
    """`committed`, `recorded` (a failure waits for its pod's status) or `stale` (the attempt is over)."""

    status: str
