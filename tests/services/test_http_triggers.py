"""Webhooks of triggers, and notifications of buckets, before a real Valkey and the API as a process."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from helios import triggers as rules
from helios.keys import SUBMISSIONS, Keys, trigger
from tests.redis_servers import Valkey, free_port
from tests.services.http_api import TOKENS, Api, Reply, serving
from tests.services.test_trigger import DAG, PLAIN, Setting, params
from tests.waiting import wait_until

OBJECT = b"""\
dagName: object
params: {bucket: null, key: null, size: "0", etag: ""}
tasks:
  - {name: a, image: alpine, command: [sh, -c, "echo ${params.bucket} ${params.key} ${params.size} ${params.etag}"]}
"""


@pytest.fixture(scope="module")
def api(shared_valkey: Valkey) -> Iterator[Api]:
    with serving(shared_valkey.url, http_requests_per_second=100_000) as found:
        yield found


@pytest.fixture
def setting(valkey: redis.Redis) -> Setting:
    return Setting(valkey)


def add(setting: Setting, name: str = "hook", dag: bytes = DAG, **fields: str) -> None:
    assert setting.control("add", name, kind="webhook", dag=dag, **fields) == "ok"


def post(api: Api, body: Any, name: str = "hook", token: str | None = "sender", **headers: str) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return api.ask("POST", f"/api/v1/triggers/{name}", text, token=token, headers=sent)


def record(key: str, bucket: str = "data", *, kind: str = "s3:ObjectCreated:Put", **stored: Any) -> dict[str, Any]:
    """As MinIO writes it."""
    about = {"key": key, "size": 5, "eTag": "e1", "contentType": "text/csv", "sequencer": "17A", **stored}
    return {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventTime": "2026-11-01T03:00:00.000Z",
        "eventName": kind,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"}, "object": about},
    }


def notification(*records: dict[str, Any]) -> dict[str, Any]:
    return {"EventName": records[0]["eventName"], "Key": "as MinIO says it", "Records": list(records)}


def test_a_call_starts_the_dag_once_for_its_key(api: Api, setting: Setting) -> None:
    add(setting)
    first = post(api, {"order": 17, "mode": "slow"}, Idempotency_Key="d1")
    assert first.status == 202, first.body
    (event,) = first.json["events"]
    (run,) = setting.runs()
    assert (run["dagId"], params(run)) == (event["dagId"], {"order": "17", "mode": "slow"})
    again = post(api, {"order": 17, "mode": "slow"}, Idempotency_Key="d1")
    assert (again.status, again.json["events"][0]["dagId"]) == (200, event["dagId"])
    assert again.json["events"][0]["repeated"] is True
    assert post(api, {"order": 18}, Idempotency_Key="d1").status == 409
    assert post(api, {"order": 17}).status == post(api, {"order": 17}).status == 202
    assert len(setting.runs()) == 3
    found = setting.record("hook")
    assert (found.runs, found.refused, found.lastEvent.startswith("http-")) == (3, 0, True)


def test_of_calls_at_the_same_moment_with_one_id_one_makes_the_run(api: Api, setting: Setting) -> None:
    """By the id that lies in the event."""
    add(setting, params='{"order": "${event.order}"}', eventId="delivery.id")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: post(api, {"order": "1", "delivery": {"id": 7}}), range(16)))
    assert {each.status for each in replies} <= {200, 202}
    assert len(setting.runs()) == 1
    refused = post(api, {"order": "1"})
    assert (refused.status, "no 'delivery.id'" in refused.json["detail"]) == (400, True)


def test_what_cannot_start_the_dag_is_refused_in_words(api: Api, setting: Setting) -> None:
    add(setting)
    add(setting, "uploads", OBJECT, bucket="data")
    assert setting.control("add", "stream", kind="stream", stream="events:x", dag=PLAIN) == "ok"
    for body, name, status, words in (
        ({"mode": "x"}, "hook", 400, "no 'order', which the DAG needs"),
        ({"order": "x", "mood": "y"}, "hook", 400, "did you mean 'mode'"),
        ({"order": "\ud800"}, "hook", 400, "not UTF-8"),
        (b"[1]", "hook", 400, "a JSON object"),
        (b"{", "hook", 400, "a JSON object"),
        (b"[" * 100_000, "hook", 400, "a JSON object"),
        ({"order": "x"}, "nothing", 404, "no trigger"),
        ({"order": "x"}, "stream", 404, "no trigger"),
        ({"order": "x"}, "uploads", 400, "notifications of a bucket"),
        ({"Records": [{"s3": {"bucket": {}}}]}, "uploads", 400, "no eventName"),
        (b'{"order": "' + b"x" * rules.EVENT_BYTES_AT_MOST + b'"}', "hook", 413, "an event has"),
    ):
        reply = post(api, body, name)
        assert (reply.status, words in reply.json["detail"]) == (status, True), (reply.status, reply.body[:300], words)
    setting.runs()
    assert setting.control("pause", "hook") == "ok"
    assert post(api, {"order": "x"}).status == 409
    assert setting.client.zcard(Keys(0).runs) == 0
    found = setting.record("hook")
    assert (found.refused, "UTF-8" in found.refusedWhy) == (3, True)


def test_a_token_that_may_only_read_starts_nothing(api: Api, setting: Setting) -> None:
    add(setting)
    assert post(api, {"order": "x"}, token="reader").status == 403
    assert post(api, {"order": "x"}, token=None).status == 401
    assert setting.client.xlen(SUBMISSIONS) == 0


def test_each_object_of_a_notification_makes_one_run_however_often_it_is_sent(api: Api, setting: Setting) -> None:
    add(setting, "uploads", OBJECT, bucket="data", prefix="in/", suffix=".csv")
    sent = notification(
        record("in%2Fa+b%C3%A4.csv", size=3_000_000_000),
        record("in%2Fc.csv", versionId="v1"),
        record("in%2Fc.csv", versionId="v2"),
        record("out%2Fa.csv"),
        record("in%2Fa.txt"),
        record("in%2Fa.csv", bucket="other"),
        record("in%2Fa.csv", kind="s3:ObjectRemoved:Delete"),
    )
    reply = post(api, sent, "uploads")
    assert (reply.status, len(reply.json["events"])) == (202, 3), reply.body
    runs = setting.runs()
    assert [params(run)["key"] for run in runs] == ["in/a bä.csv", "in/c.csv", "in/c.csv"]
    assert params(runs[0]) == {"bucket": "data", "key": "in/a bä.csv", "size": "3000000000", "etag": "e1"}
    again = post(api, sent, "uploads")
    assert again.status == 200
    assert [each["dagId"] for each in again.json["events"]] == [run["dagId"] for run in runs]
    nothing = post(api, notification(record("out%2Fx.csv")), "uploads")
    assert (nothing.status, nothing.json["events"]) == (200, [])
    assert len(setting.runs()) == 3
    newer = post(api, notification(record("in%2Fa+b%C3%A4.csv", sequencer="17B")), "uploads")
    assert newer.status == 202, "the same key was written anew"


def test_what_leaves_an_object_as_it_is_starts_nothing(api: Api, setting: Setting) -> None:
    """MinIO tells of tags, retention and legal holds as of something created."""
    add(setting, "uploads", OBJECT)
    kinds = ("PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold")
    sent = notification(*(record("a", kind=f"s3:ObjectCreated:{kind}") for kind in kinds))
    assert (post(api, sent, "uploads").status, setting.runs()) == (200, [])


def test_a_notification_in_other_words_is_taken(api: Api, setting: Setting) -> None:
    """Refused, it would come again for ever, and hold up what is behind it."""
    add(setting, "uploads", DAG, params='{"order": "${event.eventTime}"}')
    sent = notification(record("a", versionId="v1"))
    assert post(api, sent, "uploads").status == 202
    assert len(setting.runs()) == 1
    sent["Records"][0]["eventTime"] = "2026-11-02T03:00:00.000Z"
    again = post(api, sent, "uploads")
    assert again.status == 200, again.body
    assert "used for another event" in again.json["events"][0]["refused"]
    assert len(setting.runs()) == 1


def test_a_notification_of_more_than_there_is_room_for_is_taken_in_parts(api: Api, setting: Setting) -> None:
    """Each submission is a copy of the DAG: a thousand would fill Redis."""
    add(setting, "uploads", OBJECT)
    sent = notification(*(record(f"o{number}") for number in range(150)))
    first = post(api, sent, "uploads")
    assert (first.status, "wait already" in first.json["detail"]) == (503, True)
    assert setting.client.xlen(SUBMISSIONS) == 100
    assert len(setting.runs()) == 100
    assert post(api, sent, "uploads").status == 202
    assert len(setting.runs()) == 150


def test_an_object_that_cannot_start_the_dag_is_set_aside_and_holds_up_no_other(api: Api, setting: Setting) -> None:
    """Whoever sends notifications repeats one until it is taken, and sends none after it."""
    add(setting, "uploads", DAG, params='{"order": "${event.s3.object.userMetadata.order}"}')
    sent = notification(record("a"), record("b", userMetadata={"order": "7"}))
    reply = post(api, sent, "uploads")
    assert reply.status == 202
    refused, taken = reply.json["events"]
    assert (refused["dagId"], "s3.object.userMetadata.order" in refused["refused"]) == (None, True)
    assert [run["dagId"] for run in setting.runs()] == [taken["dagId"]]
    (letter,) = setting.letters()
    assert letter["stream"] == "webhook uploads"
    assert json.loads(letter["value"])["key"] == "a"
    found = setting.record("uploads")
    assert (found.runs, found.refused) == (1, 1)


def test_a_damaged_record_is_a_failure_in_words(api: Api, setting: Setting) -> None:
    for name, field in (("a", "runs"), ("b", "declared")):
        add(setting, name)
        setting.client.hset(trigger(name), field, "[")
        reply = post(api, {"order": "x"}, name)
        assert (reply.status, "damaged" in reply.json["detail"]) == (500, True), reply.body


MINIO = Path.home() / ".cache/helios-cluster/bin/minio"


@pytest.mark.skipif(not MINIO.exists(), reason="there is no MinIO here; the clusters' tools fetch one")
@pytest.mark.timeout(120)
def test_a_real_minio_tells_a_trigger_of_an_object(api: Api, setting: Setting, tmp_path: Path) -> None:
    from minio import Minio
    from minio.notificationconfig import NotificationConfig, QueueConfig

    add(setting, "uploads", OBJECT, prefix="in/")
    port = free_port()
    environ = {
        "HOME": str(tmp_path),
        "MINIO_ROOT_USER": "admin",
        "MINIO_ROOT_PASSWORD": "a-long-password",
        "MINIO_NOTIFY_WEBHOOK_ENABLE_HELIOS": "on",
        "MINIO_NOTIFY_WEBHOOK_ENDPOINT_HELIOS": f"http://127.0.0.1:{api.port}/api/v1/triggers/uploads",
        "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_HELIOS": TOKENS["sender"],
        "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_HELIOS": str(tmp_path / "queue"),
    }
    process = subprocess.Popen(
        [str(MINIO), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(tmp_path / "data")],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        store = Minio(f"127.0.0.1:{port}", "admin", "a-long-password", secure=False)

        def is_up() -> bool:
            assert process.poll() is None
            try:
                return not store.bucket_exists("data")
            except Exception:  # noqa: BLE001 -- whatever it says, it is not up yet
                return False

        wait_until("MinIO is up", is_up, 60)
        store.make_bucket("data")
        queue = QueueConfig(queue="arn:minio:sqs::HELIOS:webhook", events=["s3:ObjectCreated:*"], config_id="1")
        store.set_bucket_notification("data", NotificationConfig(queue_config_list=[queue]))
        file = tmp_path / "f"
        file.write_text("hello")
        store.fput_object("data", "in/a b.csv", str(file))
        wait_until("its run is there", lambda: len(setting.runs()) == 1, 60)
        (run,) = setting.runs()
        found = params(run)
        assert (found["bucket"], found["key"], found["size"]) == ("data", "in/a b.csv", "5")
    finally:
        process.terminate()
        process.wait(20)
