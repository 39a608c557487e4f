"""Cancellation: in every state, against every other transition, and the failing of a run as a whole."""

from itertools import permutations

import pytest
import redis

from helios.transitions import Call, cancel_run, commit, commit_one, fail_task
from tests.stage import RUN, Stage, counters


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def finish(stage: Stage, tasks: list[str]) -> None:
    """Deliver whatever is left, in any state, until the run has ended."""
    for _ in range(20):
        for task in tasks:
            attempt = int(stage.task(task)["attempt"])
            stage.launch(task, attempt)
            if stage.status(task) == "RUNNING":
                stage.end(task, attempt)
            if stage.settle(task, attempt) == "failed":
                stage.fail(task, (), attempt)
        if stage.entries(stage.keys.settled):
            assert stage.finalise() == 1
            return
    raise AssertionError(f"the run never ends: {stage.run()}")


@pytest.mark.parametrize("state", ["WAITING", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED"])
def test_cancel_in_every_state_of_a_task(stage: Stage, state: str) -> None:
    """What waits, is queued or runs is fenced; the Job of what runs is asked to go; the counts add up."""
    stage.open({"a": [], "b": ["a"]}, retries={"a": 3})
    if state != "QUEUED":
        stage.launch("a")
    if state in ("SUCCEEDED", "FAILED"):
        stage.end("a", status=state)
    stage.cancel(["a", "b"])
    assert stage.status("b") == "CANCELLED"
    assert stage.emitted(stage.keys.cancelled) == ([("a", "1")] if state in ("RUNNING", "WAITING") else [])
    finish(stage, ["a"])
    run = stage.run()
    assert run["status"] == "CANCELLED"
    succeeded = "1" if state == "SUCCEEDED" else "0"
    assert (run["taskSucceeded"], run["taskFailed"]) == (succeeded, "0")
    assert int(run["taskCancelled"]) + int(run["taskSucceeded"]) == 2
    assert stage.client.xlen(stage.keys.ready) == 0


def test_cancelling_twice_counts_once(stage: Stage) -> None:
    stage.open({"a": [], "b": ["a"]})
    stage.cancel(["a", "b"])
    stage.cancel(["a", "b"])
    assert stage.run()["taskCancelled"] == "2"
    assert stage.finalise() == 1
    assert stage.cancel(["a", "b"]) == [0]
    assert stage.run()["status"] == "CANCELLED"


def test_cancel_of_an_ended_run_changes_nothing(stage: Stage) -> None:
    stage.open({"a": []})
    stage.pass_through("a")
    stage.finalise()
    before = stage.run()
    assert stage.cancel(["a"]) == [0]
    assert stage.run() == before


def test_cancel_in_chunks_survives_a_crash_between_them(stage: Stage) -> None:
    tasks = [f"t{number}" for number in range(2_100)]
    stage.open({name: [] for name in tasks})
    calls = cancel_run(stage.keys, run=RUN, tasks=tasks)
    assert len(calls) == 3
    commit(stage.client, calls[:1])
    commit(stage.client, calls)
    assert stage.run()["taskCancelled"] == "2100"
    assert len(stage.entries(stage.keys.settled)) == 1


def test_a_cancel_whose_last_chunk_has_nothing_to_do_still_settles_the_run(stage: Stage) -> None:
    """The tasks of the last chunk have succeeded; those of the first are what was left."""
    tasks = [f"t{number}" for number in range(1_001)]
    stage.open({name: [] for name in tasks})
    stage.pass_through(tasks[-1])
    stage.cancel(tasks)
    assert len(stage.entries(stage.keys.settled)) == 1
    assert stage.finalise() == 1
    assert (stage.run()["taskCancelled"], stage.run()["taskSucceeded"]) == ("1000", "1")


STEPS = ("launch", "end", "settle", "cancel")


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
@pytest.mark.parametrize("order", list(permutations(STEPS)))
def test_cancel_races_every_step_in_every_order(stage: Stage, order: tuple[str, ...], status: str) -> None:
    """In whatever order the calls reach Redis, the run ends once and every task is counted once."""
    stage.open({"a": [], "b": ["a"], "c": []}, retries={"a": 1})
    cancelled: list[Call] = cancel_run(stage.keys, run=RUN, tasks=["a", "b", "c"])
    for step in order:
        match step:
            case "launch":
                stage.launch("a")
            case "end":
                stage.end("a", status=status)
            case "settle":
                if stage.settle("a") == "failed":
                    stage.fail("a", ["b"])
            case _:
                commit(stage.client, cancelled)
    if stage.status("a") == "RUNNING":
        stage.end("a", status=status)
    finish(stage, ["a", "b", "c"])
    run = stage.run()
    assert run["status"] == "CANCELLED"
    assert run["taskFailed"] == "0"
    assert int(run["taskSucceeded"]) + int(run["taskCancelled"]) == 3
    assert all(stage.status(task) in ("SUCCEEDED", "CANCELLED") for task in "abc")


def test_a_run_that_is_failed_as_a_whole_ends_with_the_reason(stage: Stage) -> None:
    stage.open({"a": [], "b": ["a"]})
    stage.launch("a")
    stage.cancel(["a", "b"], reason="an entry was poison")
    assert stage.finalise() == 1
    run = stage.run()
    assert (run["status"], run["reason"], run["taskCancelled"]) == ("FAILED", "an entry was poison", "2")


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
def test_a_task_settled_after_its_run_was_failed_changes_no_metrics(stage: Stage, status: str) -> None:
    """The run ended while the task's `finished` entry was still under way; what is final stays."""
    stage.open({"a": [], "b": ["a"]})
    stage.launch("a")
    stage.end("a", status=status)
    stage.cancel(["a", "b"], reason="poison")
    assert stage.finalise() == 1
    before = stage.run()
    if stage.settle("a") == "failed":
        entry = stage.entry_of(stage.keys.finished, "a")
        call = fail_task(stage.keys, entry=entry, run=RUN, task="a", attempt=1, dependents=["b"])[0]
        commit_one(stage.client, call)
    assert stage.run() == before
    assert counters(stage.folded()) == counters(before)
    assert stage.client.xlen(stage.keys.finished) == 0


def test_failing_a_run_passes_over_a_record_of_the_wrong_type(stage: Stage) -> None:
    stage.open({"a": [], "b": []})
    stage.client.set(stage.keys.task(RUN, "a"), "oops")
    stage.cancel(["a", "b"], reason="poison")
    assert stage.finalise() == 1
    assert stage.run()["status"] == "FAILED"
