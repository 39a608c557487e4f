"""The command as users start it: a process with an environment of its own, whose output and exit code are looked at."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-c", "from cli.main import main; main()"]


class Done(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


NOT_OURS = ("HELIOS_", "KUBECONFIG", "KUBERNETES_")


class Helios:
    """Runs `helios` with the given variables; of the caller's, none that names a server."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(NOT_OURS)}
        self.environ = {**inherited, **variables, "PYTHONPATH": str(ROOT)}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.started.append(process)
        return process

    def end_started(self) -> None:
        """End what a failed test has left behind."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def __call__(self, *words: str, text: str | None = None, timeout: float = 60) -> Done:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environ,
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def dag(self, name: str, text: str) -> str:
        """Write a DAG into the folder; returns its file name."""
        file = f"{name}.yaml"
        (self.folder / file).write_text(text, encoding="utf-8")
        return file
