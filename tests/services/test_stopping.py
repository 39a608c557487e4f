"""Services that are told to stop, as processes: in time, with exit code 0, and with nothing left to their leases."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from helios.keys import SUBMISSIONS, Keys
from helios.streams import HANDED_BACK
from tests.redis_servers import Valkey, free_port
from tests.services.test_processes import COMMANDS, check_all_well, submit, succeeded
from tests.stage import dag_text
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
SECONDS_ALLOWED = 10.0
REAL = {"submitter": "services.submitter", "jobrunner": "services.jobrunner", "collector": "services.collector"}
PROBE = ROOT / "k8s" / "base" / "heartbeat.py"


class Services:
    """Processes of services; what each logs is kept."""

    def __init__(self, server: Valkey, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.port = free_port()
        self.started = ExitStack()

    def start(self, replica: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "HELIOS_REDIS_URL": self.server.url,
            "HELIOS_REPLICA": replica,
            "HELIOS_LEASE_SECONDS": "600",
            "HELIOS_TOKEN_KEY": "a-planted-token-key",
            "HELIOS_LOCAL_DIR": str(self.folder),
            "HELIOS_POD_ENDPOINT_BIND": f"127.0.0.1:{self.port}",
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        with self.log(replica).open("ab") as log:
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=log)
        self.started.callback(process.wait)
        self.started.callback(process.kill)
        return process

    def real(self, service: str, **variables: str) -> "subprocess.Popen[bytes]":
        """The service's own process, where Jobs are local."""
        process = self.start(service, "-m", REAL[service], **variables)
        wait_until(f"{service} is ready", lambda: self.probe(service) == (0, ""), 60)
        return process

    def log(self, replica: str) -> Path:
        return self.folder / f"{replica}.log"

    def probe(self, service: str, question: str = "ready") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PROBE), question, service],
            env={"HELIOS_REDIS_URL": self.server.url, "HELIOS_REPLICA": service},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stderr.strip()


@pytest.fixture
def services(own_valkey: Valkey, tmp_path: Path) -> Iterator[Services]:
    found = Services(own_valkey, tmp_path)
    with found.started:
        yield found


def stop(process: "subprocess.Popen[bytes]", times: int = 2) -> float:
    """Send SIGTERM, repeatedly, as the impatient do; returns the seconds that it took. It must have ended well."""
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_ALLOWED + 5) == 0
    return time.monotonic() - began


def test_each_service_is_replaced_under_load_and_nothing_waits_for_a_lease(services: Services) -> None:
    """The lease is ten minutes: what a stopped replica had in hand is finished, or taken over at once by the next."""
    client = services.server.client()
    running = {service: services.start(f"{service}-0", *command) for service, command in COMMANDS.items()}
    runs = submit(client)
    took: dict[str, float] = {}
    for number, service in enumerate(("jobrunner", "collector", "submitter")):
        wait_until("some tasks are done", lambda at=50 * number: succeeded(client, runs, 1) > at, 60)
        took[service] = stop(running[service])
        assert all(seen.get("name") in (None, HANDED_BACK) for seen in consumers(client, service))
        running[service] = services.start(f"{service}-1", *COMMANDS[service])
    check_all_well(client, runs, 1)
    assert max(took.values()) < SECONDS_ALLOWED, took
    for process in running.values():
        stop(process)


def consumers(client: redis.Redis, group: str) -> list[Mapping[str, Any]]:
    """Those of the service's group over all streams."""
    keys = Keys(0)
    streams = (keys.ready, keys.launched, keys.finished, keys.settled, keys.cancelled, keys.checks, SUBMISSIONS)
    return [
        each
        for stream in streams
        if client.exists(stream) and any(known["name"] == group for known in client.xinfo_groups(stream))
        for each in client.xinfo_consumers(stream, group)
    ]


@pytest.mark.alone
def test_services_stop_in_time_though_redis_does_not_answer(services: Services) -> None:
    """A server that hangs is worse than one that is gone: every call waits."""
    processes = [services.real(service) for service in REAL]
    assert services.server.process is not None
    services.server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(SECONDS_ALLOWED + 5) for process in processes] == [0, 0, 0]
        # It takes 9.5 s as it is, and three processes that end at once on a machine that is shared a little more.
        assert time.monotonic() - began < SECONDS_ALLOWED + 2
    finally:
        services.server.process.send_signal(signal.SIGCONT)


def test_what_is_asked_of_a_collector_is_answered_and_nothing_new_is_taken(services: Services) -> None:
    process = services.real("collector")
    asked = http.client.HTTPConnection("127.0.0.1", services.port, timeout=10)
    asked.putrequest("POST", "/v1/result")
    asked.putheader("Content-Length", "2")
    asked.putheader("Authorization", "Bearer nobody")
    asked.endheaders()
    wait_until("the request is on its way", lambda: _answers(services.port), 10)
    process.send_signal(signal.SIGTERM)
    wait_until("nothing new is taken", lambda: not _answers(services.port), 10)
    asked.send(b"{}")
    assert asked.getresponse().status == 401
    assert process.wait(SECONDS_ALLOWED) == 0


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def test_services_without_redis_are_not_ready_and_are_again_by_themselves(services: Services) -> None:
    """Nobody restarts them meanwhile: liveness asks only what a restart would cure."""
    processes = [services.real(service) for service in REAL]
    services.server.kill()
    for service in REAL:
        code, words = services.probe(service)
        assert (code, "Redis does not answer" in words) == (1, True)
        assert services.probe(service, "alive")[0] == 0
    services.server.start()
    client = services.server.client()
    client.flushall()
    for service in REAL:
        wait_until(f"{service} is ready again", lambda service=service: services.probe(service) == (0, ""), 60)
    assert [process.poll() for process in processes] == [None] * 3
    wait_until("the groups are made again", lambda: all(consumers(client, service) for service in REAL), 20)


def test_a_collector_says_what_it_waits_for(services: Services) -> None:
    services.start("collector", "-m", REAL["collector"])
    wait_until("it serves", lambda: _answers(services.port), 60)
    wait_until("it is ready", lambda: _ready(services.port)[0] == 200, 60)
    assert services.server.process is not None
    services.server.kill()
    _, words = wait_until("it notices", lambda: (r := _ready(services.port))[0] == 503 and r, 40)
    assert "it waits for Redis" in words
    services.server.start()
    wait_until("it is ready again", lambda: _ready(services.port)[0] == 200, 60)


def _ready(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_every_line_of_every_service_is_one_object_that_says_what_it_is_about(services: Services) -> None:
    """Of a whole run, with a task that fails, a rejected submission and one that is no text."""
    for service, command in COMMANDS.items():
        services.start(service, *command, HELIOS_LOG_FORMAT="json", HELIOS_LOG_LEVEL="info")
    client = services.server.client()
    run = client.xadd(SUBMISSIONS, {"dag": dag_text({"a": [], "b": ["a"]})})
    rejected = client.xadd(SUBMISSIONS, {"dag": b"\xff: ["})
    keys = Keys(0)
    wait_until("the run ends", lambda: client.hget(keys.run(run), "status") == "SUCCEEDED", 60)
    wait_until("the other is rejected", lambda: client.hget(keys.run(rejected), "status") == "REJECTED", 60)
    wanted = {("submission", rejected, None, None), ("run ended", run, None, None)}
    wanted |= {(said, run, task, 1) for said in ("a Job is there", "an attempt ended") for task in "ab"}

    def logged() -> list[dict[str, Any]]:
        """Without what is just being written."""
        texts = [services.log(service).read_text() for service in COMMANDS]
        return [json.loads(line) for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]

    def missing() -> set[tuple[Any, ...]]:
        return wanted - {(each["message"], each.get("run"), each.get("task"), each.get("attempt")) for each in logged()}

    # What Redis has been told is logged a moment later.
    wait_until(f"all of {wanted} are logged", lambda: not missing())
    entries = logged()
    for entry in entries:
        assert list(entry)[:5] == ["time", "level", "service", "replica", "message"], entry
        assert entry["time"].endswith("Z") and "T" in entry["time"]
    assert all(each.get("entry") for each in entries if each["message"] in ("submission", "a Job is there"))
