"""How the system as a whole is: streams, services, Jobs, caches and dead letters, as plain data."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from cli.checkup import Finding
from helios.deadletter import LETTER_CHARACTERS, LETTER_FIELDS
from helios.keys import CONTROLS, SUBMISSIONS

JOB_STATES = ("queued", "launched", "fetching", "running", "publishing")

Way = Literal["again", "send", "rerun", "none"]
"""again: its entry goes back to its stream; send: it is sent once more as a new entry of an ingress stream;
rerun: the run's DAG is submitted as a new run; none: nothing but discarding helps."""


class StreamRow(msgspec.Struct, frozen=True):
    """One work stream. `lag` is how many entries its group has not read; None where Redis does not know."""

    name: str
    group: str
    length: int = 0
    pending: int = 0
    lag: int | None = 0
    oldest_ms: int | None = None
    """Age of the oldest entry."""
    consumers: int = 0
    trouble: str = ""


class Replica(msgspec.Struct, frozen=True):
    """A replica that gave a sign of life; `since` in epoch milliseconds."""

    service: str
    replica: str
    version: str
    since: int | None = None


class CacheSize(msgspec.Struct, frozen=True):
    """A node's cache as far as it was counted; `is_whole` is False where counting stopped at its limit."""

    node: str
    bytes: int = 0
    files: int = 0
    is_whole: bool = True
    free_bytes: int | None = None
    told_at: int | None = None
    """When the node told it, in epoch milliseconds; None where it was counted here and now."""
    limit_bytes: int = 0
    """0 where it has no limit but the disk, or has not told one."""
    evicted_bytes: int = 0
    corrupt_files: int = 0


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: an entry that could not be handled, with what is known of its run."""

    id: str
    partition: int
    dead: str
    """The stream of dead letters it lies in."""
    stream: str
    entry: str
    reason: str
    deliveries: str
    fields: Mapping[str, str]
    """The entry's own."""
    run_status: str = ""
    """Empty where there is no such run (any more)."""
    has_dag: bool = False
    """Whether the run's DAG is kept."""

    @property
    def run(self) -> str:
        return self.fields.get("run", "")

    @property
    def since(self) -> int:
        """When it was buried, in epoch milliseconds of the Redis server's clock."""
        head = self.id.partition("-")[0]
        return int(head) if head.isdecimal() else 0


class Jobs(msgspec.Struct, frozen=True):
    """Tasks under way by state, in the oldest `looked_at` of `active` runs; `launched_entries` is jobs:launched."""

    by_state: Mapping[str, int]
    active: int = 0
    looked_at: int = 0
    launched_entries: int = 0


class Health(msgspec.Struct, frozen=True):
    """One look at everything."""

    findings: Sequence[Finding] = ()
    streams: Sequence[StreamRow] = ()
    replicas: Sequence[Replica] = ()
    letters: Sequence[Letter] = ()
    letters_in_all: int = 0
    jobs: Jobs = Jobs({})
    caches: Sequence[CacheSize] = ()
    now_ms: int = 0

    @property
    def failed(self) -> list[Finding]:
        return [each for each in self.findings if not each.ok]


def remedy(letter: Letter) -> tuple[Way, str]:
    """What a retry of the letter can be, and that in words; or why there is none."""
    if letter.stream == SUBMISSIONS and "dag" not in letter.fields:
        return "none", "The letter holds no DAG."
    if letter.stream in (SUBMISSIONS, CONTROLS):
        if is_cut(letter):
            return "none", "The letter holds only the beginning of its entry. Send the original again."
        return "send", f"Send it once more as a new entry of {letter.stream}."
    if letter.run_status == "RUNNING":
        if is_cut(letter):
            return "none", "The letter holds only the beginning of its entry, so it cannot be put back."
        return "again", f"Run {letter.run} still goes on: put the entry back into {letter.stream}."
    if not letter.run_status:
        return "none", "Its run is not kept any more, so no retry can help."
    if not letter.has_dag:
        return "none", f"Its run has ended ({letter.run_status}), and its DAG is not kept."
    ended = f"Run {letter.run} has ended ({letter.run_status}), so its entry would change nothing."
    return "rerun", f"{ended} Submit its DAG again as a new run?"


def is_cut(letter: Letter) -> bool:
    """Whether the letter may hold less than its entry did."""
    return len(letter.fields) >= LETTER_FIELDS or any(
        len(text) >= LETTER_CHARACTERS for pair in letter.fields.items() for text in pair
    )
