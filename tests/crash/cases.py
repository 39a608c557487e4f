"""Which cases there are, playing them side by side, and what they come to."""

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import zip_longest
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash import final
from tests.crash.final import State
from tests.crash.points import Plan
from tests.crash.processes import Places
from tests.crash.scenarios import Scenario
from tests.crash.world import Case, Outcome, World

COUNTED = Plan(0, "before")
"""Never reached: the calls are only counted."""


class Baseline(NamedTuple):
    """A scenario without a crash, its victim started anew: how many calls that one makes, and what is left."""

    calls: int
    changes: int
    by_client: dict[str, int]
    states: list[State]


class Verdict(NamedTuple):
    """What a case came to. Small, since it comes from another process."""

    case: Case
    reached: bool
    died_at: str
    violations: list[str]
    seconds: float
    recovery: float | None

    @property
    def client(self) -> str:
        return self.died_at.partition(" ")[0]


Scenarios = Callable[[], Sequence[Scenario]]


class Players:
    """Worlds in processes of their own. `scenarios` is asked in each of them."""

    def __init__(self, folder: Path, places: Places, s3: str, scenarios: Scenarios, worlds: int) -> None:
        self.pool = ProcessPoolExecutor(
            worlds,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(folder, places, s3, scenarios),
        )

    def baseline(self, scenario: str, victim: str) -> Future[Baseline]:
        return self.pool.submit(_baseline, scenario, victim)

    def judge(self, case: Case, wanted: list[State]) -> Future[Verdict]:
        return self.pool.submit(_judge, case, wanted)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


_here: dict[str, Any] = {}


def _begin(folder: Path, places: Places, s3: str, scenarios: Scenarios) -> None:
    _here["scenarios"] = {each.name: each for each in scenarios()}
    world = _here["world"] = World(folder / f"world-{os.getpid()}", places, s3, f"crash-{os.getpid()}")
    Finalize(None, world.close, exitpriority=10)


def _baseline(name: str, victim: str) -> Baseline:
    return baseline(_here["world"], _here["scenarios"][name], victim)


def _judge(case: Case, wanted: list[State]) -> Verdict:
    return judge(_here["world"], _here["scenarios"][case.scenario], case, wanted)


def baseline(world: World, scenario: Scenario, victim: str, plays: int = 2) -> Baseline:
    """Raises AssertionError where two plays without a crash come to different ends: then nothing could be compared."""
    outcomes = [world.play(scenario, Case(scenario.name, victim, COUNTED)) for _ in range(plays)]
    for outcome in outcomes:
        assert not outcome.violations, f"{scenario.name} without a crash: {outcome.violations}"
        compared = _differences(scenario, outcomes[0].states, outcome)
        assert not compared, f"{scenario.name} without a crash, twice: {compared}"
    most = max(outcomes, key=lambda each: len(each.calls))
    by_client: dict[str, int] = defaultdict(int)
    for call in most.calls:
        by_client[call.partition(" ")[0]] += 1
    changes = max(sum(call.split()[1] == "w" for call in each.calls) for each in outcomes)
    return Baseline(len(most.calls), changes, dict(by_client), outcomes[0].states)


def judge(world: World, scenario: Scenario, case: Case, wanted: list[State]) -> Verdict:
    outcome = world.play(scenario, case)
    violations = outcome.violations or _differences(scenario, wanted, outcome)
    return Verdict(case, outcome.reached, outcome.died_at, violations, outcome.seconds, outcome.recovery)


def _differences(scenario: Scenario, wanted: list[State], outcome: Outcome) -> list[str]:
    told: list[str] = []
    for one, other in zip_longest(wanted, outcome.states, fillvalue={}):
        step = outcome.case.step
        if step is not None and outcome.reached:
            told += final.after_repetition(one, other, step[0])
        else:
            told += final.differences(scenario.compared(one), scenario.compared(other))
    return told


def every_case(scenario: str, victim: str, found: Baseline) -> Iterator[Case]:
    """Before each call, and in the middle of and after each that may change something."""
    for at in range(1, found.calls + 1):
        yield Case(scenario, victim, Plan(at, "before"))
    for at in range(1, found.changes + 1):
        yield Case(scenario, victim, Plan(at, "sent"))
        yield Case(scenario, victim, Plan(at, "after"))


@contextmanager
def players(folder: Path, places: Places, s3: str, scenarios: Scenarios, worlds: int) -> Iterator[Players]:
    made = Players(folder, places, s3, scenarios, worlds)
    try:
        yield made
    finally:
        made.close()


def as_they_end(futures: Sequence[Future[Verdict]]) -> Iterator[Verdict]:
    for future in as_completed(futures):
        yield future.result()
