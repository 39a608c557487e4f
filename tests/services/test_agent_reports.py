"""Pods whose node's agent does fetch and publish: how long its report is waited for, and what ends them without it."""

from typing import Any

import msgspec
import pytest
import redis

from helios.dag import parse_dag
from helios.events import TaskPhase
from helios.keys import COLLECTOR_GROUP
from helios.localjobs import PodStatus, StepStatus
from helios.podwire import FetchManifest, StoredOutput
from helios.records import AttemptRecord, decode_attempt
from helios.settings import Settings
from helios.streams import Inbox
from helios.transitions import commit_one
from services.collector.collect import AGENT_SILENT_SECONDS, REPORT_LOOK_SECONDS, Collector
from services.collector.endpoint import PodEndpoint
from services.collector.kept import PATIENCE_SECONDS, KeptReports
from services.collector.store import Store
from services.submitter.accept import open_calls
from tests.services.pod_calls import SETTINGS, as_pod
from tests.services.test_collect import FakePods
from tests.stage import RUN, Stage

DAG = b"""
dagName: d
tasks:
  - {name: a, image: i, command: [x], inputs: [{uri: "s3://bucket/in", as: in}], outputs: [o]}
  - {name: plain, image: i, command: [x]}
"""
FETCHED = FetchManifest(ok=True, hits=1, misses=0, hitBytes=7, missBytes=0, endedAt=5)
LINES = (
    "[HELIOS] Init container starting for task 'a'",
    "[HELIOS] Plan: 1 inputs, cache on",
    "[HELIOS] Input 'in': miss never-here, 12 bytes",
    "[HELIOS] Init container completed.",
)


class Watched:
    """A collector that sees pods, and the endpoint of another replica, which the agent speaks with."""

    def __init__(self, client: redis.Redis) -> None:
        self.now = 0.0
        self.stage = Stage(client)
        self.pods = FakePods()
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(client, call)
        inbox = Inbox(
            client,
            group=COLLECTOR_GROUP,
            consumer="one",
            streams=[self.stage.keys.launched, self.stage.keys.settled],
            batch_entries=10,
            lease_seconds=600,
        )
        clock = lambda: self.now  # noqa: E731 -- read by two that must agree
        self.kept = KeptReports(clock)
        self.collector = Collector(
            client, inbox, self.pods, Settings(lease_seconds=600), KeptReports(clock), clock=clock
        )
        self.endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS, self.kept)

    def launch(self, task: str = "a") -> None:
        self.stage.launch(task)
        self.pods.found[f"job-{task}-1"] = PodStatus(job=f"job-{task}-1", uid="u", node="n", phase="Running")
        assert self.collector.handle(self.collector.inbox.read(1)) == []

    def over(self, phase: str = "Succeeded", task: str = "a", code: int = 0, **fields: Any) -> None:
        steps = {"task": StepStatus(startedAt=1, endedAt=2, exitCode=code)}
        self.pods.over(f"job-{task}-1", phase, **{"steps": steps, "agent_reports": True, **fields})

    def tell(self, path: str, task: str = "a", **body: Any) -> str:
        return as_pod(self.endpoint, path, task, body)[0]

    def report(self, task: str = "a", **fields: Any) -> str:
        made = [StoredOutput(name="o", key=f"runs/{RUN}/a/1/pod-1/o", bytes=1, sha256="0" * 64)] if task == "a" else []
        values: dict[str, Any] = {"exitCode": 0, "outputs": made, "fetch": FETCHED, **fields}
        body = {"run": RUN, "task": task, "attempt": 1, "podUid": "pod-1", "form": "csi", **values}
        answer = as_pod(self.endpoint, "/v1/result", task, msgspec.to_builtins(body))[1]
        return answer["status"]

    def later(self, seconds: float) -> str:
        """The status of the task `a` after that, and after the least time in which it is looked at again."""
        self.now += max(seconds, REPORT_LOOK_SECONDS)
        self.collector.turn()
        return self.stage.status("a")

    def record(self, task: str = "a") -> AttemptRecord:
        return decode_attempt(self.stage.task(task)["record"])


@pytest.fixture
def watched(client: redis.Redis) -> Watched:
    return Watched(client)


def test_a_pod_that_succeeded_waits_for_its_report_and_is_then_let_go(watched: Watched) -> None:
    watched.launch()
    watched.over()
    assert watched.later(0) == watched.later(AGENT_SILENT_SECONDS - 1) == "RUNNING"
    assert watched.pods.released == []
    assert watched.report() == "committed"
    watched.later(0)
    assert (watched.stage.status("a"), watched.pods.released) == ("SUCCEEDED", ["job-a-1"])
    assert watched.stage.client.xlen(watched.stage.keys.launched) == 0
    assert (watched.record().cache, watched.record().fetchedAt) == ("Hit", 5)


def test_the_time_that_storing_takes_is_that_of_the_phase_publishing(watched: Watched) -> None:
    watched.launch()
    watched.over()
    for _ in range(3):
        watched.later(1)
    told = [event.phase for event in watched.stage.events() if isinstance(event, TaskPhase)]
    assert told == ["Running", "Publishing"]


def test_an_agent_that_says_that_it_stores_is_waited_for(watched: Watched) -> None:
    """For hours if need be, and whatever replica it says so to."""
    watched.launch()
    watched.over()
    for _ in range(20):
        assert watched.later(AGENT_SILENT_SECONDS - 1) == "RUNNING"
        assert watched.tell("/v1/at-work") == "200 OK"
    assert watched.later(AGENT_SILENT_SECONDS - 1) == "RUNNING"
    assert watched.later(AGENT_SILENT_SECONDS) == "FAILED"


def test_without_a_report_the_attempt_is_repeated_at_nobodys_cost(watched: Watched) -> None:
    watched.launch()
    watched.over()
    watched.later(0)
    assert watched.later(AGENT_SILENT_SECONDS) == "FAILED"
    assert watched.record().reason == "the node's agent did not report on its outputs"
    assert watched.stage.task("a")["disrupted"] == "1"
    assert watched.pods.released == ["job-a-1"]


def test_a_task_without_outputs_lacks_nothing_without_its_report(watched: Watched) -> None:
    watched.launch("plain")
    watched.over(task="plain")
    watched.later(0)
    assert watched.stage.status("plain") == "RUNNING"
    watched.later(AGENT_SILENT_SECONDS)
    assert watched.stage.status("plain") == "SUCCEEDED"


def test_a_pod_that_failed_waits_for_what_its_agent_knows_of_it(watched: Watched) -> None:
    watched.launch()
    watched.over("Failed", code=3)
    assert watched.later(0) == "RUNNING"
    assert watched.report(exitCode=3, outputs=[], cpuMs=7) == "recorded"
    assert watched.later(0) == "FAILED"
    record = watched.record()
    assert (record.reason, record.cpuMs, record.cache) == ("it exited with code 3", 7, "Hit")


def test_a_report_that_is_waited_for_is_not_looked_for_at_every_turn(watched: Watched) -> None:
    """There are twenty a second, and hundreds of pods may wait for hours."""
    watched.launch()
    watched.over("Failed", code=3)
    assert watched.later(0) == "RUNNING"
    watched.report(exitCode=3, outputs=[])
    watched.collector.turn()
    assert watched.stage.status("a") == "RUNNING"
    assert watched.later(0) == "FAILED"


def test_outputs_that_were_not_stored_fail_an_attempt_whose_pod_succeeded(watched: Watched) -> None:
    watched.launch()
    watched.over()
    watched.report(outputs=[], reason="output 'o' is missing")
    assert watched.later(0) == "FAILED"
    assert (watched.record().reason, watched.stage.task("a")["disrupted"]) == ("output 'o' is missing", "0")


def test_a_failure_that_was_reported_first_waits_for_what_the_pod_alone_knows(watched: Watched) -> None:
    watched.launch()
    assert watched.report(exitCode=137, signal="SIGKILL", outputs=[]) == "recorded"
    assert watched.later(PATIENCE_SECONDS - 1) == "RUNNING"
    watched.over("Failed", code=137, reason="OOMKilled: it was killed", overrules=True)
    assert watched.later(0) == "FAILED"
    assert (watched.record().reason, watched.record().cache) == ("OOMKilled: it was killed", "Hit")


def test_a_pod_that_failed_fails_as_its_status_says_when_its_agent_stays_silent(watched: Watched) -> None:
    """What fetch logged is the account of the inputs then."""
    watched.launch()
    assert watched.tell("/v1/lines", step="fetch", after=0, lines=LINES) == "200 OK"
    watched.over("Failed", reason="it was evicted: too much", overrules=True)
    watched.later(0)
    assert watched.later(AGENT_SILENT_SECONDS) == "FAILED"
    record = watched.record()
    assert (record.reason, record.cache, record.cacheMissBytes) == ("it was evicted: too much", "Miss", 12)


def test_a_pod_whose_agent_can_say_nothing_is_not_waited_for(watched: Watched) -> None:
    """Its node is lost, or its task never began."""
    watched.launch()
    watched.over("Failed", reason="its node n was lost", disrupted=True, agent_reports=False)
    assert watched.later(0) == "FAILED"


STUCK: dict[str, Any] = {"steps": {}, "reason": "task did not start within 600 s of being scheduled", "disrupted": True}


def test_a_pod_whose_inputs_are_still_being_brought_is_not_stuck(watched: Watched) -> None:
    watched.launch()
    watched.over("Failed", **STUCK)
    for number in range(20):
        assert watched.later(AGENT_SILENT_SECONDS - 1) == "RUNNING"
        assert watched.tell("/v1/lines", step="fetch", after=number, lines=["Downloading"]) == "200 OK"
    watched.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", phase="Running")
    assert watched.later(AGENT_SILENT_SECONDS) == "RUNNING"
    watched.over()
    assert watched.later(0) == "RUNNING", "its report has its time again"


def test_a_pod_that_does_not_start_and_of_which_nobody_is_heard_is_stuck(watched: Watched) -> None:
    watched.launch()
    watched.over("Failed", **STUCK)
    assert watched.later(0) == "RUNNING"
    assert watched.later(AGENT_SILENT_SECONDS) == "FAILED"
    assert watched.record().reason == STUCK["reason"]


def test_the_pod_of_a_final_failure_is_wrapped_up_once_its_job_is_gone(watched: Watched) -> None:
    watched.launch()
    assert watched.report(final=True, exitCode=None, outputs=[], reason="no such object") == "committed"
    assert watched.later(0) == "FAILED"
    assert len(watched.collector.held) == 1
    del watched.pods.found["job-a-1"]
    watched.later(0)
    assert (len(watched.collector.held), watched.record().reason) == (0, "no such object")
