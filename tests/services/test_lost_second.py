"""Redis dies with its machine and has lost its last second, while Jobs run and results were committed in that second.

The services, the node and the tasks are the real ones of local mode, without an object store; Redis is a Valkey of the
test's own. Its append-only file is put back to how it was a moment earlier, torn in the middle of a command.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from cli.checkup import check_losses
from cli.connection import Link
from cli.embedded.home import Home, prepare
from helios.events import TaskEnded, decode_event
from helios.keys import SUBMISSIONS, Keys
from helios.localjobs import list_jobs
from helios.records import ENDED
from helios.settings import Settings
from tests.redis_servers import Valkey, free_port
from tests.stage import counters
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
KEYS = Keys(0)

HURRIED = """
import sys
import services.jobrunner.__main__ as jobrunner, services.submitter.__main__ as submitter
jobrunner.SWEEP_SECONDS = submitter.EVERY_SECONDS = 1.0
{"jobrunner": jobrunner, "submitter": submitter}[sys.argv[1]].main()
"""
"""The services as they are, but for looks that come every half minute."""


class Town:
    """One of each service and a node, around a Valkey."""

    def __init__(self, folder: Path, server: Valkey) -> None:
        self.home = Home(folder / "home")
        self.server = server
        self.ledger = folder / "ledger"
        self.folder = folder
        prepare(self.home)
        address = f"127.0.0.1:{free_port()}"
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HELIOS_HOME": str(self.home.path),
            "HELIOS_REDIS_URL": server.url,
            "HELIOS_S3_ENDPOINT": "http://127.0.0.1:1",
            "HELIOS_S3_ACCESS_KEY": "a",
            "HELIOS_S3_SECRET_KEY": "b",
            "HELIOS_TOKEN_KEY": "k",
            "HELIOS_POD_ENDPOINT_BIND": address,
            "HELIOS_POD_ENDPOINT_URL": f"http://{address}",
            "HELIOS_LOCAL_DIR": str(self.home.node),
            "HELIOS_LOCAL_SLOTS": "4",
            "HELIOS_CACHE_DIR": str(self.home.cache),
            "HELIOS_NODE_NAME": "local",
            "HELIOS_LEASE_SECONDS": "3",
            "HELIOS_UNKNOWN_JOB_SECONDS": "0",
            "HELIOS_GC_HOURS": "0",
        }
        self.processes = [
            self._start(name, *words)
            for name, words in (
                ("submitter", ("-c", HURRIED, "submitter")),
                ("jobrunner", ("-c", HURRIED, "jobrunner")),
                ("collector", ("-m", "services.collector")),
                ("node", ("-m", "cli.embedded.node")),
            )
        ]

    def _start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env={**self.environ, "HELIOS_REPLICA": name}, stderr=log
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)

    def dag(self, name: str, tasks: dict[str, list[str]], seconds: float) -> bytes:
        """Each task writes down that it began and that it ended, outside everything that is ours."""
        words = f'echo "began $0" >> {self.ledger}; sleep {seconds}; echo "ended $0" >> {self.ledger}'
        document = [
            {"name": task, "image": "i", "command": ["sh", "-c", words, f"{name}/{task}"], "depends_on": parents}
            for task, parents in tasks.items()
        ]
        return msgspec.json.encode({"dagName": name, "tasks": document})

    def written(self) -> Counter[str]:
        return Counter(self.ledger.read_text().splitlines()) if self.ledger.exists() else Counter()


class Snapshot:
    """The append-only file as it was at one moment."""

    def __init__(self, server: Valkey, copy: Path) -> None:
        self.live = server.folder / "appendonlydir"
        self.copy = copy
        shutil.copytree(self.live, copy)

    def put_back(self, torn_bytes: int) -> None:
        shutil.rmtree(self.live)
        shutil.copytree(self.copy, self.live)
        newest = max(self.live.glob("*.incr.aof"), key=lambda file: int(file.name.split(".")[-3]))
        os.truncate(newest, newest.stat().st_size - torn_bytes)


@pytest.fixture
def town(own_valkey: Valkey, tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, own_valkey)
    yield made
    made.stop()
    for name in ("submitter", "jobrunner", "collector", "node"):
        print(f"--- {name}\n{made.log(name).read_text()[-3000:]}")  # noqa: T201 -- pytest shows it with a failure


def status(client: redis.Redis, run: str) -> str | None:
    found: Any = client.hget(KEYS.run(run), "status")
    return found


def test_redis_that_lost_its_last_second_is_reconciled_from_the_jobs(town: Town, own_valkey: Valkey) -> None:
    """What was committed in that second is committed once in what is left; a run that is gone leaves no Job behind."""
    client = own_valkey.client()
    wide = {"first": [], **{f"t{number}": ["first"] for number in range(24)}}
    wide["last"] = [f"t{number}" for number in range(24)]
    kept: Any = client.xadd(SUBMISSIONS, {"dag": town.dag("kept", wide, 0.3), "requestId": "kept"})

    def done() -> int:
        return int(client.hget(KEYS.run(kept), "taskSucceeded") or 0)

    wait_until("some tasks of the first run are committed", lambda: done() >= 3, 60)
    snapshot = Snapshot(own_valkey, town.folder / "snapshot")
    before = done()
    lost: Any = client.xadd(SUBMISSIONS, {"dag": town.dag("lost", {"long": []}, 600), "requestId": "lost"})
    wait_until("more is committed, and the second run's task is at work", lambda: _later(town, done() - before), 60)
    own_valkey.kill()
    snapshot.put_back(torn_bytes=11)
    own_valkey.start()

    client = own_valkey.client()
    assert status(client, kept) == "RUNNING", "its last commits are gone"
    assert status(client, lost) is None
    wait_until("the first run has ended", lambda: status(client, kept) in ENDED, 60)
    _check_committed_once(client, kept, wide)
    wait_until("of the lost run no Job is left", lambda: list_jobs(town.home.node) == [], 60)
    assert town.written()["ended lost/long"] == 0, "its process was ended"
    for stream in (KEYS.ready, KEYS.launched, KEYS.finished, KEYS.settled, KEYS.cancelled, SUBMISSIONS):
        wait_until(f"{stream} is empty", lambda stream=stream: client.xlen(stream) == 0, 30)
    assert client.xlen(KEYS.dead) == 0
    _check_said(town, client, lost)
    again: Any = client.xadd(SUBMISSIONS, {"dag": town.dag("lost", {"long": []}, 0), "requestId": "lost"})
    wait_until("sent again, it is a run", lambda: status(client, again) == "SUCCEEDED", 30)


def _later(town: Town, committed: int) -> bool:
    return committed >= 3 and town.written()["began lost/long"] == 1


def _check_committed_once(client: redis.Redis, run: str, tasks: dict[str, list[str]]) -> None:
    fields = client.hgetall(KEYS.run(run))
    assert fields["status"] == "SUCCEEDED"
    assert counters(fields)["taskSucceeded"] == fields["taskCount"] == str(len(tasks))
    events = [decode_event(entry["event"]) for _, entry in client.xrange(KEYS.events)]
    ends = Counter((each.task, each.attempt) for each in events if isinstance(each, TaskEnded) and each.run == run)
    assert set(ends.values()) == {1}, "no attempt was committed twice"
    succeeded = Counter(
        each.task for each in events if isinstance(each, TaskEnded) and each.run == run and each.status == "SUCCEEDED"
    )
    assert succeeded == dict.fromkeys(tasks, 1)


def _check_said(town: Town, client: redis.Redis, lost: str) -> None:
    """By the readers of the streams, in Redis for the doctor and the dashboard, and by whoever deletes the Jobs."""
    finding = next(check_losses(Link(client, Settings(redis_url=town.server.url))))
    assert not finding.ok
    assert "acknowledged writes were gone" in finding.detail
    assert KEYS.ready in finding.detail
    said = town.log("jobrunner").read_text()
    assert "redis has lost entries that it had acknowledged" in said
    (deleted,) = [line for line in said.splitlines() if "its run is not in Redis" in line]
    assert lost in deleted
