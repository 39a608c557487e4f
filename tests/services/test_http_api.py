"""The HTTP API over a real Valkey: what it takes and refuses, whom it lets in, and how it ends."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
import redis

from helios.events import RunEnded, encode_event
from helios.keys import SUBMISSIONS, Keys, partition_of
from helios.records import OutputRecord
from helios.run_object import ORDER
from services.api.bounds import STREAMS_PER_TOKEN, Rate
from services.api.shapes import Run
from services.api.tokens import token_of, tokens_of
from tests.redis_servers import Valkey
from tests.services.http_api import TOKENS, Api, events_of, serving
from tests.stage import RUN, Stage
from tests.waiting import wait_until

GOOD = b"dagName: trial\ntasks:\n  - {name: a, image: alpine, command: ['true']}\n"
PARTITIONS = 3


@pytest.fixture(scope="module")
def api(shared_valkey: Valkey) -> Iterator[Api]:
    settings = {"http_requests_per_second": 10_000, "s3_public_endpoint": "https://store.example"}
    with serving(shared_valkey.url, **settings) as api:
        yield api


@pytest.fixture
def stage(valkey: redis.Redis) -> Stage:
    return Stage(valkey)


def test_a_dag_is_taken_as_yaml_and_as_json_and_stands_in_the_stream(api: Api, valkey: redis.Redis) -> None:
    as_json = json.dumps({"dagName": "trial", "tasks": [{"name": "a", "image": "i", "command": ["x"]}]}).encode()
    for body, kind in ((GOOD, "application/yaml"), (as_json, "application/json")):
        query = "useCache=false&memoize=false&priority=high"
        answer = api.ask("POST", f"/api/v1/dags?{query}", body, headers={"Content-Type": kind})
        assert answer.status == 202, answer
        run = answer.json["dagId"]
        assert answer.headers["location"] == f"/api/v1/dags/{run}"
        ((_, fields),) = valkey.xrange(SUBMISSIONS, run, run)  # pyright: ignore[reportGeneralTypeIssues]
        sent = {name: fields[name] for name in ("dag", "useCache", "memoize", "priority")}
        assert sent == {"dag": body.decode(), "useCache": "false", "memoize": "false", "priority": "high"}
        assert api.ask("GET", f"/api/v1/dags/{run}").json["status"] == "SUBMITTED"


PARAMETRISED = b"dagName: x\nparams: {date: }\ntasks:\n- {name: a, image: i, command: [echo, '${params.date}']}\n"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_submission_gives_parameters_and_a_trace(api: Api, valkey: redis.Redis) -> None:
    headers = {"Content-Type": "application/yaml", "traceparent": TRACEPARENT}
    where = "/api/v1/dags?params=" + quote('{"date": "2026-11-01"}')
    answer = api.ask("POST", where, PARAMETRISED, headers=headers)
    assert answer.status == 202, answer
    run = answer.json["dagId"]
    ((_, fields),) = valkey.xrange(SUBMISSIONS, run, run)  # pyright: ignore[reportGeneralTypeIssues]
    assert (fields["params"], fields["traceparent"]) == ('{"date": "2026-11-01"}', TRACEPARENT)
    for params, words in (("", "date"), ('{"day": "1"}', "day"), ("[1]", "JSON object")):
        refused = api.ask("POST", f"/api/v1/dags?params={quote(params)}", PARAMETRISED, headers=headers)
        assert refused.status == 400, refused
        assert words in str(refused.json)


def test_a_dag_that_is_not_valid_is_refused_with_every_problem_and_its_line(api: Api, valkey: redis.Redis) -> None:
    answer = api.ask("POST", "/api/v1/dags", b"dagName: x\ntasks:\n- {name: a, depends_on: [b]}\n- {name: '..'}\n")
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json["problems"]) >= 5
    assert {each["line"] for each in answer.json["problems"]} == {3, 4}
    assert valkey.exists(SUBMISSIONS) == 0


def test_the_same_request_id_is_the_same_run_and_with_another_dag_a_conflict(api: Api, valkey: redis.Redis) -> None:
    """As the submitter leaves it: its digest and the API's are one function."""
    from helios.submitting import submission_digest

    digest = submission_digest({"dag": GOOD})
    valkey.hset(Keys(partition_of("r", 1)).request("r"), mapping={"run": "5-0", "digest": digest})
    again = api.ask("POST", "/api/v1/dags?requestId=r", GOOD)
    assert (again.status, again.json["dagId"], again.json["repeated"]) == (200, "5-0", True)
    assert api.ask("POST", "/api/v1/dags?requestId=r&useCache=false", GOOD).status == 409
    assert valkey.exists(SUBMISSIONS) == 0


def test_nothing_is_reachable_without_a_token_but_the_probes(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        assert api.ask("GET", path, token=None).status == 200
    for method, path in (
        ("POST", "/api/v1/dags"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/nowhere"),
        ("DELETE", "/healthz/"),
    ):
        for token in (None, "", "b" * 42, "b" * 44):
            answer = api.ask(method, path, token=token)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="helios"')


def test_a_token_does_what_its_scope_says_and_no_more(api: Api, stage: Stage) -> None:
    stage.open({"a": []})
    assert api.ask("POST", "/api/v1/dags", GOOD, token="reader").status == 403
    assert api.ask("DELETE", f"/api/v1/dags/{RUN}", token="reader").status == 403
    assert api.ask("GET", f"/api/v1/dags/{RUN}", token="reader").status == 200
    for path in (f"/api/v1/dags/{RUN}", "/api/v1/dags", "/api/v1/events", "/api/v1/system/status"):
        assert api.ask("GET", path, token="sender").status == 403
    assert api.ask("POST", "/api/v1/dags", GOOD, token="sender").status == 202
    assert api.ask("DELETE", f"/api/v1/dags/{RUN}", token="sender").status == 202


def test_tokens_are_known_by_their_digests_and_a_bad_entry_is_not_quoted() -> None:
    from helios.settings import SettingInvalid

    tokens = tokens_of("a:read:" + "0" * 64 + ",b:submit+read:" + "1" * 64)
    assert [sorted(each.scopes) for each in tokens] == [["read"], ["read", "submit"]]
    assert token_of("Bearer x", tokens) is None
    for text in ("", "secret-by-itself", "a:all:" + "0" * 64):
        with pytest.raises(SettingInvalid) as caught:
            tokens_of(text)
        assert "secret-by-itself" not in str(caught.value)


def test_a_rate_lets_a_burst_pass_and_says_when_to_come_back() -> None:
    rate = Rate(10)
    assert [rate.take("a", now=0.0) for _ in range(20)] == [0.0] * 20
    assert rate.take("a", now=0.0) == pytest.approx(0.1)
    assert rate.take("b", now=0.0) == 0.0
    assert rate.take("a", now=0.11) == 0.0


def test_whoever_asks_too_often_is_told_when_to_come_back(shared_valkey: Valkey) -> None:
    with serving(shared_valkey.url, http_requests_per_second=2) as api:
        # At once, since each second allows two more.
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda _: api.ask("GET", "/api/v1/dags", token="reader"), range(64)))
        refused = [each for each in answers if each.status == 429]
        assert refused
        assert int(refused[0].headers["retry-after"]) >= 1
        assert api.ask("GET", "/api/v1/dags", token="both").status == 200
        _, said = api.stop()
        assert not [token for token in TOKENS.values() if token in said]


def test_a_body_above_the_limit_is_refused_unread_and_one_without_a_length_as_it_grows(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), 20) as raw:
        head = f"POST /api/v1/dags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['both']}\r\n"
        raw.sendall(f"{head}Content-Length: 99999999\r\n\r\n".encode())
        assert b" 413 " in raw.recv(4096)
    with socket.create_connection(("127.0.0.1", api.port), 20) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"100000\r\n" + b"#" * 0x100000 + b"\r\n"
        try:
            for _ in range(20):
                raw.sendall(piece)
        except OSError:
            return  # it hung up, which says as much
        assert b" 413 " in raw.recv(4096)


def test_a_run_its_list_and_its_dags_metrics_have_the_names_of_the_command_line(api: Api, stage: Stage) -> None:
    assert Run.__struct_fields__ == ORDER
    for number in range(3):
        stage.open({"a": []}, run=f"{100 + number}-0")
    run = api.ask("GET", "/api/v1/dags/101-0").json
    assert list(run) == [*ORDER, "tasks"]
    assert (run["status"], run["tasks"][0]["name"]) == ("RUNNING", "a")
    assert "tasks" not in api.ask("GET", "/api/v1/dags/101-0?tasks=false").json
    for path in ("/api/v1/dags?limit=2", "/api/v1/dags/trial/metrics?limit=2"):
        assert [each["dagId"] for each in api.ask("GET", path).json["runs"]] == ["102-0", "101-0"]
    assert api.ask("GET", "/api/v1/dags/other/metrics").status == 404
    for limit in (0, 101, "x"):
        assert api.ask("GET", f"/api/v1/dags/trial/metrics?limit={limit}").status == 400


@pytest.mark.alone
def test_a_hundred_runs_of_a_dag_are_answered_in_time(api: Api, stage: Stage) -> None:
    """The bound is generous for a machine that is shared; bench/http_api.py measures."""
    for number in range(100):
        stage.open({"a": []}, run=f"{100 + number}-0")
    api.ask("GET", "/api/v1/dags/trial/metrics?limit=100")
    began = time.monotonic()
    assert len(api.ask("GET", "/api/v1/dags/trial/metrics?limit=100").json["runs"]) == 100
    assert time.monotonic() - began < 0.5


def test_cancelling_asks_once_it_is_needed_and_an_ended_run_stays_as_it_is(api: Api, stage: Stage) -> None:
    stage.open({"a": []})
    answer = api.ask("DELETE", f"/api/v1/dags/{RUN}")
    assert (answer.status, answer.json) == (202, {"dagId": RUN, "status": "RUNNING"})
    ((_, control),) = stage.entries("helios:controls")
    assert control == {"run": RUN, "action": "cancel"}
    stage.client.hset(stage.keys.run(RUN), "status", "FAILED")
    assert api.ask("DELETE", f"/api/v1/dags/{RUN}").status == 200
    assert len(stage.entries("helios:controls")) == 1
    assert api.ask("DELETE", "/api/v1/dags/9-9").status == 404


def test_an_artifact_is_a_redirect_to_a_signed_url_of_the_public_store(api: Api, stage: Stage) -> None:
    stage.open({"a": []})
    stage.launch("a")
    stage.end("a", outputs=[OutputRecord("out/b.txt", 3, "0" * 64, "runs/k")])
    (listed,) = api.ask("GET", f"/api/v1/dags/{RUN}/artifacts").json["artifacts"]
    answer = api.ask("GET", listed["url"])
    assert answer.status == 307
    assert answer.headers["location"].startswith("https://store.example/helios/runs/k?")
    assert "X-Amz-Signature=" in answer.headers["location"]
    assert api.ask("GET", f"/api/v1/dags/{RUN}/tasks/a/artifacts/none").status == 404
    assert api.ask("GET", f"/api/v1/dags/{RUN}/tasks/b/artifacts/out/b.txt").status == 404


def test_a_log_is_followed_as_it_grows_to_its_end(api: Api, stage: Stage) -> None:
    stage.open({"a": []})
    stage.launch("a")
    log = stage.keys.log(RUN, "a", 1, "task")
    stage.client.xadd(log, {"line": "first"})
    answer = api.open(f"/api/v1/dags/{RUN}/tasks/a/logs?follow=true")
    assert answer.readline() == b"first\n"
    wait_until("the collector is told that somebody watches", lambda: stage.client.exists(stage.keys.watched(RUN)))
    stage.client.xadd(log, {"line": "second"})
    assert answer.readline() == b"second\n"
    stage.end("a")
    stage.settle("a")
    assert answer.read() == b""
    tail = api.ask("GET", f"/api/v1/dags/{RUN}/tasks/a/logs?tail=1")
    assert tail.body == b"second\n"
    assert api.ask("GET", f"/api/v1/dags/{RUN}/tasks/b/logs").status == 404


def add_events(client: redis.Redis, first: int, count: int) -> None:
    for number in range(first, first + count):
        event = encode_event(RunEnded(f"{number}-0", "SUCCEEDED"))
        client.xadd(Keys(number % PARTITIONS).events, {"event": event})


def test_whoever_comes_back_with_the_last_id_misses_no_event_of_any_partition(
    shared_valkey: Valkey, valkey: redis.Redis
) -> None:
    with serving(shared_valkey.url, partitions=PARTITIONS) as api:
        answer = api.open("/api/v1/events")
        assert answer.readline() == b"retry: 2000\n"
        place = answer.readline().decode()[4:].strip()
        answer.close()  # before any event came
        add_events(valkey, 0, 500)
        seen: list[str] = []
        while len(seen) < 600:
            answer = api.open("/api/v1/events", {"Last-Event-ID": place})
            found = events_of(answer, 60)
            seen += [event["run"] for _, event in found]
            place = found[-1][0]
            answer.close()
            if len(seen) == 300:
                add_events(valkey, 500, 100)
        assert sorted(seen, key=lambda run: int(run.partition("-")[0])) == [f"{number}-0" for number in range(600)]
        for wrong in ("x", "1-1", "1-1,2-2,3", f"{2**64}-0,0-0,0-0"):
            assert api.ask("GET", "/api/v1/events", headers={"Last-Event-ID": wrong}).status == 400


def test_what_the_feed_does_not_hold_any_more_is_told(api: Api, valkey: redis.Redis) -> None:
    feed = Keys(0).events
    ids: Any = [valkey.xadd(feed, {"event": encode_event(RunEnded(f"{n}-0", "FAILED"))}) for n in range(10)]
    valkey.xtrim(feed, maxlen=2, approximate=False)
    (_, gap), (_, event) = events_of(api.open("/api/v1/events", {"Last-Event-ID": ids[0]}), 2)
    assert (gap["type"], event["run"]) == ("Gap", "8-0")
    ((_, event),) = events_of(api.open("/api/v1/events?dagId=9-0", {"Last-Event-ID": ids[8]}), 1)
    assert event["run"] == "9-0"


def test_a_client_that_does_not_read_keeps_nobody_waiting(api: Api, valkey: redis.Redis) -> None:
    big = json.dumps({"type": "Later", "run": "1-0", "text": "x" * 50_000})
    for _ in range(200):
        valkey.xadd(Keys(0).events, {"event": big})
    slow = [api.open("/api/v1/events", {"Last-Event-ID": "0-0"}) for _ in range(STREAMS_PER_TOKEN)]
    refused = wait_until(
        "all places are taken",
        lambda: (answer := api.ask("GET", "/api/v1/events")).status == 429 and answer,
    )
    assert int(refused.headers["retry-after"]) >= 1
    began = time.monotonic()
    assert api.ask("GET", "/api/v1/dags").status == 200
    assert time.monotonic() - began < 5
    for answer in slow:
        answer.close()
    reopened = wait_until("a place is free", lambda: (a := api.open("/api/v1/events")).status == 200 and a)
    reopened.close()


def test_status_says_which_replicas_live_and_what_waits(api: Api, stage: Stage) -> None:
    stage.open({"a": []})
    api_alive = wait_until(
        "the API's own heartbeat is there",
        lambda: [
            each["replicas"]
            for each in api.ask("GET", "/api/v1/system/status").json["services"]
            if each["service"] == "api" and each["replicas"]
        ],
    )
    assert api_alive[0][0]["waitsFor"] == ""
    status = api.ask("GET", "/api/v1/system/status").json
    ready = next(each for each in status["streams"] if each["stream"] == stage.keys.ready)
    assert (ready["length"], ready["pending"], ready["lag"]) == (1, 0, 1)
    assert (status["runsActive"], status["deadLetters"]) == (1, 0)
    assert status["redis"]["role"] == "master"


def test_a_full_redis_and_one_that_is_away_are_503_with_a_time_to_come_back(own_valkey: Valkey) -> None:
    with serving(own_valkey.url) as api:
        client = own_valkey.client()
        client.config_set("maxmemory", "1")
        full = api.ask("POST", "/api/v1/dags", GOOD)
        assert full.status == 503
        assert "memory is full" in full.json["detail"]
        client.config_set("maxmemory", "0")
        own_valkey.kill()
        for method, path, body in (("GET", "/api/v1/dags", None), ("POST", "/api/v1/dags", GOOD)):
            away = api.ask(method, path, body)
            assert (away.status, away.headers["retry-after"]) == (503, "2")
        assert away.json["requestId"].startswith("http-")
        assert api.ask("GET", "/healthz", token=None).status == 200
        own_valkey.start()
        wait_until("it answers again", lambda: api.ask("GET", "/api/v1/dags").status == 200)


def test_at_the_stop_signal_events_end_whole_and_a_followed_log_is_broken_off(
    shared_valkey: Valkey, stage: Stage
) -> None:
    import http.client

    stage.open({"a": []})
    stage.launch("a")
    stage.client.xadd(stage.keys.log(RUN, "a", 1, "task"), {"line": "first"})
    with serving(shared_valkey.url) as api:
        feed = api.open("/api/v1/events")
        assert feed.readline() == b"retry: 2000\n"
        log = api.open(f"/api/v1/dags/{RUN}/tasks/a/logs?follow=true")
        assert log.readline() == b"first\n"
        began = time.monotonic()
        code, said = api.stop()
        assert (code, time.monotonic() - began < 8) == (0, True), said
        feed.read()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            log.read()


@pytest.mark.parametrize("head", [f"GET /api/v1/dags?x={'y' * 70_000}", "nonsense\r\n\r\n"], ids=["long", "nonsense"])
def test_a_head_that_is_not_understood_is_refused_like_everything_else(api: Api, head: str) -> None:
    with socket.create_connection(("127.0.0.1", api.port), 10) as link:
        link.sendall(head.encode())
        answer = b"".join(iter(lambda: link.recv(65_536), b""))
    status, _, rest = answer.partition(b"\r\n")
    heads, _, body = rest.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in heads
    assert "64 KiB" in json.loads(body)["detail"]


def test_a_client_that_never_ends_its_headers_is_cut_off(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), 30) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        raw.settimeout(30)
        assert raw.recv(1) == b""
