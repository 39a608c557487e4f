r"""The log lines of a step, and their grammar. Pure, but for the writer a Log is given.

Every line starts with `[HELIOS] `, ends with one newline and is written by a single call, so that parallel inputs never
mix inside a line. The lines of fetch, where QUOTED is a name in single quotes as `agent.names.escape` writes it (on one
line, `'` inside as `\'`):

    [HELIOS] Init container starting for task QUOTED
    [HELIOS] Plan: 3 inputs, cache on                      (or: cache off)
    [HELIOS] Cache hit for QUOTED -> PATH                  (PATH is escaped the same way, without the quotes)
    [HELIOS] Cache miss for QUOTED; downloading from MinIO...
    [HELIOS] Downloading QUOTED: 1048576 of 4194304 bytes, 12.5 MiB/s
    [HELIOS] Input QUOTED: hit cached, 4194304 bytes       (one for each input that is in place)
    [HELIOS] Error: TEXT
    [HELIOS] Init container completed.

The two lines that name an init container are published and keep their words; fetch is beside the task (agent/gate.py).

The classification is rebuilt from four of them alone: `starting` opens the record (and discards all before it), `Plan`
says how many inputs there are and whether the cache was on, each `Input` line gives one input's outcome, cause and
size, `completed` says that none is missing. As one regular expression for the `Input` line:

    ^\[HELIOS\] Input '((?:[^'\\]|\\.)*)': (hit|miss) ([a-z-]+), (\d{1,15}) bytes$

Anything else is for people. No line ever holds a URL or a token.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable

from agent.frozen import Frozen
from agent.names import escape

PREFIX = "[HELIOS] "

# Compiled by whoever reads a log, which no step does.
INPUT_LINE = r"^\[HELIOS\] Input '((?:[^'\\]|\\.)*)': (hit|miss) ([a-z-]+), (\d{1,15}) bytes$"
PLAN_LINE = r"^\[HELIOS\] Plan: (\d{1,15}) inputs, cache (on|off)$"


class LoggedInput(Frozen):
    """One `Input` line; `name` is still escaped, `size` is in bytes."""

    name: str
    hit: bool
    cause: str
    size: int


class LoggedFetch(Frozen):
    """What a fetch log says: `complete` only if the closing line and one line for each planned input were read."""

    cache_enabled: bool
    inputs: tuple[LoggedInput, ...]
    complete: bool


def starting(task: str) -> str:
    return f"Init container starting for task {escape(task)}"


def planned(inputs: int, cache_enabled: bool) -> str:
    return f"Plan: {inputs} inputs, cache {'on' if cache_enabled else 'off'}"


def hit(name: str, path: str) -> str:
    return f"Cache hit for {escape(name)} -> {escape(path)[1:-1]}"


def miss(name: str) -> str:
    return f"Cache miss for {escape(name)}; downloading from MinIO..."


def progress(verb: str, name: str, done: int, total: int, seconds: float) -> str:
    """`verb` is Downloading or Uploading; the rate is the mean since the start."""
    rate = done / 1048576 / seconds if seconds > 0 else 0.0
    return f"{verb} {escape(name)}: {done} of {total} bytes, {rate:.1f} MiB/s"


def outcome(name: str, was_hit: bool, cause: str, size: int) -> str:
    return f"Input {escape(name)}: {'hit' if was_hit else 'miss'} {cause}, {size} bytes"


def error(text: str) -> str:
    return f"Error: {one_line(text)}"


COMPLETED = "Init container completed."


def one_line(text: str) -> str:
    """The text with line ends and control characters escaped, so that it stays one line; quotes stay as they are."""
    return "".join(char if char.isprintable() else escape(char)[1:-1] for char in text)


def read_fetch_log(lines: Iterable[str]) -> LoggedFetch | None:
    """Rebuilds the classification from the lines of a fetch log, or None when not even the plan was logged."""
    plan: tuple[int, bool] | None = None
    inputs: dict[str, LoggedInput] = {}
    completed = False
    for raw in lines:
        line = raw.rstrip("\n")
        if line.startswith(PREFIX + "Init container starting for task '"):
            plan, inputs, completed = None, {}, False
        elif match := re.match(PLAN_LINE, line):
            plan = (int(match[1]), match[2] == "on")
        elif match := re.match(INPUT_LINE, line):
            inputs[match[1]] = LoggedInput(match[1], match[2] == "hit", match[3], int(match[4]))
        elif line == PREFIX + COMPLETED:
            completed = True
    if plan is None:
        return None
    return LoggedFetch(plan[1], tuple(inputs.values()), completed and len(inputs) == plan[0])


def write_stdout(data: bytes) -> None:
    """The default writer: straight to file descriptor 1, a whole line at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


class Log:
    """Writes `[HELIOS] ` lines, whole, from any thread. A writer that fails (a closed pipe) silences the log, never the
    step.
    """

    def __init__(self, writer: Callable[[bytes], object] = write_stdout) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._broken = False

    def line(self, text: str) -> None:
        data = f"{PREFIX}{text}\n".encode("utf-8", "backslashreplace")
        with self._lock:
            if self._broken:
                return
            try:
                self._writer(data)
            except OSError:
                self._broken = True
