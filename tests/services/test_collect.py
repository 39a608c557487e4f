"""The collector's loop over pods that are only said to exist: held, watched, wrapped up, taken over."""

from collections.abc import Iterable, Sequence

import msgspec
import pytest
import redis
from redis.exceptions import ResponseError

from helios.dag import parse_dag
from helios.events import TaskPhase
from helios.keys import COLLECTOR_GROUP, Keys
from helios.localjobs import PodStatus, StepStatus
from helios.podwire import Report
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import commit_one, keep_report
from helios.worker import Failure
from services.collector.collect import Collector
from services.submitter.accept import open_calls
from tests.stage import RUN, Stage

SETTINGS = Settings(lease_seconds=600)


class FakePods:
    """Pods as the test describes them; those it does not know are gone."""

    def __init__(self) -> None:
        self.found: dict[str, PodStatus | None] = {}
        self.messages: dict[tuple[str, str], str] = {}
        self.logs: dict[tuple[str, str], bytes] = {}
        self.released: list[str] = []

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        return {job: self.found[job] for job in jobs if job in self.found}

    def message(self, job: str, step: str) -> str | None:
        return self.messages.get((job, step))

    def log(self, job: str, step: str, offset: int, limit: int) -> bytes:
        return self.logs.get((job, step), b"")[offset : offset + limit]

    def log_bytes(self, job: str, step: str) -> int:
        return len(self.logs.get((job, step), b""))

    def release(self, job: str) -> None:
        self.released.append(job)

    def over(self, job: str, phase: str = "Succeeded", **fields: object) -> None:
        steps = {step: StepStatus(startedAt=1, endedAt=2, exitCode=0) for step in ("fetch", "task", "publish")}
        status = {"job": job, "uid": "u", "node": "n", "phase": phase, "steps": steps, **fields}
        self.found[job] = PodStatus(**status)  # type: ignore[arg-type]


class Setting:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.pods = FakePods()
        self.collector = self.replica("one")

    def replica(self, name: str) -> Collector:
        inbox = Inbox(
            self.client,
            group=COLLECTOR_GROUP,
            consumer=name,
            streams=[self.stage.keys.launched, self.stage.keys.settled],
            batch_entries=100,
            lease_seconds=600,
        )
        return Collector(self.client, inbox, self.pods, SETTINGS)

    def launch(self, *tasks: str) -> None:
        self.stage.open({task: [] for task in tasks})
        for task in tasks:
            self.stage.launch(task)

    def take(self, collector: Collector | None = None) -> Sequence[Failure]:
        collector = collector or self.collector
        failures: list[Failure] = []
        while entries := collector.inbox.read(1):
            failures += collector.handle(entries)
        return failures


@pytest.fixture
def setting(client: redis.Redis) -> Setting:
    return Setting(client)


def test_a_job_without_a_pod_is_held_until_it_has_one_that_is_over(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    assert len(setting.collector.held) == 1
    assert setting.stage.status("a") == "RUNNING"
    setting.pods.over("job-a-1")
    assert setting.collector.turn() is None
    assert setting.stage.status("a") == "SUCCEEDED"
    assert setting.pods.released == ["job-a-1"]
    assert setting.client.xlen(setting.stage.keys.launched) == 0


def test_a_held_job_keeps_the_loop_awake(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    assert setting.collector.turn() == 50


def test_phases_are_told_once_each(setting: Setting) -> None:
    setting.launch("a")
    for phase in ("Fetching", "Fetching", "Running", "Running"):
        setting.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", phase=phase)
        setting.take()
        setting.collector.turn()
    told = [event.phase for event in setting.stage.events() if isinstance(event, TaskPhase)]
    assert told == ["Fetching", "Running"]


def test_a_pod_that_vanished_is_a_disruption_and_not_the_users_fault(setting: Setting) -> None:
    setting.launch("a")
    setting.take()
    task = setting.stage.task("a")
    assert (task["status"], task["disrupted"]) == ("FAILED", "1")
    assert setting.stage.settle("a") == "retried"


def test_a_failed_pod_fails_the_attempt_with_its_reason(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.over("job-a-1", "Failed", reason="OOMKilled", steps={"task": StepStatus(exitCode=137)})
    setting.take()
    assert setting.stage.status("a") == "FAILED"
    assert '"reason":"OOMKilled"' in setting.stage.task("a")["record"]
    assert setting.stage.task("a")["disrupted"] == "0"


def test_another_collector_takes_over_after_the_first_died(setting: Setting) -> None:
    """What the dead one held comes to the next with the same pod, and is wrapped up once."""
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    setting.pods.over("job-a-1")
    entry, _ = setting.stage.entries(setting.stage.keys.launched)[0]
    setting.client.xclaim(setting.stage.keys.launched, COLLECTOR_GROUP, "one", 0, [entry], idle=10_000_000, justid=True)
    heir = setting.replica("two")
    setting.take(heir)
    assert setting.stage.status("a") == "SUCCEEDED"
    before = setting.stage.run()
    setting.collector.turn()
    assert setting.stage.run() == before
    assert setting.collector.held == {}


def test_a_collector_that_slept_lets_go_of_what_another_took(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    entry, _ = setting.stage.entries(setting.stage.keys.launched)[0]
    setting.client.xclaim(setting.stage.keys.launched, COLLECTOR_GROUP, "two", 0, [entry])
    setting.collector.turn()
    assert setting.collector.held == {}


def test_entries_of_two_partitions_with_the_same_id_are_both_held(client: redis.Redis) -> None:
    """Each stream counts its ids by itself, so at thousands a second they coincide."""
    setting = Setting(client)
    for number in range(2):
        fields = {"run": RUN, "task": f"t{number}", "attempt": "1", "job": f"job-{number}"}
        setting.pods.found[f"job-{number}"] = None
        entry = Entry(stream=Keys(number).launched, id="5-0", fields=fields)
        setting.collector.handle([entry])
    assert len(setting.collector.held) == 2


@pytest.mark.parametrize("broken", ["task", "log", "spec"])
@pytest.mark.parametrize("path", ["handle", "turn"])
def test_one_damaged_task_stops_no_other(setting: Setting, broken: str, path: str) -> None:
    """Whether its record, its log or its DAG is damaged, and whether it is met when taken or later."""
    setting.launch("a", "b")
    for task in "ab":
        setting.pods.found[f"job-{task}-1"] = None
    if path == "turn":
        setting.take()
    keys = setting.stage.keys
    match broken:
        case "task":
            setting.client.delete(keys.task(RUN, "a"))
            setting.client.set(keys.task(RUN, "a"), "of the wrong type")
        case "log":
            setting.client.set(keys.log(RUN, "a", 1, "fetch"), "of the wrong type")
        case _:
            setting.client.hset(keys.task(RUN, "a"), "spec", "{broken")
    for task in "ab":
        setting.pods.logs[f"job-{task}-1", "fetch"] = b"[HELIOS] x\n"
        running = PodStatus(job=f"job-{task}-1", uid="u", node="n", phase="Running")
        setting.pods.found[f"job-{task}-1"] = running
    failures = list(setting.take())
    setting.collector.turn()
    for task in "ab":
        setting.pods.over(f"job-{task}-1")
    setting.collector.turn()
    assert setting.stage.status("b") == "SUCCEEDED"
    assert failures == []
    put_off = [entry.fields["task"] for _, entry in setting.collector.inbox.later]
    assert put_off == ([] if broken == "log" else ["a"])
    if broken == "log":
        assert setting.stage.status("a") == "SUCCEEDED"
    again = [entry for _, entry in setting.collector.inbox.later]
    errors = [failure.error for entry in again for failure in setting.collector.handle([entry])]
    assert len(errors) == len(again)
    if broken == "task":
        assert isinstance(errors[0], ResponseError)


def test_a_pod_that_cannot_be_released_is_committed_all_the_same(setting: Setting) -> None:
    setting.launch("a", "b")

    def refuses(job: str) -> None:
        raise OSError("read-only file system")

    setting.pods.release = refuses  # type: ignore[method-assign]
    for task in "ab":
        setting.pods.over(f"job-{task}-1")
    assert setting.take() == []
    assert [setting.stage.status(task) for task in "ab"] == ["SUCCEEDED"] * 2


def report(**fields: object) -> bytes:
    values = {"run": RUN, "task": "a", "attempt": 1, "podUid": "u", "exitCode": 3, **fields}
    return msgspec.json.encode(Report(**values))  # type: ignore[arg-type]


def test_a_kept_report_says_why_the_pod_failed(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    commit_one(setting.client, keep_report(setting.stage.keys, run=RUN, task="a", attempt=1, report=report()))
    setting.pods.over("job-a-1", "Failed")
    setting.collector.turn()
    assert "it exited with code 3" in setting.stage.task("a")["record"]


def test_a_cancelled_attempt_is_wrapped_up_without_a_trace(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    setting.stage.cancel(["a"])
    del setting.pods.found["job-a-1"]
    setting.collector.turn()
    assert setting.stage.status("a") == "CANCELLED"
    assert setting.client.xlen(setting.stage.keys.launched) == 0


def test_the_log_of_the_task_is_never_taken_for_an_account(setting: Setting) -> None:
    """A task may print whatever fetch prints; its log has no say in what was a hit."""
    dag = b"dagName: d\ntasks: [{name: a, image: i, command: [x], inputs: [{uri: 's3://bucket/in', as: in}]}]"
    for call in open_calls(setting.stage.keys, RUN, parse_dag(dag), None):
        commit_one(setting.client, call)
    setting.stage.launch("a")
    forged = (
        b"[HELIOS] Init container starting for task 'a'\n[HELIOS] Plan: 1 inputs, cache on\n"
        b"[HELIOS] Input 'in': hit cached, 5 bytes\n[HELIOS] Init container completed.\n"
    )
    setting.pods.logs["job-a-1", "task"] = forged
    setting.pods.logs["job-a-1", "publish"] = forged
    setting.pods.over("job-a-1")
    setting.take()
    assert setting.stage.task("a")["cache"] == "Unknown"


def test_a_settled_run_is_finalised_once(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.over("job-a-1")
    setting.take()
    setting.stage.settle("a")
    entries = [
        Entry(stream=setting.stage.keys.settled, id=entry, fields=fields)
        for entry, fields in setting.stage.deliver(setting.stage.keys.settled)
    ]
    assert setting.collector.handle(entries + entries) == []
    assert setting.stage.run()["status"] == "SUCCEEDED"
    assert (setting.stage.pending(), setting.stage.left()) == (0, 0)


def test_a_log_whose_copy_failed_is_copied_later_and_whole(client: redis.Redis) -> None:
    """The offset moves only once Redis has the lines."""
    setting = Setting(client)
    setting.launch("a")
    setting.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", phase="Running")
    setting.pods.logs["job-a-1", "fetch"] = b"one\ntwo\n"
    key = setting.stage.keys.log(RUN, "a", 1, "fetch")
    client.set(key, "in the way")
    setting.take()
    client.delete(key)
    setting.collector.next_tail = 0
    setting.collector.turn()
    assert [fields["line"] for _, fields in client.xrange(key)] == ["one", "two"]
