"""Each of Redis's users can do what its process does, and nothing beside it; shown on a real server, by the ACL file
that the manifests ship.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from cli.checkup_cluster import check_logins
from cli.connection import Link
from cli.reruns import rerun
from helios.deadletter import acknowledge
from helios.heartbeat import live_services
from helios.keys import (
    CONTROLS,
    NODES,
    PRIORITIES,
    RECOVERY_DUTY,
    RETENTION,
    SUBMISSIONS,
    Keys,
    heartbeat,
    keys_of_run,
    memo,
    node_blobs,
    node_cache,
    source_known,
    trigger,
    trigger_answer,
)
from helios.leftovers import forgotten_names, memo_outputs, partitions_in_use, record_outputs, stored_runs
from helios.podwire import LocateInput, NodeReport
from helios.records import ENDED
from helios.settings import Settings, settings_from
from helios.streams import CLIENT_OPTIONS, Entry, Inbox
from helios.tokens import Attempt
from helios.transitions import check, commit_one, note_wait, warn_run
from services.collector.demand import Demand
from services.collector.endpoint import PodEndpoint
from services.collector.locate import Declared, Locator
from services.collector.nodes import Nodes
from services.collector.recovery import Recorder
from services.collector.seed import Seeding
from services.collector.shared_figures import SharedFigures
from services.collector.store import Store
from services.submitter.reconcile import Reconciler
from services.submitter.trigger import control_trigger
from tests.k8s.conftest import K8S, ROOT, GuardedRedis
from tests.services.http_api import events_of, serving
from tests.services.pod_calls import SETTINGS, as_pod
from tests.stage import RUN, Stage, grow
from tests.waiting import wait_until
from tui.source.comparison import read_comparison
from tui.source.feed import Feed
from tui.source.health import HealthReader
from tui.source.run_details import read_details
from tui.source.submitting import send

KEYS = Keys(0)
DAG_OF_ONE = '{"tasks": [{"name": "t", "inputs": [{"kind": "external", "uri": "s3://bucket/key", "as": "in"}]}]}'
SERVICES = {
    "submitter": ("services.submitter",),
    "jobrunner": ("bench.instant", "jobrunner"),
    "collector": ("tests.k8s.instant",),
}


@pytest.fixture
def services(guarded: GuardedRedis, tmp_path: Path) -> Iterator[GuardedRedis]:
    """The three services, each under its own user; a short lease, and a window of one run."""
    with ExitStack() as stack:
        for name, module in SERVICES.items():
            environ = {
                "HELIOS_REDIS_URL": guarded.url(name),
                "HELIOS_REPLICA": f"{name}-0",
                "HELIOS_TOKEN_KEY": "test",
                "HELIOS_LEASE_SECONDS": "3",
                "HELIOS_RUNS_KEPT_PER_DAG": "1",
                "HELIOS_READY_PER_RUN": "1",
            }
            with (tmp_path / f"{name}.log").open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", *module], env={**os.environ, **environ}, cwd=ROOT, stderr=file
                )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        client = guarded.client("client")
        ready = [""] * 3
        wait_until("the services are ready", lambda: [each["waitsFor"] for each in live_services(client)] == ready, 60)
        client.close()
        yield guarded
    for log in tmp_path.glob("*.log"):
        print(f"--- {log.name}\n{log.read_text()[-4000:]}")  # noqa: T201 -- pytest shows it with a failure


def submitted(client: redis.Redis, dag: dict[str, Any] | str, **fields: str) -> str:
    text = dag if isinstance(dag, str) else json.dumps(dag)
    run: Any = client.xadd(SUBMISSIONS, {"dag": text, **fields})
    return run


def ended(client: redis.Redis, run: str) -> dict[str, Any]:
    key = keys_of_run(run, 1).run(run)
    wait_until(f"run {run} ends", lambda: client.hget(key, "status") in ENDED)
    found: Any = client.hgetall(key)
    return found


def tasks(*named: dict[str, Any], name: str = "trial") -> dict[str, Any]:
    return {"dagName": name, "tasks": [{"image": "none", "command": ["true"], **task} for task in named]}


DIAMOND = tasks(
    {"name": "a"},
    {"name": "b", "depends_on": ["a"]},
    {"name": "c", "depends_on": ["a"]},
    {"name": "d", "depends_on": ["b", "c"]},
)


def test_runs_of_every_kind_end_as_they_should_and_nobody_is_refused_anything(services: GuardedRedis) -> None:
    """Success, failure with retries, a lost pod, a rejected and a repeated submission, a cancel, dead letters, and runs
    that fall out of the window: the server's own log of refusals stays empty.
    """
    sender, client = services.client("submit"), services.client("client")
    first = submitted(sender, DIAMOND, requestId="one")
    assert ended(client, first)["status"] == "SUCCEEDED"
    again = submitted(sender, DIAMOND, requestId="one")
    wait_until("the repetition is an alias", lambda: client.hget(KEYS.run(again), "aliasOf") == first)
    assert ended(client, submitted(sender, "no: dag"))["status"] == "REJECTED"
    failing = tasks({"name": "bad", "retries": {"count": 1}}, {"name": "below", "depends_on": ["bad"]})
    failed = submitted(sender, failing)
    client.set(KEYS.watched(failed), "1", ex=30)
    assert ended(client, failed)["taskUpstreamFailed"] == "1"
    assert not client.exists(KEYS.run(first)), "the window of one run has passed"
    assert ended(client, submitted(sender, tasks({"name": "lost"}, name="other")))["status"] == "SUCCEEDED"
    assert client.xlen(KEYS.log(failed, "bad", 1, "task")) == 1
    _memoized(client, sender)
    _in_lines(client, sender)
    _cancelled(services, client, sender)
    _dead_letters(services, client)
    assert services.refused() == []


def _memoized(client: redis.Redis, sender: redis.Redis) -> None:
    """Of two runs of the same work the second is skipped; one that must not skip, and one that verifies, are not."""
    document = tasks({"name": "m", "memoize": True}, name="memoized")
    assert [ended(client, submitted(sender, document))["taskSkipped"] for _ in range(2)] == ["0", "1"]
    assert ended(client, submitted(sender, document, memoize="false"))["taskSkipped"] == "0"
    verified = tasks({"name": "m", "memoize": {"verify": 1}}, name="memoized")
    assert ended(client, submitted(sender, verified))["taskSkipped"] == "0"


def _in_lines(client: redis.Redis, sender: redis.Redis) -> None:
    """Of runs of every priority one task at a time stands in line; some of the same work are skipped."""
    for priority in PRIORITIES:
        several = tasks(*({"name": f"t{number}"} for number in range(5)), name="line")
        assert ended(client, submitted(sender, several, priority=priority))["taskSucceeded"] == "5"
    twins = tasks(*({"name": f"m{number}", "memoize": True, "env": {"X": "1"}} for number in range(3)), name="twins")
    assert ended(client, submitted(sender, twins, priority="low"))["taskSkipped"] == "2"


def _cancelled(services: GuardedRedis, client: redis.Redis, sender: redis.Redis) -> None:
    """A run of many tasks is cancelled in the middle; whatever has ended by then, it ends as one."""
    wide = tasks(*({"name": f"t{number}", "depends_on": [f"t{number - 1}"] if number else []} for number in range(400)))
    run = submitted(sender, wide)
    wait_until("it runs", lambda: client.exists(KEYS.run(run)))
    client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    assert ended(client, run)["status"] == "CANCELLED"


def _dead_letters(services: GuardedRedis, client: redis.Redis) -> None:
    """Entries that cannot be handled, one on each stream, and one that a consumer which is gone has in hand."""
    admin = services.admin
    client.xadd(CONTROLS, {"run": "1-1", "action": "dance"})
    for stream in (KEYS.ready, KEYS.checks, KEYS.cancelled, KEYS.finished, KEYS.launched):
        admin.xadd(stream, {"run": "1-1", "nonsense": "1"})
    admin.xadd(KEYS.settled, {"nonsense": "1"})
    wait_until("all are dead letters", lambda: client.xlen(KEYS.dead) == 7)
    client.delete(KEYS.dead)
    for stream in (KEYS.ready, KEYS.checks, KEYS.cancelled, KEYS.finished, KEYS.launched, SUBMISSIONS):
        group: Any = admin.xinfo_groups(stream)[0]["name"]
        admin.xadd(stream, {"dag": "{}", "run": "1-1", "task": "t", "attempt": "1", "job": "j"})
        admin.xreadgroup(group, "gone", {stream: ">"})
    wait_until(
        "what the dead had in hand is handled by the living",
        lambda: not any(_pending(admin, stream) for stream in (KEYS.ready, KEYS.cancelled, KEYS.finished, SUBMISSIONS)),
        60,
    )


def _pending(admin: redis.Redis, stream: str) -> int:
    found: Any = admin.xinfo_groups(stream)
    return sum(group["pending"] for group in found)


def test_the_command_line_works_as_the_client(services: GuardedRedis, tmp_path: Path) -> None:
    dag = tmp_path / "dag.json"
    dag.write_text(json.dumps(DIAMOND))
    environ = {**os.environ, "HELIOS_REDIS_URL": services.url("client"), "HELIOS_HOME": str(tmp_path / "home")}

    def helios(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from cli.main import main; main()", *words],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "NOPERM" not in done.stdout + done.stderr
        return done.stdout

    run = helios("submit", str(dag), "--watch").strip()
    assert run in helios("runs")
    with redis.Redis.from_url(services.url("client"), **CLIENT_OPTIONS) as client:
        (logins,) = check_logins(Link(client, Settings(redis_url=services.url("client"))))
    assert (logins.ok, logins.detail) == (True, "nobody without a password; this is client")
    for words in (
        ("show", run),
        ("logs", run, "a"),
        ("doctor",),
        ("cancel", run),
        ("runs", "trial"),
        ("logs", run),
        ("why", run, "d"),
        ("assert", run),
    ):
        helios(*words)
    assert "a" in helios("critical", run)
    assert "trial" in helios("cache", "stats")
    assert services.refused() == []


def test_the_http_api_works_as_its_own_user(services: GuardedRedis) -> None:
    """Everything that it answers, and nothing that it is refused."""
    with serving(services.url("api")) as api:
        run = api.ask("POST", "/api/v1/dags?requestId=r", json.dumps(DIAMOND).encode()).json["dagId"]
        wait_until("it has ended", lambda: api.ask("GET", f"/api/v1/dags/{run}").json.get("endTime"))
        assert api.ask("GET", f"/api/v1/dags/{run}").json["status"] == "SUCCEEDED"
        assert api.ask("POST", "/api/v1/dags?requestId=r", json.dumps(DIAMOND).encode()).json["repeated"] is True
        for path in (
            "dags",
            f"dags/{DIAMOND['dagName']}/metrics",
            f"dags/{run}/artifacts",
            f"dags/{run}/tasks/a/logs?follow=true",
            f"dags/{run}/tasks/a/logs?tail=1",
            "system/status",
        ):
            assert api.ask("GET", f"/api/v1/{path}").status == 200, path
        assert events_of(api.open("/api/v1/events", {"Last-Event-ID": "0-0"}), 3)
        assert api.ask("DELETE", f"/api/v1/dags/{run}").status == 200
        assert api.ask("GET", "/api/v1/dags/1-1").status == 404
        again = api.ask("POST", "/api/v1/dags", json.dumps(DIAMOND).encode()).json["dagId"]
        assert api.ask("DELETE", f"/api/v1/dags/{again}").status in (200, 202)
    assert services.refused() == []


def test_triggers_read_no_stream_but_those_that_the_submitters_user_may(services: GuardedRedis) -> None:
    """A trigger of a stream and one that is a webhook, each by its own service's user; others' streams stay closed,
    even to a submitter whose setting says otherwise.
    """
    dag = json.dumps({**DIAMOND, "dagName": "by-event"}).encode()
    with services.client("client") as client, serving(services.url("api")) as api:
        for name, fields in (("orders", {"kind": "stream", "stream": "events:orders"}), ("hook", {"kind": "webhook"})):
            entry: Any = client.xadd(CONTROLS, {"action": "trigger-add", "name": name, "dag": dag, **fields})
            wait_until("it is answered", lambda entry=entry: client.get(trigger_answer(entry)))
            assert client.get(trigger_answer(entry)) == "ok"
        services.admin.xadd("events:orders", {"order": "1"})
        assert api.ask("POST", "/api/v1/triggers/hook", b"{}").status == 202
        for name in ("orders", "hook"):
            wait_until("its event is noted", lambda name=name: client.hget(trigger(name), "runs") == "1")
    assert services.refused() == []
    services.admin.xadd("private", {"secret": "x"})
    with services.client("submitter") as submitter:
        fields = {"action": "trigger-add", "name": "spy", "kind": "stream", "stream": "private", "dag": dag.decode()}
        control_trigger(submitter, Entry(stream=CONTROLS, id="1-1", fields=fields), "*", 1)
        assert "Redis user may not read 'private'" in str(submitter.get(trigger_answer("1-1")))
        for refused in (
            lambda: submitter.xreadgroup("g", "c", {"private": ">"}),
            lambda: submitter.xdel("events:orders", "1-1"),
            lambda: submitter.xtrim("events:orders", 0),
            lambda: submitter.xadd("events:orders", {"order": "2"}),
            lambda: submitter.delete("events:orders"),
        ):
            with pytest.raises(NoPermissionError):
                refused()


def test_the_dashboard_works_as_the_client(services: GuardedRedis) -> None:
    with redis.Redis.from_url(services.url("client"), **CLIENT_OPTIONS) as client:
        link = Link(client, Settings(redis_url=services.url("client")))
        feed = Feed(link)
        feed.start()
        try:
            wait_until("the feed is live", lambda: feed.connection.state == "live")
            sent = send(link, json.dumps(DIAMOND), use_cache=True, request_id="one", params={})
            feed.watch(sent.run)
            wait_until("the run has ended", lambda: sent.run in feed.runs.rows and feed.runs.rows[sent.run].ended)
            wait_until("its tasks are known", lambda: feed.board is not None and feed.board.rows)
            assert read_details(link, sent.run).exists
            assert HealthReader(link, read_only=False).look().streams
            new = rerun(link, sent.run, use_cache=False, request_id="two")
            read_comparison(link, sent.run, new)
            assert feed.connection.state == "live"
        finally:
            feed.stop()
    assert services.refused() == []


@pytest.mark.parametrize("user", ["collector", "client"])
def test_whoever_deletes_artifacts_of_forgotten_runs_can_read_what_refers_to_them(
    services: GuardedRedis, user: str
) -> None:
    sender = services.client("submit")
    with services.client(user) as client:
        runs: list[str] = []
        for _ in range(2):
            runs.append(submitted(sender, tasks({"name": "a"}, name="window")))
            ended(services.admin, runs[-1])
        services.admin.hset(memo("k"), "outputs", '[{"key": "runs/1-0/a/1/p/n"}]')
        partitions = partitions_in_use(client)
        stored = stored_runs(client, partitions)
        assert stored == {partitions[0]: runs[1:]}
        assert record_outputs(client, stored, frozenset(runs)) == frozenset()
        assert memo_outputs(client) == {"runs/1-0/a/1/p/n"}
        assert forgotten_names(client, partitions) == {runs[0]: "window"}
        if user == "collector":
            assert client.set(RETENTION, "a", nx=True, ex=60)
            client.delete(RETENTION)
    assert services.refused() == []


def test_a_probe_under_the_services_own_user_sees_its_heartbeat(services: GuardedRedis) -> None:
    for name in SERVICES:
        for question in ("ready", "alive"):
            assert probe(services, name, question, f"{name}-0").returncode == 0
            absent = probe(services, name, question, "another")
            assert (absent.returncode, absent.stderr) == (1, "no heartbeat in Redis\n")
    assert services.refused() == []


def test_a_probe_of_a_redis_that_is_gone_or_refuses_kills_nobody(guarded: GuardedRedis) -> None:
    assert probe(guarded, "submitter", "alive", "x", url=guarded.url("jobrunner")).returncode == 0
    assert probe(guarded, "submitter", "ready", "x", url=guarded.url("jobrunner")).returncode == 1
    assert probe(guarded, "submitter", "alive", "x", url=f"redis://a:b@127.0.0.1:{guarded.port}/0").returncode == 0
    guarded.process.kill()
    guarded.process.wait()
    assert probe(guarded, "submitter", "alive", "x").returncode == 0
    assert probe(guarded, "submitter", "ready", "x").returncode == 1


def probe(
    server: GuardedRedis, service: str, question: str, replica: str, url: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(K8S / "base" / "heartbeat.py"), question, service],
        env={"HELIOS_REDIS_URL": url or server.url(service), "HELIOS_REPLICA": replica},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_nobody_gets_in_without_a_password(guarded: GuardedRedis) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=guarded.port, **CLIENT_OPTIONS).ping()
    for user in ("default", "submitter", "jobrunner", "collector", "client", "submit", "scaler"):
        for password in ("", "guess"):
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=guarded.port, username=user, password=password, **CLIENT_OPTIONS).ping()


def allowed(server: GuardedRedis, user: str, *command: str) -> bool:
    try:
        return server.admin.execute_command("ACL DRYRUN", user, *command) in (True, "OK", b"OK")
    except redis.ResponseError:
        return False


def test_the_submit_user_can_submit_and_nothing_else(guarded: GuardedRedis) -> None:
    """By the server's own list of commands: whatever is not XADD on the ingress, or the wait until that is on the disk,
    is refused, newer commands included.
    """
    client = guarded.client("submit")
    assert submitted(client, DIAMOND)
    with pytest.raises(NoPermissionError):
        client.xrange(SUBMISSIONS)
    with pytest.raises(NoPermissionError):
        client.xadd(CONTROLS, {"run": "1-1", "action": "cancel"})
    with pytest.raises(NoPermissionError):
        client.eval("return 1", 0)
    granted = _granted(guarded, "submit")
    # Those that the server lets everybody run, because one logs in and out by them, are its own affair.
    assert granted == {"xadd", "waitaof", "ping", "client|setinfo"}


@pytest.mark.parametrize("user", ["submit", "client"])
def test_whoever_submits_may_wait_until_it_is_on_the_disk(guarded: GuardedRedis, user: str) -> None:
    """What docs/cli.md offers to those who must not lose a submission with Redis's last second."""
    client = guarded.client(user)
    submitted(client, DIAMOND)
    assert len(client.execute_command("WAITAOF", 0, 0, 1000)) == 2


def _granted(server: GuardedRedis, user: str) -> set[str]:
    """The commands that a user's ACL names, from all its selectors."""
    rules: Any = server.admin.execute_command("ACL GETUSER", user)
    flat = json.dumps(rules)
    return set(re.findall(r"\+([a-z|]+)", flat))


def test_what_stands_in_line_is_mended_and_moved_under_the_services_own_users(guarded: GuardedRedis) -> None:
    """What the services call seldom: the mending of a line, and a look that waits for the same work elsewhere."""
    stage = Stage(guarded.admin)
    stage.open({f"t{number}": [] for number in range(4)}, window=1, priorities={"t3": "high"})
    entry = stage.entry_of(KEYS.ready, "t0")
    looked = {"run": RUN, "task": "t0", "attempt": 1}
    commit_one(guarded.client("jobrunner"), check(KEYS, entry=entry, **looked))
    assert commit_one(guarded.client("collector"), note_wait(KEYS, **looked, waits_for="another")) == 1
    assert [task for task, _ in stage.emitted(KEYS.ready)] == ["t1"]
    guarded.admin.delete(KEYS.offered(RUN))
    reconciler = Reconciler(guarded.client("submitter"), 1)
    assert reconciler.look() == 0
    reconciler.look()
    assert [task for task, _ in stage.emitted(KEYS.ready)][:2] == ["t1", "t2"]
    assert guarded.refused() == []


@pytest.mark.parametrize("user", ["submitter", "jobrunner", "collector", "client", "submit", "scaler"])
def test_no_user_can_harm_the_server_or_leave_helios_keys(guarded: GuardedRedis, user: str) -> None:
    for command in (
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "x"),
        ("SHUTDOWN",),
        ("DEBUG", "SLEEP", "1"),
        ("MONITOR",),
        ("KEYS", "*"),
        ("REPLICAOF", "a", "1"),
        ("SAVE",),
        ("SCRIPT", "FLUSH"),
        ("EVAL", "return 1", "0"),
        ("FUNCTION", "FLUSH"),
        ("CLIENT", "KILL", "ID", "1"),
        ("CLIENT", "PAUSE", "1"),
        ("RENAME", "a", "b"),
        ("XTRIM", KEYS.ready, "MAXLEN", "0"),
        ("XGROUP", "DESTROY", KEYS.ready, "jobrunner"),
        ("HSET", "elsewhere", "a", "b"),
        ("HGET", "elsewhere", "a"),
        ("XADD", "elsewhere", "*", "a", "b"),
        ("PUBLISH", "a", "b"),
    ):
        assert not allowed(guarded, user, *command), command


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("submitter", ("XADD", KEYS.log("1-1", "t", 1, "task"), "*", "line", "x")),
        ("submitter", ("HSET", heartbeat("collector", "x"), "a", "b")),
        ("submitter", ("DEL", KEYS.run("1-1"))),
        ("jobrunner", ("XADD", SUBMISSIONS, "*", "dag", "x")),
        ("jobrunner", ("XADD", KEYS.finished, "*", "run", "x")),
        ("jobrunner", ("XRANGE", KEYS.log("1-1", "t", 1, "task"), "-", "+")),
        ("jobrunner", ("DEL", KEYS.ready)),
        ("collector", ("XADD", SUBMISSIONS, "*", "dag", "x")),
        ("collector", ("XREADGROUP", "GROUP", "jobrunner", "x", "STREAMS", KEYS.ready, ">")),
        ("collector", ("XDEL", KEYS.ready, "1-1")),
        ("collector", ("DEL", memo("0" * 64))),
        ("jobrunner", ("HGETALL", memo("0" * 64))),
        ("submitter", ("HSET", memo("0" * 64), "state", "good")),
        ("collector", ("HSET", heartbeat("jobrunner", "x"), "a", "b")),
        ("client", ("SET", RETENTION, "x")),
        ("client", ("HSET", KEYS.run("1-1"), "status", "SUCCEEDED")),
        ("client", ("XADD", KEYS.finished, "*", "run", "x")),
        ("client", ("XDEL", SUBMISSIONS, "1-1")),
        ("client", ("SET", KEYS.dag("1-1"), "x")),
        ("client", ("DEL", KEYS.run("1-1"))),
        ("scaler", ("XRANGE", SUBMISSIONS, "-", "+")),
        ("scaler", ("HGETALL", KEYS.run("1-1"))),
        ("scaler", ("XADD", SUBMISSIONS, "*", "dag", "x")),
    ],
)
def test_no_user_does_another_ones_work(guarded: GuardedRedis, user: str, command: tuple[str, ...]) -> None:
    assert not allowed(guarded, user, *command)


def test_only_a_service_takes_consumers_off_a_group_and_only_of_streams_it_reads(guarded: GuardedRedis) -> None:
    """A service that stops takes itself off; with that it can do no more harm than by acknowledging."""

    def may(user: str, stream: str) -> bool:
        return allowed(guarded, user, "XGROUP", "DELCONSUMER", stream, "group", "x")

    for user, stream in (("submitter", SUBMISSIONS), ("jobrunner", KEYS.ready), ("collector", KEYS.launched)):
        assert may(user, stream)
    for user in ("client", "submit", "scaler"):
        assert not any(may(user, stream) for stream in (SUBMISSIONS, KEYS.ready, KEYS.launched))
    assert not may("jobrunner", SUBMISSIONS)
    assert not may("collector", KEYS.ready)


def test_the_jobrunner_reads_which_node_holds_what_and_changes_nothing_of_it(guarded: GuardedRedis) -> None:
    blobs, cache, source = node_blobs("n1"), node_cache("n1"), source_known("store/bucket/key")
    reads = (
        ("ZRANGE", NODES, 0, "+inf", "BYSCORE"),
        ("HMGET", blobs, "a"),
        ("HGET", cache, "pods"),
        ("GET", source),
    )
    writes = (("ZADD", NODES, 1, "n1"), ("HSET", blobs, "a", 1), ("HSET", cache, "pods", 1), ("SET", source, "{}"))
    assert all(allowed(guarded, "jobrunner", *command) for command in reads)
    assert not any(allowed(guarded, "jobrunner", *command) for command in writes)


def test_the_scaler_reads_how_long_the_streams_are(guarded: GuardedRedis) -> None:
    guarded.admin.xgroup_create(KEYS.ready, "jobrunner", id="0", mkstream=True)
    client = guarded.client("scaler")
    groups: Any = client.xinfo_groups(KEYS.ready)
    assert groups[0]["lag"] == 0
    assert client.info("server")


SHARED = ("helios/worker.py", "helios/streams.py", "helios/deadletter.py", "helios/heartbeat.py", "services/process.py")
"""What every service runs."""


@pytest.mark.parametrize("service", SERVICES)
def test_every_command_of_every_script_that_a_service_runs_is_granted(guarded: GuardedRedis, service: str) -> None:
    """Paths that no test walks must work too: sources say which scripts a service runs, scripts what they call."""
    granted = _granted(guarded, service)
    needed = {
        (script, command)
        for script in scripts_of(service)
        for command in commands_of((ROOT / "helios" / "transitions" / f"{script}.lua").read_text())
    }
    assert len(needed) > 10
    assert {each for each in needed if each[1] not in granted} == set()


def commands_of(script: str) -> set[str]:
    """As an ACL names them: `xadd`, `xgroup|delconsumer`."""
    called: list[tuple[str, str]] = re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", script)
    return {f"{name}|{part}".lower() if name in ("XGROUP", "XINFO") else name.lower() for name, part in called}


def scripts_of(service: str) -> set[str]:
    sources = [*(ROOT / "services" / service).rglob("*.py"), *(ROOT / name for name in SHARED)]
    shipped = scripts_of_functions()
    return {
        script
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "helios.transitions"
        for alias in node.names
        for script in shipped.get(alias.name, ())
    } - ({"abandon_run"} if service != "collector" else set())  # only for entries of runs:settled, which it reads


def scripts_of_functions() -> dict[str, set[str]]:
    """By function of helios/transitions, the scripts that it calls, or those do that it calls itself."""
    tree = ast.parse((ROOT / "helios" / "transitions" / "__init__.py").read_text())
    named = {
        node.targets[0].id: node.value.args[0].value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "Script"
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value.args[0], ast.Constant)
    }
    mentioned = {
        node.name: {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name not in ("commit", "commit_one", "_sent", "_outcome")
    }
    found = {name: {str(named[each]) for each in names if each in named} for name, names in mentioned.items()}
    for _ in mentioned:
        found = {name: found[name].union(*(found[each] for each in mentioned[name] if each in found)) for name in found}
    return found


def test_the_functions_of_all_scripts_are_known() -> None:
    found = scripts_of_functions()
    assert found["skip"] == {"end_without_job"}
    assert found["cancel_all"] == {"cancel_run"}
    assert found["grow_run"] == {"grow_tasks", "grow_run"}
    shipped = {path.stem for path in (ROOT / "helios" / "transitions").glob("*.lua")}
    assert set().union(*found.values()) == shipped - {"backlog", "new_task", "run_end"}


def test_a_run_gets_more_tasks_under_the_collectors_own_user(guarded: GuardedRedis) -> None:
    stage = Stage(guarded.admin)
    stage.open({"work": [], "other": [], "end": ["work"]}, window=1)
    names = ["work", "work-a", "work-b", "other", "end"]
    assert grow(stage, guarded.client("collector"), "work", "ab", names) == [1, 1]
    assert guarded.refused() == []
    assert guarded.admin.llen(KEYS.task_names(RUN)) == 5


def test_the_collector_may_do_what_the_nodes_caches_ask_of_it(guarded: GuardedRedis) -> None:
    """Every call of keepers and of fetch, under its own user."""
    collector = guarded.client("collector")
    nodes = Nodes(collector, "key", 1000)
    locator = Locator(collector, nodes)
    for node in ("n1", "n2"):
        first = NodeReport(node=node, url=f"http://{node}:8415", epoch="e", seq=1, full=True, added=[("a" * 64, 7)])
        nodes.report(first)
        nodes.report(NodeReport(node=node, epoch="e", seq=2, url=f"http://{node}:8415", removed=["a" * 64]))
    assert nodes.put_url("n1", Attempt("1-0", "t", 1, 0)) is not None
    declared = {"in": Declared("store/bucket/key")}
    asked = LocateInput(name="in", version="etag 1", bytes=7)
    assert [located.wait for located in locator.locate("n1", "pod", [asked], declared)] == [False]
    for digest in ("b" * 64, "b" * 64, "c" * 64):
        locator.brought("n1", [LocateInput(name="in", version="etag 1", bytes=7, sha256=digest)], declared)
    guarded.admin.zadd(KEYS.active, {"1764027260123-0": 1})
    guarded.admin.hset(KEYS.run("1764027260123-0"), "cacheEnabled", "true")
    guarded.admin.set(KEYS.dag("1764027260123-0"), DAG_OF_ONE)
    guarded.admin.hset(KEYS.task("1764027260123-0", "t"), "status", "QUEUED")
    demand = Demand(collector, 1, "helios", lambda bucket, key: f"store/{bucket}/{key}")
    assert demand.needed(["a" * 64]) == []
    store = Store(Settings(s3_access_key="a", s3_secret_key="s"))
    assert Seeding(collector, demand, locator, store).seeds("n1", 9) == []
    assert guarded.refused() == []


def test_the_collector_may_do_what_the_agents_of_attempts_ask_of_it(guarded: GuardedRedis) -> None:
    """Every word of theirs, with a log that has to be cut, and the deletion of a Job."""
    collector, stage = guarded.client("collector"), Stage(guarded.admin)
    stage.open({"a": []})
    stage.launch("a")
    endpoint = PodEndpoint(collector, Store(SETTINGS), SETTINGS)
    assert as_pod(endpoint, "/v1/at-work", "a", {})[0] == "200 OK"
    for after in (0, 0, 400):
        body = {"step": "fetch", "after": after, "lines": ["x" * 4_000] * 400}
        assert as_pod(endpoint, "/v1/lines", "a", body)[0] == "200 OK"
    values = {"podUid": "u", "form": "csi", "final": True, "reason": "no such object"}
    answer = as_pod(endpoint, "/v1/result", "a", {"run": RUN, "task": "a", "attempt": 1, **values})
    assert answer == ("200 OK", {"status": "committed"})
    assert stage.emitted(stage.keys.cancelled) == [("a", "1")]
    assert guarded.refused() == []


def test_the_collector_may_take_and_keep_the_duty_to_store_what_runs_came_to(guarded: GuardedRedis) -> None:
    """The store is away here; what is asked of Redis before and after is what matters."""
    Stage(guarded.admin).open({"a": []})
    settings = Settings(s3_access_key="a", s3_secret_key="s", s3_endpoint="http://127.0.0.1:1", replica="one")
    recorder = Recorder(guarded.client("collector"), Store(settings), settings)
    recorder.look()
    recorder.look()
    assert guarded.admin.get(RECOVERY_DUTY) == "one"
    assert guarded.refused() == []


def test_the_collectors_user_may_read_what_its_metrics_say(guarded: GuardedRedis) -> None:
    """And hand on traces and notices: its loops for those read streams of their own."""
    client = guarded.client("collector")
    figures = SharedFigures(client, settings_from({}))
    figures.look()
    served = {sample.name for family in figures.collect() for sample in family.samples}
    assert {"helios_cluster_stream_lag", "helios_cluster_redis_memory_bytes", "helios_cluster_replicas"} <= served
    traced = Inbox(client, group="collector", consumer="t", streams=[KEYS.traced], batch_entries=1, lease_seconds=15)
    guarded.client("collector").xadd(KEYS.traced, {"run": "1-0"})
    (entry,) = traced.read()
    acknowledge(traced, entry)
    assert traced.leave() == 0
    told = Inbox(client, group="collector", consumer="t", streams=[KEYS.notices], batch_entries=1, lease_seconds=15)
    guarded.client("collector").xadd(KEYS.notices, {"run": "1-0", "number": "0"})
    (entry,) = told.read()
    assert told.renew(entry.stream, [entry.id]) == {entry.id}
    commit_one(client, warn_run(KEYS, run="1-0", warning="the notice is given up"))
    acknowledge(told, entry)
    assert told.leave() == 0
    assert not guarded.refused()
