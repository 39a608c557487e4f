"""One component of the stack kept running: started, watched, started again with backoff, and ended.

Each component has a thread for its whole life, because its processes die with the thread that started them.
"""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cli.embedded.logfile import open_log, say, tail
from cli.embedded.processes import dies_with_parent, known
from cli.embedded.state import ComponentState

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 20.0
FAILURES_THAT_TELL = 3
"""After so many failures without a good time between them a component counts as failing, and commands are told."""
GOOD_TIME_SECONDS = 20.0
WATCH_SECONDS = 0.2


class StartFailed(Exception):
    """A component did not become ready; the message says why and what to do."""


class Stopping(Exception):
    """The component is to stop; raised out of a start that is under way."""


def _nothing() -> None:
    pass


class Unit(Protocol):
    """What a component is made of: how to start it, and how it is ended."""

    @property
    def name(self) -> str: ...

    def launch(self, component: "Component") -> None:
        """Start the processes and return once they serve; raises StartFailed."""
        ...

    def end(self, component: "Component") -> None:
        """End what runs, in good order, within a deadline. What is left after it is killed."""
        ...


class Component(threading.Thread):
    """Runs one unit until it is stopped, and keeps its state."""

    def __init__(
        self, unit: Unit, log: Path, *, on_change: Callable[[], None], on_failed_start: Callable[[], None] = _nothing
    ) -> None:
        super().__init__(name=unit.name, daemon=True)
        self.unit = unit
        self.log = log
        self.state = ComponentState(log=str(log))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = threading.Event()
        self.again = threading.Event()
        self._on_change = on_change
        self._on_failed_start = on_failed_start
        self._was_ready = False

    def run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            began = time.monotonic()
            reason = self._one_life()
            if reason is None:
                continue
            failures = 1 if time.monotonic() - began > GOOD_TIME_SECONDS else failures + 1
            phase = "failing" if failures >= FAILURES_THAT_TELL else "restarting"
            self.note(f"{self.name}: {reason}; starting it again (failure {failures} in a row)")
            self._change(phase=phase, error=reason, restarts=self.state.restarts + 1, processes=[])
            if not self._was_ready:
                self._on_failed_start()
            self.stopping.wait(min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS))
        self._change(phase="stopped", processes=[])

    def stop(self) -> None:
        """Ask the component to end; `join` waits for it."""
        self.stopping.set()

    def restart(self) -> None:
        """Ask the component to end its processes and start them anew."""
        self.again.set()

    def _one_life(self) -> str | None:
        """Start, watch and end the unit once; why it ended by itself, or None when it was asked to."""
        began = time.monotonic()
        self.again.clear()
        if self.state.phase == "waiting":
            self._change(phase="starting")
        try:
            self.unit.launch(self)
            self._was_ready = True
            self._change(phase="ready", error=None, ready_after_seconds=round(time.monotonic() - began, 3))
            while not self.stopping.wait(WATCH_SECONDS) and not self.again.is_set():
                self.check()
            self.unit.end(self)
        except Stopping:
            self.unit.end(self)
        except StartFailed as error:
            return str(error)
        except OSError as error:
            return f"{error.strerror}: {error.filename or ''}"
        except Exception as error:  # noqa: BLE001 -- whatever it is, the other components go on, and this one says so
            return f"{type(error).__name__}: {error}"
        finally:
            self._kill_rest()
        return None

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start one process of the unit; it writes to the component's log and dies with the supervisor."""
        with open_log(self.log) as log:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                preexec_fn=dies_with_parent(),  # calls prctl and getppid only, loaded before the fork
            )
        self.processes[name] = process
        found = known(process.pid)
        if found is not None:
            self._change(processes=[*self.state.processes, found])
        return process

    def wait_until(self, is_true: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for the predicate; raises StartFailed when a process ends first or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            if is_true():
                return
            if time.monotonic() > deadline:
                raise StartFailed(f"{what} within {seconds:.0f} s\nthe end of {self.log}:\n{tail(self.log)}")
            if self.stopping.wait(0.005):
                raise Stopping

    def check(self) -> None:
        """Raises StartFailed when a process of the unit has ended, Stopping when the component is to stop."""
        if self.stopping.is_set():
            raise Stopping
        for name, process in self.processes.items():
            code = process.poll()
            if code is not None:
                raise StartFailed(f"{name} {how_it_ended(code)}\nthe end of {self.log}:\n{tail(self.log)}")

    def end_processes(self, number: signal.Signals, seconds: float) -> None:
        """Signal every process of the unit and wait for them."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        deadline = time.monotonic() + seconds
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def note(self, line: str) -> None:
        """One line in the supervisor's log."""
        say(f"{time.strftime('%H:%M:%S')} {line}")

    def _kill_rest(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes.clear()
        self.state.processes = []

    def _change(
        self,
        *,
        phase: str | None = None,
        **values: object,
    ) -> None:
        if phase is not None:
            self.state.phase = phase
        for field, value in values.items():
            setattr(self.state, field, value)
        self._on_change()


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
