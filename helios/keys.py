"""Every key and stream name. Nothing else in the project spells one out.

All keys of one partition share the hash tag `{pN}`, so a script never crosses a Redis Cluster slot. Only the ingress
streams, `submissions` and `controls`, the services' heartbeats and what is known of nodes, blobs and sources over all
runs stand outside, and no script touches those together with a partition.
"""

from functools import cache
from hashlib import sha256
from zlib import crc32

SUBMISSIONS = "helios:submissions"
CONTROLS = "helios:controls"
SERVICES_PREFIX = "helios:service:"
NODES_PREFIX = "helios:node:"
NODES = "helios:nodes"
"""Sorted set of the nodes that have a keeper, scored by when it last spoke, in milliseconds."""
MEMO_PREFIX = "helios:memo:"
RETENTION = "helios:gc"
"""The replica that deletes what is left of forgotten runs, or has done so lately; expires when it is time again."""
RECOVERY_DUTY = "helios:recovery"
"""The replica that stores what runs came to so far; expires when that stops."""
NODE_COUNTED = ":node:"
SCHEDULES = "helios:{schedules}:all"
"""Sorted set of all schedules, scored by when they are to be looked at next, in milliseconds; inf: paused. Everything
of schedules shares a hash tag, and no script touches it together with runs."""
TRIGGERS = "helios:{triggers}:all"
"""Sorted set of all triggers, scored by when they were added. All of triggers shares a hash tag, as with schedules."""
LOSSES = "helios:losses"
"""Stream of what Redis was found to have lost."""
PROBE = "helios:probe"
"""Written and deleted again to see whether Redis takes writes."""

PRIORITIES = ("high", "normal", "low")
"""The classes of tasks, the most urgent first. What is normal has no word of its own in keys and records."""

SUBMITTER_GROUP = "submitter"
JOBRUNNER_GROUP = "jobrunner"
COLLECTOR_GROUP = "collector"


def partition_of(name: str, partitions: int) -> int:
    """The partition that owns a run id or a request id: stable over processes and Python versions."""
    return crc32(name.encode("utf-8", "surrogateescape")) % partitions


def heartbeat(service: str, replica: str) -> str:
    return f"{SERVICES_PREFIX}{service}:{replica}"


def node_cache(node: str) -> str:
    """Hash: how full a node's cache is, and where its keeper listens."""
    return f"{NODES_PREFIX}{node}"


def node_blobs(node: str) -> str:
    """Hash: the blobs in a node's cache, digest to bytes."""
    return f"helios:blobs:{node}"


def source_known(source: str) -> str:
    """What is known of an external object (`endpoint/bucket/key`): JSON of a SourceKnown."""
    return f"helios:source:{_digest(source)}"


def flight(key: str) -> str:
    """Which node is bringing a blob from the store just now; `key` is its digest, or what identifies its source."""
    return f"helios:flight:{_digest(key)}"


def memo(key: str) -> str:
    """Hash: the task that succeeded with this memoization key, or is at work on it."""
    return f"{MEMO_PREFIX}{key}"


def schedule(schedule_name: str) -> str:
    """Hash: a schedule's record."""
    return f"helios:{{schedules}}:of:{schedule_name}"


def schedule_dag(schedule_name: str) -> str:
    """The text of its DAG."""
    return f"helios:{{schedules}}:dag:{schedule_name}"


def schedule_answer(entry: str) -> str:
    """What became of a control entry about a schedule: `ok`, or why not."""
    return f"helios:{{schedules}}:answer:{entry}"


def trigger(trigger_name: str) -> str:
    """Hash: a trigger's record."""
    return f"helios:{{triggers}}:of:{trigger_name}"


def trigger_dag(trigger_name: str) -> str:
    """The text of its DAG."""
    return f"helios:{{triggers}}:dag:{trigger_name}"


def trigger_answer(entry: str) -> str:
    """What became of a control entry about a trigger: `ok`, or why not."""
    return f"helios:{{triggers}}:answer:{entry}"


def image_known(reference: str) -> str:
    """The digest of the image that ran last under a tag."""
    return f"helios:image:{_digest(reference)}"


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """The keys of one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.prefix = f"helios:{{p{partition}}}:"
        self.ready = f"{self.prefix}tasks:ready"
        """What may run and is of priority normal; the other two have streams of their own."""
        self.ready_streams = tuple(self.ready_of(priority) for priority in PRIORITIES)
        self.checks = f"{self.prefix}tasks:checks"
        self.launched = f"{self.prefix}jobs:launched"
        self.cancelled = f"{self.prefix}jobs:cancelled"
        self.finished = f"{self.prefix}tasks:finished"
        self.settled = f"{self.prefix}runs:settled"
        self.traced = f"{self.prefix}runs:traced"
        """Stream of runs that ended and whose traces are to be sent."""
        self.notices = f"{self.prefix}runs:notices"
        """Stream of runs that ended and whom that is to be told."""
        self.dead = f"{self.prefix}dead"
        self.events = f"{self.prefix}events"
        self.runs = f"{self.prefix}runs"
        """Sorted set of all stored runs, scored by their start."""
        self.active = f"{self.prefix}runs:active"
        """Sorted set of the runs that have not ended."""
        self.forgotten = f"{self.prefix}runs:forgotten"
        """Stream of the runs that fell out of the window, with their DAGs' names."""
        self.log_sizes = f"{self.prefix}runs:logs"
        """Sorted set of the runs that have logs, scored by their bytes."""
        self.counted = f"{self.prefix}dag::counted"
        """Sorted set of whose sums are kept, scored by their last run's end: DAGs' names, and `:node:<node>`."""

    def ready_of(self, priority: str | None) -> str:
        return _of_priority(self.ready, priority)

    def run(self, run: str) -> str:
        return f"{self.prefix}run:{run}"

    def offered(self, run: str, priority: str | None = None) -> str:
        """Set of the run's tasks that have an entry in the ready stream of that priority, or are being looked at."""
        return _of_priority(f"{self.prefix}run:{run}:offered", priority)

    def backlog(self, run: str, priority: str | None = None) -> str:
        """List of the run's tasks that may run and have no such entry yet, in the order in which they will get one."""
        return _of_priority(f"{self.prefix}run:{run}:backlog", priority)

    def dag(self, run: str) -> str:
        """The normalised DAG, as JSON."""
        return f"{self.prefix}run:{run}:dag"

    def task_names(self, run: str) -> str:
        """List of the run's task names, in the order of the DAG."""
        return f"{self.prefix}run:{run}:tasks"

    def task_prefix(self, run: str) -> str:
        """What a task's key starts with; the rest is the task's name."""
        return f"{self.prefix}task:{run}:"

    def task(self, run: str, task: str) -> str:
        return f"{self.prefix}task:{run}:{task}"

    def log_prefix(self, run: str) -> str:
        return f"{self.prefix}log:{run}:"

    def log(self, run: str, task: str, attempt: int, step: str) -> str:
        """Stream of one step's lines."""
        return f"{self.prefix}log:{run}:{task}:{attempt}:{step}"

    def watched(self, run: str) -> str:
        """Exists while somebody follows the run's logs."""
        return f"{self.prefix}run:{run}:watched"

    def dag_runs(self, dag_name: str) -> str:
        """Sorted set of one DAG name's stored runs, scored by their start."""
        return f"{self.prefix}dag:{dag_name}:runs"

    def stats(self, whose: str) -> str:
        """Hash: the sums of one member of `counted`."""
        return f"{self.prefix}dag:{whose}:stats"

    def request(self, request_id: str) -> str:
        """Which run a request id stands for."""
        return f"{self.prefix}request:{request_id}"


def kept_priority(priority: str) -> str:
    """As records and the names of keys have it: what is normal has no word."""
    return "" if priority == "normal" else priority


def _of_priority(key: str, priority: str | None) -> str:
    return key if priority in (None, "", "normal") else f"{key}:{priority}"


def node_counted(node: str) -> str:
    """A node among those whose sums are kept; no DAG has such a name."""
    return f"{NODE_COUNTED}{node}"


def all_partitions(partitions: int) -> list[Keys]:
    return [Keys(number) for number in range(partitions)]


def keys_of_run(run: str, partitions: int) -> Keys:
    return _keys(partition_of(run, partitions))


@cache
def _keys(partition: int) -> Keys:
    """Asked for several times a task, and never changed."""
    return Keys(partition)


def without_partition(stream: str) -> str:
    """What the stream is called in every partition: `tasks:ready`, `submissions`."""
    return stream.removeprefix("helios:").partition("}:")[2] or stream.removeprefix("helios:")


def run_score(run: str) -> float:
    """Orders runs by their id, `<milliseconds>-<sequence>`."""
    milliseconds, _, sequence = run.partition("-")
    return int(milliseconds) + min(int(sequence or 0), 999) / 1000
