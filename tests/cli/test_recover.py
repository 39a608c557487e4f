"""Redis is emptied under runs that go on: local mode with all its real parts, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.connection import uses_own_servers
from cli.embedded.home import Home
from cli.embedded.lease import running_stack
from helios.keys import Keys
from helios.streams import CLIENT_OPTIONS
from tests.cli.command import Helios
from tests.waiting import wait_until

KEYS = Keys(0)

DAG = """\
dagName: lost
tasks:
  - name: early
    image: alpine
    command: [sh, -c, "echo ran >> {folder}/early; echo one > o"]
    outputs: [o]
  - name: slow
    image: alpine
    command: [sh, -c, "echo ran >> {folder}/slow; while [ ! -e {folder}/go ]; do sleep 0.1; done; echo two > p"]
    outputs: [p]
  - name: last
    image: alpine
    command: [sh, -c, "cat o p > {folder}/last; cat o p > q"]
    inputs: [{{fromTask: early, name: o}}, {{fromTask: slow, name: p}}]
    outputs: [q]
"""

ENDED = """\
dagName: over
tasks:
  - {name: only, image: alpine, command: [sh, -c, "echo x > o"], outputs: [o]}
"""


def stored(helios: Helios, run: str) -> dict[str, Any]:
    found = [each for each in helios("recover", "-o", "json").json() if each["run"] == run]
    return found[0] if found else {}


@pytest.mark.timeout(180)
def test_runs_are_rebuilt_after_redis_was_emptied_and_nothing_that_succeeded_is_done_again(tmp_path: Path) -> None:
    """The task that had succeeded is skipped, the one under way goes on in its own Job, the last one follows;
    a run that had ended does not come back, and doing it all twice changes nothing.
    """
    home = Home(tmp_path / "home")
    helios = Helios(tmp_path, {"HELIOS_HOME": str(home.path), "HELIOS_LINGER_SECONDS": "60"})
    assert not uses_own_servers()
    up = helios.start("up")
    try:
        stack = wait_until("the stack runs", lambda: (s := running_stack(home)) and s.phase == "running" and s, 60)
        client = redis.Redis.from_url(stack.redis_url, **CLIENT_OPTIONS)
        over = helios("run", helios.dag("over", ENDED), "-o", "json").json()["dagId"]
        run = helios("submit", helios.dag("lost", DAG.format(folder=tmp_path))).out.strip()
        wait_until("what has succeeded is stored", lambda: stored(helios, run).get("taskSucceeded") == 1, 40)
        wait_until("the slow task is at work", lambda: (tmp_path / "slow").exists(), 20)
        assert stored(helios, run)["known"]
        outputs = [client.hget(KEYS.task(run, "early"), "record")]

        client.flushall()
        wait_until("the groups are made again", lambda: client.exists(KEYS.ready) and client.exists(KEYS.launched), 20)
        shown = stored(helios, run)
        assert (shown["taskCount"], shown["taskSucceeded"], shown["known"]) == (3, 1, False)
        assert client.exists(KEYS.run(run)) == 0, "a dry run changes nothing"
        done = helios("recover", "--apply")
        assert done.code == 0, done.err
        assert "rebuilt 1 run" in done.err
        again = helios("recover", "--apply")
        assert "there is nothing to rebuild" in again.err

        wait_until("the slow task runs again", lambda: client.hget(KEYS.task(run, "slow"), "status") == "RUNNING", 30)
        (tmp_path / "go").touch()
        wait_until("the run ends", lambda: client.hget(KEYS.run(run), "status") == "SUCCEEDED", 40)
        found = helios("show", run, "-o", "json").json()
        tasks = {task["name"]: task for task in found["tasks"]}
        assert {name: task["status"] for name, task in tasks.items()} == dict.fromkeys(tasks, "SUCCEEDED")
        assert {name: task["attempt"] for name, task in tasks.items()} == dict.fromkeys(tasks, 1)
        assert (found["taskSkipped"], found["taskSucceeded"]) == (1, 3)
        assert any("Redis was lost" in warning for warning in found["warnings"])
        keys = [output["key"] for output in json.loads(outputs[0] or "")["outputs"]]
        record = json.loads(client.hget(KEYS.task(run, "early"), "record") or "")
        assert [output["key"] for output in record["outputs"]] == keys, "it is what was stored before"
        # Each was done once: one before, the other in the Job that was there when Redis was lost.
        assert (tmp_path / "early").read_text() == "ran\n"
        assert (tmp_path / "slow").read_text() == "ran\n"
        assert (tmp_path / "last").read_text() == "one\ntwo\n"
        assert client.exists(KEYS.run(over)) == 0
        assert client.xlen(KEYS.dead) == 0
        for stream in (KEYS.ready, KEYS.checks, KEYS.launched, KEYS.finished, KEYS.settled, KEYS.cancelled):
            wait_until(f"{stream} is empty", lambda stream=stream: client.xlen(stream) == 0, 20)
        wait_until("what was stored for the day is deleted", lambda: stored(helios, run) == {}, 30)
        client.close()
    finally:
        up.terminate()
        up.wait(60)
        helios.end_started()
