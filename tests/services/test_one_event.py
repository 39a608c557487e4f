"""One event, from XADD to the metrics row: the whole way of a run, one hop at a time, read like a story.

Each hop is one entry on one stream, read by one service and handled by the very function that its loop calls. What is
asserted between the hops is all that the services tell each other.
"""

from collections.abc import Iterable, Sequence

import redis

from helios.keys import (
    COLLECTOR_GROUP,
    JOBRUNNER_GROUP,
    SUBMISSIONS,
    SUBMITTER_GROUP,
    Keys,
)
from helios.localjobs import PodStatus, StepStatus
from helios.settings import Settings
from helios.streams import Inbox
from services.collector.collect import Collector
from services.collector.loglines import LogLine, LogPart
from services.collector.pods import JobOf
from services.jobrunner.jobs import ExistingJob, WantedJob, job_name
from services.jobrunner.launch import JobRunner
from services.submitter.ingress import STREAMS, Ingress
from services.submitter.settle import Settler

DAG = """
dagName: greeting
tasks:
  - {name: hello, image: alpine, command: [echo, hello]}
  - {name: world, image: alpine, command: [echo, world], depends_on: [hello]}
"""
SETTINGS = Settings(token_key="a key that only jobrunner and collector know")
KEYS = Keys(0)


class Cluster:
    """Where Jobs go and pods are seen: here, a Job's pod is over and well as soon as the Job exists."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def create(self, job: WantedJob) -> None:
        self.jobs.append(job.name)

    def delete(self, name: str) -> None:
        self.jobs.remove(name)

    def room(self) -> int:
        return 1_000

    def jobs(self) -> list[ExistingJob]:
        return []

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        steps = {step: StepStatus(startedAt=1, endedAt=2, exitCode=0) for step in ("fetch", "task", "publish")}
        return {
            job: PodStatus(job=job, uid="u", node="node-1", phase="Succeeded", steps=steps)
            for job in jobs
            if job in self.jobs
        }

    def message(self, job: str, step: str) -> str | None:
        return None

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        return LogPart([LogLine("1-0", "hello")] if step == "task" and not after else [], 6)

    def fetch_log(self, job: str) -> list[str]:
        return []

    def release(self, job: str) -> None:
        self.jobs.remove(job)

    def unreleased(self) -> list[str]:
        return []

    def attempt_of(self, job: str) -> JobOf | None:
        return None


def test_one_event_from_xadd_to_the_metrics_row(valkey: redis.Redis) -> None:
    """A newcomer can follow this test and the functions it calls, and knows the system."""

    def reader(group: str, streams: Sequence[str]) -> Inbox:
        return Inbox(valkey, group=group, consumer="the only one", streams=streams, batch_entries=10, lease_seconds=600)

    def entries(stream: str) -> list[dict[str, str]]:
        return [fields for _, fields in valkey.xrange(stream)]

    cluster = Cluster()
    outside = reader(SUBMITTER_GROUP, STREAMS)
    ingress = Ingress(valkey, outside, partitions=1)
    ready = reader(JOBRUNNER_GROUP, [KEYS.ready])
    jobrunner = JobRunner(valkey, cluster, SETTINGS)
    launched = reader(COLLECTOR_GROUP, [KEYS.launched, KEYS.settled])
    collector = Collector(valkey, launched, cluster, SETTINGS)
    finished = reader(SUBMITTER_GROUP, [KEYS.finished])
    settler = Settler(valkey, partitions=1)

    # A user submits. The id that Redis answers is the run's id.
    run = valkey.xadd(SUBMISSIONS, {"dag": DAG, "useCache": "true"})

    # The submitter validates the DAG and opens the run: its root task is queued, its child waits.
    assert ingress.handle(outside.read()) == ()
    assert valkey.hget(KEYS.run(run), "status") == "RUNNING"
    assert valkey.hget(KEYS.task(run, "world"), "status") == "WAITING"
    assert entries(KEYS.ready) == [{"run": run, "task": "hello", "attempt": "1"}]

    # The jobrunner creates the attempt's Job and says so.
    assert jobrunner.launch(ready.read()) == []
    job = job_name(run, "hello", 1)
    assert cluster.jobs == [job]
    assert valkey.hget(KEYS.task(run, "hello"), "status") == "RUNNING"
    assert entries(KEYS.launched) == [{"run": run, "task": "hello", "attempt": "1", "job": job}]

    # The collector sees that its pod is over: it keeps the log, records the end, counts it and lets the pod go.
    assert collector.handle(launched.read()) == []
    assert valkey.hget(KEYS.task(run, "hello"), "status") == "SUCCEEDED"
    assert valkey.hget(KEYS.run(run), "taskSucceeded") == "1"
    assert entries(KEYS.log(run, "hello", 1, "task")) == [{"line": "hello"}]
    assert cluster.jobs == []
    assert entries(KEYS.finished) == [{"run": run, "task": "hello", "attempt": "1"}]

    # The submitter settles the task: its child's last parent has succeeded, so the child is queued.
    assert settler.handle(finished.read()) == []
    assert valkey.hget(KEYS.task(run, "world"), "status") == "QUEUED"
    assert entries(KEYS.ready) == [{"run": run, "task": "world", "attempt": "1"}]

    # The child goes the same way; as no task is left, the submitter says that the run is settled.
    assert jobrunner.launch(ready.read()) == []
    assert collector.handle(launched.read()) == []
    assert settler.handle(finished.read()) == []
    assert entries(KEYS.settled) == [{"run": run}]

    # The collector folds the tasks' records into the run's metrics, and the run has ended.
    assert collector.handle(launched.read()) == []
    row = valkey.hgetall(KEYS.run(run))
    assert {
        "dagId": run,
        "dagName": "greeting",
        "status": "SUCCEEDED",
        "cacheEnabled": "true",
        "cacheHit": "N/A",
        "taskCount": "2",
        "taskSucceeded": "2",
        "taskFailed": "0",
        "nodes": "node-1",
    }.items() <= row.items()
    assert int(row["durationMs"]) == int(row["endTime"]) - int(row["startTime"])

    # Nothing is left under way.
    for stream in (SUBMISSIONS, KEYS.ready, KEYS.launched, KEYS.finished, KEYS.settled, KEYS.cancelled, KEYS.dead):
        assert valkey.xlen(stream) == 0
