"""The command line as a user feels it, and what local mode's idle services weigh.

    python -m bench.command [--json FILE] [--rounds N]

Times are of whole processes, the median of the rounds: `helios --help`, against a Python that does nothing; and a run
of one task that does nothing, from a stack that has to be started and from one that runs. The memory is that of the
real services of local mode, resident, some seconds after the last run.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.report import Metric, arguments, tell
from bench.servers import PROJECT
from cli.embedded.home import Home
from cli.embedded.lease import embedded_stack, stop_stack

HELIOS = [sys.executable, "-c", "from cli.main import main; main()"]
NOTHING = [sys.executable, "-c", "pass"]
DAG = "dagName: one\ntasks: [{name: one, image: alpine, command: ['true']}]\n"
SERVICES = ("submitter", "jobrunner", "collector")
IDLE_SECONDS = 5.0

HELP_SECONDS = 0.2
RUN_SECONDS = 4.0
SERVICE_MEGABYTES = 60


def seconds_of(command: Sequence[str], environ: dict[str, str]) -> float:
    """One process from its start to its end; raises when it fails."""
    began = time.perf_counter()
    subprocess.run(command, env=environ, cwd=PROJECT, check=True, capture_output=True)
    return time.perf_counter() - began


def resident_megabytes(pids: Sequence[int]) -> float:
    """Resident memory of the processes together, from /proc."""
    page = os.sysconf("SC_PAGESIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids) / 1e6


def below(value: float, unit: str, target: float, floor: float | None = None) -> Metric:
    return Metric(
        value=value,
        unit=unit,
        floor=floor,
        ratio=value / floor if floor else None,
        target=f"< {target:g}",
        met=value < target,
    )


def measure(folder: Path, rounds: int) -> dict[str, Metric]:
    home = Home(folder / "home")
    others = {name: text for name, text in os.environ.items() if not name.startswith("HELIOS_")}
    environ = {**others, "HELIOS_HOME": str(home.path), "PYTHONPATH": str(PROJECT)}
    dag = folder / "one.yaml"
    dag.write_text(DAG)
    run = [*HELIOS, "run", str(dag)]

    seconds_of([*HELIOS, "--help"], environ)  # what it compiles stays compiled
    nothing = statistics.median(seconds_of(NOTHING, environ) for _ in range(rounds))
    metrics = {
        "helios --help": below(
            statistics.median(seconds_of([*HELIOS, "--help"], environ) for _ in range(rounds)),
            "s",
            HELP_SECONDS,
            nothing,
        )
    }
    seconds_of(run, environ)  # makes the home
    stopped: list[float] = []
    for _ in range(max(1, rounds // 3)):
        stop_stack(home)
        stopped.append(seconds_of(run, environ))
    metrics["helios run, one task, stack stopped"] = below(statistics.median(stopped), "s", RUN_SECONDS)
    with embedded_stack(home) as stack:
        running = statistics.median(seconds_of(run, environ) for _ in range(rounds))
        metrics["helios run, one task, stack running"] = below(running, "s", RUN_SECONDS)
        time.sleep(IDLE_SECONDS)
        for name in SERVICES:
            metrics[f"memory of an idle {name}"] = below(resident_megabytes(stack.pids[name]), "MB", SERVICE_MEGABYTES)
    stop_stack(home)
    return metrics


def main() -> None:
    options = arguments(__doc__ or "", rounds=9)
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        tell(measure(Path(folder), options.rounds), options.json)


if __name__ == "__main__":
    main()
