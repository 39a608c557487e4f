"""Starts services and the agent's steps by forking: everything is imported once, so that a start takes milliseconds.

    python -m tests.crash.forkserver services|agent SOCKET

One JSON document a line, both ways. `{"id", "run", "env", "output", "ledger", "plan", "clients"}` asks for a process;
the answers are `{"id", "pid"}` and, when it has ended, `{"id", "exit"}`. It dies with whoever started it, and all that
it started dies with it. The agent has a fork server of its own, since what is forked costs time by its size.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from tests.crash import points

SERVICES = ("submitter", "jobrunner", "collector")

SWEEP_SECONDS = 1.0
"""The sweeps that make good a lost release come more often than in earnest, so that the test need not wait for them.
The reconciler keeps its 30 s: what only it could repair is a violation here.
"""

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:
        os._exit(70)


def _import_services() -> None:
    for service in SERVICES:
        importlib.import_module(f"services.{service}.__main__")
    for module in ("services.jobrunner.kubernetes", "kubernetes.client", "kubernetes.config", "minio"):
        importlib.import_module(module)
    for service in ("jobrunner", "collector"):
        vars(sys.modules[f"services.{service}.__main__"])["SWEEP_SECONDS"] = SWEEP_SECONDS


def _import_agent() -> None:
    for module in ("__main__", "fetch", "publish", "wrapper", "bring", "store", "outputs", "packing", "upload", "web"):
        importlib.import_module(f"agent.{module}")


class ForkServer:
    def __init__(self, place: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(f"{place}.new")
        self.listener.listen(64)
        os.rename(f"{place}.new", place)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.rests: dict[socket.socket, bytes] = {}
        self.started: dict[int, tuple[socket.socket, int]] = {}
        woken, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(woken, selectors.EVENT_READ)
        self.woken = woken

    def serve(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    self.rests[connection] = b""
                    self.selector.register(connection, selectors.EVENT_READ)
                elif key.fileobj == self.woken:
                    os.read(self.woken, 4096)
                    self._reap()
                else:
                    self._take(key.fileobj)

    def _take(self, connection: Any) -> None:
        try:
            found = connection.recv(1 << 20)
        except ConnectionError:
            found = b""
        if not found:
            self.selector.unregister(connection)
            connection.close()
            del self.rests[connection]
            return
        *lines, self.rests[connection] = (self.rests[connection] + found).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                self._become(order)
            self.started[pid] = connection, order["id"]
            self._tell(connection, {"id": order["id"], "pid": pid})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection, order = self.started.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            self._tell(connection, {"id": order, "exit": code if code >= 0 else 128 - code})

    def _tell(self, connection: socket.socket, document: dict[str, Any]) -> None:
        if connection in self.rests:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(document).encode() + b"\n")

    def _become(self, order: dict[str, Any]) -> None:
        """In the child: never returns."""
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _die_with_parent()
            for each in (*self.rests, self.listener):
                each.close()
            self.selector.close()
            os.close(self.waker)
            os.close(self.woken)
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for fd, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
                os.dup2(source, fd)
            os.environ.clear()
            os.environ.update(order["env"])
            os.chdir(order.get("cwd") or "/")
            code = _run(order)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
            if isinstance(ended.code, str):
                os.write(2, ended.code.encode())
        except BaseException:  # noqa: BLE001 -- told on stderr
            import traceback

            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


def _run(order: dict[str, Any]) -> int:
    clients = {int(port): name for port, name in order["clients"].items()}
    name, arguments = order["run"], order.get("arguments", [])
    if order.get("ledger"):
        ledger = points.Ledger(order["ledger"], points.Plan(*order["plan"]) if order.get("plan") else None)
        if name in SERVICES:
            points.watch_redis(ledger)
            points.watch_urllib3(ledger, clients)
        else:
            points.watch_http_client(ledger, clients)
    if name in SERVICES:
        # The official client reads the environment when it is imported.
        vars(sys.modules["kubernetes.config.kube_config"])["KUBE_CONFIG_DEFAULT_LOCATION"] = os.environ["KUBECONFIG"]
        main: Callable[[], None] = sys.modules[f"services.{name}.__main__"].main
        main()
        return 0
    return sys.modules["agent.__main__"].main([name, *arguments])


def main() -> None:
    _die_with_parent()
    (_import_services if sys.argv[1] == "services" else _import_agent)()
    gc.collect()
    gc.freeze()
    ForkServer(sys.argv[2]).serve()


if __name__ == "__main__":
    main()
