"""Of one run and priority a window of attempts stands in line for Jobs; the others wait in the run's backlog."""

from typing import Any

import pytest
import redis

from helios.events import TaskEnded
from helios.keys import PRIORITIES
from helios.transitions import check, commit_one, note_wait, queue_again, skip, unskip
from services.submitter.reconcile import Reconciler
from tests.stage import RUN, Stage

SMALL = "1764027260999-0"


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def line(stage: Stage, priority: str | None = None, run: str = RUN) -> list[str]:
    return [fields["task"] for _, fields in stage.entries(stage.keys.ready_of(priority)) if fields["run"] == run]


def backlog(stage: Stage, priority: str | None = None) -> list[str]:
    return stage.client.lrange(stage.keys.backlog(RUN, priority), 0, -1)


def of_lines(stage: Stage) -> list[str]:
    """Every key that keeps an account of a line."""
    return [key for what in ("offered", "backlog") for key in stage.client.scan_iter(match=f"*:{what}*")]


def wide(count: int) -> dict[str, list[str]]:
    return {f"t{number}": [] for number in range(count)}


def test_of_a_large_run_a_window_stands_in_line_and_each_launch_lets_the_next_in(stage: Stage) -> None:
    stage.open(wide(5), window=2)
    assert (line(stage), backlog(stage)) == (["t0", "t1"], ["t2", "t3", "t4"])
    assert {stage.status(task) for task in wide(5)} == {"QUEUED"}
    stage.launch("t0")
    assert (line(stage), backlog(stage)) == (["t1", "t2"], ["t3", "t4"])
    for task in ("t1", "t2", "t3", "t4"):
        stage.launch(task)
    assert (line(stage), backlog(stage)) == ([], [])
    assert of_lines(stage) == []


def test_a_small_run_stands_behind_a_window_of_the_large_one_and_not_behind_all_of_it(stage: Stage) -> None:
    stage.open(wide(100), window=3)
    stage.open({"a": [], "b": []}, run=SMALL, window=3)
    entries = [(fields["run"], fields["task"]) for _, fields in stage.entries(stage.keys.ready)]
    assert entries.index((SMALL, "a")) == 3
    stage.launch("t0")
    entries = [(fields["run"], fields["task"]) for _, fields in stage.entries(stage.keys.ready)]
    assert entries[-1] == (RUN, "t3"), "what comes out of the backlog goes to the end"


def test_a_run_of_no_more_tasks_than_the_window_keeps_no_account_of_its_line(stage: Stage) -> None:
    stage.open(wide(3), window=3)
    assert len(line(stage)) == 3
    assert "window" not in stage.run()
    assert of_lines(stage) == []


def test_children_and_retries_go_behind_those_of_their_run_that_wait(stage: Stage) -> None:
    tasks = {**wide(3), "a": ["t0"], "b": ["t0"]}
    stage.open(tasks, window=1, retries={"t1": 1})
    stage.pass_through("t0")
    assert (line(stage), backlog(stage)) == (["t1"], ["t2", "a", "b"])
    queued = stage.task("a")
    assert (queued["status"], queued["attempt"]) == ("QUEUED", "1")
    assert int(queued["queuedAt"]) > 0
    stage.launch("t1")
    stage.end("t1", status="FAILED")
    assert stage.settle("t1") == "retried"
    assert (line(stage), backlog(stage)) == (["t2"], ["a", "b", "t1"])
    for task, attempt in (("t2", 1), ("a", 1), ("b", 1), ("t1", 2)):
        assert line(stage) == [task]
        stage.launch(task, attempt)
    assert stage.status("t1") == "RUNNING"


def test_a_launch_that_is_delivered_again_lets_nobody_else_in(stage: Stage) -> None:
    stage.open(wide(5), window=1)
    call = stage.launch_call("t0")
    for _ in range(3):
        commit_one(stage.client, call)
    assert line(stage) == ["t1"]
    assert stage.client.smembers(stage.keys.offered(RUN)) == {"t1"}


def test_a_stale_entry_of_an_attempt_that_was_retried_lets_nobody_else_in(stage: Stage) -> None:
    stage.open(wide(3), window=1, retries={"t0": 1})
    first = stage.launch_call("t0")
    for task in ("t0", "t1", "t2"):
        stage.launch(task)
    stage.end("t0", status="FAILED")
    stage.settle("t0")
    assert line(stage) == ["t0"]
    commit_one(stage.client, first)
    assert stage.client.smembers(stage.keys.offered(RUN)) == {"t0"}


def test_a_cancelled_run_has_nobody_in_line_or_behind(stage: Stage) -> None:
    stage.open(wide(5), window=2, priorities={"t4": "high", "t3": "low"})
    assert of_lines(stage) != []
    entries = [(stream, *each) for stream in stage.keys.ready_streams for each in stage.deliver(stream)]
    stage.cancel(list(wide(5)))
    assert of_lines(stage) == []
    for stream, entry, fields in entries:
        stage.launch(fields["task"], entry=entry, stream=stream)
    assert of_lines(stage) == []
    assert sum(stage.client.xlen(stream) for stream in stage.keys.ready_streams) == 0
    stage.finalise()
    assert stage.run()["status"] == "CANCELLED"


def test_each_priority_of_a_run_has_a_line_of_its_own(stage: Stage) -> None:
    """What is low and waits must not keep out what is high."""
    tasks = {**wide(4), "after": ["t0"]}
    stage.open(tasks, window=1, priorities={"t1": "low", "t2": "low", "t3": "high", "after": "high"})
    assert [line(stage, priority) for priority in PRIORITIES] == [["t3"], ["t0"], ["t1"]]
    assert backlog(stage, "low") == ["t2"]
    stage.pass_through("t0")
    assert (line(stage, "high"), backlog(stage, "high")) == (["t3"], ["after"])
    stage.launch("t3")
    assert line(stage, "high") == ["after"]


def test_a_task_that_is_looked_at_keeps_its_place_until_it_waits_for_another(stage: Stage) -> None:
    stage.open(wide(4), window=1)

    def check_it(task: str) -> str:
        entry = stage.entry_of(stage.keys.ready, task)
        commit_one(stage.client, check(stage.keys, entry=entry, run=RUN, task=task, attempt=1))
        return stage.entry_of(stage.keys.checks, task)

    look = check_it("t0")
    assert line(stage) == []
    wait: dict[str, Any] = {"run": RUN, "task": "t0", "attempt": 1, "waits_for": "another"}
    assert commit_one(stage.client, note_wait(stage.keys, **wait)) == 1
    assert line(stage) == ["t1"]
    assert commit_one(stage.client, note_wait(stage.keys, **wait)) == 0
    assert line(stage) == ["t1"]
    commit_one(stage.client, unskip(stage.keys, entry=look, run=RUN, task="t0", attempt=1, memo=b"{}"))
    assert line(stage) == ["t1", "t0"], "it stood in line already"
    look = check_it("t1")
    event = TaskEnded(RUN, "t1", 1, "SUCCEEDED", "N/A", 0, 0, "")
    call = skip(stage.keys, entry=look, run=RUN, task="t1", attempt=1, record=b"{}", memo=b"{}", event=event)
    assert commit_one(stage.client, call) == 1
    assert line(stage) == ["t0"], "t0 is in line, so there is no room yet"
    stage.launch("t0")
    assert line(stage) == ["t2"]


def test_what_is_lost_of_a_line_is_queued_again_by_two_looks(stage: Stage) -> None:
    stage.open(wide(6), window=2)
    stage.client.delete(stage.keys.ready, stage.keys.backlog(RUN))
    stage.client.xgroup_create(stage.keys.ready, stage.groups[stage.keys.ready], id="0", mkstream=True)
    reconciler = Reconciler(stage.client, 1)
    assert [reconciler.look(), reconciler.look(), reconciler.look()] == [0, 6, 0]
    assert sorted(line(stage)) == ["t0", "t1"]
    assert sorted(backlog(stage)) == ["t2", "t3", "t4", "t5"]


def test_what_waits_in_a_backlog_is_not_taken_for_lost(stage: Stage) -> None:
    stage.open(wide(6), window=2)
    reconciler = Reconciler(stage.client, 1)
    assert [reconciler.look(), reconciler.look()] == [0, 0]
    assert line(stage) == ["t0", "t1"]


def test_a_launch_by_a_version_that_knows_no_backlog_holds_nothing_up(stage: Stage) -> None:
    """During a rolling update: the task leaves the line when it is settled, or when the submitter looks."""
    stage.open(wide(4), window=2)
    for task in ("t0", "t1"):
        launch_as_before(stage, task)
    assert line(stage) == []
    stage.end("t0")
    stage.settle("t0")
    assert line(stage) == ["t2"]
    Reconciler(stage.client, 1).look()
    assert line(stage) == ["t2", "t3"]


def launch_as_before(stage: Stage, task: str) -> None:
    """What a launch does to a record and the streams that knows no backlog."""
    entry = stage.entry_of(stage.keys.ready, task)
    stage.client.xadd(stage.keys.launched, {"run": RUN, "task": task, "attempt": "1", "job": "j"})
    stage.client.hset(stage.keys.task(RUN, task), mapping={"status": "RUNNING", "job": "j", "launchedAt": "1"})
    stage.client.xack(stage.keys.ready, stage.groups[stage.keys.ready], entry)
    stage.client.xdel(stage.keys.ready, entry)


def test_entries_that_an_older_version_sent_again_for_a_backlog_change_nothing(stage: Stage) -> None:
    """It takes what waits in a backlog for lost, whatever its priority, and sends it to the stream that it knows."""
    stage.open(wide(4), window=1, priorities={"t3": "high"})
    for task in ("t1", "t2", "t3"):
        stage.client.xadd(stage.keys.ready, {"run": RUN, "task": task, "attempt": "1"})
    launched: list[str] = []
    for _ in range(20):
        for stream in stage.keys.ready_streams:
            stage.deliver(stream)
            for entry, fields in stage.entries(stream):
                found = stage.launch(fields["task"], entry=entry, stream=stream)
                launched += [fields["task"]] if found == ["QUEUED", "1"] else []
    assert sorted(launched) == ["t0", "t1", "t2", "t3"]
    assert [line(stage, priority) for priority in PRIORITIES] == [[], [], []]
    assert of_lines(stage) == []


@pytest.mark.parametrize("broken", ["offered", "backlog"])
def test_a_line_of_the_wrong_type_is_seen_before_anything_is_written(stage: Stage, broken: str) -> None:
    stage.open(wide(4), window=1)
    call = stage.launch_call("t0")
    key = getattr(stage.keys, broken)(RUN)
    stage.client.delete(key)
    stage.client.set(key, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        commit_one(stage.client, call)
    assert (stage.status("t0"), stage.client.xlen(stage.keys.launched)) == ("QUEUED", 0)


def test_a_damaged_record_in_a_backlog_is_emitted_for_its_handler_to_say_so(stage: Stage) -> None:
    stage.open(wide(3), window=1)
    stage.client.set(stage.keys.task(RUN, "t1"), "x")
    stage.launch("t0")
    assert line(stage) == ["t1"]


def test_a_run_that_has_ended_is_not_queued_again(stage: Stage) -> None:
    stage.open(wide(2), window=1)
    stage.cancel(list(wide(2)))
    stage.finalise()
    stage.client.xtrim(stage.keys.ready, maxlen=0)
    assert commit_one(stage.client, queue_again(stage.keys, run=RUN, lost=[("t0", "1")])) == 0
    assert line(stage) == []
