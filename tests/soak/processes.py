"""A soak's processes: Redis with an append-only file that can lose its last second, services, node and clients.

The services are the real ones, started as local mode starts them; each reaches Redis by a link of its own.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from helios.keys import COLLECTOR_GROUP, CONTROLS, JOBRUNNER_GROUP, SUBMISSIONS, SUBMITTER_GROUP, all_partitions
from helios.streams import CLIENT_OPTIONS
from tests.faulty_link import FaultyLink
from tests.redis_servers import free_port, server_program
from tests.soak.client import Config, file_bytes
from tests.soak.history import Cut
from tests.soak.ledger import now_us
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SERVICES = ("submitter", "jobrunner", "collector")
GROUPS = {"submitter": SUBMITTER_GROUP, "jobrunner": JOBRUNNER_GROUP, "collector": COLLECTOR_GROUP}
CLOCK = "soak:clock"
"""Redis's own note of the time, by which one sees after its end how much it has forgotten."""
CLOCK_SECONDS = 0.05
LOST_SECONDS = 1.0
"""What a power cut takes."""


class Server:
    """A Valkey with `appendfsync everysec`, as local mode and k8s/ run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self.cuts: list[Cut] = []
        self.sizes: list[tuple[float, str, int]] = []
        """When the append-only file had which name and length, in the last seconds."""
        self.noting = threading.Lock()
        self.stopping = threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **{**CLIENT_OPTIONS, **options})

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [
                *(server_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"),
                *("--logfile", "valkey.log", "--loglevel", "warning", "--maxmemory-policy", "noeviction"),
            ],
            stdin=subprocess.DEVNULL,
        )
        client = self.client()
        wait_until("Redis answers", lambda: _answers(client), 60)
        client.close()
        if not self.clock.is_alive():
            self.clock.start()

    def stop(self) -> None:
        """As an orderly shutdown does: all of the file is written."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    def crash(self, *, power_cut: bool, keep_bytes: int = 0) -> float:
        """SIGKILL, and start again; with a power cut the file also loses what was written in its last second, but for
        its first `keep_bytes`. Returns how many seconds of the file were cut off.
        """
        assert self.process is not None
        with self.noting:
            self.process.kill()
            self.process.wait()
            at, until = time.time(), now_us()
            lost = self._cut_file(at, keep_bytes) if power_cut else 0.0
            self.start()
            # What it still knows of the time bounds what it has lost.
            known: Any = self.client().get(CLOCK)
            self.cuts.append(Cut(int(known or 0), until, "power cut" if power_cut else "kill"))
        return lost

    def _cut_file(self, at: float, keep_bytes: int) -> float:
        name, size = file_bytes(self.folder)
        before = [
            (moment, length) for moment, file, length in self.sizes if moment <= at - LOST_SECONDS and file == name
        ]
        if not before:
            return 0.0  # the file is younger than that: it was written anew just now
        moment, length = before[-1]
        if keep_bytes > length:
            length, moment = keep_bytes, at
        os.truncate(self.folder / "appendonlydir" / name, min(length, size))
        return at - moment

    def _tick(self) -> None:
        client = self.client(socket_timeout=1)
        while not self.stopping.wait(CLOCK_SECONDS):
            with self.noting:
                try:
                    client.set(CLOCK, now_us())
                except redis.RedisError:
                    continue
                self.sizes.append((time.time(), *file_bytes(self.folder)))
                del self.sizes[:-100]

    def close(self) -> None:
        self.stopping.set()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _listens(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether the process has a handler for the signal by now."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((line for line in text.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


class Crew:
    """All processes that work on one soak, by name: `collector-1`, `node`, `client-0`."""

    def __init__(
        self, folder: Path, server: Server, config: Config, *, replicas: int, clients: int, lease: float
    ) -> None:
        self.folder = folder
        self.server = server
        self.config = config
        self.lease = lease
        self.clients = clients
        self.replicas = [f"{service}-{number}" for service in SERVICES for number in range(replicas)]
        self.links: dict[str, FaultyLink] = {}
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.jobs = folder / "cluster"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.exits: dict[str, int] = {}
        """Of processes that ended without being told to."""
        self.lock = threading.Lock()
        self.is_closed = False
        self.config_file = folder / "config.json"
        for number, name in enumerate(self.replicas):
            self.links[name] = FaultyLink(("127.0.0.1", server.port), seed=config.seed + number)

    def names(self) -> list[str]:
        return [*self.replicas, "node", *(f"client-{number}" for number in range(self.clients))]

    def start(self, name: str) -> float:
        """Returns when it was started, by the monotonic clock."""
        with (self.folder / f"{name}.log").open("ab") as log, self.lock:
            if self.is_closed:
                raise RuntimeError("the soak is being ended")
            at = time.monotonic()
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *self._command(name)],
                cwd=ROOT,
                env={**os.environ, **self._environ(name), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return at

    def signal(self, name: str, number: int) -> None:
        with self.lock:
            self.processes[name].send_signal(number)

    def send_no_more(self) -> None:
        """Clients send nothing more from now on, those that are still starting included; they follow what they sent."""
        Path(self.config.enough).touch()

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        with self.lock:
            process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str, seconds: float = 60) -> float:
        """SIGTERM, and how long it took to end. What does not end, or ends badly, is noted; but what is still starting
        may be ended by the signal itself."""
        with self.lock:
            process = self.processes.pop(name)
        listens = _listens(process, signal.SIGTERM)
        began = time.monotonic()
        process.terminate()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -signal.SIGKILL
        if code and (listens or code != -signal.SIGTERM):
            self.exits[f"{name} (told to end)"] = code
        return time.monotonic() - began

    def look(self) -> None:
        """Note what ended by itself, and start it again. Clients end well when they have nothing more to do."""
        with self.lock:
            gone = {name: process.poll() for name, process in self.processes.items() if process.poll() is not None}
            for name in gone:
                del self.processes[name]
        for name, code in gone.items():
            if name.startswith("client") and code == 0:
                continue
            self.exits[name] = code or 0
            if not code:
                self.exits[name] = 256  # it ended well, which nobody asked for
            self.start(name)

    def are_clients_done(self) -> bool:
        with self.lock:
            return not any(name.startswith("client") for name in self.processes)

    def close(self) -> None:
        """End all that is left; nothing is started afterwards."""
        with self.lock:
            self.is_closed = True
            left = list(self.processes.values())
        for process in left:
            process.kill()
            process.wait()
        for link in self.links.values():
            link.close()

    def streams_of(self, service: str) -> list[str]:
        """Streams whose entries may be in the hands of a replica of the service."""
        partitions = all_partitions(self.config.partitions)
        match service:
            case "submitter":
                return [SUBMISSIONS, CONTROLS, *(keys.finished for keys in partitions)]
            case "jobrunner":
                return [stream for keys in partitions for stream in (keys.ready, keys.cancelled)]
            case _:
                return [stream for keys in partitions for stream in (keys.launched, keys.settled, keys.checks)]

    def _command(self, name: str) -> list[str]:
        kind, _, number = name.partition("-")
        if kind == "node":
            return ["tests.soak.node", str(self.jobs), str(Path(self.config.ledgers) / "node")]
        if kind == "client":
            return ["tests.soak.client", str(self.config_file), number, str(self.clients)]
        return [f"services.{kind}"]

    def _environ(self, name: str) -> Mapping[str, str]:
        if name not in self.links:
            return {}
        return {
            "HELIOS_REDIS_URL": f"redis://127.0.0.1:{self.links[name].port}/0",
            "HELIOS_REPLICA": name,
            "HELIOS_LAUNCHER": "local",
            "HELIOS_LOCAL_DIR": str(self.jobs),
            "HELIOS_TOKEN_KEY": "soak",
            "HELIOS_POD_ENDPOINT_BIND": self.endpoint,
            "HELIOS_POD_ENDPOINT_URL": f"http://{self.endpoint}",
            "HELIOS_PARTITIONS": str(self.config.partitions),
            "HELIOS_LEASE_SECONDS": str(self.lease),
            "HELIOS_UNKNOWN_JOB_SECONDS": "0",
            "HELIOS_RUNS_KEPT_PER_DAG": "1000000",
            "HELIOS_RUNS_KEPT_IN_ALL": "1000000",
            "HELIOS_GC_HOURS": "0",
            "HELIOS_LOG_LEVEL": "warning",
        }
