"""How a command uses the stack: it holds a lease while it does, and starts a supervisor where none runs.

with embedded_stack(home_from(), need={"redis"}) as stack: ...
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from collections.abc import Set as AbstractSet

from cli.embedded.home import Home, prepare
from cli.embedded.locks import leases_lock, open_lock, supervisor_lock, try_lock
from cli.embedded.logfile import open_log, shorten, tail
from cli.embedded.processes import is_alive, send
from cli.embedded.service import SOURCE
from cli.embedded.stack import EVERYTHING, Stack, stack_of, waited_for
from cli.embedded.state import State, read_state
from cli.embedded.users import User, remove_user, users, write_user

SERVICES = ("services.submitter", "services.jobrunner", "services.collector")
LINGER_SECONDS = 10.0
STOP_SECONDS = 30.0


class StackFailed(Exception):
    """The stack cannot be used; the message says which part failed, why, and what to do."""


def _quiet(line: str) -> None:
    del line


@contextlib.contextmanager
def embedded_stack(
    home: Home,
    *,
    need: AbstractSet[str] = EVERYTHING,
    services: Sequence[str] = SERVICES,
    replicas: int = 1,
    http_port: int = 0,
    timeout_seconds: float = 60.0,
    narrate: Callable[[str], None] = _quiet,
) -> Generator[Stack]:
    """Use the stack of a home, starting it if need be; yields once what is needed (of redis, s3, node, services) is
    ready. `services`, `replicas` and `http_port` count only where this command starts the stack. Raises HomeUnusable or
    StackFailed.
    """
    passwords = prepare(home)
    deadline = time.monotonic() + timeout_seconds
    lease = open_lock(leases_lock(home))
    try:
        told = False
        while not try_lock(lease, shared=True):
            state = read_state(home)
            if state is not None and state.phase == "stopping" and not told:
                narrate("waiting for the former stack to stop")
                told = True
            _wait(deadline, "the former stack did not stop")
        with contextlib.suppress(OSError):  # only a note for people
            write_user(home)
        state = _ready(home, need, services, replicas, http_port, deadline)
        yield stack_of(home, passwords, state)
    finally:
        remove_user(home)
        os.close(lease)


def rejoin(home: Home, *, need: AbstractSet[str] = EVERYTHING, timeout_seconds: float = 60.0) -> Stack:
    """The stack again, for a command whose stack is gone though it still holds its lease: starts a supervisor if the
    former one died. Raises StackFailed, also when the stack was stopped on purpose: then it must not come back.
    """
    state = read_state(home)
    if state is not None and state.phase == "stopping":
        raise StackFailed("the stack was stopped\nstart it again with `helios up`; what was under way goes on then")
    replicas = state.replicas if state is not None else 1
    http_port = state.ports.get("http", 0) if state is not None else 0
    ready = _ready(home, need, SERVICES, replicas, http_port, time.monotonic() + timeout_seconds)
    return stack_of(home, prepare(home), ready)


def running_stack(home: Home) -> Stack | None:
    """The stack that runs in this home now, ready or not; starts nothing and makes nothing."""
    state = read_state(home)
    if state is None or state.phase in ("stopping", "failed") or not is_alive(state.supervisor):
        return None
    return stack_of(home, prepare(home), state)


def stop_stack(home: Home, *, even_if_used: bool = False) -> list[User]:
    """Stop the stack now unless a command uses it, and wait until it is gone; returns the commands that use it.

    To be called after this command's own lease is given back. `even_if_used`: whoever uses it loses it.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        state = read_state(home)
        if state is None or not is_alive(state.supervisor):
            return []
        using = [] if even_if_used else users(home)
        if using:
            return using
        if state.phase != "stopping":
            send(state.supervisor, signal.SIGTERM if even_if_used else signal.SIGUSR1)
        _wait(deadline, "the stack did not stop", 0.05)


def _ready(
    home: Home, need: AbstractSet[str], services: Sequence[str], replicas: int, http_port: int, deadline: float
) -> State:
    """Wait for a supervisor's components to be ready; start the supervisor when there is none."""
    started: subprocess.Popen[bytes] | None = None
    while True:
        state = read_state(home)
        if state is None or not is_alive(state.supervisor):
            if started is not None and started.poll() is not None:
                log = home.log("supervisor")
                raise StackFailed(f"the supervisor ended at its start; the end of {log}:\n{tail(log)}")
            if started is None:
                started = _start_supervisor(home, services, replicas, http_port)
        elif state.phase != "stopping":
            wanted = waited_for(state, need)
            for name, each in wanted.items():
                if each.phase == "failing":
                    raise StackFailed(f"{name} does not run: {each.error}")
            if all(each.phase == "ready" for each in wanted.values()):
                return state
        _wait(deadline, f"the stack was not ready in time{_laggards(state, need)}")


def _laggards(state: State | None, need: AbstractSet[str]) -> str:
    if state is None:
        return ""
    late = [f"{name} is {each.phase}" for name, each in waited_for(state, need).items() if each.phase != "ready"]
    return f" ({', '.join(late)})" if late else ""


def _start_supervisor(
    home: Home, services: Sequence[str], replicas: int, http_port: int
) -> "subprocess.Popen[bytes] | None":
    """Start the supervisor with its lock in hand; None when another command was faster."""
    lock = open_lock(supervisor_lock(home))
    try:
        if not try_lock(lock, shared=False):
            return None
        log = home.log("supervisor")
        shorten(log)
        with open_log(log) as out:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cli.embedded.supervisor",
                    f"--home={home.path}",
                    f"--lock-fd={lock}",
                    f"--services={','.join(services)}",
                    f"--replicas={replicas}",
                    f"--http-port={http_port}",
                    f"--linger={os.environ.get('HELIOS_LINGER_SECONDS') or LINGER_SECONDS}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=SOURCE,
                pass_fds=(lock,),
                start_new_session=True,
            )
    finally:
        os.close(lock)


def _wait(deadline: float, what: str, seconds: float = 0.01) -> None:
    if time.monotonic() > deadline:
        raise StackFailed(f"{what}; see `run/logs` in HELIOS_HOME")
    time.sleep(seconds)
