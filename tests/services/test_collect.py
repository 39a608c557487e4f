"""The collector's loop over pods that are only said to exist: held, watched, wrapped up, taken over."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
from helios.tokens import Attempt
from helios.transitions import Call, commit_one, keep_report
from helios.worker import Failure
from services.collector import ends
from services.collector.collect import Collector
from services.collector.kept import AGAIN_SECONDS, KeptReports
from services.collector.loglines import LogPart, cut
from services.collector.pods import JobOf
from services.submitter.accept import open_calls
from tests.stage import RUN, Stage, counters

SETTINGS = Settings(lease_seconds=600)


class FakePods:
    """Pods as the test describes them; those it does not know are gone."""

    def __init__(self) -> None:
        self.found: dict[str, PodStatus | None] = {}
        self.messages: dict[tuple[str, str], str] = {}
        self.logs: dict[tuple[str, str], bytes] = {}
        self.released: list[str] = []
        self.asked = 0

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        jobs = list(jobs)
        self.asked += len(jobs)
        return {job: self.found[job] for job in jobs if job in self.found}

    def message(self, job: str, step: str) -> str | None:
        return self.messages.get((job, step))

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        text = self.logs.get((job, step), b"")
        return cut(
            lambda offset, limit: text[offset : offset + limit], len(text), after, final=final, followed=followed
        )

    def fetch_log(self, job: str) -> list[str]:
        return self.logs.get((job, "fetch"), b"").decode().split("\n")

    def release(self, job: str) -> None:
        self.released.append(job)

    def unreleased(self) -> list[str]:
        return []

    def attempt_of(self, job: str) -> JobOf | None:
        return None

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

    def replica(
        self, name: str, clock: Callable[[], float] = time.monotonic, settings: Settings = SETTINGS
    ) -> Collector:
        inbox = Inbox(
            self.client,
            group=COLLECTOR_GROUP,
            consumer=name,
            streams=[self.stage.keys.launched, self.stage.keys.settled],
            batch_entries=100,
            lease_seconds=600,
        )
        return Collector(self.client, inbox, self.pods, settings, clock=clock)

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


def test_the_phase_after_it_tells_when_the_pod_got_a_node(setting: Setting) -> None:
    setting.launch("a")
    waiting = PodStatus(job="job-a-1", uid="u", node="", phase="Pending")
    setting.pods.found["job-a-1"] = waiting
    setting.take()
    # A second ago by this machine's clock, which is Redis's here.
    scheduled = time.time_ns() // 1_000_000 - 1_000
    setting.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", scheduledAt=scheduled)
    setting.collector.turn()
    assert "scheduledAt" not in setting.stage.task("a"), "its phase is the same, so nothing is written"
    setting.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", phase="Fetching", scheduledAt=scheduled)
    setting.collector.turn()
    late = time.time_ns() // 1_000_000 - scheduled - 1_000
    assert -1 <= int(setting.stage.task("a")["scheduledAt"]) - scheduled <= late + 1


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


def test_jobs_that_come_back_one_at_a_time_are_not_all_looked_at_for_each(setting: Setting) -> None:
    """Else a collector with some hundred Jobs in hand would need minutes after its restart, and not a second."""
    tasks = [f"t{number}" for number in range(60)]
    setting.launch(*tasks)
    for task in tasks:
        setting.pods.found[f"job-{task}-1"] = None
    setting.take()
    setting.pods.asked = 0
    heir = setting.replica("one", clock=lambda: 1000.0)
    while len(heir.held) < len(tasks):
        heir.turn()
        heir.handle(heir.inbox.read(1))
    assert setting.pods.asked <= 2 * len(tasks)
    assert not heir.inbox.again
    setting.pods.over("job-t0-1")
    heir.turn()
    assert setting.stage.status("t0") == "SUCCEEDED", "once all are back, every turn looks at every pod"


class OnCluster:
    """A collector of pods on a cluster, at a time that the test sets."""

    def __init__(self, setting: Setting) -> None:
        self.now = 0.0
        settings = msgspec.structs.replace(SETTINGS, launcher="kubernetes")
        self.collector = setting.replica("one", clock=lambda: self.now, settings=settings)

    def turn(self, at: float) -> int | None:
        self.now = at
        return self.collector.turn()


def test_a_clusters_pods_are_looked_at_a_few_times_a_second_however_often_something_comes(setting: Setting) -> None:
    """Looking costs more than what there is to see: hundreds of pods in hand, and one that changes."""
    on_cluster = OnCluster(setting)
    setting.launch("a", "b")
    setting.pods.found |= {"job-a-1": None, "job-b-1": None}
    setting.take(on_cluster.collector)
    assert on_cluster.turn(at=10) == 200
    setting.pods.over("job-a-1")
    assert on_cluster.turn(at=10.125) == 75, "until the next look"
    assert setting.stage.status("a") == "RUNNING"
    on_cluster.turn(at=10.21)
    assert setting.stage.status("a") == "SUCCEEDED"


def test_a_clusters_pods_are_looked_at_more_often_while_a_failure_waits_for_one(setting: Setting) -> None:
    on_cluster = OnCluster(setting)
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take(on_cluster.collector)
    on_cluster.turn(at=10)
    on_cluster.collector.kept.add(Attempt(RUN, "a", 1, 0), msgspec.json.decode(report(), type=Report))
    assert on_cluster.turn(at=10.03125) == 19
    setting.pods.over("job-a-1", "Failed")
    on_cluster.turn(at=10.0625)
    assert setting.stage.status("a") == "FAILED"


def test_a_collector_that_slept_lets_go_of_what_another_took(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    entry, _ = setting.stage.entries(setting.stage.keys.launched)[0]
    setting.client.xclaim(setting.stage.keys.launched, COLLECTOR_GROUP, "two", 0, [entry])
    setting.collector.turn()
    assert setting.collector.held == {}


def test_after_a_lost_connection_no_pod_is_let_go_that_redis_does_not_know_of(setting: Setting) -> None:
    """Redis lost the launch; the task will be launched again, and its pod, over meanwhile, is what that one adopts."""
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    keys = setting.stage.keys
    setting.client.delete(keys.launched)
    setting.client.xgroup_create(keys.launched, COLLECTOR_GROUP, id="0", mkstream=True)
    setting.client.hset(keys.task(RUN, "a"), "status", "QUEUED")
    setting.pods.over("job-a-1")
    setting.collector.inbox.history_unread = True
    setting.collector.turn()
    assert setting.collector.held == {}
    assert setting.pods.released == []
    setting.client.xadd(keys.ready, {"run": RUN, "task": "a", "attempt": "1"})
    setting.stage.launch("a")
    setting.take()
    assert setting.stage.status("a") == "SUCCEEDED"
    assert setting.pods.released == ["job-a-1"]


def test_jobs_outlive_a_collector_that_is_killed_again_and_again_right_after_its_start(setting: Setting) -> None:
    """What is in hand when others kill a process is no poison: whoever lives on for a turn was not killed by it."""
    tasks = ["a", "b", "c"]
    setting.launch(*tasks)
    for task in tasks:
        setting.pods.found[f"job-{task}-1"] = None
    for _ in range(2 * SETTINGS.deliveries_before_dead_letter):
        collector = setting.replica("one")
        while entries := collector.inbox.read(1):
            collector.handle(entries)
            collector.turn()
    pending: Any = setting.client.xpending_range(setting.stage.keys.launched, COLLECTOR_GROUP, "-", "+", 10)
    assert {row["times_delivered"] for row in pending} == {1}


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


def test_a_damaged_task_that_is_over_stops_no_other_either(setting: Setting) -> None:
    """As long as it ran its DAG said that it is memoized."""
    setting.launch("a", "b")
    setting.client.hset(setting.stage.keys.task(RUN, "a"), mapping={"status": "CANCELLED", "spec": '{"memoize"'})
    for task in "ab":
        setting.pods.over(f"job-{task}-1")
    assert [type(each.error) for each in setting.take()] == [msgspec.DecodeError]
    assert setting.stage.status("b") == "SUCCEEDED"


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


def test_an_end_does_not_wait_for_logs_that_are_still_to_be_read(setting: Setting) -> None:
    """Where thousands of pods end at once their logs take a minute; the next tasks do not."""
    setting.launch("a", "b")
    setting.pods.over("job-a-1", logs_known=False)
    setting.pods.over("job-b-1", "Failed", logs_known=False, reason="OOMKilled", overrules=True)
    setting.take()
    assert [setting.stage.status(task) for task in "ab"] == ["SUCCEEDED", "FAILED"]
    assert (setting.pods.released, len(setting.collector.held)) == ([], 2)
    before = [setting.stage.task(task) for task in "ab"]
    setting.collector.turn()
    setting.pods.logs["job-a-1", "task"] = b"the last line\n"
    setting.pods.over("job-a-1")
    setting.pods.over("job-b-1", "Failed", reason="OOMKilled", overrules=True)
    setting.collector.turn()
    assert [setting.stage.task(task) for task in "ab"] == before
    assert sorted(setting.pods.released) == ["job-a-1", "job-b-1"]
    assert setting.client.xlen(setting.stage.keys.launched) == 0
    assert setting.client.xlen(setting.stage.keys.log(RUN, "a", 1, "task")) == 1
    assert "disagreements" not in setting.stage.run()


def test_an_early_exit_137_gives_way_to_the_pods_out_of_memory(setting: Setting) -> None:
    """What the pod alone knows outranks the report."""
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    early = report(exitCode=137, signal="SIGKILL")
    commit_one(setting.client, keep_report(setting.stage.keys, run=RUN, task="a", attempt=1, report=early))
    setting.pods.over("job-a-1", "Failed", reason="it was killed for exceeding its memory limit", overrules=True)
    setting.collector.turn()
    assert "exceeding its memory limit" in setting.stage.task("a")["record"]
    assert "SIGKILL" not in setting.stage.task("a")["record"]


def test_an_early_success_stays_and_its_pods_disagreement_is_counted_once(setting: Setting) -> None:
    setting.launch("a", "b")
    for task in "ab":
        setting.pods.found[f"job-{task}-1"] = None
        setting.stage.end(task, entry="")
    setting.take()
    before = counters(setting.stage.run())
    setting.pods.over("job-a-1", "Failed", reason="evicted", disrupted=True)
    setting.pods.over("job-b-1")
    entry, fields = setting.stage.entries(setting.stage.keys.launched)[0]
    setting.replica("two").handle([Entry(stream=setting.stage.keys.launched, id=entry, fields=fields)])
    setting.collector.next_renewal = float("inf")  # it has yet to find out that another was faster
    setting.collector.turn()
    assert [setting.stage.status(task) for task in "ab"] == ["SUCCEEDED"] * 2
    assert setting.stage.run()["disagreements"] == "1"
    assert counters(setting.stage.run()) == before
    assert sorted(setting.pods.released) == ["job-a-1", "job-a-1", "job-b-1"]
    assert setting.client.xlen(setting.stage.keys.launched) == 0


class Kept:
    """A collector that is told of failures ahead of their pods, with the time in the test's hands."""

    def __init__(self, setting: Setting) -> None:
        self.now = 0.0
        self.setting = setting
        self.reports = KeptReports(lambda: self.now)
        setting.collector.kept = self.reports

    def report(self, **fields: object) -> None:
        keys = self.setting.stage.keys
        text = report(**fields)
        commit_one(self.setting.client, keep_report(keys, run=RUN, task="a", attempt=1, report=text))
        self.reports.add(Attempt(RUN, "a", 1, 0), msgspec.json.decode(text, type=Report))

    def turn(self, *, at: float) -> str:
        self.now = at
        self.setting.collector.turn()
        return self.setting.stage.status("a")


@pytest.fixture
def kept(setting: Setting) -> Kept:
    setting.launch("a")
    setting.pods.found["job-a-1"] = PodStatus(job="job-a-1", uid="u", node="n", phase="Publishing")
    setting.take()
    return Kept(setting)


def test_an_early_failure_waits_for_its_pods_status_and_then_goes_without(kept: Kept) -> None:
    """It is committed once; the Job stays in hand until its pod is over, and is released only then."""
    kept.report()
    assert kept.turn(at=4.9) == "RUNNING"
    assert kept.turn(at=5.1) == "FAILED"
    assert "it exited with code 3" in kept.setting.stage.task("a")["record"]
    assert (kept.setting.pods.released, len(kept.setting.collector.held)) == ([], 1)
    before = kept.setting.stage.task("a")
    kept.setting.pods.over("job-a-1", "Failed", reason="late words", overrules=True)
    kept.turn(at=6)
    assert kept.setting.stage.task("a") == before
    assert kept.setting.pods.released == ["job-a-1"]
    assert kept.setting.client.xlen(kept.setting.stage.keys.finished) == 1
    assert "disagreements" not in kept.setting.stage.run()


def test_an_early_failure_that_redis_did_not_take_is_committed_once_it_does(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of reach, or out of memory: its pod's status may never come, so nothing else would end it."""
    kept.report()
    troubles: list[Exception] = [redis.ConnectionError("gone"), ResponseError("OOM command not allowed")]

    def fails_at_first(client: redis.Redis, call: Call) -> Any:
        if troubles:
            raise troubles.pop(0)
        return commit_one(client, call)

    monkeypatch.setattr(ends, "commit_one", fails_at_first)
    with pytest.raises(redis.ConnectionError):
        kept.turn(at=6)
    assert kept.turn(at=6) == "RUNNING"
    assert kept.turn(at=6 + AGAIN_SECONDS) == "FAILED"
    assert troubles == []
    assert not kept.reports.waiting


@pytest.mark.parametrize("end", [{"signal": "SIGKILL", "exitCode": 137}, {"exitCode": 143}, {"exitCode": None}])
def test_a_task_that_was_killed_may_be_the_first_of_its_node_to_go(kept: Kept, end: dict[str, Any]) -> None:
    """The report got out, the pod's status never will: the node's loss decides, and costs no retry."""
    kept.report(**end)
    assert kept.turn(at=90) == "RUNNING"
    kept.setting.pods.over("job-a-1", "Failed", reason="its node n was lost", disrupted=True)
    assert kept.turn(at=91) == "FAILED"
    assert kept.setting.stage.task("a")["disrupted"] == "1"


def test_a_task_that_was_killed_ends_without_its_pods_status_in_the_end(kept: Kept) -> None:
    kept.report(signal="SIGKILL", exitCode=137)
    assert kept.turn(at=149) == "RUNNING"
    assert kept.turn(at=151) == "FAILED"


def test_a_pods_status_in_time_decides_about_an_early_failure(kept: Kept) -> None:
    kept.report(exitCode=143)
    assert kept.turn(at=1) == "RUNNING"
    kept.setting.pods.over("job-a-1", "Failed", reason="its node was drained", disrupted=True)
    assert kept.turn(at=2) == "FAILED"
    before = kept.setting.stage.task("a")
    assert before["disrupted"] == "1"
    kept.turn(at=100)
    assert kept.setting.stage.task("a") == before


def test_an_early_failure_of_a_job_that_another_holds_ends_all_the_same(kept: Kept) -> None:
    """The report came to this replica's endpoint, and the pod is in another's hands."""
    kept.setting.collector.held.clear()
    kept.setting.pods.found["job-a-1"] = None
    kept.report()
    assert kept.turn(at=5.1) == "FAILED"
    assert kept.setting.client.xlen(kept.setting.stage.keys.launched) == 1


def test_an_early_failure_of_an_attempt_that_is_over_changes_nothing(kept: Kept) -> None:
    kept.report()
    kept.setting.stage.cancel(["a"])
    before = kept.setting.stage.task("a")
    kept.turn(at=5.1)
    assert kept.setting.stage.task("a") == before
    kept.setting.client.delete(kept.setting.stage.keys.task(RUN, "a"))
    kept.reports.add(Attempt(RUN, "a", 1, 0), msgspec.json.decode(report(), type=Report))
    kept.now = 100
    kept.setting.collector.turn()
    assert not kept.setting.client.exists(kept.setting.stage.keys.task(RUN, "a"))


def test_a_cancelled_attempt_is_wrapped_up_without_a_trace(setting: Setting) -> None:
    setting.launch("a")
    setting.pods.found["job-a-1"] = None
    setting.take()
    setting.stage.cancel(["a"])
    del setting.pods.found["job-a-1"]
    setting.collector.turn()
    assert setting.stage.status("a") == "CANCELLED"
    assert setting.client.xlen(setting.stage.keys.launched) == 0


FETCH_LOG = (
    b"[HELIOS] Init container starting for task 'a'\n[HELIOS] Plan: 1 inputs, cache on\n"
    b"[HELIOS] Input 'in': hit cached, 5 bytes\n[HELIOS] Init container completed.\n"
)


def launch_with_an_input(setting: Setting) -> None:
    dag = b"dagName: d\ntasks: [{name: a, image: i, command: [x], inputs: [{uri: 's3://bucket/in', as: in}]}]"
    for call in open_calls(setting.stage.keys, RUN, parse_dag(dag), None):
        commit_one(setting.client, call)
    setting.stage.launch("a")


def test_the_log_of_the_task_is_never_taken_for_an_account(setting: Setting) -> None:
    """A task may print whatever fetch prints; its log has no say in what was a hit."""
    launch_with_an_input(setting)
    setting.pods.logs["job-a-1", "task"] = FETCH_LOG
    setting.pods.logs["job-a-1", "publish"] = FETCH_LOG
    setting.pods.over("job-a-1")
    setting.take()
    assert setting.stage.task("a")["cache"] == "Unknown"


def test_an_end_that_only_fetchs_log_accounts_for_waits_for_that_log(setting: Setting) -> None:
    launch_with_an_input(setting)
    setting.pods.over("job-a-1", logs_known=False)
    setting.take()
    assert setting.stage.status("a") == "RUNNING"
    setting.pods.logs["job-a-1", "fetch"] = FETCH_LOG
    setting.pods.over("job-a-1")
    setting.collector.turn()
    assert (setting.stage.status("a"), setting.stage.task("a")["cache"]) == ("SUCCEEDED", "Hit")


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
