"""The transitions of an attempt's life: what applies, what is refused, and what a repetition changes (nothing)."""

from collections.abc import Callable

import pytest
import redis

from helios.events import (
    RunAccepted,
    RunEnded,
    RunRejected,
    TaskEnded,
    TaskFailed,
    TaskLaunched,
    TaskPhase,
    TasksQueued,
    TasksUpstreamFailed,
)
from helios.transitions import (
    DISRUPTIONS_ALLOWED,
    UNREADABLE_DAG,
    Call,
    commit,
    commit_one,
    fail_task,
    keep_report,
    note_phase,
    reject_run,
)
from services.submitter.accept import open_calls
from tests.stage import RUN, Stage, counters, parsed


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def snapshot(stage: Stage) -> dict[str, object]:
    """All keys with what they hold, but for what a repeated delivery acknowledges."""
    found: dict[str, object] = {}
    readers: dict[str, Callable[[str], object]] = {
        "hash": stage.client.hgetall,
        "list": lambda key: stage.client.lrange(key, 0, -1),
        "zset": lambda key: stage.client.zrange(key, 0, -1, withscores=True),
        "stream": stage.client.xrange,
        "string": stage.client.get,
    }
    for key in stage.client.keys("*"):
        found[key] = readers[stage.client.type(key)](key)
    return found


def test_opening_a_run_queues_its_roots_and_nothing_else(stage: Stage) -> None:
    stage.open({"a": [], "b": [], "c": ["a", "b"]})
    assert stage.emitted(stage.keys.ready) == [("a", "1"), ("b", "1")]
    assert [stage.status(task) for task in "abc"] == ["QUEUED", "QUEUED", "WAITING"]
    assert stage.run()["status"] == "RUNNING"
    assert stage.events() == [RunAccepted(RUN, "trial", 3, True)]
    assert stage.client.lrange(stage.keys.task_names(RUN), 0, -1) == ["a", "b", "c"]


def test_opening_a_run_twice_opens_it_once(stage: Stage) -> None:
    """The run id is the ingress entry's id, so an entry that is delivered twice opens one run."""
    stage.open({"a": [], "b": ["a"]})
    before = snapshot(stage)
    stage.open({"a": [], "b": ["a"]})
    assert snapshot(stage) == before


def test_opening_can_be_resumed_after_a_crash_between_any_two_calls(stage: Stage) -> None:
    """Chunks that were written before are not written twice, and none is left out."""
    tasks = {f"t{number}": [] for number in range(2_500)}
    calls = open_calls(stage.keys, RUN, parsed(tasks), None)
    assert len(calls) == 4
    for done in range(len(calls)):
        for call in calls[:done]:
            commit_one(stage.client, call)
    for call in calls:
        commit_one(stage.client, call)
    assert stage.client.llen(stage.keys.task_names(RUN)) == 2_500
    assert stage.client.xlen(stage.keys.ready) == 2_500


def test_a_success_goes_from_ready_to_the_metrics(stage: Stage) -> None:
    stage.open({"a": []})
    assert stage.launch("a") == ["QUEUED", "1"]
    assert stage.status("a") == "RUNNING"
    assert stage.end("a", cache="Hit", hit=7) == 1
    assert stage.settle("a") == "settled"
    assert stage.finalise() == 1
    run = stage.run()
    assert (run["status"], run["taskSucceeded"], run["cacheHit"], run["cacheHitBytes"]) == (
        "SUCCEEDED",
        "1",
        "Hit",
        "7",
    )
    assert run["nodes"] == "n1"
    assert (stage.pending(), stage.left()) == (0, 0)
    assert [type(event) for event in stage.events()] == [RunAccepted, TaskLaunched, TaskEnded, RunEnded]


def test_times_are_whole_milliseconds_of_the_servers_clock(stage: Stage) -> None:
    stage.open({"a": []})
    stage.pass_through("a")
    stage.finalise()
    run, task = stage.run(), stage.task("a")
    times = [run["startTime"], task["launchedAt"], task["endedAt"], run["endTime"]]
    assert all(time.isdigit() and len(time) == 13 for time in times)
    assert times == sorted(times)
    assert int(run["durationMs"]) == int(run["endTime"]) - int(run["startTime"])


@pytest.mark.parametrize("step", ["launch", "end", "settle", "finalise"])
def test_repeating_a_transition_changes_nothing(stage: Stage, step: str) -> None:
    """An entry that is delivered twice: the second delivery acknowledges, and that is all."""
    stage.open({"a": [], "b": ["a"]})
    calls: dict[str, Callable[[], Call]] = {
        "launch": lambda: stage.launch_call("a"),
        "end": lambda: stage.end_call("a", cache="Miss", miss=3),
        "settle": lambda: stage.settle_call("a"),
    }
    for name, make in calls.items():
        call = make()
        commit_one(stage.client, call)
        if name == step:
            before = snapshot(stage)
            commit_one(stage.client, call)
            assert snapshot(stage) == before
            return
    stage.pass_through("b")
    call = stage.finalise_call()
    assert commit_one(stage.client, call) == 1
    before = snapshot(stage)
    assert commit_one(stage.client, call) == 0
    assert snapshot(stage) == before


@pytest.mark.parametrize("stale", ["launch", "end", "settle", "report", "phase"])
def test_a_stale_attempt_is_refused(stage: Stage, stale: str) -> None:
    """What arrives late from attempt 1 leaves attempt 2 untouched."""
    stage.open({"a": []}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED")
    stage.settle("a")
    stage.launch("a", 2)
    before = snapshot(stage)
    late: dict[str, Callable[[], object]] = {
        "launch": lambda: stage.launch("a", 1),
        "end": lambda: stage.end("a", 1),
        "settle": lambda: stage.settle("a", 1),
        "report": lambda: commit_one(stage.client, keep_report(stage.keys, run=RUN, task="a", attempt=1, report=b"{}")),
        "phase": lambda: commit_one(
            stage.client,
            note_phase(
                stage.keys,
                run=RUN,
                task="a",
                attempt=1,
                phase="Running",
                node="n",
                event=TaskPhase(RUN, "a", 1, "Running", "n"),
            ),
        ),
    }
    late[stale]()
    stage.deliver(stage.keys.launched)
    assert snapshot(stage) == before


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_parents_release_their_child_once_in_either_order(stage: Stage, order: tuple[str, str]) -> None:
    stage.open({"a": [], "b": [], "c": ["a", "b"]})
    for task in "ab":
        stage.launch(task)
        stage.end(task)
    first, second = order
    stage.settle(first)
    assert stage.status("c") == "WAITING"
    stage.settle(second)
    assert stage.emitted(stage.keys.ready) == [("c", "1")]


def test_two_parents_that_end_at_the_same_moment_release_their_child_once(stage: Stage) -> None:
    """Both settle calls travel in one pipeline, each twice."""
    stage.open({"a": [], "b": [], "c": ["a", "b"]})
    for task in "ab":
        stage.launch(task)
        stage.end(task)
    calls = [stage.settle_call("a"), stage.settle_call("b")]
    assert commit(stage.client, calls + calls) == ["settled", "settled", "stale", "stale"]
    assert stage.emitted(stage.keys.ready) == [("c", "1")]


def test_a_failed_attempt_with_retries_left_queues_the_next(stage: Stage) -> None:
    stage.open({"a": []}, retries={"a": 2})
    for attempt in (1, 2):
        stage.launch("a", attempt)
        stage.end("a", attempt, status="FAILED")
        assert stage.settle("a", attempt) == "retried"
        assert stage.emitted(stage.keys.ready) == [("a", str(attempt + 1))]
    assert stage.task("a")["retriesLeft"] == "0"
    stage.launch("a", 3)
    stage.end("a", 3, status="FAILED")
    assert stage.settle("a", 3) == "failed"
    assert stage.entries(stage.keys.finished), "the entry stays until the failure is settled"
    assert stage.fail("a", attempt=3) == [1]
    assert stage.finalise() == 1
    assert (stage.run()["status"], stage.run()["taskFailed"]) == ("FAILED", "1")
    assert (stage.pending(), stage.left()) == (0, 0)


def test_a_disrupted_attempt_does_not_use_up_the_users_retries(stage: Stage) -> None:
    """A lost node costs the user nothing, but only so often: a task that loses every node must come to an end."""
    stage.open({"a": []}, retries={"a": 1})
    for attempt in range(1, DISRUPTIONS_ALLOWED + 1):
        stage.launch("a", attempt)
        stage.end("a", attempt, status="FAILED", disrupted=True)
        assert stage.settle("a", attempt) == "retried"
        assert stage.task("a")["retriesLeft"] == "1"
    attempt = DISRUPTIONS_ALLOWED + 1
    stage.launch("a", attempt)
    stage.end("a", attempt, status="FAILED", disrupted=True)
    assert stage.settle("a", attempt) == "retried"
    assert stage.task("a")["retriesLeft"] == "0"
    stage.launch("a", attempt + 1)
    stage.end("a", attempt + 1, status="FAILED", disrupted=True)
    assert stage.settle("a", attempt + 1) == "failed"


def test_an_ordinary_failure_after_a_disruption_counts(stage: Stage) -> None:
    stage.open({"a": []})
    stage.launch("a")
    stage.end("a", status="FAILED", disrupted=True)
    stage.settle("a")
    stage.launch("a", 2)
    stage.end("a", 2, status="FAILED", disrupted=False)
    assert stage.settle("a", 2) == "failed"


def test_what_depends_on_a_failed_task_fails_upstream_and_the_rest_goes_on(stage: Stage) -> None:
    stage.open({"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["c", "d"]})
    stage.launch("a")
    stage.end("a", status="FAILED", cache="Miss", miss=5)
    assert stage.settle("a") == "failed"
    assert stage.fail("a", ["b", "c", "e"]) == [1]
    assert [stage.status(task) for task in "abcde"] == ["FAILED", *["UPSTREAM_FAILED"] * 2, "QUEUED", "UPSTREAM_FAILED"]
    assert stage.left() == 1, "the run waits for d"
    stage.pass_through("d")
    assert stage.status("e") == "UPSTREAM_FAILED"
    live = counters(stage.run())
    assert stage.finalise() == 1
    assert counters(stage.run()) == live
    run = stage.run()
    assert (run["status"], run["taskFailed"], run["taskUpstreamFailed"], run["taskSucceeded"]) == (
        "FAILED",
        "1",
        "3",
        "1",
    )
    assert run["cacheMissBytes"] == "5"
    kinds = [type(event) for event in stage.events()]
    assert TasksUpstreamFailed in kinds
    assert TaskFailed in kinds


def test_two_failures_above_one_task_fail_it_once(stage: Stage) -> None:
    stage.open({"a": [], "b": [], "c": ["a", "b"]})
    for task in "ab":
        stage.launch(task)
        stage.end(task, status="FAILED")
        stage.fail(task, ["c"])
    assert stage.run()["taskUpstreamFailed"] == "1"
    assert stage.task("c")["cause"] == "a"
    assert stage.finalise() == 1


def test_upstream_failure_in_chunks_survives_a_crash_between_them(stage: Stage) -> None:
    """2,500 dependents take three calls; the run is settled once, by the last."""
    below = [f"t{number}" for number in range(2_500)]
    stage.open({"a": [], **{name: ["a"] for name in below}})
    stage.launch("a")
    stage.end("a", status="FAILED")
    assert stage.settle("a") == "failed"
    entry = stage.entry_of(stage.keys.finished, "a")
    calls = fail_task(stage.keys, entry=entry, run=RUN, task="a", attempt=1, dependents=below)
    assert len(calls) == 3
    assert commit(stage.client, calls[:1]) == [1]
    assert stage.run()["taskUpstreamFailed"] == "1000"
    assert commit(stage.client, calls) == [1, 1, 1]
    assert commit(stage.client, calls) == [0, 0, 0]
    assert (stage.run()["taskUpstreamFailed"], stage.run()["taskFailed"]) == ("2500", "1")
    assert len(stage.entries(stage.keys.settled)) == 1


def test_a_rejected_run_is_recorded_once(stage: Stage) -> None:
    event = RunRejected(RUN, "d", 1)
    fields = {"status": "REJECTED", "dagName": "d", "problems": "p"}
    call = reject_run(stage.keys, run=RUN, score=1.0, fields=fields, event=event)
    assert commit(stage.client, [call, call]) == [1, 0]
    assert stage.run()["problems"] == "p"
    assert stage.client.zrange(stage.keys.dag_runs(UNREADABLE_DAG), 0, -1) == [RUN]


def test_a_kept_report_is_the_running_attempts_only(stage: Stage) -> None:
    stage.open({"a": []})
    call = keep_report(stage.keys, run=RUN, task="a", attempt=1, report=b'{"x":1}')
    assert commit_one(stage.client, call) == 0
    stage.launch("a")
    assert commit_one(stage.client, call) == 1
    assert (stage.task("a")["report"], stage.task("a")["reportAttempt"]) == ('{"x":1}', "1")
    stage.end("a")
    assert commit_one(stage.client, call) == 0


def test_a_phase_is_told_once(stage: Stage) -> None:
    stage.open({"a": []})
    stage.launch("a")
    event = TaskPhase(RUN, "a", 1, "Running", "n")
    call = note_phase(stage.keys, run=RUN, task="a", attempt=1, phase="Running", node="n", event=event)
    assert commit(stage.client, [call, call]) == [1, 0]
    assert stage.events().count(event) == 1


def test_a_phase_says_when_its_pod_got_a_node_until_the_next_launch(stage: Stage) -> None:
    """It is the task's hash's own write that tells it, by the Redis server's clock."""
    stage.open({"a": []}, retries={"a": 1})
    stage.launch("a")
    noted = {
        phase: note_phase(
            stage.keys,
            run=RUN,
            task="a",
            attempt=1,
            phase=phase,
            node="n",
            event=TaskPhase(RUN, "a", 1, phase, "n"),
            scheduled_ms_ago=ago,
        )
        for phase, ago in (("Pending", None), ("Fetching", 2_500), ("Running", None))
    }
    commit_one(stage.client, noted["Pending"])
    assert "scheduledAt" not in stage.task("a")
    assert commit(stage.client, [noted["Fetching"], noted["Running"]]) == [1, 1]
    task = stage.task("a")
    assert int(task["fetchingAt"]) - int(task["scheduledAt"]) == 2_500
    stage.end("a", status="FAILED")
    stage.settle("a")
    stage.launch("a", 2)
    assert "scheduledAt" not in stage.task("a")


def test_a_fan_out_of_ten_thousand_is_released_by_one_settle(stage: Stage) -> None:
    """The largest DAG allowed: every child is queued once, and the event names them all."""
    children = [f"t{number}" for number in range(9_998)]
    stage.open({"a": [], **{name: ["a"] for name in children}, "z": children})
    stage.pass_through("a")
    assert stage.client.xlen(stage.keys.ready) == 9_998
    queued = [event for event in stage.events() if isinstance(event, TasksQueued)]
    assert [len(event.tasks) for event in queued] == [9_998]
    assert stage.task("z")["waiting"] == "9998"


def test_big_numbers_stay_whole(stage: Stage) -> None:
    """Lua's numbers are floats; sizes beyond 2^53 must not pass through them."""
    stage.open({"a": [], "b": []})
    stage.pass_through("a", cache="Partial", hit=2**49 - 1, miss=2**49)
    stage.pass_through("b", cache="Hit", hit=2**49, miss=0)
    assert stage.run()["cacheHitBytes"] == str(2**50 - 1)
    stage.finalise()
    assert stage.run()["cacheHitBytes"] == str(2**50 - 1)


def test_names_with_every_allowed_character_pass_through_every_script(stage: Stage) -> None:
    odd = ["A.b_c-d", "9", "x" * 253, "a..b", "a--b", "nil", "true"]
    stage.open({odd[0]: [], **{name: [odd[0]] for name in odd[1:]}})
    stage.launch(odd[0])
    stage.end(odd[0], status="FAILED", node='n",1')
    stage.fail(odd[0], odd[1:])
    stage.finalise()
    assert stage.run()["taskUpstreamFailed"] == str(len(odd) - 1)
    assert len(stage.events()) > 3, "every event is JSON"


def test_many_nodes_are_listed_once_each(stage: Stage) -> None:
    stage.open({task: [] for task in "abc"})
    for task, node in zip("abc", ("node-1", "node-11", "node-1"), strict=True):
        stage.pass_through(task, node=node)
    assert stage.run()["nodes"] == "node-1,node-11"
    stage.finalise()
    assert stage.run()["nodes"] == "node-1,node-11"


def test_what_an_earlier_attempt_downloaded_is_counted(client: redis.Redis) -> None:
    """A retry that hits what the failed attempt had fetched does not make the download free."""
    stage = Stage(client)
    stage.open({"a": []}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED", cache="Miss", miss=700, hit=3)
    stage.settle("a")
    assert stage.run()["cacheMissBytes"] == "700"
    stage.launch("a", 2)
    stage.end("a", 2, cache="Hit", hit=700)
    stage.settle("a", 2)
    assert counters(stage.run()) == counters(stage.folded())
    assert (stage.run()["cacheHitBytes"], stage.run()["cacheMissBytes"]) == ("703", "700")
    assert (stage.run()["cacheHitTasks"], stage.run()["cacheMissTasks"]) == ("1", "0")
