"""One run's tasks as a fold of the events feed over a snapshot, with the times of each stage.

Rule: a task only moves forward, by attempt and then by stage (helios/transitions), so whatever is read twice changes
nothing. What only the record of an ended attempt says, inputs with causes, outputs, exit code, is read when it ends.
"""

from collections.abc import Sequence

import msgspec

from helios.events import AnyEvent
from helios.records import TaskView


class TaskRow(msgspec.Struct):
    """One task's last attempt. Times are epoch milliseconds; None where the stage was not reached or not seen."""

    name: str
    parents: tuple[str, ...] = ()
    status: str = "WAITING"
    """WAITING, QUEUED, RUNNING, SUCCEEDED, FAILED, UPSTREAM_FAILED, CANCELLED or UNKNOWN."""
    attempt: int = 0
    phase: str = ""
    """Of a running one: '' (its Job exists), Pending, Fetching, Running or Publishing."""
    node: str = ""
    cache: str = "N/A"
    hit_bytes: int = 0
    miss_bytes: int = 0
    queued_at: int | None = None
    launched_at: int | None = None
    fetching_at: int | None = None
    running_at: int | None = None
    publishing_at: int | None = None
    ended_at: int | None = None
    reason: str = ""
    view: TaskView | None = None
    """The record of the last attempt that ended, once it is read: inputs with causes, outputs, exit code, CPU, memory."""

    @property
    def ended(self) -> bool:
        return self.status not in ("WAITING", "QUEUED", "RUNNING")


class Span(msgspec.Struct, frozen=True):
    """A stretch of one stage on the time axis; `stage` is queued, starting, fetching, running or publishing."""

    stage: str
    begin: int
    end: int


def spans(row: TaskRow, now_ms: int) -> list[Span]:
    """The row's stages in order, without gaps or overlaps, up to its end or to now."""
    raise NotImplementedError


def causes(row: TaskRow) -> list[tuple[str, str, int]]:
    """Name, cause and bytes of each input that missed; empty while they are not known."""
    raise NotImplementedError


class Board:
    """All tasks of one run, in the order of its DAG, and which of them changed."""

    def __init__(self, run: str, parents: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.run = run
        self.rows = {name: TaskRow(name, tuple(above)) for name, above in parents}
        self.unread: set[str] = set()
        """Tasks whose record must be read."""
        self.started_at: int | None = None
        self.ended_at: int | None = None

    def load(self, view: TaskView, phase: str, phase_times: Sequence[int | None], as_of: str) -> None:
        """Take over a task's record; phase_times are when the current attempt began to fetch, run and publish."""
        raise NotImplementedError

    def apply(self, event: AnyEvent, entry: str) -> None:
        raise NotImplementedError

    def take_changed(self) -> set[str]:
        """Names of the tasks that changed since the last call."""
        raise NotImplementedError
