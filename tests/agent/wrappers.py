"""The two forms of the task's wrapper, agent/wrapper.py and agent/exec.c, behind one face, so that one set of tests
holds both to the same promises.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

SOURCE = Path(__file__).parents[2] / "agent" / "exec.c"
FLAGS = ("-std=gnu11", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")


class Wrapper(Protocol):
    """One form of the wrapper on one node."""

    node: Any

    def start(
        self, *command: str, timeout: str | None = None, control: Path | None = None
    ) -> subprocess.Popen[bytes]: ...


class PythonWrapper:
    """agent/wrapper.py, as local mode starts it."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def start(self, *command: str, timeout: str | None = None, control: Path | None = None) -> subprocess.Popen[bytes]:
        env = {**self.node.env(), "HELIOS_CONTROL_DIR": str(control or self.node.control)}
        if timeout is not None:
            env["HELIOS_TIMEOUT_SECONDS"] = timeout
        return self.node.start("exec", "--", *command, env=env)


class StaticWrapper:
    """agent/exec.c, started in the artifacts folder as a container is; `before` is put in front of its command line."""

    def __init__(self, node: Any, binary: Path, before: tuple[str, ...] = ()) -> None:
        self.node = node
        self.binary = binary
        self.before = before

    def start(
        self, *command: str, timeout: str | None = None, control: Path | None = None, view: Path | None = None
    ) -> subprocess.Popen[bytes]:
        options = [] if view is None else ["--view", str(view)]
        options += [] if timeout is None else ["--timeout", timeout]
        return subprocess.Popen(
            [*self.before, str(self.binary), str(control or self.node.control), *options, "--", *command],
            cwd=self.node.artifacts,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def run(wrapper: Wrapper, *command: str, **options: Any) -> tuple[int, str]:
    """The exit code and all that was printed."""
    process = wrapper.start(*command, **options)
    output = process.communicate(timeout=60)[0].decode()
    return process.returncode, output


def record(node: Any) -> dict[str, Any]:
    """The exit record."""
    return json.loads((node.control / "exit").read_text())


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def has_open(pid: int, path: Path) -> bool:
    return str(path) in (_open_at(each) for each in Path(f"/proc/{pid}/fd").iterdir())


def _open_at(descriptor: Path) -> str:
    """What a descriptor is open on; nothing where it was closed since it was listed."""
    try:
        return os.path.realpath(descriptor)
    except FileNotFoundError:
        return ""


def compile_static(folder: Path, *options: str) -> Path | str:
    """The static wrapper built into the folder, or why this machine cannot build it."""
    compiler = next((found for name in ("musl-gcc", "cc", "gcc") if (found := shutil.which(name))), None)
    if compiler is None:
        return "no C compiler"
    binary = folder / "exec"
    built = subprocess.run([compiler, *FLAGS, *options, "-o", str(binary), str(SOURCE)], capture_output=True, text=True)
    if built.returncode and "cannot find -lc" in built.stderr:
        return "no static C library"
    assert built.returncode == 0, built.stderr
    return binary
