"""Our own Python processes in the stack: the three services, in any number of replicas, and the local node."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cli
from cli.embedded.component import Component
from cli.embedded.processes import dies_with_parent

SOURCE = Path(cli.__file__).parent.parent
"""The folder that holds `cli` and `services`: `-m` finds them from there, installed or not."""


SETTLE_SECONDS = 0.3
"""A module that cannot be imported or does not like its settings has ended by then. The store takes longer to start."""


class PythonModule:
    """The unit that runs `python -m <module>`."""

    def __init__(
        self,
        name: str,
        module: str,
        environ: Callable[[], dict[str, str]],
        *,
        stop_seconds: float,
        lifeline_fd: int,
        wait_for: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.module = module
        self.environ = environ
        self.stop_seconds = stop_seconds
        self.lifeline_fd = lifeline_fd
        self.wait_for = wait_for

    def launch(self, component: Component) -> None:
        component.wait_until(self.wait_for, 24 * 3600.0, f"{self.name} had nothing to work with")
        # Where the kernel does not end a child with its parent, a thread in the child watches the lifeline instead.
        tether = () if dies_with_parent() else ("cli.embedded.tether",)
        component.spawn(
            self.module,
            [sys.executable, "-m", *tether, self.module],
            env={**os.environ, **self.environ(), "HELIOS_LIFELINE_FD": str(self.lifeline_fd)},
            cwd=SOURCE,
            pass_fds=(self.lifeline_fd,),
        )
        settled = time.monotonic() + SETTLE_SECONDS
        component.wait_until(lambda: time.monotonic() > settled, 2 * SETTLE_SECONDS, f"{self.name} did not start")

    def end(self, component: Component) -> None:
        component.end_processes(signal.SIGTERM, self.stop_seconds)
