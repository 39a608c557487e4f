"""This side of the fork server: processes that are started, waited for and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.points import Plan
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Process:
    """One process of the fork server."""

    def __init__(self) -> None:
        self.pid = 0
        self.exit: int | None = None
        self.begun = threading.Event()
        self.ended = threading.Event()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, 128 and the signal's number for one that was killed; None if it has not ended by then."""
        self.ended.wait(seconds)
        return self.exit

    def signal(self, number: int) -> None:
        """Nothing, once it has ended."""
        self.begun.wait()
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """As kill -9 does, with all of its session."""
        self.begun.wait()
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.ended.wait()


class Starter:
    """A connection to a fork server. Safe to use from many threads."""

    def __init__(self, place: Path, clients: Mapping[int, str]) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(place))
        self.clients = dict(clients)
        self.lock = threading.Lock()
        self.known: dict[int, Process] = {}
        self.count = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self,
        run: str,
        env: Mapping[str, str],
        output: Path,
        *,
        arguments: Sequence[str] = (),
        cwd: Path | None = None,
        ledger: Path | None = None,
        plan: Plan | None = None,
    ) -> Process:
        process = Process()
        with self.lock:
            self.count += 1
            self.known[self.count] = process
            order: dict[str, Any] = {
                "id": self.count,
                "run": run,
                "arguments": list(arguments),
                "env": dict(env),
                "output": str(output),
                "cwd": str(cwd) if cwd else None,
                "ledger": str(ledger) if ledger else None,
                "plan": list(plan) if plan else None,
                "clients": self.clients,
            }
            self.socket.sendall(json.dumps(order).encode() + b"\n")
        return process

    def close(self) -> None:
        self.socket.close()

    def _listen(self) -> None:
        with suppress(OSError), self.socket.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                process = self.known[answer["id"]]
                if "pid" in answer:
                    process.pid = answer["pid"]
                    process.begun.set()
                else:
                    process.exit = answer["exit"]
                    del self.known[answer["id"]]
                    process.ended.set()


class Places(NamedTuple):
    """Where the fork servers listen."""

    services: Path
    agent: Path


@contextmanager
def fork_servers(folder: Path) -> Iterator[Places]:
    with _fork_server(folder, "services") as services, _fork_server(folder, "agent") as agent:
        yield Places(services, agent)


@contextmanager
def _fork_server(folder: Path, kind: str) -> Iterator[Path]:
    place = folder / f"fork-{kind}"
    with (folder / f"fork-{kind}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forkserver", kind, str(place)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / f"fork-{kind}.log").read_text()[-2000:]
            return place.exists()

        wait_until("the fork server listens", listens, 60)
        yield place
    finally:
        process.kill()
        process.wait()
