"""A service may be killed at any call that it makes; each run ends as if it had not been. `make crash` takes all."""

import functools
from collections.abc import Callable, Iterator

import pytest

from tests.crash.cases import Baseline, baseline, every_case, judge
from tests.crash.points import Plan
from tests.crash.processes import fork_servers
from tests.crash.scenarios import EXHAUSTIVE, Scenario
from tests.crash.world import LEASE_SECONDS, SERVICES, Case, World
from tests.real_s3 import RealS3

pytestmark = pytest.mark.timeout(180)

SCENARIOS = {each.name: each for each in EXHAUSTIVE}
CASES = 5
"""Of each service, spread evenly over all that it does in a run."""
SOON_SECONDS = 10.0
"""After its lease and the wait for it, and far from the reconciler's time."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, real_s3: RealS3) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("crash")
    with fork_servers(folder) as places:
        world = World(folder / "world", places, real_s3.endpoint, "crash-smoke")
        try:
            yield world
        finally:
            world.close()


@pytest.fixture(scope="module")
def without(world: World) -> Callable[[str, str], Baseline]:
    """A scenario without a crash, played once for each of its victims."""

    @functools.cache
    def played(scenario: str, victim: str) -> Baseline:
        return baseline(world, SCENARIOS[scenario], victim, plays=1)

    return played


Without = Callable[[str, str], Baseline]


def spread(cases: list[Case], count: int) -> list[Case]:
    return [cases[(2 * number + 1) * len(cases) // (2 * count)] for number in range(count)]


def ends_as_if_nothing_was(world: World, scenario: Scenario, cases: list[Case], found: Baseline) -> list[float]:
    """The recovery times. Each case must have killed its process, or have been over before its call came."""
    verdicts = [judge(world, scenario, case, found.states) for case in cases]
    wrong = {str(verdict.case): [verdict.died_at, *verdict.violations] for verdict in verdicts if verdict.violations}
    assert not wrong
    assert sum(verdict.reached for verdict in verdicts) > len(verdicts) / 2
    return [verdict.recovery for verdict in verdicts if verdict.recovery is not None]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_killed_at_any_call_changes_no_outcome(world: World, without: Without, service: str) -> None:
    """Whatever it had in hand goes on within seconds of its restart, and no attempt is made twice."""
    found = without("diamond", service)
    cases = spread(list(every_case("diamond", service, found)), CASES)
    times = ends_as_if_nothing_was(world, SCENARIOS["diamond"], cases, found)
    assert all(seconds < SOON_SECONDS for seconds in times)


@pytest.mark.alone
@pytest.mark.parametrize("service", SERVICES)
def test_a_peer_takes_over_from_a_service_that_is_killed(world: World, without: Without, service: str) -> None:
    """At the end of the dead one's lease, and with the same outcome."""
    found = without("diamond", service)
    case = Case("diamond", service, Plan(found.calls // 3, "before"), peer=True)
    verdict = judge(world, SCENARIOS["diamond"], case, found.states)
    assert verdict.reached
    assert not verdict.violations
    assert verdict.recovery is None or verdict.recovery < LEASE_SECONDS / 3 + 1


@pytest.mark.parametrize("victim", ["top/fetch", "bottom/publish"])
def test_a_step_of_a_pod_that_is_killed_at_any_call_costs_at_most_its_attempt(
    world: World, without: Without, victim: str
) -> None:
    """And one of the user's retries; the next one stores anew."""
    found = without("repeated", victim)
    cases = list(every_case("repeated", victim, found))
    ends_as_if_nothing_was(world, SCENARIOS["repeated"], spread(cases, min(3, len(cases))), found)


def test_the_harness_sees_a_lost_entry_and_a_doubled_one(world: World, without: Without) -> None:
    """What it compares is not the same whatever happens."""
    failure = SCENARIOS["failure"]
    (state,) = without("failure", "submitter").states
    other = {**state, "events": [*state["events"], state["events"][0]]}
    assert judge(world, failure, Case("failure", "submitter", Plan(0, "before")), [other]).violations
    other = {**state, "run": {**state["run"], "taskFailed": "2"}}
    assert judge(world, failure, Case("failure", "submitter", Plan(0, "before")), [other]).violations
