"""What a pod and the collector's endpoint say to each other, and the termination messages its steps leave.

The agent has no part in this module, because it runs without our libraries; docs/design.md holds the same schemas, and
a test sends the agent's own messages through these structs. Sizes are in bytes, times in epoch milliseconds.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


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


class PlanOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One output to store, by a signed PUT."""

    name: str
    key: str
    url: str


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


class MultipartWanted(msgspec.Struct, frozen=True):
    """The body of `POST /v1/multipart`: an output too large for one PUT."""

    name: str
    bytes: int


class Multipart(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: one signed PUT for each part, then a signed POST that completes the object."""

    partBytes: int
    urls: Sequence[str]
    completeUrl: str


class FetchedInput(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    bytes: int
    hit: bool
    cause: str
    sha256: str | None = None


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
    manifestSha256: str | None = None


class StoredOutput(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key: str
    bytes: int
    sha256: str
    archive: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/result`. `reason` says why the attempt fails although its command may have exited 0."""

    v: int = 1
    run: str
    task: str
    attempt: int
    podUid: str
    node: str = ""
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


class MessageOutput(msgspec.Struct, frozen=True, array_like=True):
    """One stored output in few bytes; its key follows from the attempt, the pod and its name."""

    name: str
    bytes: Size
    sha256: Digest
    archive: bool = False


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


class CacheInventory(msgspec.Struct, frozen=True):
    """The header `Helios-Cache` of a request for a plan: what the keeper last found in the node's cache, as JSON."""

    node: str
    blobs: Size
    bytes: Size
    freeBytes: Size


class ResultAnswer(msgspec.Struct, frozen=True):
    """`committed`, `recorded` (a failure waits for its pod's status) or `stale` (the attempt is over)."""

    status: str
