"""`helios runs --watch` without a terminal: one line for each run that starts or ends."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.connection import Link
from cli.watch_runs import RunsFollower, change_line
from helios.settings import Settings
from tests.cli.command import Helios
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage

NEXT = "1764027260124-0"


@pytest.fixture
def watching(shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path) -> Iterator[Helios]:
    valkey.ping()
    helios = Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})
    yield helios
    helios.end_started()


def finish(stage: Stage, run: str = RUN) -> None:
    stage.launch("only", run=run)
    stage.end("only", run=run, cache="Hit", hit=1_500)
    stage.settle("only", run=run)
    stage.finalise(run=run)


def test_each_start_and_end_is_one_line(watching: Helios, valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"only": ()})
    process = watching.start("runs", "--watch")
    assert process.stdout is not None
    assert process.stdout.readline() == f"{RUN}  trial  RUNNING, 1 tasks\n"
    finish(stage)
    line = process.stdout.readline()
    assert line.startswith(f"{RUN}  trial  SUCCEEDED, 1 of 1 tasks succeeded")
    assert "cache Hit, 1.5 KB hit, 0 B missed" in line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_json_is_an_object_a_line(watching: Helios, valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"only": ()})
    process = watching.start("runs", "--watch", "-o", "json")
    assert process.stdout is not None
    first: dict[str, Any] = json.loads(process.stdout.readline())
    finish(stage)
    second: dict[str, Any] = json.loads(process.stdout.readline())
    assert (first["status"], second["status"]) == ("RUNNING", "SUCCEEDED")
    assert set(first) == set(second)
    assert second["cacheHitBytes"] == 1_500


def test_only_what_changed_is_read_again(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"only": ()})
    follower = RunsFollower(Link(valkey, Settings()), 20, None)
    assert [run["dagId"] for run in follower.read()] == [RUN]
    assert follower.read(block_ms=1) == []
    stage.open({"only": ()}, run=NEXT)
    assert [run["dagId"] for run in follower.read()] == [NEXT]
    assert [run["dagId"] for run in follower.newest()] == [NEXT, RUN]


def test_a_dag_that_is_not_asked_for_is_left_out(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    follower = RunsFollower(Link(valkey, Settings()), 20, "wanted")
    assert follower.read() == []
    stage.open({"only": ()})
    stage.open({"only": ()}, run=NEXT, name="wanted")
    assert [run["dagId"] for run in follower.read()] == [NEXT]


def test_a_line_cannot_move_the_cursor(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"only": ()})
    valkey.hset(stage.keys.run(RUN), "dagName", "evil\x1b[2J")
    (run,) = RunsFollower(Link(valkey, Settings()), 20, None).read()
    assert "\x1b" not in change_line(run)
