"""One step of a pod as a process: its own session, its output into a log of bounded size, its end told to the pod."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.embedded.processes import dies_with_parent
from cli.embedded.strays import STARTING
from helios.localjobs import make_way, open_regular

LOG_BYTES = 64 * 1024 * 1024
LAST_OUTPUT_SECONDS = 1.0


class Step:
    """Started by its constructor. Puts itself into `ends` when its process is over and its log complete.

    May only be started by a thread that outlives it: the process dies with that thread. The wrapper of a task is the
    exception (`dies_with_node` false): it must live to kill the task when its lifeline is cut.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        ends: "queue.SimpleQueue[Any]",
        pass_fds: Sequence[int] = (),
        log_bytes: int = LOG_BYTES,
        dies_with_node: bool = True,
    ) -> None:
        self.name = name
        self.exit_code: int | None = None
        self._ends = ends
        make_way(log)
        self._log = open_regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._log_bytes = log_bytes
        with STARTING:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                preexec_fn=dies_with_parent() if dies_with_node else None,
            )
            STARTING.pids.add(self._process.pid)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._pump = threading.Thread(target=self._copy_output, name=f"{name} output", daemon=True)
        self._pump.start()
        threading.Thread(target=self._wait, name=f"{name} end", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Signal the process, or its whole group, if it has not ended."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if group else os.kill)(self.pid, number)

    def _wait(self) -> None:
        # Waited for without reaping, so that the group's id cannot be given to another before it is killed.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with STARTING:
            code = self._process.wait()
            STARTING.pids.discard(self.pid)
        # What left the group may hold the output open; the pod ends it (strays.py), and it is not waited for here.
        self._pump.join(LAST_OUTPUT_SECONDS)
        self.exit_code = code if code >= 0 else 128 - code
        self._ends.put(self)

    def _copy_output(self) -> None:
        left = self._log_bytes
        with self._output as output:
            while piece := os.read(output.fileno(), 65536):
                if left <= 0:
                    continue  # read on, so that the step does not block on a full pipe
                try:
                    os.write(self._log, piece[:left])
                    left -= len(piece)
                    if left <= 0:
                        os.write(self._log, f"\n[HELIOS] the log is cut here, at {self._log_bytes} bytes\n".encode())
                except OSError:
                    left = 0  # the disk is full: the step goes on without its log
        os.close(self._log)
