"""The primary of Redis changes under the services: by Sentinel, and behind one address. They follow, and so do the
command line and the dashboard; what the old primary had acknowledged and not passed on is made good like a lost second.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import redis

from cli.checkup import check_server
from cli.connection import Link
from cli.submission import submit as send
from helios.heartbeat import Heartbeat
from helios.keys import SUBMISSIONS, Keys
from helios.redis_client import client_of
from helios.settings import Settings
from tests.cli.command import Helios
from tests.redis_topology import MASTER, Endpoint, Pair, Sentinels
from tests.services.test_processes import COMMANDS, Replicas, check_all_well, submit, succeeded
from tests.stage import dag_text
from tests.waiting import wait_until
from tui.source.feed import Feed

ROOT = Path(__file__).parents[2]
KEYS = Keys(0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def sentinels(pair: Pair, tmp_path: Path) -> Iterator[Sentinels]:
    found = Sentinels(tmp_path, pair, password="of-the-sentinels")
    yield found
    found.stop()


@pytest.fixture
def endpoint(pair: Pair) -> Iterator[Endpoint]:
    found = Endpoint(pair.servers[0].port)
    yield found
    found.stop()


class Somewhere(msgspec.Struct):
    """What `Replicas` wants to know of a server: its URL."""

    url: str


def services_at(stack: ExitStack, url: str, folder: Path) -> Replicas:
    """One replica of each service, at an address of Redis."""
    found = Replicas(Somewhere(url), folder, 1)  # pyright: ignore[reportArgumentType] -- it asks for the URL only
    for service in COMMANDS:
        found.start(service, 0)
    stack.callback(lambda: [(each.kill(), each.wait()) for each in found.processes.values()])
    return found


def well_passed_on(client: redis.Redis) -> None:
    """The replica has everything that was acknowledged so far."""
    client.execute_command("WAIT", 1, 10_000)


def settings_of(sentinels: Sentinels) -> Settings:
    return Settings(redis_url=sentinels.url, redis_sentinel_password=sentinels.password)


def test_services_command_line_and_dashboard_follow_a_failover_by_sentinel(
    pair: Pair, sentinels: Sentinels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary is killed in the middle of five runs: the replica is promoted, and each run ends well there."""
    monkeypatch.setenv("HELIOS_REDIS_SENTINEL_PASSWORD", sentinels.password)
    first, second = pair.servers
    settings = settings_of(sentinels)
    link = Link(client_of(settings), settings)
    feed = Feed(link)
    with ExitStack() as stack:
        services = services_at(stack, sentinels.url, tmp_path)
        feed.start()
        stack.callback(feed.stop)
        variables = {"HELIOS_REDIS_URL": sentinels.url, "HELIOS_REDIS_SENTINEL_PASSWORD": sentinels.password}
        helios = Helios(tmp_path, variables)
        stack.callback(helios.end_started)
        chain = {f"t{number}": [f"t{number - 1}"] if number else [] for number in range(150)}
        watching = helios.start("run", helios.dag("chain", dag_text(chain).decode()), "-o", "json")
        wait_until("the command's run is accepted", lambda: link.client.zcard(KEYS.active), 60)
        runs = submit(link.client)
        well_passed_on(link.client)
        wait_until("some tasks are done", lambda: succeeded(link.client, runs, 1) > 50, 60)
        first.kill()
        sentinels.wait_for(second)
        out, err = watching.communicate(timeout=60)
        assert (watching.returncode, '"SUCCEEDED"' in out) == (0, True), err
        check_all_well(link.client, runs, 1)
        assert link.client.info("replication")["role"] == "master"
        late = send(link, dag_text({"a": []}), use_cache=None, request_id="after")
        wait_until(
            "the dashboard shows a run of afterwards", lambda: late in feed.runs.rows and feed.runs.rows[late].ended
        )
        wait_until("the dashboard is live", lambda: feed.connection.state == "live")
        assert set(services.stop().values()) == {0}
    findings = {each.check: each for each in check_server(link)}
    assert findings["redis"].detail.endswith(
        f"at {MASTER} (by Sentinel: {', '.join(f'127.0.0.1:{port}' for port in sentinels.ports)})"
    )
    assert findings["redis primary"].ok
    assert findings["redis primary"].detail == f"127.0.0.1:{second.port}, named by 3 of 3 Sentinels"


def test_a_sentinel_that_is_away_or_knows_nothing_is_named_and_the_others_do(pair: Pair, sentinels: Sentinels) -> None:
    sentinels.processes[0].kill()
    sentinels.processes[0].wait()
    settings = settings_of(sentinels)
    with client_of(settings) as client:
        assert client.ping()
        finding = {each.check: each for each in check_server(Link(client, settings))}["redis primary"]
    assert not finding.ok
    assert finding.detail.startswith(f"127.0.0.1:{pair.servers[0].port}, named by 2 of 3 Sentinels; not by 127.0.0.1:")
    assert "start the Sentinels" in finding.fix
    with client_of(settings) as client:
        Heartbeat(client, "submitter", "x").beat()
    assert probe(sentinels.url, sentinels.password, "x") == (0, "")
    assert probe(sentinels.url, sentinels.password, "y") == (1, "no heartbeat in Redis\n")
    assert probe(sentinels.url, "guess", "x")[0] == 1
    wrong = Settings(redis_url=sentinels.url, redis_sentinel_password="guess")
    with client_of(wrong) as client, pytest.raises(redis.ConnectionError, match="invalid username-password pair"):
        client.ping()
    unknown = msgspec.structs.replace(settings_of(sentinels), redis_url=sentinels.url.replace(MASTER, "another"))
    with client_of(unknown) as client, pytest.raises(redis.ConnectionError, match=r"\d+ it does not know 'another'"):
        client.ping()


def probe(url: str, sentinel_password: str, replica: str) -> tuple[int, str]:
    """What kubelet asks, of a service whose Redis is found by Sentinel."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "k8s" / "base" / "heartbeat.py"), "ready", "submitter"],
        env={"HELIOS_REDIS_URL": url, "HELIOS_REDIS_SENTINEL_PASSWORD": sentinel_password, "HELIOS_REPLICA": replica},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr


def test_services_and_dashboard_follow_one_address_whose_primary_moves(
    pair: Pair, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The old primary lives on as a replica, and connections to it stay: its refusals alone tell that it is one."""
    first, second = pair.servers
    settings = Settings(redis_url=endpoint.url)
    link = Link(client_of(settings), settings)
    feed = Feed(link)
    with ExitStack() as stack:
        services = services_at(stack, endpoint.url, tmp_path)
        feed.start()
        stack.callback(feed.stop)
        runs = submit(link.client)
        well_passed_on(link.client)
        wait_until("some tasks are done", lambda: succeeded(link.client, runs, 1) > 50, 60)
        endpoint.move(second.port, cut=False)
        pair.promote(second)
        pair.follow(first, second)
        with second.client() as client:
            check_all_well(client, runs, 1)
        late = send(link, dag_text({"a": []}), use_cache=None, request_id="after")
        wait_until(
            "the dashboard shows a run of afterwards", lambda: late in feed.runs.rows and feed.runs.rows[late].ended
        )
        assert set(services.stop().values()) == {0}
    assert link.client.info("replication")["role"] == "master"


def test_a_replica_that_lost_its_primary_is_waited_for_like_a_server_that_is_away(pair: Pair) -> None:
    """MASTERDOWN: whoever follows a run waits, instead of ending with an error."""
    first, second = pair.servers
    with second.client() as client:
        client.config_set("replica-serve-stale-data", "no")
    first.kill()
    with client_of(Settings(redis_url=second.url)) as client:
        wait_until("it notices", lambda: _refuses(client))
        pair.promote(second)
        assert client.xadd(SUBMISSIONS, {"dag": "x"})


def _refuses(client: redis.Redis) -> bool:
    try:
        client.get("anything")
    except redis.ConnectionError as error:
        assert "MASTERDOWN" in str(error)
        return True
    return False


def test_one_answer_that_it_is_a_replica_has_every_connection_made_anew(pair: Pair, endpoint: Endpoint) -> None:
    """Those that only read would never be told; a blocking read is."""
    first, second = pair.servers
    client = client_of(Settings(redis_url=endpoint.url))
    together = threading.Barrier(4)

    def read() -> None:
        together.wait()
        with pytest.raises(redis.ConnectionError, match="UNBLOCKED"):
            client.xread({KEYS.events: "$"}, block=5_000)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    together.wait()
    with first.client() as admin:
        wait_until("three connections wait for events", lambda: admin.info("clients")["blocked_clients"] == 3)
    client.get("a")  # by a fourth, which is idle when the others are told
    pair.promote(second)
    pair.follow(first, second)
    endpoint.move(second.port, cut=False)
    for reader in readers:
        reader.join()
    before = endpoint.accepted
    client.set("a", "b")
    assert client.get("a") == "b"
    assert endpoint.accepted == before + 1
    every = [client.connection_pool.get_connection() for _ in range(4)]
    for connection in every:
        connection.send_command("ROLE")
        assert connection.read_response()[0] == "master"
        client.connection_pool.release(connection)
    client.close()
