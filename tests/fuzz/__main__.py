# What is printed is a table for people:
# ruff: noqa: T201
"""`python -m tests.fuzz [--seconds 600] [--target NAME …]`: every target for its share of the time, two side by side.

Each has a process of its own with bounded memory, so one that is killed is a failure like any other. Prints a table;
the exit status is 1 when any input failed. What is found is left in build/fuzz/<target>.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.engine import ROOT, Outcome, bound_memory, fuzz
from tests.fuzz.targets import TARGETS

SIDE_BY_SIDE = 2
HEAD = "target                 inputs  inputs/s  lines reached  slowest ms  peak MiB  new cases  failures"
FOUND = ROOT / "build" / "fuzz"
START_SECONDS = 60
"""What a process may take beyond its time: to start, and to find the smallest input that fails."""


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz")
    arguments.add_argument("--seconds", type=float, default=600, help="for all targets together")
    arguments.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    arguments.add_argument("--seed", type=int, default=int(time.time()), help="decides which inputs are made")
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    names: list[str] = given.target or list(TARGETS)
    if given.child:
        bound_memory()
        print(json.dumps(asdict(fuzz(TARGETS[names[0]], given.seconds, given.seed))))
        return 0
    each = given.seconds * min(SIDE_BY_SIDE, len(names)) / len(names)
    print(f"{len(names)} targets, {each:.0f} s each, two at a time; seed {given.seed}", flush=True)
    print(HEAD, flush=True)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for outcome in pool.map(lambda name: _in_its_process(name, each, given.seed), names):
            print(row(outcome), flush=True)
            outcomes.append(outcome)
    for outcome in outcomes:
        for what, case in outcome.failures:
            print(f"\n{outcome.target}: {what}\n  {json.dumps(case)[:2000]}")
        _leave(outcome)
    failures = sum(len(outcome.failures) for outcome in outcomes)
    print(f"\n{sum(outcome.inputs for outcome in outcomes):,} inputs, {failures} failures")
    return 1 if failures else 0


def _in_its_process(name: str, seconds: float, number: int) -> Outcome:
    command = [sys.executable, "-m", "tests.fuzz", "--child", "--target", name, "--seconds", str(seconds)]
    command += ["--seed", str(number)]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=2 * seconds + START_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(name, seconds=time.monotonic() - began, failures=[("its process did not end", None)])
    if done.returncode != 0:
        why = f"its process ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-1500:]}"
        return Outcome(name, seconds=time.monotonic() - began, failures=[(why, None)])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def row(each: Outcome) -> str:
    rate = each.inputs / each.seconds if each.seconds else 0
    return (
        f"{each.target:20} {each.inputs:8,} {rate:9,.0f} {each.lines:14,} {each.slowest_ms:11.0f}"
        f" {each.peak_bytes / 2**20:9.1f} {len(each.found):10,} {len(each.failures):9,}"
    )


def _leave(outcome: Outcome) -> None:
    """Small cases that reached something new, and every failure, for whoever adds to the corpus."""
    folder = FOUND / outcome.target
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"found": outcome.found, "failed": [case for _, case in outcome.failures]}
    for kind, cases in kinds.items():
        for number, case in enumerate(cases):
            text = json.dumps(case, indent=1)
            if len(text) < 20_000:
                Path(folder / f"{kind}-{number}.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
