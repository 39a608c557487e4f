"""What the object store holds of runs that go on, so that they can be rebuilt when Redis is lost. No I/O happens here.

    recovery/<run>/run.json           a StoredRun: what was submitted
    recovery/<run>/done-<hash>.json   a StoredTasks: tasks that succeeded since the one before

The collector writes them some seconds late, beside its work, and deletes them when the run has ended. Rule: they only
ever say that something need not be done again. Whatever they lack is done again.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from helios.records import OutputRecord

RECOVERY = "recovery/"
"""What the keys of all of them start with."""
OBJECT_BYTES = 256 * 1024**2
"""None is larger."""
WARNING = (
    "this run was rebuilt after Redis was lost: logs, metrics, events and used retries of before are gone, and tasks "
    "that had succeeded count as skipped"
)


class Patience:
    """With Jobs of tasks that Redis does not know: it forgets no run whose Jobs exist, so it has lost them."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self.since: dict[str, float] = {}

    def look(self, unknown: Collection[str]) -> set[str]:
        """Those of the Jobs that are still to be waited for, until the second look at least: their run may just be
        opened again.
        """
        now, before = self.clock(), self.since
        self.since = {job: before.get(job, now) for job in unknown}
        return {job for job, since in self.since.items() if job not in before or now - since < self.seconds}


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it was submitted: `dag` in the format that users write."""

    v: int = 1
    run: str
    dag: str
    useCache: bool
    memoize: bool


class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that succeeded. `spec` is the digest of what it was."""

    task: str
    attempt: int
    spec: str
    outputs: Sequence[OutputRecord] = ()


class StoredTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Some tasks of a run."""

    v: int = 1
    run: str
    tasks: Sequence[StoredTask]


def folder(run: str) -> str:
    return f"{RECOVERY}{run}/"


def run_key(run: str) -> str:
    return f"{RECOVERY}{run}/run.json"


def done_prefix(run: str) -> str:
    return f"{RECOVERY}{run}/done-"


def done_key(run: str, content: bytes) -> str:
    """Named by what it holds, so that two who write the same write one."""
    return f"{done_prefix(run)}{hashlib.sha256(content).hexdigest()[:16]}.json"


def run_in(key: str) -> str:
    """The run that a key, or a folder, below RECOVERY belongs to; empty if it is none."""
    run = key.removeprefix(RECOVERY).partition("/")[0] if key.startswith(RECOVERY) else ""
    milliseconds, dash, sequence = run.partition("-")
    return run if dash and milliseconds.isdecimal() and sequence.isdecimal() and run.isascii() else ""


def spec_digest(spec: str | bytes) -> str:
    """Of a task as its record keeps it."""
    return hashlib.sha256(spec.encode("utf-8", "surrogateescape") if isinstance(spec, str) else spec).hexdigest()[:32]
