"""Runs, tasks and artifacts as the SDK gives them: the objects of `helios show -o json`, with Python's names. No I/O
happens here.

Fields are added, never renamed or removed. Times are epoch milliseconds of the Redis server's clock; what is not known
(yet) is None.
"""

from msgspec import Struct


class InputInfo(Struct, frozen=True, rename="camel", kw_only=True):
    """One input of a task's last attempt that ended."""

    name: str
    bytes: int
    cause: str
    source: str | None = None
    """`cache`, `peer` or `store`."""
    ms: int | None = None
    saved_ms: int | None = None
    sha256: str | None = None
    version: str | None = None
    detail: str | None = None


class OutputInfo(Struct, frozen=True, rename="camel", kw_only=True):
    """One stored output of a task."""

    name: str
    bytes: int
    sha256: str


class Skipped(Struct, frozen=True, rename="camel"):
    """The task whose earlier success stands for one that did not run."""

    run: str
    task: str


class TaskInfo(Struct, frozen=True, rename="camel", kw_only=True):
    """One task of a run."""

    name: str
    status: str
    attempt: int = 0
    node: str = ""
    cache: str = "N/A"
    cache_hit_bytes: int = 0
    cache_miss_bytes: int = 0
    fetch_ms: int = 0
    saved_ms: int = 0
    peer_bytes: int = 0
    store_bytes: int = 0
    inputs: list[InputInfo] = []
    start_time: int | None = None
    end_time: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    skipped: Skipped | None = None
    outputs: list[OutputInfo] = []


class RunInfo(Struct, frozen=True, rename="camel", kw_only=True):
    """One run. `tasks` is empty where a list of runs was asked for."""

    dag_id: str
    dag_name: str
    status: str
    """RUNNING, SUCCEEDED, FAILED, CANCELLED or REJECTED."""
    start_time: int | None = None
    end_time: int | None = None
    duration_ms: int | None = None
    cache_enabled: bool = False
    memoize: bool = True
    params: dict[str, str] = {}
    cache_hit: str = ""
    """Hit, Partial, Miss, N/A or Unknown."""
    task_count: int = 0
    task_succeeded: int = 0
    task_failed: int = 0
    task_upstream_failed: int = 0
    task_cancelled: int = 0
    task_skipped: int = 0
    cache_hit_tasks: int = 0
    cache_partial_tasks: int = 0
    cache_miss_tasks: int = 0
    cache_hit_bytes: int = 0
    cache_miss_bytes: int = 0
    cache_fetch_ms: int | None = None
    cache_saved_ms: int | None = None
    cache_peer_bytes: int | None = None
    cache_store_bytes: int | None = None
    nodes: str = ""
    """Names, separated by commas."""
    reason: str | None = None
    problems: list[str] = []
    warnings: list[str] = []
    tasks: list[TaskInfo] = []

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    def task(self, name: str) -> TaskInfo:
        """Raises KeyError."""
        for each in self.tasks:
            if each.name == name:
                return each
        raise KeyError(name)

    def _repr_html_(self) -> str:
        from sdk.table import run_html

        return run_html(self)


class TaskUpdate(Struct, frozen=True, kw_only=True):
    """What became of a task, as it is told while a run goes on."""

    task: str
    status: str
    """WAITING, QUEUED, RUNNING, SUCCEEDED, FAILED, UPSTREAM_FAILED or CANCELLED. FAILED with `settled` false is
    followed by another attempt."""
    attempt: int
    phase: str = ""
    """Fetching, Running or Publishing, of a task that is RUNNING."""
    cache: str = ""
    cache_hit_bytes: int = 0
    cache_miss_bytes: int = 0
    reason: str = ""
    settled: bool = False


class Artifact(Struct, frozen=True, kw_only=True):
    """One stored output of a run."""

    task: str
    name: str
    bytes: int
    sha256: str
    archive: bool
    """A folder, stored as a tar."""
    uri: str
