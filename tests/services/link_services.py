"""The three services as processes whose way to a peer leads through a link that a test can break."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
SECRET = "planted-secret-of-the-link"
"""The password, the token key and whatever else must never be said; each process has it in its environment."""


class LinkedServices:
    """One process of each service; `commands` by service, `environ` for all of them."""

    def __init__(self, folder: Path, commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.commands = commands
        self.environ = environ
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start()

    def start(self) -> None:
        """Those that do not run: what ran on, unknown to anybody, would outlive the tests."""
        for service, command in self.commands.items():
            running = self.processes.get(service)
            if running is None or running.poll() is not None:
                self.processes[service] = self._start(service, command, self.environ)

    def _start(self, service: str, command: Sequence[str], environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        own = {
            **os.environ,
            "HELIOS_REPLICA": service,
            "HELIOS_LEASE_SECONDS": "3",
            "HELIOS_BATCH_ENTRIES": "16",
            "HELIOS_TOKEN_KEY": SECRET,
            "PYTHONPATH": str(ROOT),
            **environ,
        }
        with (self.folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=own, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def logs(self) -> str:
        return "".join(self.log(service) for service in self.processes)

    def cpu_seconds(self) -> dict[str, float]:
        """What each process has used so far."""
        found: dict[str, float] = {}
        for service, process in self.processes.items():
            times = psutil.Process(process.pid).cpu_times()
            found[service] = times.user + times.system
        return found

    def stop(self) -> dict[str, tuple[int, float]]:
        """End all in order: the exit code of each, and the seconds until the last one was gone."""
        began = time.monotonic()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: (process.wait(60), time.monotonic() - began) for name, process in self.processes.items()}

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
