"""Takes one mechanism after another out of a copy of the project and looks whether its tests notice.

    python -m tests.mutations.run [--only WORD] [--jobs N]

Every row of docs/faults.md promises something; mutations.py says for each what makes it so, and which test fails
without it. First all those tests run on the copy as it is, since a test that fails anyway shows nothing. A mutation
*survives* when its test passes without the mechanism; that, or a test that cannot even be run, makes the exit code 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutations.mutations import MUTATIONS, Mutation

PROJECT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", "__pycache__", ".cache", ".*_cache", ".hypothesis", ".ci", "build", "dist")
)
"""What is made in a checkout: `make demo` leaves sockets in .cache, which cannot be copied."""
ON_A_CLUSTER = ("tests/cluster/", "tests/k8s/test_admission")
TEST_SECONDS = 240
FAILED, PASSED = 1, 0
"""What pytest exits with; all else is no verdict on a test."""


class Verdict(NamedTuple):
    mutation: Mutation
    killed: bool
    words: str
    seconds: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="those of which the mechanism, the file or the test has this word")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = options.parse_args()
    chosen = [each for each in MUTATIONS if given.only in " ".join(each)]
    if not os.environ.get("KUBECONFIG"):
        left_out = [each for each in chosen if each.test.startswith(ON_A_CLUSTER)]
        chosen = [each for each in chosen if each not in left_out]
        for each in left_out:
            print(f"left out: {each.without} (its test needs the KUBECONFIG of a Kubernetes)")
    if not chosen:
        sys.exit(f"no mutation has {given.only!r} in it")
    sys.exit(report(verdicts_on(chosen, given.jobs)))


def verdicts_on(chosen: Sequence[Mutation], jobs: int) -> Iterator[Verdict]:
    """In their order, as they come. Raises RuntimeError when a test fails without any mutation."""
    with tempfile.TemporaryDirectory(prefix="helios-mutations-") as scratch:
        copies: SimpleQueue[Path] = SimpleQueue()
        for n in range(jobs):
            copies.put(copied(Path(scratch) / f"copy{n}"))

        def judged(mutation: Mutation) -> Verdict:
            copy = copies.get()
            try:
                return verdict_on(mutation, copy)
            finally:
                copies.put(copy)

        first = copies.get()
        code, words = tested(first, sorted({each.test for each in chosen}), TEST_SECONDS * 10)
        copies.put(first)
        if code != PASSED:
            raise RuntimeError(f"without any mutation:\n{words}")
        with ThreadPoolExecutor(jobs) as threads:
            yield from threads.map(judged, chosen)


def copied(folder: Path) -> Path:
    shutil.copytree(PROJECT, folder, ignore=NOT_COPIED, symlinks=True)
    (PROJECT / "build").mkdir(exist_ok=True)
    (folder / "build").symlink_to(PROJECT / "build")
    return folder


def verdict_on(mutation: Mutation, copy: Path) -> Verdict:
    began = time.monotonic()
    with mutated(mutation, copy):
        code, words = tested(copy, [mutation.test], TEST_SECONDS)
    return Verdict(mutation, code == FAILED, "" if code in (FAILED, PASSED) else words, time.monotonic() - began)


@contextmanager
def mutated(mutation: Mutation, copy: Path) -> Iterator[None]:
    path = copy / mutation.file
    text = path.read_text()
    path.write_text(without(mutation, text))
    try:
        yield
    finally:
        path.write_text(text)


def without(mutation: Mutation, text: str) -> str:
    """The file's text without the mechanism. Raises ValueError when the mechanism is not there, or more than once."""
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {text.count(mutation.old)} times what {mutation.without!r} would change")
    return text.replace(mutation.old, mutation.new)


def tested(copy: Path, tests: Sequence[str], seconds: float) -> tuple[int, str]:
    """pytest's exit code, and the end of what it said. Bytecode is not written: a mutation may be as long as what it
    replaces, and of the same second.
    """
    quickly = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "unshrunk")
    command = [sys.executable, "-m", "pytest", *quickly, *tests]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return -1, f"it was not over after {seconds:.0f} s"
    return done.returncode, (done.stdout + done.stderr)[-4000:]


def report(verdicts: Iterator[Verdict]) -> int:
    """A line for each, and the exit code."""
    killed = bad = 0
    began = time.monotonic()
    for mutation, dead, words, seconds in verdicts:
        killed, bad = killed + dead, bad + (not dead)
        fate = "killed" if dead else "NO VERDICT" if words else "SURVIVED"
        print(f"{fate:10} {seconds:5.1f} s  {mutation.without}  ({mutation.test.rpartition('::')[2]})", flush=True)
        if words:
            print(words, flush=True)
    print(f"{killed} of {killed + bad} mutations killed in {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    main()
