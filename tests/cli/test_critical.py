"""`helios critical`: the path from Redis's records, in words and as JSON."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.commands.critical import path_lines, read_path
from cli.connection import Link
from cli.run_object import read_run
from helios.records import InputRecord
from services.submitter.accept import reject
from tests.cli.command import Helios
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage

MISS = InputRecord("big", 100, "never-here", source="store", ms=6_000)


@pytest.fixture
def command(shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path) -> Iterator[Helios]:
    valkey.ping()
    helios = Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})
    yield helios
    helios.end_started()


def played(client: redis.Redis) -> Stage:
    """A run of two tasks and a third aside, with times set by hand: 20 s, of which 6 s were a download."""
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",), "aside": ("a",)})
    begin = int(stage.run()["startTime"])
    a = {"fetchElapsedMs": 6_000, "startedAt": begin + 7_000, "finishedAt": begin + 9_000}
    stage.pass_through("a", cache="Miss", miss=100, inputs=[MISS], **a)
    b = {"fetchElapsedMs": 10, "startedAt": begin + 11_000 + 60_000, "finishedAt": begin + 19_000 + 60_000}
    stage.pass_through("b", node="n2", **b)
    stage.pass_through("aside")
    stage.finalise()
    times = {
        "a": {"launchedAt": 100, "pendingAt": 200, "scheduledAt": 450, "endedAt": 10_000},
        "b": {"queuedAt": 10_005, "launchedAt": 10_105, "endedAt": 19_500},
        "aside": {"queuedAt": 10_005, "launchedAt": 10_105, "endedAt": 12_000},
    }
    for task, moments in times.items():
        client.hset(stage.keys.task(RUN, task), mapping={name: begin + time for name, time in moments.items()})
    client.hset(stage.keys.run(RUN), mapping={"endTime": begin + 20_000, "durationMs": 20_000})
    return stage


def test_the_table_tells_where_the_time_went_and_what_the_cache_could_save(
    command: Helios, valkey: redis.Redis
) -> None:
    played(valkey)
    done = command("critical", "@latest")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == f"trial {RUN} SUCCEEDED in 20.0 s"
    assert lines[2:6] == [
        "TASK QUEUE CREATE SCHEDULE PULL FETCH RUN PUBLISH SETTLE TIME SHARE",
        "a 100 ms 100 ms 250 ms 550 ms 6.0 s 2.0 s 1.0 s 5 ms 10.0 s 50 %",
        "b 100 ms ? ? 1.4 s 10 ms 8.0 s 0 ms 500 ms 10.0 s 50 %",
        "all 200 ms 100 ms 250 ms 1.9 s 6.0 s 10.0 s 1.0 s 505 ms 20.0 s",
    ]
    assert lines[6] == "the clock of n2 was 59.5 s ahead of Redis's at b"
    assert lines[8:] == [
        "with everything cached it would have taken 14.0 s, 6.0 s less",
        "its critical path would be the same",
    ]


def test_json_says_the_same_in_numbers(command: Helios, valkey: redis.Redis) -> None:
    played(valkey)
    found = command("critical", RUN, "-o", "json").json()
    assert (found["run"], found["dagName"], found["status"], found["ms"]) == (RUN, "trial", "SUCCEEDED", 20_000)
    assert [step["task"] for step in found["path"]] == ["a", "b"]
    assert found["path"][1] == {
        "task": "b",
        "status": "SUCCEEDED",
        "attempt": 1,
        "node": "n2",
        "ms": 9_995,
        "phases": {
            "earlier": None,
            "queue": 100,
            "create": None,
            "schedule": None,
            "pull": 1_385,
            "fetch": 10,
            "run": 8_000,
            "publish": 0,
            "settle": 500,
        },
        "skewMs": -59_500,
        "skipped": False,
        "share": 9_995 / 20_000,
    }
    assert found["allCached"] == {"ms": 14_000, "path": ["a", "b"], "missed": 1, "unknown": 0, "savedMs": 6_000}


def test_a_run_that_goes_on_is_shown_so_far(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",)})
    stage.pass_through("a")
    stage.launch("b")
    fields = read_run(link, RUN)
    path = read_path(link, RUN, fields)
    assert [step.task for step in path.path] == ["a", "b"]
    lines = path_lines(fields, path)
    assert lines[0].endswith("so far")
    assert lines[-1] == "what it would take with everything cached is known when it has ended"


def test_a_retried_task_has_its_earlier_attempts(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": ()}, retries={"a": 1})
    stage.launch("a")
    stage.end("a", status="FAILED")
    stage.settle("a")
    stage.launch("a", 2)
    stage.end("a", 2)
    stage.settle("a", 2)
    stage.finalise()
    (step,) = read_path(link, RUN, read_run(link, RUN)).path
    assert step.attempt == 2
    assert step.phases["earlier"] is not None


def test_a_failed_run_and_one_where_nothing_ran(command: Helios, valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": (), "b": ("a",)})
    stage.launch("a")
    stage.end("a", status="FAILED")
    stage.settle("a")
    stage.fail("a", ["b"])
    stage.finalise()
    done = command("critical", RUN)
    assert (done.code, "FAILED in" in done.out, "no input missed" in done.out) == (0, True, True)
    second = "1764027260124-0"
    stage.open({"a": ()}, run=second)
    stage.cancel(["a"], run=second)
    stage.finalise(second)
    assert "no task of it had its turn" in command("critical", second).out


def test_a_rejected_run_has_no_path(command: Helios, valkey: redis.Redis) -> None:
    reject(valkey, RUN, ["no"], 1)
    done = command("critical", RUN)
    assert (done.code, "rejected" in done.err) == (2, True)
    assert command("critical", "1-1").code == 2
