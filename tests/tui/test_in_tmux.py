"""The real program on a real terminal: the embedded stack, a DAG typed in, run twice; the second run is a Hit."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import ROOT, Helios
from tests.tui.programs import program
from tests.waiting import wait_until

NEW_SUBMISSION = "n"
CLEAR_EDITOR = ("F7", "Delete")
SUBMIT = "F9"
RERUN = "r"
QUIT = "q"

COLUMNS, LINES = 80, 24
START_SECONDS = 90
RUN_SECONDS = 120

# One line, because an editor would indent a second one by itself.
DAG = (
    '{"dagName": "typed", "tasks": [{"name": "count", "image": "busybox:1.36", '
    '"inputs": [{"uri": "s3://typed/words.txt"}], "command": ["sh", "-c", "wc -c words.txt"]}]}'
)


class Terminal:
    """A tmux of its own with one window, without anybody's configuration."""

    def __init__(self, folder: Path) -> None:
        self.tmux = [program("tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def _do(self, *words: str) -> str:
        return subprocess.run([*self.tmux, *words], check=True, capture_output=True, text=True, timeout=60).stdout

    def start(self, command: list[str], environ: dict[str, str], folder: Path) -> None:
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        settings = [f"{name}={text}" for name, text in environ.items()]
        line = shlex.join(["env", "-i", *settings, *command])
        self._do("new-session", "-d", *size, "-c", str(folder), f"{line}; echo exit code $?; exec cat")

    def keys(self, *names: str) -> None:
        """Press keys, by tmux's names."""
        self._do("send-keys", *names)

    def type(self, text: str) -> None:
        self._do("send-keys", "-l", "--", text)

    def screen(self) -> str:
        return self._do("capture-pane", "-p")

    def wait_for(self, pattern: str, deadline_seconds: float = 60) -> str:
        """The screen, once the pattern is found on it."""

        def found() -> str:
            screen = self.screen()
            return screen if re.search(pattern, screen) else ""

        try:
            return wait_until(f"{pattern!r} on the screen", found, deadline_seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def close(self) -> None:
        subprocess.run([*self.tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "tmux-256color",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "HELIOS_HOME": str(folder / "home"),
    }


@pytest.mark.timeout(400)
def test_a_dag_that_is_typed_in_runs_and_is_a_hit_the_second_time(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one two three\n")
    environ = environment(tmp_path)
    helios = Helios(tmp_path, environ)
    put = helios("put", "words.txt", "s3://typed/words.txt", "--make-bucket", timeout=120)
    assert put.code == 0, put.err

    terminal.start([sys.executable, "-m", "cli.main", "tui"], environ, tmp_path)
    terminal.wait_for("(?i)runs?", START_SECONDS)
    for had in range(2):
        if had == 0:
            terminal.keys(NEW_SUBMISSION)
            terminal.wait_for("valid: my-first-run")
            terminal.keys(*CLEAR_EDITOR)
            terminal.wait_for("the text is empty")
            terminal.type(DAG)
            terminal.wait_for("valid: typed, 1 task")
            terminal.keys(SUBMIT)
        else:
            # Redis knows of the end before the screen does; in the editor the key would be a letter.
            terminal.wait_for("Miss", RUN_SECONDS)
            terminal.keys(RERUN)
        wait_until("the run has ended", lambda had=had: ended(helios) == had + 1, RUN_SECONDS)
    screen = terminal.wait_for("Hit", RUN_SECONDS)
    assert "typed" in screen
    newest = helios("runs", "-o", "json").json()[0]
    assert (newest["status"], newest["cacheHit"]) == ("SUCCEEDED", "Hit")
    terminal.keys(QUIT)
    terminal.wait_for("exit code 0")


def ended(helios: Helios) -> int:
    return sum(run["status"] == "SUCCEEDED" for run in helios("runs", "-o", "json").json())


def test_without_a_terminal_the_plain_watch_is_named(tmp_path: Path) -> None:
    done = Helios(tmp_path, {})("tui")
    assert done.code == 2
    assert "needs a terminal" in done.err
    assert "helios runs --watch" in done.err


def test_a_terminal_that_cannot_move_its_cursor_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    environ = {**environment(tmp_path), "TERM": "dumb", "HELIOS_REDIS_URL": "redis://127.0.0.1:1/0"}
    terminal.start([sys.executable, "-m", "cli.main", "tui"], environ, tmp_path)
    assert "helios runs --watch" in terminal.wait_for("exit code 2")
