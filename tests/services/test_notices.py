"""Notices of ended runs by webhook: what a receiver gets of a real loop over a real Valkey, and what nobody gets."""

import hmac
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import structlog

from helios.dag import parse_dag
from helios.events import RunEnded
from helios.keys import SUBMISSIONS, Keys
from helios.notify import destination, idempotency_key
from helios.records import AttemptRecord, read_tasks
from helios.settings import Settings
from helios.streams import Inbox
from helios.transitions import commit_one, finalise
from helios.worker import Stop, work
from services.collector import notices, webhook
from services.collector.metrics import fold
from services.collector.notice import REASON_CHARACTERS, due_numbers
from services.collector.notices import Notifier
from services.collector.webhook import refusal
from services.submitter.accept import open_calls
from tests.certificates import Authority
from tests.redis_servers import Valkey, free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
KEYS = Keys(0)
SECRET = "correct-horse-battery"
COMMANDS = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}


class Receiver:
    """Somebody's server. `answer` says what to each request, by its number; it may raise or hang."""

    def __init__(self, port: int = 0, certificate: tuple[Path, Path] | None = None) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[int, Any], tuple[int, dict[str, str]]] = lambda _number, _request: (204, {})
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked.append((self.path, dict(self.headers.items()), body))
                status, headers = receiver.answer(len(receiver.asked), self)
                if status:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def place(self) -> str:
        """As HELIOS_NOTIFY_HOSTS lists it."""
        return f"{self.scheme}://localhost:{self.server.server_address[1]}"

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.asked]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def other() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace of tests; its shape stays."""
    monkeypatch.setattr(notices, "AGAIN_FIRST_SECONDS", 0.05)


def run_id(number: int = 0) -> str:
    return f"1764027260123-{number}"


def end_run(
    client: redis.Redis,
    notify: Sequence[dict[str, Any]],
    *,
    number: int = 0,
    status: str = "SUCCEEDED",
    failed: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
    hosts: str | None = None,
) -> str:
    """Open a run and end it as the collector does. `failed`: the reasons of its tasks by name."""
    run = run_id(number)
    tasks = [{"name": name, "image": "i", "command": ["x"]} for name in failed or {"t": ""}]
    dag = parse_dag(msgspec.json.encode({"dagName": "told", "notify": list(notify), "tasks": tasks, **(more or {})}))
    for call in open_calls(KEYS, run, dag, None, notify_hosts=hosts):
        commit_one(client, call)
    for name, reason in (failed or {}).items():
        record = msgspec.json.encode(AttemptRecord(exitCode=3, reason=reason, node="n"))
        client.hset(KEYS.task(run, name), mapping={"status": "FAILED", "attempt": 1, "record": record})
    fields: dict[str, str] = client.hgetall(KEYS.run(run))  # pyright: ignore[reportAssignmentType]
    final = fold(read_tasks(client, KEYS, run, [each["name"] for each in tasks]), fields) | {"status": status}
    call = finalise(
        KEYS,
        entry="",
        run=run,
        dag_name="told",
        fields=final,
        sums={},
        runs_kept_per_dag=100,
        runs_kept_in_all=1000,
        event=RunEnded(run, status),
        notices=due_numbers(fields.get("notify"), status),
    )
    assert commit_one(client, call) == 1
    return run


@contextmanager
def notifier(
    client: redis.Redis, *hosts: str, name: str = "one", ca: Path | None = None, lease_seconds: float = 15.0
) -> Iterator[Notifier]:
    """The loop of a collector that sends."""
    settings = Settings(
        notify_hosts=" ".join(hosts),
        notify_secrets=f"ci={SECRET}",
        lease_seconds=lease_seconds,
        deliveries_before_dead_letter=3,
        s3_secret_key="key-of-the-store",
    )
    inbox = Inbox(
        client,
        group="collector",
        consumer=name,
        streams=[KEYS.notices],
        batch_entries=64,
        lease_seconds=lease_seconds,
    )
    found = Notifier(client, inbox, settings)
    if ca is not None:
        found.context = ssl.create_default_context(cafile=str(ca))
    stop = Stop()

    def turn() -> int:
        return min(found.turn() or 50, 50)  # so that it soon sees that it is to stop

    loop = threading.Thread(
        target=work, args=(inbox, found.handle), kwargs={"settings": settings, "stop": stop, "on_turn": turn}
    )
    loop.start()
    try:
        yield found
    finally:
        stop.event.set()
        loop.join()
        found.close()


def is_empty(client: redis.Redis) -> bool:
    """Nothing waits, and nothing is in anybody's hands."""
    if client.xlen(KEYS.notices):
        return False
    pending: Any = client.xpending(KEYS.notices, "collector")
    return pending["pending"] == 0


def warnings(client: redis.Redis, run: str) -> str:
    found: Any = client.hget(KEYS.run(run), "warnings")
    return found or ""


def test_services_tell_once_and_a_collector_that_is_killed_is_stood_in_for(
    own_valkey: Valkey, receiver: Receiver, tmp_path: Path
) -> None:
    """From the submission to the receiver, and with the collector killed between a run's end and its notice."""
    client = own_valkey.client()
    environment = {
        **os.environ,
        "HELIOS_REDIS_URL": own_valkey.url,
        "HELIOS_LEASE_SECONDS": "1",
        "HELIOS_TOKEN_KEY": "k",
        "HELIOS_NOTIFY_HOSTS": receiver.place,
        "HELIOS_NOTIFY_SECRETS": f"ci={SECRET}",
        "PYTHONPATH": str(ROOT),
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(service: str, replica: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *COMMANDS[service]],
                cwd=ROOT,
                env={**environment, "HELIOS_REPLICA": replica},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        processes.append(process)
        return process

    def submit() -> str:
        notify = [{"url": f"{receiver.place}/hook/token-1", "secret": "ci"}]
        tasks = [{"name": "t", "image": "i", "command": ["true"]}]
        return str(client.xadd(SUBMISSIONS, {"dag": json.dumps({"dagName": "d", "notify": notify, "tasks": tasks})}))

    try:
        for service in ("submitter", "jobrunner"):
            start(service, service)
        collector = start("collector", "first")
        run = submit()
        wait_until("the notice has come", lambda: receiver.asked, 60)
        wait_until("it is acknowledged", lambda: is_empty(client))
        receiver.answer = lambda _number, _request: (503, {})
        second = submit()
        wait_until("a notice is refused twice", lambda: len(receiver.asked) > 2, 60)
        collector.kill()
        collector.wait()
        assert client.hget(KEYS.run(second), "endTime") is not None
        receiver.answer = lambda _number, _request: (200, {})
        start("collector", "second")
        wait_until("the other collector has sent it", lambda: is_empty(client), 60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [said["run"]["dagId"] for said in receiver.said if said["run"]["dagId"] == run] == [run]
    path, headers, body = receiver.asked[0]
    assert path == "/hook/token-1"
    assert headers["Host"] == receiver.place.removeprefix("http://")
    assert headers["Content-Type"] == "application/json"
    assert headers["Helios-Signature"] == f"sha256={hmac.digest(SECRET.encode(), body, 'sha256').hex()}"
    assert headers["Idempotency-Key"] == idempotency_key(run, f"{receiver.place}/hook/token-1")
    said = json.loads(body)
    fields: dict[str, str] = client.hgetall(KEYS.run(run))  # pyright: ignore[reportAssignmentType]
    assert said["event"] == headers["Helios-Event"] == "succeeded"
    assert (said["run"]["dagName"], said["run"]["status"], said["run"]["cacheHit"]) == ("d", "SUCCEEDED", "N/A")
    for name in ("startTime", "endTime", "durationMs"):
        assert said["run"][name] == int(fields[name])
    assert (said["failedTasks"], said["failedTasksOmitted"]) == ([], 0)
    repeats = [(headers["Idempotency-Key"], body) for _, headers, body in receiver.asked[1:]]
    assert len(repeats) >= 2
    assert len(set(repeats)) == 1, "what is sent again is the same"
    log = (tmp_path / "log").read_text()
    assert "a notice is tried again" in log
    assert "token-1" not in log
    assert SECRET not in log


def test_only_the_ends_that_were_asked_for_are_told(valkey: redis.Redis, receiver: Receiver) -> None:
    place = receiver.place
    notify = [
        {"url": f"{place}/failed", "on": ["failed"]},
        {"url": f"{place}/both", "on": ["succeeded", "cancelled"]},
        {"url": f"{place}/any"},
    ]
    with notifier(valkey, place):
        for number, status in enumerate(("SUCCEEDED", "FAILED", "CANCELLED")):
            end_run(valkey, notify, number=number, status=status)
        wait_until("six notices have come", lambda: len(receiver.asked) >= 6 and is_empty(valkey))
    told = sorted((path.strip("/"), json.loads(body)["event"]) for path, _, body in receiver.asked)
    assert told == [
        ("any", "cancelled"),
        ("any", "failed"),
        ("any", "succeeded"),
        ("both", "cancelled"),
        ("both", "succeeded"),
        ("failed", "failed"),
    ]


def test_a_notice_names_failed_tasks_in_bounds_and_holds_nothing_secret(
    valkey: redis.Redis, receiver: Receiver
) -> None:
    failed = {f"t{number:03}": "x" * 3000 for number in range(100)}
    failed["t000"] = "get s3://b?X-Amz-Signature=0123abcd failed by key-of-the-store"
    more = {"params": {"password": "told-to-nobody"}}
    with notifier(valkey, receiver.place):
        end_run(valkey, [{"url": f"{receiver.place}/"}], status="FAILED", failed=failed, more=more)
        wait_until("the notice has come", lambda: is_empty(valkey) and receiver.asked)
    ((_, _, body),) = receiver.asked
    said = json.loads(body)
    assert len(body) < 20_000
    assert [each["name"] for each in said["failedTasks"]] == [f"t{number:03}" for number in range(20)]
    assert said["failedTasksOmitted"] == 80
    assert said["failedTasks"][1] == {
        "name": "t001",
        "attempt": 1,
        "node": "n",
        "exitCode": 3,
        "reason": "x" * (REASON_CHARACTERS - 1) + "…",
    }
    for each in (b"told-to-nobody", b"0123abcd", b"key-of-the-store"):
        assert each not in body


def test_a_receiver_that_fails_is_asked_again_until_it_takes_the_notice(
    valkey: redis.Redis, receiver: Receiver
) -> None:
    """After 500 and 429, after an answer that is none, and after a connection that breaks."""

    def answer(number: int, request: Any) -> tuple[int, dict[str, str]]:
        if number == 3:
            request.wfile.write(b"nonsense\r\n\r\n")
            return 0, {}
        if number == 4:
            request.connection.shutdown(socket.SHUT_RDWR)
            return 0, {}
        return {1: 500, 2: 429}.get(number, 200), {}

    receiver.answer = answer
    with notifier(valkey, receiver.place):
        run = end_run(valkey, [{"url": f"{receiver.place}/"}])
        wait_until("it is taken", lambda: is_empty(valkey) and len(receiver.asked) >= 5)
    assert len(receiver.asked) == 5
    assert len({body for _, _, body in receiver.asked}) == 1
    assert warnings(valkey, run) == ""


def test_a_receiver_that_is_not_there_yet_is_asked_again(valkey: redis.Redis) -> None:
    port = free_port()
    place = f"http://localhost:{port}"
    with notifier(valkey, place) as sender:
        end_run(valkey, [{"url": f"{place}/"}])
        wait_until("it was tried in vain", lambda: any(line.failures for line in list(sender.lines.values())))
        receiver = Receiver(port)
        try:
            wait_until("it is taken", lambda: is_empty(valkey) and receiver.asked)
        finally:
            receiver.close()
    assert len(receiver.asked) == 1


def test_a_receiver_that_says_when_to_come_again_is_left_alone_until_then(
    valkey: redis.Redis, receiver: Receiver
) -> None:
    """None of its notices is sent before, not even others; then all are."""
    at: list[float] = []

    def answer(number: int, _request: Any) -> tuple[int, dict[str, str]]:
        at.append(time.monotonic())
        return (429, {"Retry-After": "1"}) if number == 1 else (200, {})

    receiver.answer = answer
    with notifier(valkey, receiver.place) as sender:
        notify = [{"url": f"{receiver.place}/"}]
        end_run(valkey, notify)
        # Or it has taken the notice already, while this thread was waiting for its turn.
        wait_until(
            "its refusal is known", lambda: any(line.failures for line in list(sender.lines.values())) or len(at) > 1
        )
        end_run(valkey, notify, number=1)
        wait_until("all are taken", lambda: is_empty(valkey) and len(at) >= 3)
    assert at[1] - at[0] >= 1.0


@pytest.mark.parametrize("text", ["", "soon", "-1", "Wed, 99 Foo 2026 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_asks_for_nothing(text: str) -> None:
    assert webhook.judged(429, text) == ("again", "it answered 429", 0.0)
    assert webhook.judged(503, "9" * 400).wait_seconds == webhook.WAIT_AT_MOST_SECONDS


def test_what_another_had_in_hand_when_it_died_is_sent_after_its_lease(valkey: redis.Redis, receiver: Receiver) -> None:
    end_run(valkey, [{"url": f"{receiver.place}/"}])
    valkey.xgroup_create(KEYS.notices, "collector", id="0")
    assert valkey.xreadgroup("collector", "dead", {KEYS.notices: ">"})
    with notifier(valkey, receiver.place, lease_seconds=0.3):
        wait_until("it is taken", lambda: is_empty(valkey) and receiver.asked)
    assert len(receiver.asked) == 1


def test_what_waits_for_its_next_try_stays_with_its_replica_beyond_the_lease(
    valkey: redis.Redis, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else every replica would send it in turn, and it would be a dead letter soon."""
    monkeypatch.setattr(notices, "AGAIN_FIRST_SECONDS", 6.0)
    at: list[float] = []

    def answer(number: int, _request: Any) -> tuple[int, dict[str, str]]:
        at.append(time.monotonic())
        return (503 if number == 1 else 200), {}

    receiver.answer = answer
    with (
        notifier(valkey, receiver.place, lease_seconds=2.0),
        notifier(valkey, receiver.place, name="two", lease_seconds=2.0),
    ):
        end_run(valkey, [{"url": f"{receiver.place}/"}])
        wait_until("it is taken", lambda: is_empty(valkey) and len(at) >= 2)
    assert len(at) == 2
    assert at[1] - at[0] >= 3.0, "whoever takes it over sends it at once"
    assert valkey.xlen(KEYS.dead) == 0


def test_no_redirect_is_followed_and_the_run_says_so(valkey: redis.Redis, receiver: Receiver, other: Receiver) -> None:
    receiver.answer = lambda _number, _request: (302, {"Location": f"{other.place}/inner"})
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    with structlog.testing.capture_logs() as lines, notifier(valkey, receiver.place, other.place):
        run = end_run(valkey, [{"url": f"{receiver.place}/hook/s3cret?token=1"}])
        wait_until("it is given up", lambda: is_empty(valkey) and warnings(valkey, run))
    assert len(receiver.asked) == 1
    assert other.asked == []
    assert warnings(valkey, run) == (
        f"the notice to {receiver.place} is given up after 1 try: it answered 302, and redirects are not followed"
    )
    assert any(each["event"] == "a notice is not sent" for each in lines)
    assert "s3cret" not in repr(lines)
    assert "token" not in repr(lines)


def test_nothing_goes_to_a_host_that_the_operator_has_not_listed(valkey: redis.Redis, receiver: Receiver) -> None:
    """Nor to another port or by another scheme of one that is. The run is warned when it begins, and at its end."""
    port = receiver.server.server_address[1]
    notify = [
        {"url": f"{receiver.place}/"},
        {"url": f"http://127.0.0.1:{port}/"},
        {"url": f"https://localhost:{port}/"},
        {"url": "http://localhost/"},
    ]
    listed = f"localhost:{free_port()} http://localhost:{free_port()} hooks.example.org"
    with notifier(valkey, listed):
        run = end_run(valkey, notify, hosts=listed)
        begun = warnings(valkey, run).splitlines()
        wait_until("all are refused", lambda: is_empty(valkey))
    assert receiver.asked == []
    assert begun == [
        f"no notice goes to {name}: HELIOS_NOTIFY_HOSTS does not name it"
        for name in (receiver.place, f"http://127.0.0.1:{port}", f"localhost:{port}", "http://localhost")
    ]
    assert warnings(valkey, run).splitlines() == begun, "and nothing is said twice"


def test_a_notice_is_not_sent_unsigned_for_want_of_its_secret(valkey: redis.Redis, receiver: Receiver) -> None:
    with notifier(valkey, receiver.place):
        run = end_run(valkey, [{"url": f"{receiver.place}/", "secret": "nobodys"}])
        wait_until("it is refused", lambda: is_empty(valkey) and warnings(valkey, run))
    assert receiver.asked == []
    assert "HELIOS_NOTIFY_SECRETS has no 'nobodys'" in warnings(valkey, run)


@pytest.mark.parametrize(
    ("address", "host", "is_refused"),
    [
        ("93.184.215.14", "hooks.example.org", False),
        ("10.1.2.3", "receiver.ci.svc", False),
        ("fd12::1", "receiver.ci.svc", False),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("127.0.0.1", "hooks.example.org", True),
        ("127.0.0.1", "2130706433", True),
        ("::1", "hooks.example.org", True),
        ("::ffff:127.0.0.1", "hooks.example.org", True),
        ("169.254.169.254", "hooks.example.org", True),
        ("169.254.169.254", "169.254.169.254", True),
        ("::ffff:169.254.169.254", "hooks.example.org", True),
        ("64:ff9b::a9fe:a9fe", "hooks.example.org", True),
        ("fe80::1%eth0", "hooks.example.org", True),
        ("fd00:ec2::254", "hooks.example.org", True),
        ("100.100.100.200", "hooks.example.org", True),
        ("0.0.0.0", "hooks.example.org", True),
        ("::", "hooks.example.org", True),
        ("224.0.0.1", "hooks.example.org", True),
        ("255.255.255.255", "hooks.example.org", True),
    ],
)
def test_an_allowed_name_cannot_be_turned_to_this_machine_or_the_clouds_metadata(
    address: str, host: str, *, is_refused: bool
) -> None:
    assert bool(refusal(address, host)) is is_refused


def test_a_name_that_leads_to_this_machine_is_given_up_without_a_connection(
    valkey: redis.Redis, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the operator listed this machine itself may it be asked."""
    port = receiver.server.server_address[1]
    resolve = socket.getaddrinfo

    def turned(host: str, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == "hooks.example.org" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", turned)
    place = f"http://hooks.example.org:{port}"
    with notifier(valkey, place):
        run = end_run(valkey, [{"url": f"{place}/"}])
        wait_until("it is given up", lambda: is_empty(valkey) and warnings(valkey, run))
    assert receiver.asked == []
    assert "is this machine itself, which nothing is sent to" in warnings(valkey, run)


def test_a_receiver_that_hangs_holds_up_nobody_else(
    valkey: redis.Redis, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has many URLs or many notices."""
    let_go = threading.Event()

    def hang(_number: int, _request: Any) -> tuple[int, dict[str, str]]:
        let_go.wait(60)
        return 200, {}

    receiver.answer = hang
    monkeypatch.setattr(webhook, "SECONDS", 60.0)
    with notifier(valkey, receiver.place, other.place):
        hung = [{"url": f"{receiver.place}/{number}"} for number in range(7)]
        for number in range(10):
            end_run(valkey, [*hung, {"url": f"{other.place}/"}], number=number)
        wait_until("the other has all of its own", lambda: len(other.asked) == 10, 20)
        assert len(receiver.asked) <= notices.SENDS_TO_A_HOST
        let_go.set()
        wait_until("the rest has come", lambda: is_empty(valkey))
    assert len(receiver.asked) == 70


def test_an_answer_that_drips_or_never_ends_takes_no_more_than_its_time(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 2.0)
    written = threading.Event()

    def drip(number: int, request: Any) -> tuple[int, dict[str, str]]:
        try:
            if number == 2:
                request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                request.wfile.write(b"H" if number == 1 else b"x" * 65536)
                written.wait(0.05 if number == 1 else 0)
        except OSError:
            return 0, {}

    receiver.answer = drip
    to, context = destination(f"{receiver.place}/"), ssl.create_default_context()
    began = time.monotonic()
    assert webhook.post(to, b"{}", {}, context) == ("again", "no answer within 2 s", 0.0)
    assert webhook.post(to, b"{}", {}, context) == ("sent", "", 0.0)
    assert time.monotonic() - began < 20


def test_the_certificate_has_to_be_of_the_name(valkey: redis.Redis, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    strangers = Receiver(certificate=authority.sign("stranger", "elsewhere.example.org"))
    known = Receiver(certificate=authority.sign("server", "localhost"))
    try:
        with notifier(valkey, strangers.place, known.place, ca=authority.file) as sender:
            end_run(valkey, [{"url": f"{strangers.place}/"}, {"url": f"{known.place}/"}])
            wait_until("the right one was told", lambda: known.asked)
            wait_until("the wrong one was tried", lambda: any(line.failures for line in list(sender.lines.values())))
        assert strangers.asked == []
    finally:
        strangers.close()
        known.close()


def test_a_notice_that_nobody_takes_is_given_up_in_the_end(
    valkey: redis.Redis, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all others that are as old, and each of their runs says so; no dead letter is left."""
    monkeypatch.setattr(notices, "GIVEN_UP_AFTER_SECONDS", 0.5)
    receiver.answer = lambda _number, _request: (503, {})
    with notifier(valkey, receiver.place):
        runs = [end_run(valkey, [{"url": f"{receiver.place}/hook"}], number=number) for number in range(20)]
        wait_until("all are given up", lambda: is_empty(valkey), 60)
    for run in runs:
        assert warnings(valkey, run).startswith(f"the notice to {receiver.place} is given up")
        assert warnings(valkey, run).endswith(": it answered 503")
    assert valkey.xlen(KEYS.dead) == 0


def test_damaged_entries_end_as_dead_letters_or_not_at_all(valkey: redis.Redis, receiver: Receiver) -> None:
    """None of them loops, none holds up what is sound, and none changes a run."""
    notify = [{"url": f"{receiver.place}/"}]
    run = end_run(valkey, notify)
    valkey.delete(KEYS.notices)
    valkey.set(KEYS.run(run_id(7)), "of the wrong type")
    valkey.hset(KEYS.run(run_id(8)), mapping={"notify": '{"url":', "endTime": "1", "status": "FAILED"})
    valkey.hset(KEYS.run(run_id(9)), mapping={"notify": '[{"url":"ftp://x"}]', "endTime": "1", "status": "FAILED"})
    unknown = {"run": "99-0", "number": "0"}
    for entry in (
        {"run": run},
        {"number": "0"},
        {"run": run, "number": "none"},
        {"run": run, "number": "17"},
        {"run": run_id(7), "number": "0"},
        {"run": run_id(8), "number": "0"},
        {"run": run_id(9), "number": "0"},
        unknown,
        {"run": run, "number": "0"},
    ):
        valkey.xadd(KEYS.notices, entry)
    with notifier(valkey, receiver.place):
        wait_until("nothing is left", lambda: is_empty(valkey) and receiver.asked)
    assert len(receiver.asked) == 1
    assert valkey.xlen(KEYS.dead) == 7
    assert valkey.hget(KEYS.run(run), "status") == "SUCCEEDED"
    assert valkey.hget(KEYS.run(run), "reason") is None


def test_what_waits_to_be_told_is_bounded(valkey: redis.Redis) -> None:
    for _ in range(11):
        pipeline = valkey.pipeline(transaction=False)
        for _ in range(1_000):
            pipeline.xadd(KEYS.notices, {"run": "1-0", "number": "0"})
        pipeline.execute()
    end_run(valkey, [{"url": "https://hooks.example.org/"}])
    assert valkey.xlen(KEYS.notices) <= 10_100
    (last,) = valkey.xrevrange(KEYS.notices, count=1)
    assert last[1] == {"run": run_id(), "number": "0"}


def test_the_receiver_of_the_docs_takes_signed_notices_once(valkey: redis.Redis, tmp_path: Path) -> None:
    """Its words are those of docs/notifications.md, but for the port."""
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/notifications.md").read_text(), re.DOTALL)
    port = free_port()
    program = tmp_path / "receiver.py"
    program.write_text(text.replace("8099", str(port)))
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    place = f"http://localhost:{port}"
    try:
        with notifier(valkey, place):
            failed = {"count": "exit code 3"}
            end_run(valkey, [{"url": f"{place}/", "secret": "ci"}], status="FAILED", failed=failed)
            unsigned = end_run(valkey, [{"url": f"{place}/"}], number=1)
            wait_until("both are over", lambda: is_empty(valkey))
        assert "it answered 403" in warnings(valkey, unsigned)
    finally:
        process.kill()
        output, _ = process.communicate()
    assert output == "told failed ['count']\n"
