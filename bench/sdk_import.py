"""What importing the Python SDK costs.

    python -m bench.sdk_import [--json FILE] [--rounds N]

Times are of whole processes that do nothing else, the median of the rounds, less what a Python that imports nothing
takes in the same rounds, which is the floor. "A DAG" is the import of `Dag` and `task` and the making of one task, "the
client" that of `Client` as well; no server is spoken to.
"""

import os
import statistics
import subprocess
import sys
import time

from bench.report import Metric, arguments, tell
from bench.servers import PROJECT

TARGET_SECONDS = 0.15
STATEMENTS = {
    "import helios": "import helios",
    "import helios, a DAG": "from helios import Dag, task; task('t', image='i', command=['x'])",
    "import helios, a DAG, the client": "from helios import Client, Dag, task; task('t', image='i', command=['x'])",
}


def seconds_of(statement: str) -> float:
    """One process, from its start to its end."""
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=environ, cwd=PROJECT, check=True)
    return time.perf_counter() - began


def measure(rounds: int) -> dict[str, Metric]:
    for statement in STATEMENTS.values():
        seconds_of(statement)  # what it compiles stays compiled
    taken: dict[str, list[float]] = {name: [] for name in ("nothing", *STATEMENTS)}
    for _ in range(rounds):
        taken["nothing"].append(seconds_of("pass"))
        for name, statement in STATEMENTS.items():
            taken[name].append(seconds_of(statement))
    floor = statistics.median(taken["nothing"])
    metrics: dict[str, Metric] = {}
    for name in STATEMENTS:
        value = statistics.median(taken[name]) - floor
        metrics[name] = Metric(
            value=value,
            unit="s",
            floor=floor,
            ratio=value / floor,
            target=f"< {TARGET_SECONDS:g}",
            met=value < TARGET_SECONDS,
        )
    return metrics


def main() -> None:
    options = arguments(__doc__ or "", rounds=15)
    tell(measure(options.rounds), options.json)


if __name__ == "__main__":
    main()
