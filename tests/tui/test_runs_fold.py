"""Folding the feed from any snapshot on gives the same rows."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.events import RunAccepted, RunEnded, RunRejected, TaskEnded, TaskLaunched, decode_event
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage
from tui.model.runs import Averages, RunRow, Runs, place_of

OTHER = "1764027260999-0"
DAGS = {RUN: {"a": [], "b": ["a"], "c": ["a"]}, OTHER: {"x": [], "y": ["x"]}}
OUTCOMES = ("Hit", "Partial", "Miss", "N/A")

Step = tuple[str, int, int]
"""What is tried, which task, which outcome."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["launch", "end", "fail", "settle", "settle-failed", "cancel", "finalise"]),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    max_size=40,
)


class Play:
    """Two runs, taken on by steps of which only those have an effect that the scripts allow."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self.client = client
        self.stage = Stage(client)
        self.tasks = [(run, task) for run, tasks in DAGS.items() for task in tasks]
        for run, tasks in DAGS.items():
            self.stage.open(tasks, run=run, name=f"dag-{run[-3]}", retries={"a": 1})

    def take(self, step: Step) -> None:
        what, number, outcome = step
        run, task = self.tasks[number]
        attempt = int(self.stage.task(task, run).get("attempt") or 1)
        match what:
            case "launch":
                self.stage.launch(task, attempt, run=run)
            case "end" | "fail":
                status = "SUCCEEDED" if what == "end" else "FAILED"
                node = f"n{outcome % 2}"
                self.stage.end(task, attempt, status=status, cache=OUTCOMES[outcome], hit=5, miss=7, node=node, run=run)
            case "settle":
                self.stage.settle(task, attempt, run=run)
            case "settle-failed":
                below = [name for name in DAGS[run] if name != task] if task in ("a", "x") else []
                if self.stage.settle(task, attempt, run=run) == "failed":
                    self.stage.fail(task, below, attempt, run=run)
            case "cancel":
                self.stage.cancel(list(DAGS[run]), run=run)
            case _:
                if self.client.xlen(self.stage.keys.settled):
                    self.stage.finalise(run)

    def records(self) -> tuple[str, dict[str, dict[str, str]]]:
        """What a snapshot reads: the newest event, and the records that go with it."""
        newest: Any = self.client.xrevrange(self.stage.keys.events, count=1)
        return newest[0][0], {run: self.stage.run(run) for run in DAGS}

    def feed(self) -> list[tuple[str, Any]]:
        return [(entry, decode_event(fields["event"])) for entry, fields in self.stage.entries(self.stage.keys.events)]


def folded(
    snapshot: tuple[str, dict[str, dict[str, str]]] | None,
    feed: Sequence[tuple[str, Any]],
    final: tuple[str, dict[str, dict[str, str]]],
) -> dict[str, RunRow]:
    """The rows from a snapshot and what followed; what is marked as unread is read in the end, as the feed does."""
    runs = Runs()
    if snapshot is not None:
        as_of, records = snapshot
        for run, fields in records.items():
            runs.load(run, fields, as_of)
    for entry, event in feed:
        runs.apply(event, entry)
    as_of, records = final
    for run in list(runs.unread):
        runs.load(run, records[run], as_of)
    return runs.rows


def essence(row: RunRow) -> dict[str, Any]:
    """All but the bytes, which only the record has, and the place of the last event that was looked at."""
    shown = msgspec.to_builtins(row)
    return {name: value for name, value in shown.items() if name not in ("hit_bytes", "miss_bytes", "as_of")}


@settings(max_examples=60, deadline=None)
@given(steps=steps, data=st.data())
def test_folding_from_any_snapshot_on_gives_the_same_rows_as_the_records(
    shared_valkey: Valkey, steps: list[Step], data: st.DataObject
) -> None:
    play = Play(shared_valkey.client())
    snapshots = [play.records()]
    for step in steps:
        play.take(step)
        snapshots.append(play.records())
    feed, final = play.feed(), snapshots[-1]
    as_of, records = final
    expected = Runs()
    for run, fields in records.items():
        expected.load(run, fields, as_of)
    truth = {run: essence(row) for run, row in expected.rows.items()}

    assert {run: essence(row) for run, row in folded(None, feed, final).items()} == truth
    snapshot = data.draw(st.sampled_from(snapshots), label="snapshot")
    # Any part of what the snapshot holds already may be read once more.
    start = data.draw(st.integers(0, sum(place_of(entry) <= place_of(snapshot[0]) for entry, _ in feed)), label="from")
    assert {run: essence(row) for run, row in folded(snapshot, feed[start:], final).items()} == truth


def row_of(runs: Runs) -> RunRow:
    return runs.rows["1-0"]


def accepted(at: int = 1_000) -> tuple[str, RunAccepted]:
    return f"{at}-0", RunAccepted("1-0", "d", 2, True)


def test_a_run_appears_with_its_acceptance() -> None:
    runs = Runs()
    entry, event = accepted()
    runs.apply(event, entry)
    row = row_of(runs)
    assert (row.dag, row.status, row.tasks, row.started_at, row.cache_enabled) == ("d", "RUNNING", 2, 1_000, True)
    assert runs.take_changed() == {"1-0"}
    assert runs.take_changed() == set()
    assert row.duration_ms(1_500) == 500


def test_an_event_that_is_read_twice_counts_once() -> None:
    runs = Runs()
    entry, event = accepted()
    runs.apply(event, entry)
    for _ in range(2):
        runs.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "Hit", 1, 0, "n1"), "1001-0")
    assert (row_of(runs).succeeded, row_of(runs).nodes, row_of(runs).cache_hit) == (1, ("n1",), "Hit")


def test_a_run_that_ended_is_read_again() -> None:
    runs = Runs()
    entry, event = accepted()
    runs.apply(event, entry)
    runs.apply(RunEnded("1-0", "SUCCEEDED"), "3000-0")
    assert runs.unread == {"1-0"}
    assert (row_of(runs).status, row_of(runs).duration_ms(9_999)) == ("SUCCEEDED", 2_000)


def test_a_run_that_is_counted_on_after_its_end_is_read_again() -> None:
    """One that was failed as a whole ends while its tasks still run."""
    runs = Runs()
    runs.load("1-0", {"status": "FAILED", "startTime": "1", "endTime": "2"}, "5-0")
    runs.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "N/A", 0, 0, "n1"), "4-0")
    assert runs.unread == set()
    runs.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "N/A", 0, 0, "n1"), "6-0")
    assert (runs.unread, row_of(runs).succeeded) == ({"1-0"}, 0)


def test_a_run_that_the_snapshot_did_not_have_is_read() -> None:
    runs = Runs()
    runs.apply(TaskLaunched("7-0", "a", 1, "job"), "1-0")
    assert runs.unread == {"7-0"}
    runs.load("7-0", {}, "1-0")
    assert runs.unread == set()
    assert runs.rows == {}


def test_a_rejected_submission_has_no_duration() -> None:
    runs = Runs()
    runs.apply(RunRejected("1-0", "d", 3), "5-0")
    assert (row_of(runs).status, row_of(runs).problems, row_of(runs).duration_ms(9)) == ("REJECTED", 3, None)
    assert runs.unread == {"1-0"}


def test_a_record_older_than_what_was_folded_changes_nothing() -> None:
    runs = Runs()
    entry, event = accepted()
    runs.apply(event, entry)
    runs.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "Miss", 0, 1, "n1"), "1001-0")
    runs.load("1-0", {"status": "RUNNING", "taskSucceeded": "0"}, "1000-0")
    assert row_of(runs).succeeded == 1


def test_a_server_that_came_back_with_less_is_believed() -> None:
    runs = Runs()
    entry, event = accepted()
    runs.apply(event, entry)
    runs.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "Miss", 0, 1, "n1"), "1001-0")
    runs.distrust()
    runs.load("1-0", {"status": "RUNNING", "taskSucceeded": "0"}, "1000-0")
    assert row_of(runs).succeeded == 0


def ended(
    run: str, took: int, *, cache: bool = True, status: str = "SUCCEEDED", start: int = 0
) -> tuple[str, dict[str, str]]:
    fields = {"status": status, "startTime": str(start), "endTime": str(start + took)}
    return run, {**fields, "cacheEnabled": "true" if cache else "false", "taskCount": "1"}


def test_averages_are_of_finished_successful_runs_only() -> None:
    runs = Runs()
    for run, fields in (
        ended("1-0", 100),
        ended("2-0", 300),
        ended("3-0", 800, cache=False),
        ended("4-0", 9_000, status="FAILED"),
        ended("5-0", 9_000, status="CANCELLED", cache=False),
    ):
        runs.load(run, fields, "1-0")
    runs.load("6-0", {"status": "RUNNING", "startTime": "1", "cacheEnabled": "true"}, "1-0")
    assert runs.averages() == Averages(2, 200.0, 1, 800.0, 0.75)
    runs.forget("1-0")
    runs.load("3-0", None, "2-0")
    assert runs.averages() == Averages(1, 300.0, 0, None, None)


def test_the_run_that_ended_last_is_not_the_one_that_started_last() -> None:
    runs = Runs()
    assert runs.last_ended() is None
    for run, fields in (ended("1-0", 5_000), ended("2-0", 100, start=1_000)):
        runs.load(run, fields, "1-0")
    last = runs.last_ended()
    assert last is not None
    assert last.run == "1-0"
    runs.forget("1-0")
    last = runs.last_ended()
    assert last is not None
    assert last.run == "2-0"


@pytest.mark.parametrize("damaged", ["x", "-5", ""])
def test_a_damaged_number_is_none(damaged: str) -> None:
    runs = Runs()
    runs.load("1-0", {"status": "RUNNING", "startTime": damaged, "taskCount": damaged}, "1-0")
    assert row_of(runs).tasks == 0
