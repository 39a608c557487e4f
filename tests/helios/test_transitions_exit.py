"""The onExit task of a run: when it is queued, what it is told, what a cancel and a failed run do to it."""

from typing import Any

import pytest
import redis

from helios.transitions import Call, commit_one
from services.submitter.reconcile import Reconciler
from tests.stage import RUN, Stage

TASKS = {"a": [], "b": ["a"]}
ALL = ["a", "b", "bye"]


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def opened(stage: Stage, **options: Any) -> Stage:
    stage.open(TASKS, on_exit="bye", **options)
    return stage


def test_it_is_queued_when_all_others_have_succeeded_and_the_run_ends_after_it(stage: Stage) -> None:
    opened(stage)
    assert (stage.status("bye"), stage.run()["taskCount"]) == ("WAITING", "3")
    stage.pass_through("a")
    assert stage.status("bye") == "WAITING"
    stage.pass_through("b")
    assert stage.emitted(stage.keys.ready) == [("bye", "1")]
    assert not stage.entries(stage.keys.settled)
    assert stage.run()["exitStatus"] == "SUCCEEDED"
    stage.pass_through("bye")
    assert stage.finalise() == 1
    assert stage.run()["status"] == "SUCCEEDED"
    assert stage.run()["taskSucceeded"] == "3"


def test_it_is_told_which_tasks_failed_and_the_run_stays_failed(stage: Stage) -> None:
    opened(stage)
    stage.launch("a")
    stage.end("a", status="FAILED")
    assert stage.settle("a") == "failed"
    stage.fail("a", ["b"])
    assert stage.status("b") == "UPSTREAM_FAILED"
    assert stage.status("bye") == "QUEUED"
    run = stage.run()
    assert (run["exitStatus"], run["failedTasks"]) == ("FAILED", "a")
    stage.pass_through("bye")
    stage.finalise()
    assert stage.run()["status"] == "FAILED"


def test_its_own_failure_fails_a_run_that_would_have_succeeded(stage: Stage) -> None:
    opened(stage, retries={"bye": 1})
    stage.pass_through("a")
    stage.pass_through("b")
    stage.launch("bye")
    stage.end("bye", status="FAILED")
    assert stage.settle("bye") == "retried"
    stage.launch("bye", 2)
    stage.end("bye", 2, status="FAILED")
    assert stage.settle("bye", 2) == "failed"
    stage.fail("bye", [], attempt=2)
    stage.finalise()
    assert (stage.run()["status"], stage.run()["taskFailed"]) == ("FAILED", "1")


@pytest.mark.parametrize("window", [None, 1])
def test_a_cancel_lets_it_run_with_its_retries_and_a_second_one_changes_nothing(
    stage: Stage, window: int | None
) -> None:
    opened(stage, retries={"bye": 1}, window=window)
    stage.launch("a")
    assert stage.cancel(ALL) == [1]
    assert [stage.status(task) for task in ALL] == ["CANCELLED", "CANCELLED", "QUEUED"]
    assert stage.run()["exitStatus"] == "CANCELLED"
    assert stage.cancel(ALL) == [0]
    stage.launch("bye")
    assert stage.status("bye") == "RUNNING"
    assert stage.cancel(ALL) == [0]
    stage.end("bye", status="FAILED")
    assert stage.settle("bye") == "retried"
    stage.launch("bye", 2)
    stage.end("bye", 2, status="FAILED")
    assert stage.settle("bye", 2) == "failed"
    stage.fail("bye", [], attempt=2)
    assert stage.finalise() == 1
    run = stage.run()
    assert (run["status"], run["taskCancelled"], run["taskFailed"]) == ("CANCELLED", "2", "1")


def test_a_cancel_that_says_so_ends_it(stage: Stage) -> None:
    opened(stage)
    stage.pass_through("a")
    stage.pass_through("b")
    stage.launch("bye")
    assert stage.cancel(ALL, on_exit=True) == [1]
    assert stage.status("bye") == "CANCELLED"
    assert [fields["job"] for _, fields in stage.entries(stage.keys.cancelled)] == ["job-bye-1"]
    assert stage.finalise() == 1
    assert stage.run()["status"] == "CANCELLED"


def test_a_cancel_that_says_so_keeps_it_from_starting(stage: Stage) -> None:
    opened(stage)
    stage.cancel(ALL, on_exit=True)
    assert {stage.status(task) for task in ALL} == {"CANCELLED"}
    assert stage.finalise() == 1
    assert stage.run()["status"] == "CANCELLED"


@pytest.mark.parametrize("disrupted", [False, True])
def test_a_cancel_that_says_so_between_a_failure_and_its_settling_holds(stage: Stage, disrupted: bool) -> None:
    """Nothing runs at that moment, and the next attempt would."""
    opened(stage, retries={"bye": 3})
    stage.pass_through("a")
    stage.pass_through("b")
    stage.launch("bye")
    stage.end("bye", status="FAILED", disrupted=disrupted)
    assert stage.cancel(ALL, on_exit=True) == [1]
    assert stage.settle("bye") == "failed"
    stage.fail("bye", [])
    assert stage.finalise() == 1
    assert stage.run()["status"] == "FAILED"


def test_a_run_that_is_failed_as_a_whole_still_cleans_up(stage: Stage) -> None:
    """Whatever its counters say: a task with an unreadable record was passed over. Then what fails is onExit itself."""
    opened(stage)
    stage.client.delete(stage.keys.task(RUN, "b"))
    stage.client.set(stage.keys.task(RUN, "b"), "no hash")
    assert stage.cancel(ALL, reason="an entry was dead-lettered") == [1]
    assert (stage.status("bye"), stage.run()["exitStatus"]) == ("QUEUED", "FAILED")
    assert not stage.entries(stage.keys.settled)
    stage.pass_through("bye")
    assert len(stage.entries(stage.keys.settled)) == 1
    stage.finalise()
    assert stage.run()["status"] == "FAILED"


def test_a_run_whose_on_exit_task_is_the_trouble_ends(stage: Stage) -> None:
    opened(stage)
    assert stage.cancel(ALL, reason="an entry was dead-lettered") == [1]
    assert stage.cancel(ALL, reason="an entry of bye was dead-lettered") == [1]
    assert stage.status("bye") == "CANCELLED"
    assert stage.finalise() == 1
    assert stage.run()["status"] == "FAILED"


def test_a_look_queues_it_where_that_was_left_undone(stage: Stage) -> None:
    """By an older submitter, which takes the run for one that is not over yet; and only once."""
    opened(stage, window=1)
    stage.pass_through("a")
    stage.launch("b")
    stage.end("b")
    stage.client.xtrim(stage.keys.finished, maxlen=0)
    reconciler = Reconciler(stage.client, 1)
    assert reconciler.look() == 0
    assert stage.status("bye") == "WAITING"
    assert reconciler.look() == 1
    assert (stage.status("bye"), stage.run()["exitStatus"]) == ("QUEUED", "SUCCEEDED")
    assert stage.emitted(stage.keys.ready) == [("bye", "1")]
    assert [reconciler.look(), reconciler.look()] == [0, 0]
    stage.pass_through("bye")
    assert stage.finalise() == 1


def test_its_end_settles_the_run_though_that_was_lost(stage: Stage) -> None:
    opened(stage)
    for task in ALL:
        stage.pass_through(task)
    stage.client.xtrim(stage.keys.settled, maxlen=0)
    reconciler = Reconciler(stage.client, 1)
    reconciler.look()
    assert reconciler.look() == 1
    assert stage.finalise() == 1


def test_the_names_of_failed_tasks_are_bounded(stage: Stage) -> None:
    names = [f"t{number}" for number in range(130)]
    stage.open({name: [] for name in names}, on_exit="bye")
    for name in names:
        stage.launch(name)
        stage.end(name, status="FAILED")
        stage.fail(name)
    assert stage.run()["failedTasks"].split(",") == names[:100]
    assert stage.status("bye") == "QUEUED"


def test_repeated_deliveries_queue_it_once(stage: Stage) -> None:
    """Also two ends at the same moment: both settle calls see that nothing else is left."""
    stage.open({"a": [], "b": []}, on_exit="bye")
    calls: list[Call] = []
    for task in ("a", "b"):
        stage.launch(task)
        stage.end(task)
    calls = [stage.settle_call(task) for task in ("a", "b")]
    for call in (*calls, *calls):
        commit_one(stage.client, call)
    assert stage.emitted(stage.keys.ready) == [("bye", "1")]
