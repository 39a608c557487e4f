"""The collector's way to a real S3: an answer that is lost or cut is never taken for what it is not, and a store that
is silent holds up nobody but those who need it.
"""

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import redis

from helios.dag import parse_dag
from helios.settings import Settings
from helios.tokens import Attempt, mint
from helios.transitions import commit_one
from services.collector import store as store_module
from services.collector.__main__ import ENDPOINT_THREADS, Endpoint
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store, StoreRefused
from services.submitter.accept import open_calls
from tests.faulty_link import Fault, FaultyLink, long
from tests.real_s3 import RealS3
from tests.redis_servers import free_port
from tests.stage import RUN, Stage

LOSSES = (Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY)
CONTENT = b"content " * 1000
DAG = b"dagName: d\ntasks: [{name: a, image: i, command: [x], outputs: [big]}]"


def settings_of(link: FaultyLink) -> Settings:
    return Settings(
        token_key="k",
        s3_endpoint=f"http://127.0.0.1:{link.port}",
        s3_access_key="helios",
        s3_secret_key="helios-secret",
        s3_bucket="corpora",
    )


@pytest.fixture
def link(real_s3: RealS3) -> Iterator[FaultyLink]:
    real_s3.client.put_object("corpora", "kept", io.BytesIO(CONTENT), len(CONTENT))
    host, _, port = real_s3.endpoint.partition(":")
    with FaultyLink((host, int(port)), seed=4) as link:
        yield link


@pytest.mark.parametrize("fault", LOSSES)
def test_what_is_lost_on_the_way_to_the_store_is_asked_again_and_never_guessed(link: FaultyLink, fault: Fault) -> None:
    """Each answer is the true one, or none that lasts; wherever a reply is cut, in its headers too."""
    store = Store(settings_of(link))
    true = store.head("corpora", "kept")
    assert true is not None
    assert true.bytes == len(CONTENT)
    questions = {
        "head": lambda: store.head("corpora", "kept") == true,
        "absent": lambda: store.head("corpora", "absent") is None,
        "read": lambda: store.read("kept", 1_000_000) == CONTENT,
        "multipart": lambda: len(store.multipart("new", 6 << 20, part_bytes=5 << 20)[1]) == 2,
    }
    for name, question in questions.items():
        link.once(fault, 2)
        refused = 0
        while refused < 5:
            try:
                assert question(), name
                break
            except StoreRefused as error:
                assert not error.lasting
                assert "X-Amz" not in str(error)
                refused += 1
        assert refused <= 2
        link.heal()
    assert link.counts[fault] >= len(questions)


@long
def test_a_store_that_is_silent_is_noticed_in_time(link: FaultyLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "READ_SECONDS", 1.0)
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", 1.0)
    store = Store(settings_of(link))
    questions = (lambda: store.read("kept", 10_000), lambda: store.multipart("new", 6 << 20))
    for fault in (Fault.HALF_OPEN, Fault.SILENT):
        for question in questions:
            link.on(fault)
            began = time.monotonic()
            with pytest.raises(StoreRefused):
                question()
            assert time.monotonic() - began < 2
            link.heal()
            assert question()


@pytest.mark.alone
def test_those_who_wait_for_a_silent_store_hold_up_no_other_call(
    valkey: redis.Redis, link: FaultyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report, say, needs no store; and there are only so many threads."""
    monkeypatch.setattr(store_module, "READ_SECONDS", 4.0)
    stage = Stage(valkey)
    for call in open_calls(stage.keys, RUN, parse_dag(DAG), None):
        commit_one(valkey, call)
    settings = settings_of(link)
    port = free_port()
    endpoint = Endpoint(PodEndpoint(valkey, Store(settings), settings), f"127.0.0.1:{port}")
    endpoint.start()
    token = mint("k", Attempt(run=RUN, task="a", attempt=1, expires=int(time.time() + 60)))
    headers = {"Authorization": f"Bearer {token}", "Helios-Pod": "pod-1"}
    asked = ENDPOINT_THREADS * 2
    together = threading.Barrier(asked + 1)

    def call(path: str, body: bytes | None = None) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                json.load(answer)
                return answer.status
        except urllib.error.HTTPError as error:
            assert "X-Amz" not in error.read().decode()
            return error.code

    def multipart() -> int:
        together.wait()
        return call("/v1/multipart", msgspec.json.encode({"name": "big", "bytes": 6 << 20}))

    try:
        link.on(Fault.HALF_OPEN)
        with ThreadPoolExecutor(asked) as threads:
            waiting = [threads.submit(multipart) for _ in range(asked)]
            together.wait()
            began = time.monotonic()
            for _ in range(5):
                assert call("/v1/plan") == 200
            assert time.monotonic() - began < 2
            assert {each.result() for each in waiting} == {503}
        link.heal()
        assert call("/v1/multipart", msgspec.json.encode({"name": "big", "bytes": 6 << 20})) == 200
    finally:
        endpoint.close()
