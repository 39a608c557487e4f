"""What the inputs cost and what the hits saved, from the attempts' records to the sums of runs, DAGs and nodes."""

from typing import Any

import pytest
import redis

from helios.keys import node_counted
from helios.records import InputRecord, TaskView, read_tasks
from helios.transitions import commit_one
from services.collector.classify import COUNTED_AT_MOST
from services.collector.metrics import sums
from tests.stage import RUN, Stage

WARM = InputRecord("x", 100, "warm", source="cache", ms=2, savedMs=700)
FROM_PEER = InputRecord("y", 30, "evicted", source="peer", ms=50)
FROM_STORE = InputRecord("z", 7, "never-here", source="store", ms=400)
BOTH_MISSED = {"miss": 37, "fetchMs": 450, "peerBytes": 30, "storeBytes": 7, "inputs": [FROM_PEER, FROM_STORE]}
HIT = {"hit": 100, "fetchMs": 2, "savedMs": 700, "inputs": [WARM]}


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def account(fields: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(fields[name]) for name in ("cacheFetchMs", "cacheSavedMs", "cachePeerBytes", "cacheStoreBytes"))


def add_up(stage: Stage, whose: str) -> dict[str, int]:
    found: Any = stage.client.hgetall(stage.keys.stats(whose))
    return {name: int(number) for name, number in found.items()}


def one_run(stage: Stage, run: str = RUN, name: str = "trial") -> None:
    """Of two tasks on two nodes: the first misses, the second hits."""
    stage.open({"a": (), "b": ("a",)}, run=run, name=name)
    for task, node, cache, told in (("a", "n1", "Miss", BOTH_MISSED), ("b", "n2", "Hit", HIT)):
        stage.launch(task, run=run)
        stage.end(task, run=run, node=node, cache=cache, **told)
        stage.settle(task, run=run)
    assert stage.finalise(run) == 1


def test_a_run_holds_what_its_inputs_took_saved_and_came_from(stage: Stage) -> None:
    one_run(stage)
    assert account(stage.run()) == (452, 700, 30, 7)


def test_while_a_run_goes_on_nothing_is_said_of_it(stage: Stage) -> None:
    stage.open({"a": ()})
    stage.launch("a")
    stage.end("a", cache="Miss", **BOTH_MISSED)
    assert "cacheFetchMs" not in stage.run()


def test_dag_and_nodes_have_sums_over_their_runs(stage: Stage) -> None:
    for number in (0, 1):
        one_run(stage, f"176402726012{number}-0")
    moved = {"missBytes": 74, "peerBytes": 60, "storeBytes": 14, "fetchMs": 900, "misses": 4}
    evicted, new = {"inputs:evicted": 2, "bytes:evicted": 60}, {"inputs:never-here": 2, "bytes:never-here": 14}
    warm = {"inputs:warm": 2, "bytes:warm": 200}
    first = {"runs": 2, "tasks": 2, **moved, **evicted, **new}
    second = {"runs": 2, "tasks": 2, "hitBytes": 200, "fetchMs": 4, "savedMs": 1400, "hits": 2, **warm}
    assert add_up(stage, node_counted("n1")) == first
    assert add_up(stage, node_counted("n2")) == second
    together = {name: first.get(name, 0) + second.get(name, 0) for name in first | second}
    assert add_up(stage, "trial") == {**together, "runs": 2}
    assert set(stage.client.zrange(stage.keys.counted, 0, -1)) == {"trial", ":node:n1", ":node:n2"}


def test_a_run_counts_once_however_often_its_end_is_delivered(stage: Stage) -> None:
    stage.open({"a": ()})
    stage.pass_through("a", cache="Miss", **BOTH_MISSED)
    call = stage.finalise_call()
    assert [commit_one(stage.client, call) for _ in range(3)] == [1, 0, 0]
    assert add_up(stage, "trial")["runs"] == 1


def test_what_earlier_attempts_took_and_moved_counts_too(stage: Stage) -> None:
    """As their bytes do: a retry does not make undone what was fetched."""
    stage.open({"a": ()}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED", cache="Miss", **BOTH_MISSED)
    assert stage.settle("a") == "retried"
    stage.launch("a", 2)
    stage.end("a", 2, cache="Hit", **HIT)
    stage.settle("a", 2)
    stage.finalise()
    assert account(stage.run()) == (452, 700, 30, 7)
    assert (stage.run()["cacheHitBytes"], stage.run()["cacheMissBytes"]) == ("100", "37")
    counted = add_up(stage, "trial")
    assert (counted["tasks"], counted["missBytes"], counted["hits"], counted.get("misses")) == (1, 37, 1, None)


def test_a_retry_of_an_attempt_whose_record_cannot_be_read_goes_on(stage: Stage) -> None:
    stage.open({"a": ()}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED")
    for broken in ('{"fetchMs":', '"text"', '{"fetchMs": "7", "peerBytes": -5, "storeBytes": 1e300}'):
        stage.client.hset(stage.keys.task(RUN, "a"), "record", broken)
        copy = stage.task("a")
        assert stage.settle("a") == "retried"
        assert not any(name.startswith(("earlierFetch", "earlierP")) for name in stage.task("a"))
        stage.client.hset(stage.keys.task(RUN, "a"), mapping=copy)


@pytest.mark.parametrize("damage", ["dag stats", "node stats", "counted", "full"])
def test_sums_that_are_broken_or_full_keep_no_run_from_its_end(stage: Stage, damage: str, only_real: None) -> None:
    keys = stage.keys
    if damage == "full":
        stage.client.hset(keys.stats("trial"), "missBytes", 2**63 - 1)
    else:
        broken = {"dag stats": keys.stats("trial"), "node stats": keys.stats(":node:n1"), "counted": keys.counted}
        stage.client.set(broken[damage], "oops")
    one_run(stage)
    assert (stage.run()["status"], account(stage.run())) == ("SUCCEEDED", (452, 700, 30, 7))
    assert stage.client.zscore(keys.active, RUN) is None


def test_the_largest_account_that_is_taken_adds_up_over_the_largest_run(stage: Stage) -> None:
    """A forged number that passes as plausible still breaks no counter."""
    stage.open({"a": ()})
    stage.launch("a")
    large = COUNTED_AT_MOST
    stage.end("a", cache="Miss", miss=large, fetchMs=large, peerBytes=large, savedMs=large)
    (view,) = read_tasks(stage.client, stage.keys, RUN, ["a"])
    found = sums([view] * 10_000, {"dagName": "trial"})
    assert max(found["trial"].values()) == 10_000 * large < 2**63


def test_a_cause_that_there_is_not_makes_no_field() -> None:
    """Causes come from pods; sums are kept for good."""
    made_up = InputRecord("x", 5, "x" * 1_000)
    found = sums([TaskView(name="a", status="SUCCEEDED", inputs=[made_up])], {"dagName": "d"})
    assert found == {"d": {"runs": 1, "tasks": 1, "misses": 1, "inputs:unknown": 1, "bytes:unknown": 5}}


def test_of_too_many_dags_and_nodes_those_without_a_run_for_longest_lose_their_sums(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios.transitions.SUMS_KEPT", 4)
    for moment, whose in enumerate((node_counted("gone"), "old", "older")):
        stage.client.zadd(stage.keys.counted, {whose: moment})
        stage.client.hset(stage.keys.stats(whose), "runs", 1)
    one_run(stage)
    assert set(stage.client.zrange(stage.keys.counted, 0, -1)) == {"older", "trial", ":node:n1", ":node:n2"}
    assert not stage.client.exists(stage.keys.stats(":node:gone"), stage.keys.stats("old"))
    assert stage.client.exists(stage.keys.stats("older"), stage.keys.stats("trial")) == 2
