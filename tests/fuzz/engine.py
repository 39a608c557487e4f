"""How a target is fuzzed: seeds are changed, what reaches new lines of the product becomes a seed itself, and every
input is held to its bounds of time and memory.

An input fails a target by any exception, and by taking more processor time or memory than the target states; it is then
made smaller for as long as it still fails. Most inputs are chosen by Python's own random numbers, which are fast, and
one round in ROUNDS_BETWEEN by Hypothesis, which looks at what its choices come to.
"""

import contextlib
import dataclasses
import json
import re
import resource
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.cases import Json, changed, smaller

ROOT = Path(__file__).parent.parent.parent
CORPUS = Path(__file__).parent / "corpus"
PRODUCT = tuple(f"{ROOT}/{package}/" for package in ("helios", "services", "agent", "cli", "tui"))

STUCK_SECONDS = 30
"""By the clock on the wall: an input that takes so long is not slow on a busy machine, it hangs."""
MEMORY_ABOVE_START = 2 * 1024**3
"""What a process of the fuzzer may map beyond what it had before its first input."""
TRACED_EVERY = 4
MEASURED_EVERY = 16
ROUND = 200
HYPOTHESIS_ROUND = 30
ROUNDS_BETWEEN = 5
SHRINK_SECONDS = 10
SEEDS_KEPT = 400

Check = Callable[[Json], str]


@dataclasses.dataclass(frozen=True)
class Target:
    """One way in. `open` makes what a check needs; a check returns a word for what became of its case, and raises for
    what must not be."""

    name: str
    seeds: Sequence[Json]
    open: Callable[[], "contextlib.AbstractContextManager[Check]"]
    cpu_seconds: float = 1.0
    peak_bytes: int = 64 * 1024**2
    pieces: Sequence[str] = ()
    """Fragments of its grammar."""


@dataclasses.dataclass
class Outcome:
    """What fuzzing one target came to. `failures`: (what went wrong, the smallest case)."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    lines: int = 0
    slowest_ms: float = 0.0
    peak_bytes: int = 0
    found: list[Json] = dataclasses.field(default_factory=list[Json])
    """Cases that reached lines which no earlier one had."""
    failures: list[tuple[str, Json]] = dataclasses.field(default_factory=list[tuple[str, Json]])


class Stuck(BaseException):
    """An input that does not end."""


class TooMuch(AssertionError):
    """An input that took more than its target states."""


def pure(check: Check) -> "Callable[[], contextlib.AbstractContextManager[Check]]":
    """`open` of a check that needs nothing."""
    return lambda: contextlib.nullcontext(check)


class Watcher:
    """Runs checks one by one within their bounds; knows which lines of the product were reached."""

    def __init__(self, target: Target, check: Check) -> None:
        self.target = target
        self.check = check
        self.outcome = Outcome(target.name)
        self.lines: set[tuple[str, int]] = set()
        self.words: set[str] = set()

    def run(self, case: Json, *, traced: bool = False, measured: bool = False) -> bool:
        """Whether it reached what none had before."""
        self.outcome.inputs += 1
        with _ends_in_time():
            if measured:
                self._measured(case)
                return False
            if traced:
                return self._traced(case)
            began = time.thread_time()
            self.check(case)
            took = time.thread_time() - began
        self.outcome.slowest_ms = max(self.outcome.slowest_ms, 1000 * took)
        if took > self.target.cpu_seconds:
            raise TooMuch(f"it took {took:.2f} s of processor time; {self.target.cpu_seconds:g} s are allowed")
        return False

    def _measured(self, case: Json) -> None:
        tracemalloc.start()
        try:
            self.check(case)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.outcome.peak_bytes = max(self.outcome.peak_bytes, peak)
        if peak > self.target.peak_bytes:
            raise TooMuch(f"it took {peak:,} bytes; {self.target.peak_bytes:,} are allowed")

    def _traced(self, case: Json) -> bool:
        reached: set[tuple[str, int]] = set()

        def each_line(frame: FrameType, event: str, _arg: Any) -> Any:
            if event == "line":
                reached.add((frame.f_code.co_filename, frame.f_lineno))
            return each_line

        def each_call(frame: FrameType, _event: str, _arg: Any) -> Any:
            return each_line if frame.f_code.co_filename.startswith(PRODUCT) else None

        before = sys.gettrace()
        sys.settrace(each_call)
        try:
            word = self.check(case)
        finally:
            sys.settrace(before)
        word = re.sub(r"[0-9]+|'[^']*'|\"[^\"]*\"", "#", word)[:60]
        is_new = not reached <= self.lines or word not in self.words
        self.lines |= reached
        self.words.add(word)
        self.outcome.lines = len(self.lines)
        return is_new


def corpus_of(target: str) -> list[Json]:
    """The cases kept for a target, each once a file."""
    return [json.loads(path.read_text()) for path in sorted((CORPUS / target).glob("*.json"))]


def fuzz(target: Target, seconds: float, number: int) -> Outcome:
    """Fuzz a target for so long; `number` decides which inputs are made. The first three failures end it."""
    began = time.monotonic()
    until = began + seconds
    with target.open() as check:
        watcher = Watcher(target, check)
        pool = [*target.seeds, *corpus_of(target.name)]
        for case in pool:
            _tried(watcher, case, traced=True)
            _tried(watcher, case)
        rounds = 0
        while time.monotonic() < until and len(watcher.outcome.failures) < 3:
            rounds += 1
            round_of = _hypothesis_round if rounds % ROUNDS_BETWEEN == 0 else _round
            found = round_of(watcher, pool, until, number + rounds)
            pool += found
            watcher.outcome.found += found
            if len(pool) > SEEDS_KEPT:
                del pool[len(target.seeds) : len(pool) - SEEDS_KEPT + len(target.seeds)]
        watcher.outcome.seconds = time.monotonic() - began
        return watcher.outcome


def _round(watcher: Watcher, pool: Sequence[Json], until: float, number: int) -> list[Json]:
    """Some inputs made from what the pool holds now; those that reached something new."""
    random, found = Random(number), list[Json]()
    for count in range(ROUND):
        if time.monotonic() > until:
            break
        case = changed(random, pool, watcher.target.pieces)
        if _tried(watcher, case, traced=count % TRACED_EVERY == 0, measured=count % MEASURED_EVERY == 1):
            found.append(case)
        if watcher.outcome.failures:
            break
    return found


def _hypothesis_round(watcher: Watcher, pool: Sequence[Json], until: float, number: int) -> list[Json]:
    found: list[Json] = []

    @seed(number)
    @settings(
        max_examples=HYPOTHESIS_ROUND,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def each(random: Random) -> None:
        case = changed(random, pool, watcher.target.pieces)
        if time.monotonic() < until and not watcher.outcome.failures and _tried(watcher, case, traced=True):
            found.append(case)

    each()
    return found


def _tried(watcher: Watcher, case: Json, *, traced: bool = False, measured: bool = False) -> bool:
    try:
        return watcher.run(case, traced=traced, measured=measured)
    except (Exception, Stuck) as error:  # noqa: BLE001 -- it is what is looked for
        kind = type(error)
        until = time.monotonic() + SHRINK_SECONDS
        while time.monotonic() < until:
            better = next((each for each in smaller(case) if _fails(watcher, each, measured, kind, until)), None)
            if better is None:
                break
            case = better
        watcher.outcome.failures.append((_said(error), case))
        return False


def _fails(watcher: Watcher, case: Json, measured: bool, kind: type[BaseException], until: float) -> bool:
    if time.monotonic() > until:
        return False
    try:
        watcher.run(case, measured=measured)
    except (Exception, Stuck) as error:  # noqa: BLE001 -- it is what is looked for
        return isinstance(error, kind)
    return False


def _said(error: BaseException) -> str:
    trace = error.__traceback__
    where = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(str(ROOT)) and "/fuzz/engine.py" not in name:
            where = f" ({name.removeprefix(f'{ROOT}/')}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:300]}{where}"


@contextlib.contextmanager
def _ends_in_time() -> Generator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stuck(f"it did not end within {STUCK_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def bound_memory() -> None:
    """From now on this process gets no more than MEMORY_ABOVE_START."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_ABOVE_START
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
