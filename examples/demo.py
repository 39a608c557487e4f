"""`make demo`: one DAG, twice, and what the cache saved the second time.

It has a home of its own, .cache/demo, made anew each time, so that the first run always starts with an empty cache;
--home names another folder for it, which must be empty. Your own HELIOS_HOME, with its runs and its cache, is not
touched.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.embedded.home import Home
from cli.embedded.lease import stop_stack
from cli.figures import duration, size

ROOT = Path(__file__).resolve().parent.parent
OWN_HOME = ROOT / ".cache" / "demo"
DATA = ROOT / "examples" / "data" / "opticks.txt"
DAG = ROOT / "examples" / "opticks.yaml"
SOURCE = "s3://library/opticks.txt"
HELIOS = [sys.executable, "-c", "from cli.main import main; main()"]

ROWS = (
    ("run", lambda run: run["dagId"]),
    ("status", lambda run: run["status"]),
    ("cacheHit", lambda run: run["cacheHit"]),
    ("duration", lambda run: duration(run["durationMs"])),
    ("tasks succeeded", lambda run: f"{run['taskSucceeded']} of {run['taskCount']}"),
    ("tasks hit", lambda run: run["cacheHitTasks"]),
    ("tasks partly hit", lambda run: run["cachePartialTasks"]),
    ("tasks missed", lambda run: run["cacheMissTasks"]),
    ("external inputs hit", lambda run: external(run, hit=True)),
    ("external inputs missed", lambda run: external(run, hit=False)),
    ("from the cache", lambda run: size(run["cacheHitBytes"])),
    ("downloaded", lambda run: size(run["cacheMissBytes"])),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="an empty folder, instead of .cache/demo")
    given: Path | None = parser.parse_args().home
    if given is None:
        return demonstrate(OWN_HOME)
    home = given.absolute()
    if home.exists() and any(home.iterdir()):
        say(f"{home} is not empty; name an empty folder, or one that does not exist yet")
        return 2
    return demonstrate(home)


def demonstrate(home: Path) -> int:
    others = stop_stack(Home(home))
    if others:
        say(f"another demo is running: {others[0].command} (pid {others[0].process.pid}); wait for it, then try again")
        return 1
    shutil.rmtree(home, ignore_errors=True)
    try:
        step(f"Put {DATA.relative_to(ROOT)} ({size(DATA.stat().st_size)}) into the object store as {SOURCE}")
        helios(home, "put", str(DATA), SOURCE)
        step("First run: the cache is empty, so the book has to be downloaded")
        first = run_dag(home)
        step("Second run of the same DAG: everything it reads is in the cache")
        second = run_dag(home)
        step("What the cache saved")
        compare(first, second)
        step(f"The result: helios artifacts @latest report report.txt --to {shown(home)}/output")
        helios(home, "artifacts", "@latest", "report", "report.txt", "--to", str(home / "output"))
        say((home / "output" / "report.txt").read_text(encoding="utf-8"))
    finally:
        stop_stack(Home(home))
    say(f"Look around:  HELIOS_HOME={shown(home)} .venv/bin/helios show @latest")
    say("Run your own: .venv/bin/helios run dag.yaml")
    wrong = expected_otherwise(first, second)
    for each in wrong:
        say(f"this should not be: {each}")
    return 1 if wrong else 0


def shown(home: Path) -> Path:
    """As it is named from the project's folder."""
    return home.relative_to(ROOT) if home.is_relative_to(ROOT) else home


def run_dag(home: Path) -> dict[str, Any]:
    return json.loads(helios(home, "run", str(DAG), "-o", "json"))


def helios(home: Path, *words: str) -> str:
    """Run a command; its narration goes to our stderr, its data is returned."""
    others = {name: text for name, text in os.environ.items() if not name.startswith("HELIOS_")}
    done = subprocess.run(
        [*HELIOS, *words],
        cwd=ROOT,
        env={**others, "HELIOS_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def external(run: dict[str, Any], *, hit: bool) -> int:
    """How many external inputs hit, or missed."""
    causes = [each["cause"] for task in run["tasks"] if task["name"] == "split" for each in task["inputs"]]
    return sum((cause in ("cached", "coalesced", "warm")) is hit for cause in causes)


def compare(first: dict[str, Any], second: dict[str, Any]) -> None:
    say(f"{'':24}{'first run':>20}{'second run':>20}")
    for title, of in ROWS:
        say(f"{title:24}{of(first)!s:>20}{of(second)!s:>20}")


def expected_otherwise(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    wrong: list[str] = []
    if external(first, hit=True) or first["cacheHit"] not in ("Miss", "Partial"):
        wrong.append(f"the first run was {first['cacheHit']}")
    if second["cacheHit"] != "Hit" or second["cacheMissBytes"]:
        wrong.append(f"the second run was {second['cacheHit']}")
    return wrong


def step(text: str) -> None:
    say(f"\n=== {text}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
