"""Two versions of each service on one Redis, one replaced by the other while runs go on, forth and back again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.checkup import check_services
from cli.connection import Link
from helios.heartbeat import live_services
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.settings import Settings
from helios.version import VERSION
from services.jobrunner.jobs import job_name
from tests.redis_servers import Valkey
from tests.stage import counters, dag_text
from tests.upgrade.trees import FIELD, LATER, ROOT, earlier_version, later_version
from tests.waiting import wait_until

HELD = Path(__file__).parent / "held.py"
EARLIER = "a015972efad951ebaaf77614870422daed582f17"
"""The last commit before version 0.1's promises were put to the proof (issue 8)."""
SERVICES = ("submitter", "jobrunner", "collector")
LAYERS = 7
WIDE = 3
PATIENCE = 60.0


class House:
    """Replicas of any version over one server, and the runs that they carry."""

    def __init__(self, server: Valkey, folder: Path) -> None:
        self.client = server.client()
        self.url = server.url
        self.keys = Keys(0)
        self.logs = folder / "logs"
        self.may_end = folder / "may-end"
        self.may_end.mkdir()
        self.logs.mkdir()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, tree: Path, name: str) -> None:
        """A replica of the tree's version; returns at once."""
        module = ["-m", "services.submitter"] if service == "submitter" else [str(HELD), service, str(self.may_end)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HELIOS_")},
            "HELIOS_REDIS_URL": self.url,
            "HELIOS_REPLICA": f"{service}-{name}",
            "HELIOS_LEASE_SECONDS": "1",
            "HELIOS_TOKEN_KEY": "k",
            "PYTHONPATH": str(tree),
        }
        with (self.logs / f"{service}-{name}.log").open("ab") as log:
            self.running[f"{service}-{name}"] = subprocess.Popen(
                [sys.executable, *module], cwd=tree, env=environment, stderr=log, stdin=subprocess.DEVNULL
            )

    def alive(self, *replicas: str) -> None:
        wait_until(
            f"{', '.join(replicas)} give a sign of life",
            lambda: self._all_run() and set(replicas) <= {beat["replica"] for beat in live_services(self.client)},
            PATIENCE,
        )

    def _all_run(self) -> bool:
        for name, process in self.running.items():
            assert process.poll() is None, (self.logs / f"{name}.log").read_text()[-3000:]
        return True

    def replace(self, service: str, tree: Path, old: str, new: str) -> None:
        """As a rolling update does: the new one lives before the old one is told to end."""
        self.start(service, tree, new)
        self.alive(f"{service}-{new}")
        process = self.running.pop(f"{service}-{old}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0

    def submit(self, tasks: dict[str, list[str]], **options: Any) -> str:
        return self.client.xadd(SUBMISSIONS, {"dag": dag_text(tasks, **options)})

    def end(self, run: str, *tasks: str, attempt: int = 1, how: str = "") -> None:
        for task in tasks:
            (self.may_end / f"{job_name(run, task, attempt)}{how}").touch()

    def states(self, run: str, *tasks: str) -> set[str | None]:
        return {self.client.hget(self.keys.task(run, task), "status") for task in tasks}

    def wait_for(self, run: str, status: str, *tasks: str) -> None:
        wait_until(f"{tasks} are {status}", lambda: self._all_run() and self.states(run, *tasks) == {status}, PATIENCE)

    def ended(self, run: str) -> dict[str, str]:
        def found() -> dict[str, str]:
            self._all_run()
            fields = self.client.hgetall(self.keys.run(run))
            return fields if fields.get("endTime") else {}

        return wait_until(f"run {run} has ended", found, PATIENCE)

    def nothing_is_left(self) -> None:
        keys = self.keys
        groups = {keys.ready: "jobrunner", keys.cancelled: "jobrunner", keys.checks: "collector"}
        groups |= {keys.launched: "collector", keys.settled: "collector", keys.finished: "submitter"}
        groups |= {SUBMISSIONS: "submitter", CONTROLS: "submitter"}

        def left() -> dict[str, int]:
            return {stream: self.client.xlen(stream) for stream in groups if self.client.xlen(stream)}

        wait_until("the streams are empty", lambda: not left(), PATIENCE)
        assert self.client.xrange(keys.dead) == []

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
        self.client.close()


@pytest.fixture
def house(own_valkey: Valkey, tmp_path: Path) -> Iterator[House]:
    found = House(own_valkey, tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return later_version(tmp_path_factory.mktemp("later"))


def layered() -> dict[str, list[str]]:
    """Layers of tasks, each waiting for the whole layer before it."""
    return {
        f"t{layer}-{number}": [f"t{layer - 1}-{each}" for each in range(WIDE)] if layer else []
        for layer in range(LAYERS)
        for number in range(WIDE)
    }


def layer(number: int) -> list[str]:
    return [f"t{number}-{each}" for each in range(WIDE)]


ORDERS = {
    "submitter first": (("submitter", "jobrunner", "collector"), ("submitter", "jobrunner", "collector")),
    "jobrunner first": (("jobrunner", "collector", "submitter"), ("jobrunner",)),
    "collector first": (("collector", "submitter", "jobrunner"), ("collector",)),
}
"""In which order services are replaced by the later version, and then by the older one again."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("order", ORDERS)
def test_a_run_goes_on_through_an_update_and_back_again(house: House, later: Path, order: str) -> None:
    """Services are replaced by their later version, and then by the older one again, while one run goes through all of
    it, and others begin, fail, are retried and are cancelled in between. Nothing is lost, nothing done twice, nothing
    dead-lettered.
    """
    forth, back = ORDERS[order]
    for service in SERVICES:
        house.start(service, ROOT, "a")
    # One that is only just starting has no handler for the signal that ends it.
    house.alive(*(f"{service}-a" for service in SERVICES))
    run = house.submit(layered())
    others: list[str] = []
    steps = [(service, later, "a", "b") for service in forth] + [(service, ROOT, "b", "c") for service in back]
    for number, (service, tree, old, new) in enumerate(steps):
        house.wait_for(run, "RUNNING", *layer(number))
        house.replace(service, tree, old, new)
        other = house.submit({"x": [], "y": ["x"], "z": []}, name="other", retries={"x": 1})
        house.end(other, "x", how=".failed")
        house.end(other, "x", attempt=2)
        house.wait_for(other, "RUNNING", "y", "z")
        if others:
            house.client.xadd(CONTROLS, {"run": others[-1], "action": "cancel"})
        others.append(other)
        house.end(run, *layer(number))
        if number == 1:
            check_mixed(house)
    house.wait_for(run, "RUNNING", *layer(len(steps)))
    for other in others[:-1]:
        house.wait_for(other, "CANCELLED", "y", "z")
    (house.may_end / "all").touch()
    fields = house.ended(run)
    tasks = str(LAYERS * WIDE)
    assert (fields["status"], fields["taskCount"], fields["taskSucceeded"]) == ("SUCCEEDED", tasks, tasks)
    ends = [house.ended(other) for other in others]
    assert [each["status"] for each in ends] == ["CANCELLED"] * (len(others) - 1) + ["SUCCEEDED"]
    for each in (fields, *ends):
        assert int(counters(each)["taskSucceeded"]) + int(counters(each)["taskCancelled"]) == int(each["taskCount"])
    house.nothing_is_left()
    check_traces(house, run)


def check_mixed(house: House) -> None:
    """In the middle of it everybody can see that it is not over."""
    with_versions = {beat["replica"]: beat["version"] for beat in live_services(house.client)}
    assert {VERSION, LATER} <= set(with_versions.values())
    link = Link(client=house.client, settings=Settings(redis_url=house.url))
    found = next(each for each in check_services(link) if each.check == "versions")
    assert not found.ok and VERSION in found.detail and LATER in found.detail


def check_traces(house: House, run: str) -> None:
    """The later version was really at work, and what it left is read by this version's commands."""
    events = [fields["event"] for _, fields in house.client.xrange(house.keys.events)]
    assert any(FIELD in event for event in events) and any("SomethingElse" in event for event in events)
    assert any(FIELD in (house.client.hget(house.keys.task(run, task), "record") or "") for task in layered())
    for command in (("show", run, "-o", "json"), ("runs", "-o", "json"), ("why", run, "t0-0")):
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HELIOS_REDIS_URL": house.url},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if "json" in command:
            json.loads(done.stdout)


@pytest.mark.timeout(300)
def test_an_earlier_version_and_this_one_carry_runs_together(house: House, tmp_path: Path) -> None:
    """A run that began under a commit of long ago ends under this tree, and one ends that both have a hand in."""
    (tmp_path / "earlier").mkdir()
    earlier = earlier_version(tmp_path / "earlier", EARLIER)
    if earlier is None:
        pytest.skip(f"this clone does not have commit {EARLIER[:7]}")
    for service in SERVICES:
        house.start(service, earlier, "a")
    house.alive(*(f"{service}-a" for service in SERVICES))
    run = house.submit(layered())
    house.wait_for(run, "RUNNING", *layer(0))
    for service in SERVICES:
        house.start(service, ROOT, "b")
    house.alive(*(f"{service}-b" for service in SERVICES))
    both = house.submit({f"t{number}": [] for number in range(100)}, name="both")
    house.wait_for(both, "RUNNING", *(f"t{number}" for number in range(100)))
    for service in SERVICES:
        process = house.running.pop(f"{service}-a")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    (house.may_end / "all").touch()
    assert house.ended(run)["taskSucceeded"] == str(LAYERS * WIDE)
    assert house.ended(both)["taskSucceeded"] == "100"
    house.nothing_is_left()


def test_what_the_feed_does_not_know_is_passed_over() -> None:
    """An older dashboard beside newer services: events of a new kind, with a new field, and damage."""
    from tui.source.feed import _decoded

    nested = '{"type":"RunEnded","later":' + "[" * 100_000
    known = '{"type":"RunEnded","run":"1-0","status":"FAILED","ofALaterVersion":{"a":[1]}}'
    entries = [
        ("1-0", ["event", '{"type":"RunPraised","run":"1-0"}']),
        ("1-1", ["event", nested]),
        ("2-0", ["event", known]),
    ]
    assert [type(event).__name__ for _, event in _decoded(entries)] == ["RunEnded"]
