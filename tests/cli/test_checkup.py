"""What `helios doctor` finds in Redis."""

import time

import pytest
import redis

from cli.checkup import check_dead_letters, check_runs, check_server, check_services, check_streams
from cli.connection import Link
from helios.keys import SUBMISSIONS, SUBMITTER_GROUP, heartbeat
from tests.stage import RUN, Stage


def test_a_server_without_an_append_only_file_is_named(link: Link, client: redis.Redis, only_real: None) -> None:
    found = {each.check: each for each in check_server(link)}
    assert found["redis"].ok
    assert found["redis writable"].ok
    assert not found["redis persistence"].ok
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        policy = next(each for each in check_server(link) if each.check == "redis eviction")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert not policy.ok
    assert "noeviction" in policy.fix


def test_services_are_alive_in_our_version_or_not(link: Link, client: redis.Redis) -> None:
    for service, version in (("submitter", "0.0.1"), ("jobrunner", "0.1.0")):
        fields = {"service": service, "replica": "r", "version": version, "pid": "1", "since": "1"}
        client.hset(heartbeat(service, "r"), mapping=fields)
    found = {each.check: each for each in check_services(link)}
    assert {name: each.ok for name, each in found.items()} == {
        "submitter": False,
        "jobrunner": True,
        "collector": False,
    }
    assert "0.0.1" in found["submitter"].detail
    assert "services.collector" in found["collector"].fix


def test_entries_that_wait_too_long_are_named(link: Link, client: redis.Redis) -> None:
    long_ago = int(time.time() * 1000) - 600_000
    client.xadd(SUBMISSIONS, {"dag": "x"}, id=f"{long_ago}-0")
    found = {each.check: each for each in check_streams(link)}
    assert not found[SUBMISSIONS].ok
    client.xgroup_create(SUBMISSIONS, SUBMITTER_GROUP, id="0")
    found = {each.check: each for each in check_streams(link)}
    assert not found[SUBMISSIONS].ok
    assert "lag 1" in found[SUBMISSIONS].detail or "lag unknown" in found[SUBMISSIONS].detail


def test_a_damaged_key_is_a_finding_not_a_crash(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    client.delete(stage.keys.ready)
    client.set(stage.keys.ready, "x")
    client.set(stage.keys.dead, "x")
    assert not next(each for each in check_streams(link) if each.check == stage.keys.ready).ok
    assert not next(iter(check_dead_letters(link))).ok


def test_dead_letters_are_counted_with_the_last_reason(link: Link, client: redis.Redis) -> None:
    assert next(iter(check_dead_letters(link))).ok
    client.xadd(Stage(client).keys.dead, {"reason": "it was poison"})
    finding = next(iter(check_dead_letters(link)))
    assert not finding.ok
    assert "it was poison" in finding.detail


def test_a_run_in_which_nothing_moves_is_named(
    link: Link, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    assert next(iter(check_runs(link))).ok
    stage.launch("a")
    stage.end("a")
    assert next(iter(check_runs(link))).ok
    monkeypatch.setattr("cli.checkup.STUCK_SECONDS", -1)
    finding = next(iter(check_runs(link)))
    assert not finding.ok
    assert RUN in finding.detail
