"""The embedded stack: shared, stopped when nobody uses it, and whole again after kill -9 of any part."""

import contextlib
import io
import os
import signal
import socket
import stat
import threading
from pathlib import Path

import psutil
import pytest
import redis
import urllib3
from minio import Minio

from cli.embedded.component import StartFailed
from cli.embedded.home import Home, prepare
from cli.embedded.lease import StackFailed, embedded_stack, running_stack, stop_stack
from cli.embedded.s3 import S3
from cli.embedded.state import read_state
from cli.embedded.supervisor import Supervisor


def store_of(home: Home) -> Minio:
    stack = running_stack(home)
    assert stack is not None
    return Minio(
        stack.s3_endpoint.removeprefix("http://"),
        access_key=stack.s3_access_key,
        secret_key=stack.s3_secret_key,
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(retries=False, timeout=5.0),
    )


def put(store: Minio, name: str, content: bytes) -> None:
    store.put_object("helios", name, io.BytesIO(content), len(content))


def get(store: Minio, name: str) -> bytes:
    answer = store.get_object("helios", name)
    try:
        return answer.data
    finally:
        answer.close()


def redis_of(home: Home) -> redis.Redis:
    stack = running_stack(home)
    assert stack is not None
    return redis.Redis.from_url(stack.redis_url, decode_responses=True)


def test_commands_that_start_at_once_share_one_stack_and_the_last_leaves_nothing(home, command, until, alive):
    """One supervisor for all; stopping is refused while others use the stack, and complete when none does."""
    assert running_stack(home) is None
    commands = [command(home, stop=True) for _ in range(4)]
    stacks = [each.stack() for each in commands]
    assert all(stack == stacks[0] for stack in stacks)
    put(store_of(home), "a", b"content")
    redis_of(home).set("k", "v")
    passwords = prepare(home)
    for process in alive(home.path):
        words = " ".join(process.cmdline())
        assert passwords.valkey not in words and passwords.s3_secret_key not in words
    listening = {
        address.laddr.ip
        for process in psutil.Process(stacks[0]["supervisor"]).children(recursive=True)
        for address in process.net_connections("tcp")
        if address.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=running_stack(home).redis_port, retry=None).ping()
    for port in ("s3", "s3-filer", "s3-volume"):
        url = f"http://127.0.0.1:{read_state(home).ports[port]}/buckets/helios/a"
        assert urllib3.request("GET", url, retries=False).status in (401, 403, 404)
    for path in (home.path, *home.path.iterdir(), *home.run.rglob("*"), *home.s3.iterdir(), *home.valkey.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    others = {each.process.pid for each in commands[1:]}
    assert set(commands[0].leave()) == others
    assert running_stack(home) is not None
    for each in commands[1:3]:
        each.leave()
    assert commands[3].leave() == []
    assert [process.cmdline() for process in alive(home.path)] == []
    assert running_stack(home) is None


def test_a_killed_command_frees_its_lease(home, command, until, alive):
    """kill -9 of the last user: the stack stops by itself after the linger time."""
    user = command(home, "redis")
    user.stack()
    user.process.kill()
    until(lambda: not alive(home.path), "the stack stopped by itself")


def test_a_killed_supervisor_leaves_nothing_and_its_successor_has_the_data(home, command, until, alive):
    """Children die with it; the next start has the same ports, and every acknowledged write is there."""
    first = command(home, services=("pretend.submitter",), env=pretend(home))
    before = first.stack()
    put(store_of(home), "a", b"content" * 10_000)
    redis_of(home).set("k", "v")
    os.kill(before["supervisor"], signal.SIGKILL)
    until(lambda: {process.pid for process in alive(home.path)} <= {first.process.pid}, "the children died with it")
    second = command(home)
    after = second.stack()
    assert after["supervisor"] != before["supervisor"]
    assert (after["redis"], after["s3"]) == (before["redis"], before["s3"])
    assert get(store_of(home), "a") == b"content" * 10_000
    assert redis_of(home).get("k") == "v"


def test_killed_parts_are_started_again_with_what_they_acknowledged(home, command, until):
    """Valkey, each part of the store, the node and a service, killed while objects and keys are written."""
    command(home, "redis", "s3", "node", services=("pretend.submitter",), env=pretend(home)).stack()
    until(lambda: running_stack(home).phase == "running", "everything is up")
    store, keys = store_of(home), redis_of(home)
    acknowledged: dict[str, bytes] = {}
    done = threading.Event()

    def write():
        number = 0
        while not done.is_set():
            name, content = f"o{number}", os.urandom(30_000)
            try:
                put(store, name, content)
                keys.set(name, "1")
            except Exception:  # noqa: BLE001 -- what is not acknowledged does not count
                done.wait(0.01)
                continue
            acknowledged[name] = content
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    for component, kill in (("s3", 1), ("s3", 2), ("s3", 0), ("valkey", 0), ("node", 0), ("submitter", 0)):
        seen = len(acknowledged)
        until(lambda seen=seen: len(acknowledged) > seen + 10, "writes go through")
        restarts = running_stack(home).components[component].restarts
        os.kill(running_stack(home).pids[component][kill], signal.SIGKILL)
        until(
            lambda component=component, restarts=restarts: (
                running_stack(home).components[component].restarts > restarts
                and running_stack(home).components[component].phase == "ready"
            ),
            f"{component} is back",
        )
    done.set()
    writer.join()
    assert len(acknowledged) > 50
    assert all(get(store, name) == content for name, content in acknowledged.items())
    assert keys.exists(*acknowledged) == len(acknowledged)
    assert "starting it again" in home.log("supervisor").read_text()


def test_two_homes_work_side_by_side(tmp_path: Path, command):
    """Nothing is shared: no port, no password, no object."""
    left, right = Home(tmp_path / "left home"), Home(tmp_path / "right")
    both = [command(left, stop=True), command(right, stop=True)]
    stacks = [each.stack() for each in both]
    assert stacks[0]["redis"] != stacks[1]["redis"]
    assert not {*ports(left)} & {*ports(right)}
    put(store_of(left), "a", b"left")
    put(store_of(right), "a", b"right")
    assert (get(store_of(left), "a"), get(store_of(right), "a")) == (b"left", b"right")
    assert both[0].leave() == []
    assert get(store_of(right), "a") == b"right"


def test_a_part_that_cannot_run_is_one_clear_error(home, alive):
    """A service that ends at once: the command that needs it gets its name and the end of its log; others work."""
    environ = pretend(home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with (
            pytest.raises(StackFailed, match=r"(?s)submitter does not run.*ended with code 3.*no such luck"),
            embedded_stack(home, need={"services"}, services=("pretend.broken.submitter",)),
        ):
            pass
        with embedded_stack(home, need={"redis"}, services=("pretend.broken.submitter",)) as stack:
            assert redis.Redis.from_url(stack.redis_url).ping()
        assert stop_stack(home) == []
    assert alive(home.path) == []


def test_ports_that_are_taken_between_choice_and_start_are_left(home, until, alive):
    """Somebody else listens on the chosen ports: the first start moves on to others, and services learn of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pretend(home).items():
            patch.setenv(name, value)
        supervisor = Supervisor(home, prepare(home), services=("pretend.submitter",), replicas=1)
        chosen = dict(supervisor.state.ports)
        with contextlib.ExitStack() as stack:
            for name in ("redis", "s3", "s3-master-grpc"):
                stack.enter_context(socket.create_server(("127.0.0.1", chosen[name])))
            supervisor.start()
            try:
                until(lambda: (supervisor.tick(), supervisor.state.phase == "running")[1], "everything is up")
                moved = {name for name, port in supervisor.state.ports.items() if port != chosen[name]}
                assert moved == {"redis", "s3", "s3-master-grpc"}
                assert redis_of(home).ping()
                put(store_of(home), "a", b"content")
            finally:
                supervisor.stop()
    assert alive(home.path) == []


def ports(home: Home) -> list[int]:
    stack = running_stack(home)
    assert stack is not None
    return [
        connection.laddr.port
        for process in psutil.Process(stack.supervisor_pid).children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def pretend(home: Home) -> dict[str, str]:
    """Modules that stand for services: one waits for the end, one cannot start."""
    folder = home.path.parent / "modules"
    (folder / "pretend" / "broken").mkdir(parents=True, exist_ok=True)
    (folder / "pretend" / "submitter.py").write_text(
        "import os, signal\nassert os.environ['HELIOS_REDIS_URL'] and os.environ['HELIOS_TOKEN_KEY']\nsignal.pause()\n"
    )
    (folder / "pretend" / "broken" / "submitter.py").write_text(
        "import sys\nprint('no such luck', flush=True)\nsys.exit(3)\n"
    )
    return {"PYTHONPATH": str(folder), "HELIOS_LINGER_SECONDS": "0.3"}


def test_sockets_that_a_killed_stack_left_in_tmp_are_removed_at_the_next_start(home):
    """weed makes them under names of its own; they name this home's ports."""

    class Refusing:
        def spawn(self, *_args, **_options):
            raise StartFailed("enough seen")

    supervisor = Supervisor(home, prepare(home), services=(), replicas=1)
    kinds = {"master": "s3-master-grpc", "volume": "s3-volume-grpc", "filer": "s3-filer-grpc", "s3": "s3-grpc"}
    left = [Path(f"/tmp/seaweedfs-{kind}-grpc-{supervisor.state.ports[port]}.sock") for kind, port in kinds.items()]
    for path in left:
        path.touch()
    with pytest.raises(StartFailed):
        S3(home, prepare(home), supervisor.state.ports).launch(Refusing())
    assert not any(path.exists() for path in left)
