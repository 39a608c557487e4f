"""What `helios doctor` finds in Redis."""

import os
import time
from pathlib import Path

import pytest
import redis

from cli.checkup import check_dead_letters, check_runs, check_server, check_services, check_streams
from cli.connection import Link, reaching
from cli.embedded.home import Home, Passwords
from cli.embedded.processes import this_process
from cli.embedded.stack import stack_of
from cli.embedded.state import ComponentState, State
from cli.failure import CommandFailed
from cli.submission import cancel, why_idle
from helios.keys import SUBMISSIONS, SUBMITTER_GROUP, heartbeat
from helios.settings import Settings
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage
from tests.waiting import wait_until


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
        "versions": False,
    }
    assert "0.0.1" in found["submitter"].detail
    assert found["versions"].detail == "mixed (0.0.1: r; 0.1.0: r)"
    assert "services.collector" in found["collector"].fix


def test_services_of_one_version_are_not_mixed(link: Link, client: redis.Redis) -> None:
    for service in ("submitter", "jobrunner", "collector"):
        fields = {"service": service, "replica": "r", "version": "0.0.1", "pid": "1", "since": "1"}
        client.hset(heartbeat(service, "r"), mapping=fields)
    found = {each.check: each for each in check_services(link)}
    assert found["versions"].ok
    assert not found["collector"].ok  # it is not the command's


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


def embedded(link: Link, folder: Path, phase: str) -> Link:
    """The same link, as if to an embedded stack whose supervisor says that of the collector; it is this process."""
    collector = ComponentState(phase=phase, processes=[this_process()])
    state = State(supervisor=this_process(), components={"collector": collector})
    passwords = Passwords(valkey="v", s3_access_key="a", s3_secret_key="s", token_key="t")
    return Link(link.client, link.settings, stack_of(Home(folder), passwords, state))


def test_a_service_that_hangs_is_to_be_killed_and_not_to_be_started(link: Link, tmp_path: Path) -> None:
    """`helios up` would change nothing: the supervisor sees a process that runs."""
    found = {each.check: each for each in check_services(embedded(link, tmp_path, "ready"))}
    fix = found["collector"].fix
    assert "hangs" in fix
    assert f"kill -9 {os.getpid()}" in fix
    assert "collector.log" in fix
    assert "helios up" not in fix
    assert found["submitter"].fix == "helios up"


def test_a_service_that_ends_again_and_again_is_left_to_the_supervisor(link: Link, tmp_path: Path) -> None:
    found = {each.check: each for each in check_services(embedded(link, tmp_path, "restarting"))}
    assert "starts it again by itself (restarting)" in found["collector"].fix
    assert "collector.log" in found["collector"].fix


@pytest.fixture
def full(own_valkey: Valkey) -> Link:
    """A Redis that refuses writes, as one does whose disk is full; a run is under way, and no service can say so."""
    client = own_valkey.client()
    Stage(client).open({"a": ()})
    (own_valkey.folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
    client.config_set("stop-writes-on-bgsave-error", "yes")
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_until("the snapshot has failed", lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    return Link(client, Settings(redis_url=own_valkey.url))


def test_the_doctor_says_that_the_disk_is_full(full: Link) -> None:
    found = {each.check: each for each in check_server(full)}
    assert not found["redis writable"].ok
    assert "disk is full or not writable" in found["redis writable"].detail
    assert "free space" in found["redis writable"].fix


def test_a_cancel_that_redis_refuses_names_the_disk_and_no_missing_service(full: Link) -> None:
    with pytest.raises(CommandFailed) as raised, reaching(full.settings, embedded=False):
        cancel(full, RUN)
    assert "disk is full or not writable" in raised.value.message
    assert "free space" in raised.value.hint
    assert "disk is full" in why_idle(full, "submitter", "collector")
    assert "alive" not in why_idle(full, "submitter", "collector")


def test_what_is_missing_is_named_where_redis_takes_writes(link: Link, client: redis.Redis) -> None:
    assert "no submitter and no collector is alive" in why_idle(link, "submitter", "collector")
    client.hset(heartbeat("submitter", "r"), mapping={"service": "submitter", "replica": "r"})
    assert why_idle(link, "submitter") == ""
