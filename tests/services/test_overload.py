"""More work than there is room for, replicas that hang, an API server that is slow: all ends, and the small soon."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from helios.events import RunEnded, TaskEnded, decode_event
from helios.heartbeat import live_services
from helios.keys import JOBRUNNER_GROUP, SUBMISSIONS, Keys, all_partitions
from helios.settings import Settings
from services.jobrunner.jobs import ExistingJob, WantedJob
from services.jobrunner.launch import JobRunner
from services.jobrunner.reading import ReadyInbox
from tests.redis_servers import Valkey
from tests.services.test_processes import COMMANDS, Replicas, check_all_well, submit, succeeded
from tests.stage import RUN, Stage, dag_text
from tests.waiting import wait_until

RUNS_ACTIVE = 10
TAKEN_AT_ONCE = 4
"""Submissions that each submitter reads at a time, and so may have beyond the limit."""


@pytest.fixture
def replicas(own_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replicas]:
    monkeypatch.setenv("HELIOS_RUNS_ACTIVE", str(RUNS_ACTIVE))
    monkeypatch.setenv("HELIOS_RUNS_KEPT_PER_DAG", "1000")
    found = Replicas(own_valkey, tmp_path, 1)
    for service in COMMANDS:
        for number in range(2):
            found.start(service, number)
    yield found
    for process in found.processes.values():
        process.kill()
        process.wait()


def test_hundreds_of_submissions_at_once_all_end_and_no_more_are_open_than_may_be(replicas: Replicas) -> None:
    """Even if a submitter dies on the way."""
    client = replicas.server.client()
    keys = Keys(0)
    text = dag_text({"a": [], "b": ["a"]})
    runs = [client.xadd(SUBMISSIONS, {"dag": text}) for _ in range(300)]
    most = 0

    def ended(count: int) -> bool:
        nonlocal most
        most = max(most, client.zcard(keys.active))
        return client.zcard(keys.runs) - client.zcard(keys.active) >= count

    wait_until("some have ended", lambda: ended(50), 60)
    replicas.kill("submitter-0")
    wait_until("all have ended", lambda: ended(300), 120)
    statuses = Counter(client.hget(keys.run(run), "status") for run in runs)
    assert statuses == {"SUCCEEDED": 300}
    assert 0 < most <= RUNS_ACTIVE + 2 * TAKEN_AT_ONCE
    assert client.xlen(SUBMISSIONS) == 0


def test_a_small_run_ends_long_before_a_large_one_that_came_first(replicas: Replicas) -> None:
    client = replicas.server.client()
    keys = Keys(0)
    jobrunners = [replicas.processes[f"jobrunner-{number}"] for number in range(2)]
    for process in jobrunners:
        process.send_signal(signal.SIGSTOP)
    large = client.xadd(SUBMISSIONS, {"dag": dag_text({f"t{number}": [] for number in range(3_000)}, name="large")})
    wait_until("it is open", lambda: client.hget(keys.run(large), "status") == "RUNNING")
    small = client.xadd(SUBMISSIONS, {"dag": dag_text({f"t{number}": [] for number in range(10)}, name="small")})
    wait_until("both are open", lambda: client.hget(keys.run(small), "status") == "RUNNING")
    for process in jobrunners:
        process.send_signal(signal.SIGCONT)
    wait_until("the small one has ended", lambda: client.hget(keys.run(small), "status") == "SUCCEEDED", 60)
    events = [decode_event(fields["event"]) for _, fields in client.xrange(keys.events)]
    end = next(place for place, event in enumerate(events) if isinstance(event, RunEnded) and event.run == small)
    assert sum(isinstance(event, TaskEnded) and event.run == large for event in events[:end]) < 1_500
    check_all_well(client, [small, large], 1)


def test_a_replica_that_hangs_holds_up_nothing_for_longer_than_a_lease(replicas: Replicas) -> None:
    """Stopped with entries in hand, and woken when others have done its work: nothing is done twice."""
    client = replicas.server.client()
    # One that were stopped at its start would have nothing in hand, and no handler for the signal that ends it.
    wait_until("all replicas are there", lambda: len(live_services(client)) == 2 * len(COMMANDS), 60)
    runs = submit(client)
    for number, service in enumerate(COMMANDS):
        wait_until("some tasks are done", lambda at=60 * number: succeeded(client, runs, 1) > at, 60)
        replicas.processes[f"{service}-0"].send_signal(signal.SIGSTOP)
    keys = [Keys(0).run(run) for run in runs]
    wait_until("all have ended", lambda: {client.hget(key, "status") for key in keys} == {"SUCCEEDED"}, 60)
    for service in COMMANDS:
        replicas.processes[f"{service}-0"].send_signal(signal.SIGCONT)
    check_all_well(client, runs, 1)
    assert set(replicas.stop().values()) == {0}


class SlowLauncher:
    """An API server that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.created: list[str] = []

    def create(self, job: WantedJob) -> None:
        self.answers.wait(30)
        self.created.append(job.name)

    def delete(self, name: str) -> None:
        """No Job of these tests is ever superseded."""

    def room(self) -> int:
        return 100

    def look(self) -> None:
        """There is nothing to look at."""

    def jobs(self) -> list[ExistingJob]:
        return []


@pytest.mark.alone
def test_a_slow_api_server_neither_loses_entries_nor_counts_against_them(valkey: redis.Redis) -> None:
    """A batch that takes many leases stays with its replica; else each other one would ask for the same Jobs in turn,
    and after five the run would fail.
    """
    stage = Stage(valkey)
    stage.open({f"t{number}": [] for number in range(6)})
    settings = msgspec.structs.replace(Settings(token_key="k", replica="slow"), lease_seconds=0.3)
    mine = ReadyInbox(valkey, settings, all_partitions(1))
    others = ReadyInbox(valkey, msgspec.structs.replace(settings, replica="other"), all_partitions(1))
    launcher = SlowLauncher()
    runner = JobRunner(valkey, launcher, settings, threads=2, inbox=mine)
    entries = mine.read(1)
    working = threading.Thread(target=runner.launch, args=(entries,))
    working.start()
    until = time.monotonic() + 5 * settings.lease_seconds
    taken: list[str] = []

    def others_look() -> bool:
        taken.extend(entry.id for entry in others.read(10))
        return time.monotonic() > until

    wait_until("five leases have passed", others_look)
    launcher.answers.set()
    working.join(20)
    assert (taken, len(launcher.created)) == ([], 6)
    assert {stage.status(f"t{number}", RUN) for number in range(6)} == {"RUNNING"}
    assert valkey.xpending(stage.keys.ready, JOBRUNNER_GROUP)["pending"] == 0
