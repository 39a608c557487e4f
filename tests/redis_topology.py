"""Redis as it is run where it must not stop: a primary, its replica, Sentinels over both, one address before both."""

import contextlib
import select
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import redis

from helios.streams import CLIENT_OPTIONS
from tests.redis_servers import Valkey, free_port, server_program
from tests.waiting import wait_until

MASTER = "mymaster"


class Pair:
    """A primary and its replica. Which is which changes; both are servers of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.servers: list[Valkey] = []
        for name in ("one", "two"):
            own = folder / name
            own.mkdir()
            self.servers.append(Valkey(own, append_only=True))

    def start(self) -> None:
        for server in self.servers:
            server.start()
            with server.client() as client:
                client.config_set("repl-diskless-sync-delay", "0")  # else each first synchronisation waits five seconds
        self.follow(self.servers[1], self.servers[0])

    def follow(self, replica: Valkey, primary: Valkey) -> None:
        """Returns once the replica has all that the primary has."""
        with replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
            wait_until("the replica follows", lambda: client.info("replication").get("master_link_status") == "up")

    def promote(self, replica: Valkey) -> None:
        with replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def is_primary(self, server: Valkey) -> bool:
        try:
            with server.client() as client:
                return client.info("replication")["role"] == "master"
        except redis.RedisError:
            return False

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


def sentinel_id(port: int) -> str:
    return f"{port:040x}"


class Sentinels:
    """Three Sentinels over a pair, which take a primary for lost after a second."""

    def __init__(
        self, folder: Path, pair: Pair, *, password: str = "", redis_login: tuple[str, str] | None = None
    ) -> None:
        self.pair = pair
        self.password = password
        self.ports = [free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []
        for port in self.ports:
            own = folder / f"sentinel-{port}"
            own.mkdir()
            (own / "sentinel.conf").write_text(self._config(port, own, redis_login))
            self.processes.append(
                subprocess.Popen([server_program(), own / "sentinel.conf", "--sentinel"], stdin=subprocess.DEVNULL)
            )
        for port in self.ports:
            wait_until(f"Sentinel {port} knows all", lambda port=port: self._knows_all(port), 30)

    def _config(self, port: int, folder: Path, redis_login: tuple[str, str] | None) -> str:
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"logfile {folder}/log",
            f"sentinel monitor {MASTER} 127.0.0.1 {self.pair.servers[0].port} 2",
            f"sentinel down-after-milliseconds {MASTER} 1000",
            f"sentinel failover-timeout {MASTER} 5000",
            f"sentinel parallel-syncs {MASTER} 1",
            # What they would find out by themselves, in some eight seconds.
            f"sentinel myid {sentinel_id(port)}",
            f"sentinel known-replica {MASTER} 127.0.0.1 {self.pair.servers[1].port}",
            *(
                f"sentinel known-sentinel {MASTER} 127.0.0.1 {other} {sentinel_id(other)}"
                for other in self.ports
                if other != port
            ),
        ]
        if self.password:
            lines += [f"requirepass {self.password}", f"sentinel sentinel-pass {self.password}"]
        if redis_login is not None:
            user, password = redis_login
            lines += [f"sentinel auth-user {MASTER} {user}", f"sentinel auth-pass {MASTER} {password}"]
        return "\n".join(lines) + "\n"

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{MASTER}/0"

    def client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=self.password or None, **CLIENT_OPTIONS)

    def _knows_all(self, port: int) -> bool:
        try:
            with self.client(port) as client:
                state: Any = client.sentinel_master(MASTER)
        except redis.RedisError:
            return False
        return state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 and state["flags"] == "master"

    def primaries(self) -> set[int]:
        """The ports that the Sentinels which run name: one, but while they change their minds."""
        found: set[int] = set()
        for port, process in zip(self.ports, self.processes, strict=True):
            if process.poll() is None:
                with self.client(port) as client:
                    address: Any = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER)
                found.add(int(address[1]))
        return found

    def wait_for(self, server: Valkey) -> None:
        """Until the server is the primary, and every Sentinel says so."""
        wait_until(
            "the replica is promoted", lambda: self.primaries() == {server.port} and self.pair.is_primary(server), 40
        )

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Endpoint:
    """One address whose upstream moves, as a managed Redis or a Kubernetes Service has it. Connections that are there
    stay with whom they were made to, unless they are cut.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.open: set[socket.socket] = set()
        self.accepted = 0
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def move(self, upstream: int, *, cut: bool) -> None:
        self.upstream = upstream
        if cut:
            for each in list(self.open):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.listener.close()
        self.move(self.upstream, cut=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream), 2)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        ends = {client: server, server: client}
        self.open |= set(ends)
        try:
            while True:
                for source in select.select(list(ends), [], [])[0]:
                    piece = source.recv(65536)
                    if not piece:
                        return
                    ends[source].sendall(piece)
        except (OSError, ValueError):
            return
        finally:
            self.open -= set(ends)
            client.close()
            server.close()
