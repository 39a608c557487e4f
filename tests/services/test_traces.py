"""Runs as OpenTelemetry traces: what a receiver of OTLP gets of real services, and what restarts do to it."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from helios.dag import parse_dag
from helios.events import TaskEnded, TaskLaunched, TaskPhase
from helios.keys import SUBMISSIONS, Keys, keys_of_run
from helios.records import AttemptRecord
from helios.settings import settings_from
from helios.streams import Inbox
from helios.trace import span_id
from helios.transitions import commit_one, end_attempt, launch, note_phase, settle
from services.collector.traces import Tracer
from services.submitter.accept import open_calls
from tests.redis_servers import Valkey
from tests.stage import dag_text
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
COMMANDS = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}


class Receiver:
    """Takes traces by OTLP over HTTP, or refuses them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.refuses = False
        self.asked = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked += 1
                if self.path != "/v1/traces" or receiver.refuses:
                    self.send_response(400)
                else:
                    request = ExportTraceServiceRequest.FromString(body)
                    receiver.spans += [
                        span
                        for resource in request.resource_spans
                        for scope in resource.scope_spans
                        for span in scope.spans
                    ]
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, trace: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


class Services:
    def __init__(self, server: Valkey, folder: Path, receiver: Receiver) -> None:
        self.server, self.folder, self.receiver = server, folder, receiver
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, name: str = "") -> None:
        environment = {
            **os.environ,
            "HELIOS_REDIS_URL": self.server.url,
            "HELIOS_REPLICA": name or service,
            "HELIOS_LEASE_SECONDS": "1",
            "HELIOS_TOKEN_KEY": "k",
            "HELIOS_LOG_LEVEL": "warning",
            "HELIOS_OTLP_ENDPOINT": self.receiver.url,
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / f"{name or service}.log").open("ab") as log:
            self.processes[name or service] = subprocess.Popen(
                [sys.executable, *COMMANDS[service]], cwd=ROOT, env=environment, stderr=log, stdin=subprocess.DEVNULL
            )


@pytest.fixture
def services(own_valkey: Valkey, tmp_path: Path, receiver: Receiver) -> Iterator[Services]:
    found = Services(own_valkey, tmp_path, receiver)
    for service in COMMANDS:
        found.start(service)
    yield found
    for process in found.processes.values():
        process.kill()
        process.wait()


def submit(client: redis.Redis, dag: str | bytes, **fields: str) -> str:
    return str(client.xadd(SUBMISSIONS, {"dag": dag, **fields}))


def wait_for_end(client: redis.Redis, run: str) -> None:
    key = keys_of_run(run, 1).run(run)
    wait_until(f"run {run} ends", lambda: client.hget(key, "endTime"), 60)


def test_a_run_is_one_tree_of_spans_below_whoever_submitted_it(services: Services, receiver: Receiver) -> None:
    client = services.server.client()
    run = submit(client, dag_text({"a": [], "b": ["a"], "c": ["a"]}, name="traced"), traceparent=GIVEN)
    wait_for_end(client, run)
    root_id = span_id(run)
    wait_until("the run's span has come", lambda: any(span.span_id.hex() == root_id for span in receiver.of(TRACE)), 60)
    spans = {span.span_id.hex(): span for span in receiver.of(TRACE)}
    assert len(spans) == len(receiver.spans)
    root = spans[root_id]
    assert root.name == "traced"
    assert root.parent_span_id.hex() == PARENT
    assert attributes(root)["helios.run.id"] == run
    for task in "abc":
        attempt = spans[span_id(run, task, "1")]
        assert (attempt.name, attempt.parent_span_id.hex()) == (task, root_id)
        assert attributes(attempt)["helios.task.status"] == "SUCCEEDED"
        stages = [span for span in spans.values() if span.parent_span_id == attempt.span_id]
        assert {"queue", "run"} <= {stage.name for stage in stages}
        stages.sort(key=lambda stage: stage.start_time_unix_nano)
        assert stages[0].start_time_unix_nano == attempt.start_time_unix_nano
        assert max(stage.end_time_unix_nano for stage in stages) == attempt.end_time_unix_nano
        for stage in stages:
            assert root.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
            assert stage.end_time_unix_nano <= root.end_time_unix_nano
    begun = {task: spans[span_id(run, task, "1")].start_time_unix_nano for task in "abc"}
    assert min(begun["b"], begun["c"]) >= spans[span_id(run, "a", "1")].end_time_unix_nano
    wait_until("nothing is left to send", lambda: client.xlen(Keys(0).traced) == 0)


def test_restarts_of_the_collector_neither_lose_nor_double_a_span(services: Services, receiver: Receiver) -> None:
    """Collectors are stopped and killed while runs end and while the receiver takes nothing; every span of every run
    comes once in the end.
    """
    client = services.server.client()
    first = [submit(client, dag_text({"a": [], "b": ["a"]}, name="before")) for _ in range(2)]
    for run in first:
        wait_for_end(client, run)
    wait_until("the first traces have come", lambda: client.xlen(Keys(0).traced) == 0, 60)
    receiver.refuses = True
    asked = receiver.asked
    second = [submit(client, dag_text({"a": [], "b": ["a"]}, name="meanwhile")) for _ in range(2)]
    for run in second:
        wait_for_end(client, run)
    wait_until("a collector has tried in vain", lambda: receiver.asked > asked, 60)
    services.processes["collector"].kill()
    services.processes.pop("collector").wait()
    services.start("collector", "collector-2")
    third = [submit(client, dag_text({"a": [], "b": ["a"]}, name="after")) for _ in range(2)]
    for run in third:
        wait_for_end(client, run)
    services.processes["collector-2"].terminate()
    assert services.processes.pop("collector-2").wait(20) == 0
    receiver.refuses = False
    services.start("collector", "collector-3")
    wait_until("all traces have come", lambda: client.xlen(Keys(0).traced) == 0, 60)
    counted = Counter(span.span_id.hex() for span in receiver.spans)
    assert set(counted.values()) == {1}
    for run in (*first, *second, *third):
        assert span_id(run) in counted
        for task in "ab":
            assert span_id(run, task, "1") in counted


@pytest.fixture
def tracer(own_valkey: Valkey, receiver: Receiver) -> Tracer:
    client = own_valkey.client()
    settings = settings_from({"HELIOS_OTLP_ENDPOINT": receiver.url, "HELIOS_LAUNCHER": "kubernetes"})
    inbox = Inbox(client, group="collector", consumer="t", streams=[Keys(0).traced], batch_entries=8, lease_seconds=15)
    return Tracer(client, inbox, settings)


def test_each_attempt_of_a_retried_task_has_its_span_with_its_own_times(
    own_valkey: Valkey, tracer: Tracer, receiver: Receiver
) -> None:
    """The record of an attempt is taken over by the next one; what its span needs is kept."""
    client = own_valkey.client()
    run, keys = "1764027260123-0", Keys(0)
    dag = b"dagName: again\ntasks: [{name: t, image: i, command: [x], retries: {count: 1}}]"
    for call in open_calls(keys, run, parse_dag(dag), None, traceparent=GIVEN):
        commit_one(client, call)
    for attempt, status in ((1, "FAILED"), (2, "SUCCEEDED")):
        commit_one(
            client,
            launch(
                keys, entry="1-1", run=run, task="t", attempt=attempt, job="j", event=TaskLaunched(run, "t", 1, "j")
            ),
        )
        for phase in ("Pending", "Running"):
            event = TaskPhase(run, "t", attempt, phase, "n")
            moved = note_phase(keys, run=run, task="t", attempt=attempt, phase=phase, node=f"n{attempt}", event=event)
            assert commit_one(client, moved)
        reason = "it broke" if status == "FAILED" else None
        record = AttemptRecord(exitCode=attempt - 1 if status == "SUCCEEDED" else 3, reason=reason, node=f"n{attempt}")
        assert commit_one(
            client,
            end_attempt(
                keys,
                entry="",
                run=run,
                task="t",
                attempt=attempt,
                status=status,
                record=msgspec.json.encode(record),
                cache="N/A",
                hit_bytes=0,
                miss_bytes=0,
                node=f"n{attempt}",
                disrupted=False,
                event=TaskEnded(run, "t", attempt, status, "N/A", 0, 0, "n"),
            ),
        )
        commit_one(client, settle(keys, entry="1-1", run=run, task="t", attempt=attempt))
    now = int(client.time()[0]) * 1000 + 999
    client.hset(keys.run(run), mapping={"status": "SUCCEEDED", "endTime": now})
    client.xadd(keys.traced, {"run": run})
    assert not tracer.handle(tracer.inbox.read())
    spans = {span.span_id.hex(): span for span in receiver.of(TRACE)}
    one, two = spans[span_id(run, "t", "1")], spans[span_id(run, "t", "2")]
    assert attributes(one)["k8s.node.name"] == "n1"
    assert attributes(two)["k8s.node.name"] == "n2"
    assert (one.status.message, attributes(one)["process.exit.code"]) == ("it broke", 3)
    assert one.end_time_unix_nano <= two.start_time_unix_nano
    for attempt in "12":
        for stage in ("queue", "create", "run"):
            assert span_id(run, "t", attempt, stage) in spans
    assert client.xlen(keys.traced) == 0


def test_a_run_that_nobody_wants_a_trace_of_is_not_sent(own_valkey: Valkey, tracer: Tracer, receiver: Receiver) -> None:
    """Because whoever submitted it decided so, or because it is forgotten by now."""
    client = own_valkey.client()
    run = "1764027260123-0"
    client.hset(
        Keys(0).run(run), mapping={"startTime": "1", "endTime": "2", "traceparent": GIVEN[:-1] + "0", "dagName": "d"}
    )
    client.xadd(Keys(0).traced, {"run": run})
    client.xadd(Keys(0).traced, {"run": "1-0"})
    handled = 0
    while handled < 2:
        entries = tracer.inbox.read()
        assert not tracer.handle(entries)
        handled += len(entries)
    assert receiver.asked == 0
    assert client.xlen(Keys(0).traced) == 0
