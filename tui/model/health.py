"""How the system as a whole is: streams, services, Jobs, caches and dead letters, as plain data."""

from collections.abc import Mapping, Sequence

import msgspec

from cli.checkup import Finding
from cli.letters import Letter

JOB_STATES = ("queued", "launched", "fetching", "running", "publishing")


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
