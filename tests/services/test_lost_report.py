"""The report never arrived: what the collector makes of the termination message, and of the list in the store."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
import redis

from helios.dag import parse_dag
from helios.keys import COLLECTOR_GROUP
from helios.podwire import MessageOutput, OutputManifest
from helios.records import decode_attempt
from helios.settings import Settings
from helios.streams import Inbox
from helios.transitions import commit_one
from services.collector.collect import Collector
from services.collector.manifests import PATIENCE_SECONDS, ManifestLost, Manifests, NotYet
from services.collector.store import ObjectMissing, Store, StoreRefused
from services.submitter.accept import open_calls
from tests.services.test_collect import FakePods
from tests.stage import RUN, Stage
from tests.waiting import wait_until

DAG = b"{dagName: d, tasks: [{name: a, image: i, command: [x], outputs: [o]}]}"
LISTED = msgspec.json.encode(OutputManifest(outputs=[MessageOutput("o", 5, "ab" * 32)]))
DIGEST = hashlib.sha256(LISTED).hexdigest()
KEY = f"runs/{RUN}/a/1/u.manifest.json"


class Objects:
    """A store of one object, which can be away."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {KEY: LISTED}
        self.away = False
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def read(self, key: str, _limit: int) -> bytes:
        self.asked += 1
        self.gate.wait(20)
        if self.away:
            raise StoreRefused("the object store does not answer")
        if key not in self.held:
            raise ObjectMissing(f"the object store has no {key}")
        return self.held[key]


class Lost:
    """A collector whose one task has succeeded without a report."""

    def __init__(self, client: redis.Redis) -> None:
        self.now = 0.0
        self.objects = Objects()
        self.manifests = Manifests(self.objects.read, lambda: self.now)
        self.pods = FakePods()
        self.stage = Stage(client)
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(client, call)
        self.stage.launch("a")
        streams = [self.stage.keys.launched, self.stage.keys.settled]
        inbox = Inbox(
            client, group=COLLECTOR_GROUP, consumer="one", streams=streams, batch_entries=10, lease_seconds=600
        )
        self.collector = Collector(client, inbox, self.pods, Settings(lease_seconds=600), None, self.manifests.get)

    def take(self, message: str) -> None:
        self.pods.messages["job-a-1", "publish"] = message
        self.pods.over("job-a-1")
        assert self.collector.handle(self.collector.inbox.read(1)) == []

    def ends(self) -> dict[str, str]:
        def ended() -> dict[str, str] | None:
            self.collector.turn()
            return None if self.collector.held else self.stage.task("a")

        return wait_until("the attempt has ended", ended)


@pytest.fixture
def lost(client: redis.Redis) -> Iterator[Lost]:
    found = Lost(client)
    yield found
    found.objects.gate.set()
    found.manifests.close()


BY_LIST = f'{{"ok":true,"exitCode":0,"outputs":1,"manifest":"{DIGEST}"}}'


def test_a_lost_report_is_made_good_by_the_termination_message(lost: Lost) -> None:
    """Nothing is asked of the store, and the next task finds the outputs where publish put them."""
    stored = f'["o",5,"{"ab" * 32}",true]'
    lost.take(f'{{"ok":true,"exitCode":0,"outputs":1,"stored":[{stored}]}}')
    task = lost.ends()
    assert (task["status"], task["disrupted"]) == ("SUCCEEDED", "0")
    (output,) = decode_attempt(task["record"]).outputs
    assert (output.key, output.bytes, output.archive) == (f"runs/{RUN}/a/1/u/o", 5, True)
    assert lost.objects.asked == 0


def test_a_list_in_the_store_is_read_while_the_loop_goes_on(lost: Lost) -> None:
    lost.objects.gate.clear()
    lost.take(BY_LIST)
    wait_until("it is asked for", lambda: lost.collector.turn() and lost.objects.asked)
    lost.collector.turn()
    assert lost.stage.status("a") == "RUNNING"
    lost.objects.gate.set()
    task = lost.ends()
    assert task["status"] == "SUCCEEDED"
    assert decode_attempt(task["record"]).outputs[0].key == f"runs/{RUN}/a/1/u/o"
    assert lost.pods.released == ["job-a-1"]


def test_a_store_that_comes_back_in_time_is_asked_again(lost: Lost) -> None:
    lost.objects.away = True
    lost.take(BY_LIST)
    wait_until("it was asked", lambda: lost.collector.turn() and lost.objects.asked == 1)
    lost.objects.away = False
    lost.now = PATIENCE_SECONDS - 1
    assert lost.ends()["status"] == "SUCCEEDED"


def gone(lost: Lost) -> None:
    lost.objects.held.clear()


def changed(lost: Lost) -> None:
    lost.objects.held[KEY] = LISTED + b" "


def broken(lost: Lost) -> None:
    lost.objects.held[KEY] = b"[" * 100_000


def away(lost: Lost) -> None:
    lost.objects.away = True
    lost.now -= PATIENCE_SECONDS


@pytest.mark.parametrize("fault", [gone, changed, broken, away])
def test_a_list_that_cannot_be_had_repeats_the_attempt_at_nobodys_cost(
    lost: Lost, fault: Callable[[Lost], None]
) -> None:
    fault(lost)
    digest = hashlib.sha256(lost.objects.held.get(KEY, b"")).hexdigest() if fault is broken else DIGEST
    lost.take(BY_LIST.replace(DIGEST, digest))
    if fault is away:
        wait_until("it was asked", lambda: lost.collector.turn() and lost.objects.asked)
        lost.now += PATIENCE_SECONDS
    task = lost.ends()
    assert (task["status"], task["disrupted"]) == ("FAILED", "1")
    assert "its termination message does not list them" in task["record"]


def test_one_reading_serves_one_answer() -> None:
    """Nothing is kept of what was told."""
    objects = Objects()
    manifests = Manifests(objects.read)

    def found() -> Any:
        try:
            return manifests.get(KEY, DIGEST)
        except NotYet:
            return None

    assert [each.name for each in wait_until("it is read", found)] == ["o"]
    assert manifests.readings == {}
    objects.held.clear()
    with pytest.raises(NotYet):
        manifests.get(KEY, DIGEST)
    with pytest.raises(ManifestLost):
        wait_until("it is read again", found)
    manifests.close()


def test_an_object_is_read_whole_or_not_at_all() -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            codes = {"good": 200, "huge": 200, "missing": 404, "busy": 503}
            content = b"x" * (11 if "huge" in self.path else 10)
            self.send_response(next(code for name, code in codes.items() if name in self.path))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    store = Store(Settings(s3_endpoint=endpoint, s3_access_key="a", s3_secret_key="s"))
    assert store.read("good", 10) == b"x" * 10
    for key, error in (("huge", ObjectMissing), ("missing", ObjectMissing), ("busy", StoreRefused)):
        with pytest.raises(error):
            store.read(key, 10)
    server.shutdown()
    server.server_close()
    with pytest.raises(StoreRefused):
        store.read("good", 10)
