"""Redis answers and takes no writes: it is out of memory (`noeviction`), or a replica. Nothing is lost, it is said by
everybody who looks, and all goes on by itself once it takes writes again.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.connection import Link, reaching
from cli.failure import CommandFailed
from cli.submission import submit as send
from helios.redis_client import client_of
from helios.settings import Settings
from tests.redis_servers import Valkey
from tests.services.test_processes import COMMANDS, Replicas, check_all_well, submit, succeeded
from tests.stage import dag_text
from tests.waiting import wait_until
from tui.source.health import HealthReader


@pytest.fixture
def replicas(own_valkey: Valkey, tmp_path: Path) -> Iterator[Replicas]:
    found = Replicas(own_valkey, tmp_path, 1)
    with ExitStack() as stack:
        for service in COMMANDS:
            found.start(service, 0)
        stack.callback(lambda: [(each.kill(), each.wait()) for each in found.processes.values()])
        yield found


def said(folder: Path, words: str) -> int:
    return sum(len(re.findall(words, log.read_text())) for log in folder.glob("*-0.log"))


def test_services_wait_out_a_full_memory_and_a_read_only_replica_without_a_restart(
    replicas: Replicas, own_valkey: Valkey, tmp_path: Path
) -> None:
    link = Link(client_of(Settings(redis_url=own_valkey.url)), Settings(redis_url=own_valkey.url))
    client = link.client
    pids = {name: process.pid for name, process in replicas.processes.items()}
    runs = submit(client)
    wait_until("some tasks are done", lambda: succeeded(client, runs, 1) > 30, 60)

    client.config_set("maxmemory", "1")
    wait_until("a service says that the memory is full", lambda: said(tmp_path, "OOM|maxmemory"), 60)
    _check_told(link, "takes no writes, because its memory is full", "raise its maxmemory")
    before = succeeded(client, runs, 1)
    client.config_set("maxmemory", "0")
    wait_until("they go on", lambda: succeeded(client, runs, 1) > before + 20, 60)

    client.replicaof("127.0.0.1", "1")
    wait_until("a service says that this is a replica", lambda: said(tmp_path, "READONLY|read only replica"), 60)
    _check_told(link, "takes no writes, because it is a replica", "point HELIOS_REDIS_URL at the primary")
    client.replicaof("no", "one")
    check_all_well(client, runs, 1)
    assert {name: process.pid for name, process in replicas.processes.items()} == pids
    assert all(process.poll() is None for process in replicas.processes.values())
    assert set(replicas.stop().values()) == {0}


def _check_told(link: Link, why: str, fix: str) -> None:
    """By the dashboard's health, which shows the doctor's findings, and by a command that would write."""
    findings = {each.check: each for each in HealthReader(link, read_only=False).look().findings}
    assert not findings["redis writable"].ok
    assert why in findings["redis writable"].detail
    assert fix in findings["redis writable"].fix
    with pytest.raises(CommandFailed) as failed, reaching(link.settings, embedded=False):
        send(link, dag_text({"a": []}), use_cache=None, request_id="r")
    assert why in failed.value.message
