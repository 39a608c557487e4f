"""What a script must not do when it cannot finish: leave half of its writes behind, or emit at every try."""

from collections.abc import Callable, Iterator

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from helios.events import RunEnded, RunRejected
from helios.transitions import (
    Call,
    NewTask,
    abandon_run,
    cancel_run,
    claim_request,
    commit,
    commit_one,
    dead_letter,
    fail_task,
    open_tasks,
    reject_run,
)
from helios.wire import TRANSIENT, error_code
from services.submitter.accept import open_calls
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage, parsed


@pytest.fixture
def stage(client: redis.Redis) -> Stage:
    return Stage(client)


def content(client: redis.Redis) -> dict[str, object]:
    """Every key as the server dumps it, pending lists aside."""
    found: dict[str, object] = {}
    for key in sorted(client.keys("*")):
        match client.type(key):
            case "hash":
                found[key] = client.hgetall(key)
            case "stream":
                found[key] = client.xrange(key)
            case "zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            case "list":
                found[key] = client.lrange(key, 0, -1)
            case _:
                found[key] = client.get(key)
    return found


def prepared(stage: Stage) -> dict[str, tuple[str, Call]]:
    """For each transition a call that would apply, and a key it writes to besides."""
    stage.open({"a": [], "b": ["a"], "w": [], "x": [], "y": ["x"], "z": []})
    keys = stage.keys
    launching = stage.launch_call("z")
    for task in "awx":
        stage.launch(task)
    stage.end("a")
    stage.end("x", status="FAILED")
    return {
        "launch": (keys.launched, launching),
        "end_attempt": (keys.finished, stage.end_call("w")),
        "end_attempt of a run": (keys.run(RUN), stage.end_call("w")),
        "settle": (keys.ready, stage.settle_call("a")),
        "settle of a child": (keys.task(RUN, "b"), stage.settle_call("a")),
        "settle of a run": (keys.run(RUN), stage.settle_call("a")),
        "fail_task of a dependent": (
            keys.task(RUN, "y"),
            fail_task(keys, entry=stage.entry_of(keys.finished, "x"), run=RUN, task="x", attempt=1, dependents=["y"])[
                0
            ],
        ),
        "cancel_run": (keys.cancelled, cancel_run(keys, run=RUN, tasks=list("abwxyz"))[0]),
        "cancel_run of a settled stream": (keys.settled, cancel_run(keys, run=RUN, tasks=list("abwxyz"))[0]),
        "finalise": (keys.runs, stage.finalise_call()),
        "finalise of the active runs": (keys.active, stage.finalise_call()),
        "finalise of a DAG's runs": (keys.dag_runs("trial"), stage.finalise_call()),
        "open_run": (keys.ready, open_calls(keys, "1764027260999-0", parsed({"a": []}), None)[-1]),
        "open_run of the runs": (keys.runs, open_calls(keys, "1764027260999-0", parsed({"a": []}), None)[-1]),
        "reject_run": (
            keys.runs,
            reject_run(
                keys,
                run="1764027260998-0",
                score=1.0,
                fields={"status": "REJECTED"},
                event=RunRejected("1764027260998-0", "d", 1),
            ),
        ),
        "dead_letter": (
            keys.dead,
            dead_letter(
                keys.dead, keys.launched, group="collector", entry="1-1", reason="r", deliveries=1, fields={"run": RUN}
            ),
        ),
    }


CASES = (
    "launch",
    "end_attempt",
    "end_attempt of a run",
    "settle",
    "settle of a child",
    "settle of a run",
    "fail_task of a dependent",
    "cancel_run",
    "cancel_run of a settled stream",
    "finalise",
    "finalise of the active runs",
    "finalise of a DAG's runs",
    "open_run",
    "open_run of the runs",
    "reject_run",
    "dead_letter",
)


@pytest.mark.parametrize("case", CASES)
def test_a_key_of_the_wrong_type_leaves_nothing_written(stage: Stage, case: str) -> None:
    """Types are met before the first write, so that trying again emits nothing again."""
    key, call = prepared(stage)[case]
    stage.client.delete(key)
    stage.client.set(key, "of the wrong type")
    before = content(stage.client)
    for _ in range(2):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            commit_one(stage.client, call)
    assert content(stage.client) == before


@pytest.mark.parametrize("field", ["retriesLeft", "waiting"])
@pytest.mark.parametrize("value", [None, "many"])
def test_a_damaged_record_emits_at_most_once(stage: Stage, field: str, value: str | None) -> None:
    """A number that is missing or is none must not stop the script between its emit and its flip."""
    stage.open({"a": [], "a2": [], "b": ["a"], "c": ["a", "a2"]}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED" if field == "retriesLeft" else "SUCCEEDED")
    damaged = stage.keys.task(RUN, "a" if field == "retriesLeft" else "c")
    if value is None:
        stage.client.hdel(damaged, field)
    else:
        stage.client.hset(damaged, field, value)
    call = stage.settle_call("a")
    ready = stage.client.xlen(stage.keys.ready)
    results = [commit(stage.client, [call])[0] for _ in range(3)]
    assert stage.client.xlen(stage.keys.ready) - ready <= 1
    if field == "waiting":
        assert all(error_code(result) == "WRONGTYPE" for result in results)
        assert stage.client.xlen(stage.keys.ready) == ready


def test_missing_counters_do_not_stop_a_settle_half_way(stage: Stage) -> None:
    stage.open({"a": [], "b": ["a"]})
    stage.launch("a")
    stage.end("a")
    stage.client.hdel(stage.keys.run(RUN), "taskFailed", "taskUpstreamFailed", "taskCancelled")
    assert stage.settle("a") == "settled"
    assert stage.emitted(stage.keys.ready) == [("b", "1")]


def test_a_run_without_a_start_time_can_still_be_finalised(stage: Stage) -> None:
    stage.open({"a": []})
    stage.pass_through("a")
    stage.client.hdel(stage.keys.run(RUN), "startTime")
    assert stage.finalise() == 1
    assert stage.client.zcard(stage.keys.active) == 0


def test_a_transition_of_a_run_that_is_gone_only_acknowledges(stage: Stage) -> None:
    """Stale entries of a deleted run bring nothing of it back."""
    stage.open({"a": []})
    calls = [stage.launch_call("a"), stage.end_call("a", entry="1-1"), stage.settle_call("a"), stage.finalise_call()]
    for key in stage.client.keys(f"*{RUN}*"):
        stage.client.delete(key)
    assert [isinstance(result, Exception) for result in commit(stage.client, calls)] == [False] * 4
    assert stage.client.keys(f"*{RUN}*") == []
    assert stage.client.xlen(stage.keys.ready) == 0


def test_a_record_of_the_wrong_type_keeps_a_run_from_opening_without_emitting(stage: Stage) -> None:
    stage.client.set(stage.keys.task(RUN, "b"), "oops")
    calls = open_calls(stage.keys, RUN, parsed({"a": [], "b": []}), None)
    for _ in range(2):
        assert isinstance(commit(stage.client, calls[:1])[0], ResponseError)
    assert stage.client.xlen(stage.keys.ready) == 0


def test_the_events_feed_stops_nothing(stage: Stage) -> None:
    """It is for watchers: whatever sits in its place, runs go on."""
    stage.client.set(stage.keys.events, "of the wrong type")
    stage.open({"a": [], "b": ["a"]}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED")
    stage.settle("a")
    stage.launch("a", 2)
    stage.end("a", 2)
    stage.settle("a", 2)
    stage.cancel(["a", "b"])
    assert stage.finalise() == 1


def test_a_request_id_goes_to_the_first_run_that_brings_it(client: redis.Redis) -> None:
    stage = Stage(client)
    name = "r {p9} é:\0"
    first = claim_request(stage.keys, request_id=name, run="1-0", digest="d")
    again = claim_request(stage.keys, request_id=name, run="2-0", digest="d")
    other = claim_request(stage.keys, request_id=name, run="3-0", digest="e")
    assert commit(client, [first, again, other]) == [["1-0", "d"], ["1-0", "d"], ["1-0", "d"]]
    assert client.ttl(stage.keys.request(name)) > 86_400


def test_a_run_that_cannot_be_finalised_is_abandoned_once(stage: Stage) -> None:
    stage.open({"a": []})
    stage.pass_through("a")
    stage.client.delete(stage.keys.active)
    stage.client.set(stage.keys.active, "oops")
    call = abandon_run(stage.keys, run=RUN, reason="r", event=RunEnded(RUN, "FAILED"))
    assert commit(stage.client, [call, call]) == [1, 0]
    assert (stage.run()["status"], stage.run()["reason"]) == ("FAILED", "r")


def test_scripts_that_the_server_has_forgotten_are_loaded_again(stage: Stage) -> None:
    stage.open({"a": []})
    stage.client.script_flush()
    calls = [stage.launch_call("a"), stage.launch_call("a")]
    assert commit(stage.client, calls) == [["QUEUED", "1"], ["RUNNING", "1"]]


def test_the_largest_chunk_fits_into_one_call(stage: Stage) -> None:
    """Lua unpacks some thousands of values at most."""
    tasks = [NewTask(f"t{number}", 0, 0, (), b"{}") for number in range(1_000)]
    assert commit_one(stage.client, open_tasks(stage.keys, run=RUN, before=0, tasks=tasks)) == 1


@pytest.fixture
def full(valkey: redis.Redis) -> Iterator[Callable[[], None]]:
    """Makes the server refuse writes for want of memory, until the test is over."""
    yield lambda: valkey.config_set("maxmemory", "1")
    valkey.config_set("maxmemory", "0")


@pytest.mark.parametrize("case", CASES[:2] + CASES[3:4] + CASES[6:8] + CASES[9:10] + CASES[12:13] + CASES[14:])
def test_a_server_out_of_memory_leaves_nothing_written_and_succeeds_later(
    valkey: redis.Redis, full: Callable[[], None], case: str
) -> None:
    stage = Stage(valkey)
    _, call = prepared(stage)[case]
    commit(valkey, [call])  # once, so that the script is loaded
    valkey.flushall()
    stage = Stage(valkey)
    _, call = prepared(stage)[case]
    before = content(valkey)
    full()
    error = commit(valkey, [call])[0]
    assert isinstance(error, OutOfMemoryError)
    assert error_code(error) in TRANSIENT
    assert content(valkey) == before
    valkey.config_set("maxmemory", "0")
    assert not isinstance(commit(valkey, [call])[0], Exception)
    assert content(valkey) != before


def test_a_read_only_replica_is_told_from_an_error_that_stays(own_valkey: Valkey) -> None:
    client = own_valkey.client()
    stage = Stage(client)
    stage.open({"a": []})
    call = stage.launch_call("a")
    client.replicaof("127.0.0.1", "1")
    error = commit(client, [call])[0]
    assert isinstance(error, ReadOnlyError)
    assert error_code(error) in TRANSIENT
    client.replicaof("no", "one")
    assert commit(client, [call]) == [["QUEUED", "1"]]


def test_no_script_touches_a_key_outside_its_partition(stage: Stage) -> None:
    """Redis Cluster refuses a script whose keys are in two slots: they all carry the hash tag."""
    for _, call in prepared(stage).values():
        assert all(key.startswith("helios:{p0}:") for key in call.keys)
