"""Real processes, each test in a home of its own; a test ends with nothing of its home alive."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.embedded.home import Home
from cli.embedded.state import read_state

DEADLINE_SECONDS = 60.0

COMMAND = """
import json, sys
from pathlib import Path
from cli.embedded.home import Home
from cli.embedded.lease import embedded_stack, stop_stack
asked = json.loads(sys.argv[1])
home = Home(Path(asked["home"]))
with embedded_stack(home, need=set(asked["need"]), services=asked["services"]) as stack:
    told = {"supervisor": stack.supervisor_pid, "redis": stack.redis_url, "s3": stack.s3_endpoint}
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
if asked["stop"]:
    print(json.dumps([user.process.pid for user in stop_stack(home)]), flush=True)
"""


def wait_for(is_true: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait until the predicate gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := is_true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
    return found


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that has to do with the folder: by its arguments, its environment or its working folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if any(str(folder) in word for word in words):
                found.append(process)
    return found


class Command:
    """A process that uses the stack until told to leave."""

    def __init__(self, home: Home, *, need: list[str], services: list[str], stop: bool, env: dict[str, str]) -> None:
        asked = {"home": str(home.path), "need": need, "services": services, "stop": stop}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HELIOS_LINGER_SECONDS": "0.3", **env},
        )

    def stack(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def leave(self) -> list[int]:
        """Give the lease back; the pids of the commands that kept the stack from stopping."""
        out, _ = self.process.communicate("\n", timeout=DEADLINE_SECONDS)
        return json.loads(out) if out else []


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def alive() -> Callable[[Path], list[psutil.Process]]:
    return processes_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands; at the end ends what they left, then asserts that nothing of them is alive."""
    commands: list[Command] = []
    homes: dict[Path, Home] = {}

    def start(
        home: Home, *need: str, services: tuple[str, ...] = (), stop: bool = False, env: dict[str, str] | None = None
    ) -> Command:
        homes[home.path] = home
        asked = list(need or ("redis", "s3", "node"))
        commands.append(Command(home, need=asked, services=list(services), stop=stop, env=env or {}))
        return commands[-1]

    yield start
    for each in commands:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()
    for home in homes.values():
        state = read_state(home)
        if state is not None and psutil.pid_exists(state.supervisor.pid):
            with contextlib.suppress(psutil.Error):
                psutil.Process(state.supervisor.pid).terminate()
        wait_for(lambda home=home: not processes_of(home.path), f"nothing of {home.path} is alive")
