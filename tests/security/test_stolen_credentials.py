"""How far a stolen password of Redis, a keeper's door without its key, or the token of another attempt leads."""

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from agent.blobs import BlobServer
from agent.store import Store
from helios.grants import blob_url, keeper_token, output_url
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from tests.k8s.conftest import GuardedRedis, credentials, guarded
from tests.k8s.test_redis_users import DIAMOND, KEYS, ended, services, submitted
from tests.waiting import wait_until

__all__ = ["credentials", "guarded", "services"]

MAXIMUM_ID = "18446744073709551615-18446744073709551615"
KEY = "keepers-key"


def everything(server: GuardedRedis) -> dict[str, Any]:
    return {key: server.admin.dump(key) for key in server.admin.scan_iter("*")}


def test_whoever_stole_the_submission_user_can_drop_what_is_not_taken_yet_and_nothing_else(
    guarded: GuardedRedis,
) -> None:
    """XADD's own MAXLEN trims, and no rule of Redis can keep it from that."""
    thief, admin = guarded.client("submit"), guarded.admin
    for keys in (KEYS, Keys(1)):
        for stream in (keys.ready, keys.launched, keys.finished, keys.events, keys.dead):
            admin.xadd(stream, {"run": "1-1"})
    admin.hset(KEYS.run("1-1"), "status", "RUNNING")
    submitted(guarded.client("client"), DIAMOND)
    before = everything(guarded)
    thief.xadd(SUBMISSIONS, {"dag": "no: dag"}, maxlen=1, approximate=False)
    for stream in (KEYS.ready, KEYS.events, CONTROLS, KEYS.run("1-1"), "elsewhere"):
        with pytest.raises(redis.ResponseError):
            thief.xadd(stream, {"dag": "x"}, maxlen=1, approximate=False)
    after = everything(guarded)
    assert {key for key in before if before[key] != after.get(key)} == {SUBMISSIONS}
    assert admin.xlen(SUBMISSIONS) == 1


def test_whoever_stole_the_submission_user_stops_submissions_only_until_the_stream_is_empty(
    services: GuardedRedis,
) -> None:
    """The stream's last id is the greatest there is, so nothing can follow until the submitter has made it anew."""
    thief, people = services.client("submit"), services.client("client")
    run: Any = thief.xadd(SUBMISSIONS, {"dag": "no: dag"}, id=MAXIMUM_ID)
    assert ended(people, run)["status"] == "REJECTED"

    def taken() -> str | None:
        with contextlib.suppress(redis.ResponseError):
            return submitted(people, DIAMOND)
        return None

    again = wait_until("the stream is made anew", taken)
    assert ended(people, again)["status"] == "SUCCEEDED"


def test_whoever_stole_the_clients_user_changes_no_result_and_reads_no_secret(guarded: GuardedRedis) -> None:
    """It reads every run, submits and cancels. What a run came to is written by scripts of services alone."""
    thief = guarded.client("client")
    run, task = KEYS.run("1-1"), KEYS.task("1-1", "t")
    guarded.admin.hset(task, "status", "FAILED")
    for command in (
        ("HSET", run, "status", "SUCCEEDED"),
        ("HSET", task, "status", "SUCCEEDED"),
        ("HDEL", run, "status"),
        ("XADD", KEYS.events, "*", "event", "{}"),
        ("XADD", KEYS.launched, "*", "run", "1-1"),
        ("XADD", KEYS.settled, "*", "run", "1-1"),
        ("XADD", KEYS.log("1-1", "t", 1, "task"), "*", "line", "forged"),
        ("XREADGROUP", "GROUP", "jobrunner", "thief", "STREAMS", KEYS.ready, ">"),
        ("XACK", KEYS.ready, "jobrunner", "1-1"),
        ("XGROUP", "SETID", KEYS.ready, "jobrunner", "$"),
        ("SET", KEYS.dag("1-1"), "{}"),
        ("EVAL", "return redis.call('HSET', KEYS[1], 'status', 'x')", "1", run),
        ("EVALSHA", "0" * 40, "1", run),
        ("RESTORE", run, "0", "x"),
        ("COPY", task, run),
        ("RENAME", task, run),
        ("CONFIG", "GET", "requirepass"),
        ("ACL", "GETUSER", "submitter"),
        ("ACL", "LIST"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            thief.execute_command(*command)
    assert guarded.admin.hgetall(task) == {"status": "FAILED"}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A keeper's port, and the digest of a blob that it has."""
    store = Store(str(tmp_path / "cache"), "keep")
    store.prepare()
    server = BlobServer(store, KEY, "127.0.0.1", 0)
    server.start()
    until = int(time.time()) + 60
    put = output_url("", KEY, "run", "task", 1, until)
    status, body = asked(server.port, "PUT", put, b"what is kept")
    assert status == 200
    yield server.port, body.decode().partition('"sha256": "')[2][:64]
    server.close()


def asked(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path)
    for name, value in {**headers, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_a_keepers_door_gives_and_takes_nothing_without_a_grant_for_exactly_that(door: tuple[int, str]) -> None:
    """A hostile neighbour reaches the port: every pod of the tasks' namespace does."""
    port, digest = door
    now = int(time.time())
    good = blob_url("", KEY, digest, now + 60)
    assert asked(port, "GET", good) == (200, b"what is kept")
    other = "0" * 64
    for path in (
        f"/v1/blob/{digest}",
        f"/v1/blob/{digest}?expires={now + 60}&grant=",
        blob_url("", KEY, digest, now - 1),
        blob_url("", "another key", digest, now + 60),
        blob_url("", KEY, other, now + 60).replace(other, digest),
        good.replace(str(now + 60), str(now + 6000)),
        output_url("", KEY, "run", "task", 1, now + 60).replace("/v1/output", f"/v1/blob/{digest}"),
        f"/v1/blob/{digest}?expires={now + 60}&grant={keeper_token(KEY, 'node')}",
    ):
        assert asked(port, "GET", path) == (403, b""), path
    for path in ("/v1/blob/../../etc/passwd", "/v1/blob/%2e%2e/passwd", "/", "/v1/blob/", f"/v1/blob/{digest.upper()}"):
        assert asked(port, "GET", path)[0] == 404
    put = output_url("", KEY, "run", "task", 1, now + 60)
    for path in (
        "/v1/output",
        put.replace("attempt=1", "attempt=2"),
        put.replace("task=task", "task=other"),
        output_url("", KEY, "run", "task", 1, now - 1),
        good.replace(f"/v1/blob/{digest}", "/v1/output"),
    ):
        assert asked(port, "PUT", path, b"forged") == (403, b""), path


def test_what_is_put_through_a_keepers_door_gets_the_name_of_its_content(door: tuple[int, str]) -> None:
    """So whoever has a grant, or the key itself, cannot have one blob taken for another."""
    port, digest = door
    put = output_url("", KEY, "run", "task", 1, int(time.time()) + 60)
    status, body = asked(port, "PUT", f"{put}&sha256={digest}", b"forged", **{"Helios-Sha256": digest})
    assert status == 200
    assert digest.encode() not in body
    assert asked(port, "GET", blob_url("", KEY, digest, int(time.time()) + 60)) == (200, b"what is kept")
