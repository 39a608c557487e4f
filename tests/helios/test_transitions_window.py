"""The stored window: so many ended runs of each DAG, and of all; the keys of older ones are really gone."""

import pytest
import redis

from helios.events import RunRejected
from helios.transitions import REJECTED_KEPT, UNREADABLE_DAG, commit, commit_one, reject_run
from services.submitter.accept import open_calls
from tests.stage import Stage, parsed


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def run_of(number: int) -> str:
    return f"{1764027260000 + number}-0"


def ended(stage: Stage, number: int, *, name: str = "trial", kept: int = 100, in_all: int = 10_000) -> str:
    run = run_of(number)
    stage.open({"a": []}, run=run, name=name)
    for attempt in (1, 2):
        for step in ("fetch", "task", "publish"):
            stage.client.xadd(stage.keys.log(run, "a", attempt, step), {"line": "x"})
    stage.launch("a", run=run)
    stage.end("a", status="FAILED", disrupted=True, run=run)
    stage.settle("a", run=run)
    stage.launch("a", 2, run=run)
    stage.end("a", 2, run=run)
    stage.settle("a", 2, run=run)
    stage.client.set(stage.keys.watched(run), "1")
    assert stage.finalise(run, kept=kept, in_all=in_all) == 1
    return run


def test_a_hundred_runs_of_a_dag_are_kept_and_no_key_of_the_next_oldest(stage: Stage) -> None:
    runs = [ended(stage, number) for number in range(103)]
    assert stage.client.zrange(stage.keys.dag_runs("trial"), 0, -1) == runs[3:]
    assert stage.client.zrange(stage.keys.runs, 0, -1) == runs[3:]
    for run in runs[:3]:
        assert stage.client.keys(f"*{run}*") == []
    assert len(stage.client.keys(f"*{runs[3]}*")) == 4 + 1 + 6, "run, dag, tasks, watched; one task; six logs"


def test_the_dags_of_forgotten_runs_are_remembered_and_do_not_keep_a_run_from_ending(stage: Stage) -> None:
    runs = [ended(stage, number, name=f"dag-{number % 2}", kept=1) for number in range(4)]
    noted = [(fields["run"], fields["dag"]) for _, fields in stage.client.xrange(stage.keys.forgotten)]
    assert noted == [(runs[0], "dag-0"), (runs[1], "dag-1")]
    stage.client.delete(stage.keys.forgotten)
    stage.client.set(stage.keys.forgotten, "of another type")
    last = ended(stage, 4, name="dag-0", kept=1)
    assert stage.client.zrange(stage.keys.runs, 0, -1) == [runs[3], last]


def test_dags_have_windows_of_their_own(stage: Stage) -> None:
    runs = [ended(stage, number, name=f"dag-{number % 2}", kept=2) for number in range(8)]
    assert stage.client.zrange(stage.keys.runs, 0, -1) == runs[4:]


def test_the_window_over_all_dags_forgets_the_oldest_whosever_it_is(stage: Stage) -> None:
    runs = [ended(stage, number, name=f"dag-{number}", in_all=3) for number in range(5)]
    assert stage.client.zrange(stage.keys.runs, 0, -1) == runs[2:]
    assert stage.client.zcard(stage.keys.dag_runs("dag-0")) == 0
    assert stage.client.keys(f"*{runs[0]}*") == []


def test_a_run_that_has_not_ended_is_never_forgotten(stage: Stage) -> None:
    stage.open({"a": []}, run=run_of(0))
    for number in range(1, 5):
        ended(stage, number, kept=2)
    kept = stage.client.zrange(stage.keys.dag_runs("trial"), 0, -1)
    assert run_of(0) in kept
    assert stage.run(run_of(0))["status"] == "RUNNING"


def test_rejected_submissions_are_kept_in_a_window_of_their_own(stage: Stage) -> None:
    """Whoever sends nonsense in a loop neither fills the memory nor drives out the runs of others."""
    good = ended(stage, 0)
    # The oldest was on the way to be opened when it turned out to be poison.
    commit_one(stage.client, open_calls(stage.keys, run_of(1), parsed({"a": []}), None)[0])
    runs = [run_of(number) for number in range(1, REJECTED_KEPT + 4)]
    commit(
        stage.client,
        [
            reject_run(
                stage.keys,
                run=run,
                score=float(number),
                fields={"status": "REJECTED"},
                event=RunRejected(run, UNREADABLE_DAG, 1),
            )
            for number, run in enumerate(runs)
        ],
    )
    assert stage.client.zrange(stage.keys.dag_runs(UNREADABLE_DAG), 0, -1) == runs[3:]
    assert set(stage.client.zrange(stage.keys.runs, 0, -1)) == {good, *runs[3:]}
    for run in runs[:3]:
        assert stage.client.keys(f"*{run}*") == []
