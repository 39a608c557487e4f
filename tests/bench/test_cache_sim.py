"""The simulator: its books balance, more room never loses what it must not, and the demand pays off."""

from pathlib import Path

import msgspec
import pytest
import redis

from bench.cache_sim import POLICIES, by_node, compare, simulate, traces
from bench.cache_trace import DATASETS, Job, Use, distinct_bytes, occasions, recorded_jobs, schedule
from bench.replay import DATA, read_workflow
from cli.connection import Link
from cli.recording import record
from helios.records import AttemptRecord, InputRecord, OutputRecord
from helios.settings import Settings
from tests.stage import RUN, Stage


@pytest.fixture(scope="module")
def days() -> dict[str, list[Job]]:
    return occasions([read_workflow(DATA.read_bytes())])


def test_every_byte_is_a_hit_or_a_miss_whatever_the_policy_and_the_size(days: dict[str, list[Job]]) -> None:
    for jobs in days.values():
        read = sum(use.bytes for job in jobs for use in job.inputs)
        for part in (0.1, 0.5, 1.2):
            for policy in POLICIES.values():
                outcome = simulate(jobs, int(distinct_bytes(jobs) * part), policy)
                assert outcome.hit_bytes + outcome.miss_bytes == read


def test_with_room_for_everything_each_external_file_is_downloaded_once(days: dict[str, list[Job]]) -> None:
    for jobs in days.values():
        made = {use.key for job in jobs for use in job.outputs}
        outside = {use.key: use.bytes for job in jobs for use in job.inputs if use.key not in made}
        for policy in POLICIES.values():
            outcome = simulate(jobs, 2 * distinct_bytes(jobs), policy)
            assert (outcome.miss_bytes, outcome.evicted_bytes) == (sum(outside.values()), 0)


def test_tasks_start_after_their_parents_and_never_more_at_once_than_there_are_slots(
    days: dict[str, list[Job]],
) -> None:
    for jobs in days.values():
        made: dict[str, float] = {}
        for job in jobs:
            for use in job.outputs:
                made[use.key] = min(job.end, made.get(use.key, job.end))
        begun = sorted([(job.start, 1) for job in jobs] + [(job.end, -1) for job in jobs])
        at_once = most = 0
        for _, change in begun:
            at_once += change
            most = max(most, at_once)
        assert most <= 8
        assert all(made.get(use.key, 0.0) <= job.start for job in jobs for use in job.inputs)
        assert all(job.submitted <= job.start for job in jobs)


def test_a_sweep_that_does_not_fit_is_where_knowing_the_demand_pays(days: dict[str, list[Job]]) -> None:
    """The trace that the keeper's target is about: least-recently-used evicts what the next task needs."""
    jobs = days["sweep"]
    size = int(0.6 * distinct_bytes(jobs))
    lru, keeper = (simulate(jobs, size, POLICIES[name]) for name in ("lru", "keeper"))
    assert keeper.miss_bytes <= 0.8 * lru.miss_bytes


def test_a_file_that_is_read_in_turns_by_two_nodes_is_downloaded_by_both() -> None:
    jobs = [Job(0, at, at + 1, [Use("x", 10)], [], node) for at, node in enumerate(("a", "b", "a", "b"))]
    outcomes = [simulate(node, 100, POLICIES["keeper"]) for node in by_node(jobs)]
    assert [(each.hit_bytes, each.miss_bytes) for each in outcomes] == [(10, 10), (10, 10)]


def test_figures_come_for_each_size_and_policy(days: dict[str, list[Job]]) -> None:
    metrics = compare("sweep", days["sweep"], "0.001,0.002")
    for policy in POLICIES:
        assert 0 <= metrics[f"sweep, 0.001 GB: {policy}"].value <= 100
    assert schedule([], 1) == []
    assert DATASETS > 1


def test_a_recording_is_replayed_as_it_was(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = Stage(valkey, 0)
    stage.open({"first": (), "second": ("first",)})
    made = OutputRecord("out", 7, "b" * 64)
    kept = {
        "first": AttemptRecord(inputs=[InputRecord("in", 5, "never-here", "store", 2000, 0, "a" * 64)], outputs=[made])
    }
    kept["second"] = AttemptRecord(inputs=[InputRecord("out", 7, "warm", sha256="b" * 64)])
    for task, attempt in kept.items():
        stage.pass_through(task)
        times = {"queuedAt": 1000, "launchedAt": 2000, "endedAt": 4000}
        text = msgspec.json.encode(msgspec.structs.replace(attempt, node="n1")).decode()
        valkey.hset(stage.keys.task(RUN, task), mapping={**times, "record": text})
    file = tmp_path / "runs.gz"
    record(Link(valkey, Settings(partitions=1)), [RUN], file)
    jobs = recorded_jobs(file)
    assert [[use.key for use in job.inputs] for job in jobs] == [["a" * 64], ["b" * 64]]
    assert jobs[0].inputs[0].seconds == 2.0
    assert jobs[0].outputs == [Use("b" * 64, 7)]
    assert traces([file]).keys() == {"runs.gz"}
