"""The dashboard over 10,000 runs of history, idle and then under 5,000 events a second, at 80x24 in a terminal.

    python -m bench.tui [--json FILE] [--runs N] [--rate N] [--seconds N]

The dashboard, what writes the events, and Valkey are processes of their own. Lateness of the event loop is measured
inside the dashboard, CPU and memory from /proc. At the end each line of its table must be what Redis says.
"""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis

from bench.report import Metric, arguments, tell
from bench.servers import PROJECT, peak_bytes, resident_bytes, url_of, valkey
from bench.tui_load import KEYS, fill
from bench.tui_shown import Report
from cli.connection import Link
from cli.lookup import newest_runs
from cli.run_object import read_runs
from helios.settings import settings_from
from tui.model.columns import COLUMNS, Look
from tui.model.runs import RunRow
from tui.model.table import fit, fitted

COLUMNS_WIDE, LINES = 80, 24
FIRST_LINE, ROWS = 6, 16
"""Where the table's rows are on that screen."""
IDLE_SECONDS = 5.0
PAINT_SECONDS = 1.0
MEGABYTES = 150
IDLE_CORE, BUSY_CORE = 0.01, 0.25
LATE_MS = 20


class Shown:
    """The dashboard's process in a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process, self.file = process, file

    def report(self) -> Report:
        self.file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_for("a report of the dashboard", self.file.exists, 10)
        return msgspec.json.decode(self.file.read_bytes(), type=Report)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(what: str, is_so: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def shown(url: str, folder: Path, history: int) -> Iterator[Shown]:
    """Ends the dashboard afterwards."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS_WIDE, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "bench.tui_shown", url, str(folder / "report.json"), str(history)]
    process = subprocess.Popen(
        command, stdin=inner, stdout=inner, stderr=inner, cwd=PROJECT, env=environ, start_new_session=True
    )
    os.close(inner)
    threading.Thread(target=drain, args=(outer,), daemon=True).start()
    try:
        yield Shown(process, folder / "report.json")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.wait()
        os.close(outer)


def drain(terminal: int) -> None:
    """Be the terminal: take whatever is written."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65_536):
            pass


def row_of(run: dict[str, Any]) -> RunRow:
    """A run that ended as the command line reads it: another way than the dashboard's."""
    return RunRow(
        run=run["dagId"],
        dag=run["dagName"],
        status=run["status"],
        started_at=run["startTime"],
        ended_at=run["endTime"],
        cache_enabled=run["cacheEnabled"],
        cache_hit=run["cacheHit"],
        tasks=run["taskCount"],
        succeeded=run["taskSucceeded"],
        failed=run["taskFailed"] + run["taskUpstreamFailed"],
        nodes=tuple(run["nodes"].split(",")),
    )


def expected_lines(client: redis.Redis) -> list[str]:
    """The table's lines as Redis has them, without what stands at the left edge."""
    link = Link(client, settings_from({}))
    widths = fit([column.heading for column in COLUMNS], COLUMNS_WIDE - 2)
    lines: list[str] = []
    for run in read_runs(link, newest_runs(link, ROWS)):
        cells = [column.cell(Look(row_of(run), 0)) for column in COLUMNS]
        texts = [
            fitted(
                cell.short if cell.short and len(cell.text) > width else cell.text, width, right=column.heading.right
            )
            for cell, width, column in zip(cells, widths, COLUMNS, strict=True)
            if width
        ]
        lines.append(" ".join(texts).rstrip())
    return lines


def counted(client: redis.Redis) -> dict[str, int]:
    """Successful runs with the cache and without."""
    link = Link(client, settings_from({}))
    runs = read_runs(link, newest_runs(link, 1_000_000))
    cached = [run["cacheEnabled"] for run in runs if run["status"] == "SUCCEEDED"]
    return {"cached": sum(cached), "non-cached": len(cached) - sum(cached)}


def table_lines(report: Report) -> list[str]:
    return [line[1 : COLUMNS_WIDE - 1].rstrip() for line in report.lines[FIRST_LINE : FIRST_LINE + ROWS]]


def is_exact(client: redis.Redis, report: Report) -> bool:
    cards = report.lines[2]
    counts = counted(client)
    return (
        table_lines(report) == expected_lines(client)
        and report.rows == client.zcard(KEYS.runs)
        and all(f"{count:,} runs ok" in cards for count in counts.values())
    )


def below(value: float, unit: str, target: float) -> Metric:
    return Metric(value=value, unit=unit, target=f"< {target:g}", met=value < target)


def measure(client: redis.Redis, folder: Path, runs: int, rate: int, seconds: float) -> dict[str, Metric]:
    fill(client, runs)
    url, metrics = url_of(client), dict[str, Metric]()
    spawned = time.time()
    with shown(url, folder, runs) as dashboard:
        wait_for("the dashboard has begun", lambda: begun(dashboard), 30)
        wait_for("all of the history is shown", lambda: dashboard.report().complete_at, 60)
        report = dashboard.report()
        metrics["first paint"] = below((report.painted_at or 0) - spawned, "s", PAINT_SECONDS)
        metrics["all runs in the table"] = Metric(value=(report.complete_at or 0) - spawned, unit="s")
        time.sleep(2)
        began = dashboard.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (dashboard.cpu_seconds() - began) / IDLE_SECONDS
        metrics["CPU, idle"] = below(idle * 100, "% of a core", IDLE_CORE * 100)
        dashboard.process.send_signal(signal.SIGUSR2)
        began, clock = dashboard.cpu_seconds(), time.monotonic()
        load = [sys.executable, "-m", "bench.tui_load", url, str(rate), str(seconds)]
        reached = float(subprocess.run(load, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout)
        took = time.monotonic() - clock
        busy = (dashboard.cpu_seconds() - began) / took
        report = dashboard.report()
        metrics["events written"] = Metric(value=reached, unit="1/s")
        metrics["CPU, under events"] = below(busy * 100, "% of a core", BUSY_CORE * 100)
        metrics["loop lateness, p99"] = below(report.late_p99 * 1000, "ms", LATE_MS)
        metrics["loop lateness, worst"] = Metric(value=report.late_worst * 1000, unit="ms")
        ended = time.monotonic()
        exact = True
        try:
            wait_for("the screen is what Redis says", lambda: is_exact(client, dashboard.report()), 10)
        except TimeoutError:
            exact = False
            print(*differences(client, dashboard.report()), sep="\n", file=sys.stderr)
        metrics["screen exact after"] = Metric(value=time.monotonic() - ended, unit="s", target="exact", met=exact)
        metrics["memory, resident"] = below(resident_bytes(dashboard.process) / 1e6, "MB", MEGABYTES)
        metrics["memory, at most"] = below(peak_bytes(dashboard.process) / 1e6, "MB", MEGABYTES)
    return metrics


def begun(dashboard: Shown) -> bool:
    """SIGUSR1 would end a Python that does not handle it yet."""
    if dashboard.process.poll() is not None:
        raise ChildProcessError(f"the dashboard ended with {dashboard.process.returncode}")
    caught = Path(f"/proc/{dashboard.process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) & 1 << (signal.SIGUSR1 - 1))


def differences(client: redis.Redis, report: Report) -> Iterator[str]:
    yield f"{report.rows} rows of {client.zcard(KEYS.runs)}; {report.connection}; {counted(client)}"
    for is_line, should in zip(table_lines(report), expected_lines(client), strict=False):
        if is_line != should:
            yield f"shown  {is_line}\nshould {should}"


def main() -> None:
    options = arguments(__doc__ or "", runs=10_000, rate=5_000, seconds=10.0)
    with valkey() as client, tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        tell(measure(client, Path(folder), options.runs, options.rate, options.seconds), options.json)


if __name__ == "__main__":
    main()
