"""Every metric that Helios serves, and the plain numbers behind them: what a process has counted since it began.

Rules: nothing here does I/O or imports a metrics library, so that whatever transitions and loops count costs next to
nothing, and nothing where nobody scrapes. No metric is labelled by anything that users choose: no run, task, DAG, image
or key. Labels are fixed words, streams without their partition, and node names, of which a process keeps the latest.

What a process counts itself is added up over replicas. What is called `helios_cluster_…` is read from Redis by every
collector, so each of them serves the same: it is taken once (`max`), never added up. docs/metrics.md lists all.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Event, Lock

Labels = tuple[str, ...]

SERIES_AT_MOST = 2_000
"""Of one metric in one process. Above that the one that was not counted for longest goes, as a node that is no more."""

STAGES = ("queue", "create", "schedule", "pull", "fetch", "run", "publish")
"""What an attempt's time went to, as in helios/phases.py."""

STAGE_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    *(60, 120, 300, 600, 1800, 3600, 14_400, 86_400),
)
RUN_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400, 604_800)
ANSWER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


SERVED = Event()
"""Set where somebody may scrape this process: what takes longer to work out than to count is left out elsewhere."""


class Measure:
    """What all have: `kind` is counter, gauge or histogram, as Prometheus calls them."""

    kind = ""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.lock = Lock()
        MEASURES.append(self)


MEASURES: list[Measure] = []
"""In the order in which they are declared."""


class Count(Measure):
    """Grows only."""

    kind = "counter"

    def __init__(
        self,
        name: str,
        help: str,
        labels: Labels = (),
        *,
        known: Sequence[Labels] = (),
        at_most: int = SERIES_AT_MOST,
    ) -> None:
        """`known` are there from the start, so that a first one is seen as a growth from 0."""
        super().__init__(name, help, labels)
        self.at_most = at_most
        self.values: dict[Labels, float] = dict.fromkeys(known if labels else ((),), 0)

    def add(self, labels: Labels = (), number: float = 1) -> None:
        self.add_all(((labels, number),))

    def add_all(self, numbers: Iterable[tuple[Labels, float]]) -> None:
        with self.lock:
            values = self.values
            for labels, number in numbers:
                known = values.pop(labels, None)
                if known is None and len(values) >= self.at_most:
                    del values[next(iter(values))]
                values[labels] = (known or 0) + number

    def read(self) -> dict[Labels, float]:
        with self.lock:
            return dict(self.values)


class Spread(Measure):
    """A histogram: how many lay at or below each bound, and their sum."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Labels, bounds: Sequence[float]) -> None:
        super().__init__(name, help, labels)
        self.bounds = tuple(bounds)
        self.values: dict[Labels, list[float]] = {}

    def observe(self, labels: Labels, value: float) -> None:
        self.observe_all(((labels, value),))

    def observe_all(self, values: Iterable[tuple[Labels, float]]) -> None:
        with self.lock:
            for labels, value in values:
                counts = self.values.get(labels)
                if counts is None:
                    counts = self.values[labels] = [0.0] * (len(self.bounds) + 2)
                counts[bisect_left(self.bounds, value)] += 1
                counts[-1] += value

    def read(self) -> dict[Labels, tuple[list[float], float]]:
        """By labels: how many lay between each bound and the one before, those above the last one, and the sum."""
        with self.lock:
            return {labels: (counts[:-1], counts[-1]) for labels, counts in self.values.items()}


class Level(Measure):
    """A number that goes up and down; it is asked for when it is read, and may be asked of any thread."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        super().__init__(name, help, labels)
        self.source: Callable[[], Mapping[Labels, float]] | None = None

    def read(self) -> Mapping[Labels, float]:
        return self.source() if self.source is not None else {}


class Shared(Measure):
    """What is read from Redis, and so is the same in every collector. `kind` says what it is there."""

    def __init__(self, name: str, help: str, labels: Labels = (), kind: str = "gauge") -> None:
        super().__init__(f"helios_cluster_{name}", help, labels)
        self.kind = kind


INFO = Level("helios_info", "1, labelled by the version that the process runs.", ("service", "version"))
WAITING = Level(
    "helios_service_waiting", "1 while the process lacks what it cannot work without, as Redis or the API server."
)

TRANSITIONS = Count(
    "helios_transitions_total",
    "Lua scripts that Redis ran for this process: applied, unchanged (they met their fence), or failed.",
    ("transition", "outcome"),
)
ENTRIES = Count("helios_entries_total", "Stream entries that this process was handed.", ("stream",))
ENTRIES_AGAIN = Count(
    "helios_entries_redelivered_total",
    "Of these, those that somebody had before and did not finish.",
    ("stream",),
)
ENTRIES_FAILED = Count(
    "helios_entries_failed_total",
    "Entries whose handling failed: later is tried again soon, error counts against the entry.",
    ("stream", "outcome"),
)
DEAD_LETTERS = Count("helios_dead_letters_total", "Entries that this process gave up.", ("stream",))
TRIGGER_EVENTS = Count(
    "helios_trigger_events_total",
    "Events that triggers read from streams: submitted as a run, or refused and set aside.",
    ("outcome",),
    known=(("submitted",), ("refused",)),
)
REDIS_ERRORS = Count("helios_redis_errors_total", "Turns of a loop that ended because Redis was not usable.")
LOOKS_FAILED = Count("helios_looks_failed_total", "Periodic looks that failed and come again.", ("look",))

API_REQUESTS = Count(
    "helios_api_requests_total",
    "Requests to the Kubernetes API by verb and the class of its answer; none is no answer at all.",
    ("verb", "answer"),
)
API_SECONDS = Spread(
    "helios_api_request_seconds", "Until the Kubernetes API's answer began.", ("verb",), ANSWER_SECONDS
)
STORE_REQUESTS = Count(
    "helios_store_requests_total",
    "Requests of the collector itself to the object store, by method and the class of its answer.",
    ("method", "answer"),
)

STAGE = Spread(
    "helios_stage_seconds", "What attempts that ended spent their time on, by stage.", ("stage",), STAGE_SECONDS
)
ATTEMPTS = Count(
    "helios_attempts_ended_total",
    "Attempts that ended; outcome is succeeded, failed, disrupted (lost to its node) or skipped.",
    ("outcome",),
    known=(("succeeded",), ("failed",), ("disrupted",), ("skipped",)),
)
RUNS = Count("helios_runs_ended_total", "Runs that ended, by status and what the cache did.", ("status", "cache"))
RUN = Spread("helios_run_seconds", "How long runs took that ended.", ("status",), RUN_SECONDS)
CACHE_INPUTS = Count(
    "helios_cache_inputs_total",
    "Inputs of attempts that ended, by node and why they hit or missed.",
    ("node", "cause"),
)
CACHE_BYTES = Count("helios_cache_bytes_total", "Their bytes.", ("node", "cause"))
INPUT_BYTES = Count(
    "helios_input_bytes_total",
    "Their bytes by where they came from: cache, peer, store, or unknown where only a short account is left.",
    ("source",),
)
SAVED_SECONDS = Count("helios_cache_saved_seconds_total", "What hits saved, added up over inputs.")
JOBS_HELD = Level(
    "helios_jobs_held",
    "Jobs that this collector watches, by the phase of their pods; each Job is watched by one collector.",
    ("phase",),
)
TRACES = Count(
    "helios_traces_total",
    "Ended runs whose traces were sent, are tried again (retried), or were given up (dropped).",
    ("outcome",),
    known=(("sent",), ("retried",), ("dropped",)),
)
NOTICES = Count(
    "helios_notices_total",
    "Notices of ended runs that were sent, are tried again (retried), were given up (dropped), or may not be sent "
    "(refused).",
    ("outcome",),
    known=(("sent",), ("retried",), ("dropped",), ("refused",)),
)

CLUSTER_AT = Shared("read_timestamp_seconds", "When what follows was read from Redis, in seconds of the epoch.")
CLUSTER_UP = Shared("redis_up", "1 if Redis answered the last time it was asked.")
CLUSTER_REPLICAS = Shared("replicas", "Replicas that give a sign of life.", ("service",))
CLUSTER_WAITING = Shared("replicas_waiting", "Of these, those that lack what they cannot work without.", ("service",))
CLUSTER_LAG = Shared("stream_lag", "Entries that no replica has read yet.", ("stream", "group"))
CLUSTER_PENDING = Shared("stream_pending", "Entries that a replica has in hand.", ("stream", "group"))
CLUSTER_OLDEST = Shared(
    "stream_oldest_pending_seconds", "Age of the oldest entry that a replica has in hand; 0: none.", ("stream", "group")
)
CLUSTER_DEAD = Shared("dead_letters", "Entries among the dead letters.")
CLUSTER_RUNS = Shared("runs_active", "Runs that have not ended.")
CLUSTER_STORED = Shared("runs_stored", "Runs that can be read.")
CLUSTER_JOBS = Shared("jobs", "Jobs that exist and are not wrapped up.")
CLUSTER_LOG_BYTES = Shared("log_bytes", "What tasks' logs take in Redis.")
CLUSTER_MEMORY = Shared("redis_memory_bytes", "Memory that Redis uses.")
CLUSTER_MEMORY_LIMIT = Shared("redis_memory_limit_bytes", "Its maxmemory; 0: no limit.")
CLUSTER_NODES = Shared("nodes", "Nodes whose keepers were heard of within a minute.")
NODE_BLOBS = Shared("node_cache_blobs", "Blobs in the node's cache.", ("node",))
NODE_BYTES = Shared("node_cache_bytes", "Their bytes.", ("node",))
NODE_LIMIT = Shared(
    "node_cache_limit_bytes", "What they may have; 0: as much as leaves the floor of free disk.", ("node",)
)
NODE_FREE = Shared("node_disk_free_bytes", "Free bytes of the disk that the cache is on.", ("node",))
NODE_EVICTED = Shared("node_cache_evicted_blobs_total", "Blobs that gave way to others.", ("node",), "counter")
NODE_EVICTED_BYTES = Shared("node_cache_evicted_bytes_total", "Their bytes.", ("node",), "counter")
NODE_SCRUBBED = Shared(
    "node_cache_scrubbed_bytes_total", "Bytes that were read again as a check.", ("node",), "counter"
)
NODE_CORRUPT = Shared("node_cache_corrupt_blobs_total", "Blobs that were found damaged.", ("node",), "counter")
NODE_SEEDED = Shared("node_cache_seeded_bytes_total", "Bytes brought before anybody asked.", ("node",), "counter")
NODE_WASTED = Shared("node_cache_seed_wasted_bytes_total", "Of these, bytes that went unused.", ("node",), "counter")
NODE_HEARD = Shared("node_heard_seconds", "How long ago the node's keeper was last heard of.", ("node",))


def answer_class(status: int) -> str:
    """`2xx` and so on; `none` for 0, no answer at all."""
    return f"{status // 100}xx" if status else "none"
