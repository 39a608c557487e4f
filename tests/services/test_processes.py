"""The three services as processes, two replicas each, killed and cut off in the middle of their work."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from helios.heartbeat import live_services
from helios.keys import SUBMISSIONS, Keys, keys_of_run
from tests.redis_servers import Valkey
from tests.stage import counters, dag_text
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}


class Replicas:
    """Processes of all services against one server."""

    def __init__(self, server: Valkey, folder: Path, partitions: int) -> None:
        self.server = server
        self.folder = folder
        self.partitions = partitions
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, number: int) -> None:
        name = f"{service}-{number}"
        environment = {
            **os.environ,
            "HELIOS_REDIS_URL": self.server.url,
            "HELIOS_REPLICA": name,
            "HELIOS_LEASE_SECONDS": "1",
            "HELIOS_BATCH_ENTRIES": "16",
            "HELIOS_PARTITIONS": str(self.partitions),
            "HELIOS_TOKEN_KEY": "k",
            "HELIOS_LOG_LEVEL": "warning",
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *COMMANDS[service]], cwd=ROOT, env=environment, stderr=log, stdin=subprocess.DEVNULL
            )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def stop(self) -> dict[str, int]:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(20) for name, process in self.processes.items()}


@pytest.fixture(params=[1, 2], ids=["one partition", "two partitions"])
def replicas(request: pytest.FixtureRequest, own_valkey: Valkey, tmp_path: Path) -> Iterator[Replicas]:
    found = Replicas(own_valkey, tmp_path, request.param)
    for service in COMMANDS:
        for number in range(2):
            found.start(service, number)
    yield found
    for process in found.processes.values():
        process.kill()
        process.wait()


def dags() -> list[bytes]:
    """Some 500 tasks: wide, deep and layered."""
    wide = {"root": [], **{f"t{number}": ["root"] for number in range(150)}}
    wide["join"] = list(wide)[1:]
    chain: dict[str, list[str]] = {f"t{number}": [f"t{number - 1}"] if number else [] for number in range(20)}
    layers: dict[str, list[str]] = {
        f"t{layer}-{number}": [f"t{layer - 1}-{other}" for other in range(6)] if layer else []
        for layer in range(10)
        for number in range(6)
    }
    flat: dict[str, list[str]] = {f"t{number}": [] for number in range(200)}
    return [dag_text(tasks, name=name) for name, tasks in (("w", wide), ("c", chain), ("l", layers), ("f", flat))] + [
        dag_text(layers, name="m")
    ]


def submit(client: redis.Redis) -> list[str]:
    return [client.xadd(SUBMISSIONS, {"dag": text}) for text in dags()]


def succeeded(client: redis.Redis, runs: list[str], partitions: int) -> int:
    """Tasks so far."""
    found = (client.hget(keys_of_run(run, partitions).run(run), "taskSucceeded") for run in runs)
    return sum(int(number or 0) for number in found)


def check_all_well(client: redis.Redis, runs: list[str], partitions: int) -> None:
    def states() -> list[str | None]:
        return [client.hget(keys_of_run(run, partitions).run(run), "status") for run in runs]

    wait_until("every run has ended", lambda: set(states()) == {"SUCCEEDED"} or None, 60)
    for run in runs:
        keys = keys_of_run(run, partitions)
        fields = client.hgetall(keys.run(run))
        names = client.lrange(keys.task_names(run), 0, -1)
        assert fields["taskSucceeded"] == fields["taskCount"] == str(len(names))
        assert {client.hget(keys.task(run, name), "attempt") for name in names} == {"1"}
        assert counters(fields)["taskFailed"] == "0"
    for keys in (Keys(number) for number in range(partitions)):
        for stream in (*keys.ready_streams, keys.checks, keys.launched, keys.finished, keys.settled, keys.cancelled):
            wait_until(f"{stream} is empty", lambda stream=stream: client.xlen(stream) == 0, 30)
            for group in client.xinfo_groups(stream):
                assert group["pending"] == 0
        assert client.xlen(keys.dead) == 0
        assert client.zcard(keys.active) == 0
    assert client.xlen(SUBMISSIONS) == 0


def test_one_replica_of_each_service_is_killed_in_the_middle(replicas: Replicas) -> None:
    """Kill -9 wherever it strikes: the others take over what was in the dead one's hands, once."""
    client = replicas.server.client()
    runs = submit(client)
    chance = random.Random(7)
    for number, service in enumerate(chance.sample(list(COMMANDS), 3)):
        wait_until("some tasks are done", lambda at=60 * number: succeeded(client, runs, replicas.partitions) > at, 60)
        replicas.kill(f"{service}-{chance.randrange(2)}")
    check_all_well(client, runs, replicas.partitions)
    assert set(replicas.stop().values()) == {0}


def test_redis_is_killed_and_comes_back_in_the_middle(replicas: Replicas) -> None:
    """With its append-only file it has all it acknowledged; the services wait for it and go on."""
    client = replicas.server.client()
    # One that is still starting at the end would have no handler for the signal.
    wait_until("all replicas are there", lambda: len(live_services(client)) == len(replicas.processes), 60)
    runs = submit(client)
    wait_until("some tasks are done", lambda: succeeded(client, runs, replicas.partitions) > 50, 60)
    replicas.server.kill()
    replicas.server.start()
    check_all_well(replicas.server.client(), runs, replicas.partitions)
    assert set(replicas.stop().values()) == {0}


def test_of_the_same_work_in_many_runs_each_task_runs_once_whoever_is_killed(replicas: Replicas) -> None:
    """Runs of one memoized DAG at the same time, over all partitions, while collectors and a jobrunner are killed."""
    client = replicas.server.client()
    document = {
        "dagName": "memoized",
        "tasks": [
            {"name": f"t{number}", "image": "i", "command": ["run", str(number)], "memoize": True}
            for number in range(60)
        ],
    }
    runs: list[str] = [client.xadd(SUBMISSIONS, {"dag": json.dumps(document)}) for _ in range(4)]
    for number, name in enumerate(("collector-0", "jobrunner-1", "collector-1")):
        wait_until("some tasks are done", lambda at=40 * number: succeeded(client, runs, replicas.partitions) > at, 60)
        replicas.kill(name)
        if name == "collector-0":
            replicas.start("collector", 2)
    check_all_well(client, runs, replicas.partitions)
    skipped = [int(client.hget(keys_of_run(run, replicas.partitions).run(run), "taskSkipped") or 0) for run in runs]
    assert sum(skipped) == 3 * 60
    assert set(replicas.stop().values()) == {0}
