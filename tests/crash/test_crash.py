"""A service may be killed at any call that it makes; each run ends as if it had not been. `make crash` takes all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import RealS3, real_s3
from tests.crash.cases import Baseline, baseline, every_case, judge
from tests.crash.points import Plan
from tests.crash.processes import fork_servers
from tests.crash.scenarios import EXHAUSTIVE, Scenario
from tests.crash.world import LEASE_SECONDS, SERVICES, Case, World

__all__ = ["real_s3"]

pytestmark = pytest.mark.timeout(180)

SCENARIOS = {each.name: each for each in EXHAUSTIVE}
CASES = 7
"""Of each service, spread evenly over all that it does in a run."""
SOON_SECONDS = 5.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, real_s3: RealS3) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("crash")
    with fork_servers(folder) as places:
        world = World(folder / "world", places, real_s3.endpoint, f"crash-smoke-{id(folder)}")
        try:
            yield world
        finally:
            world.close()


def spread(cases: list[Case], count: int) -> list[Case]:
    return [cases[number * len(cases) // count] for number in range(count)]


def ends_as_if_nothing_was(world: World, scenario: Scenario, cases: list[Case], without: Baseline) -> list[float]:
    """The recovery times. Each case must have killed its process, or have been over before its call came."""
    verdicts = [judge(world, scenario, case, without.states) for case in cases]
    wrong = {str(verdict.case): [verdict.died_at, *verdict.violations] for verdict in verdicts if verdict.violations}
    assert not wrong
    assert sum(verdict.reached for verdict in verdicts) > len(verdicts) / 2
    return [verdict.recovery for verdict in verdicts if verdict.recovery is not None]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_killed_at_any_call_changes_no_outcome(world: World, service: str) -> None:
    """Whatever it had in hand goes on within seconds of its restart, and no attempt is made twice."""
    diamond = SCENARIOS["diamond"]
    without = baseline(world, diamond, service, plays=1)
    cases = spread(list(every_case("diamond", service, without)), CASES)
    times = ends_as_if_nothing_was(world, diamond, cases, without)
    assert all(seconds < SOON_SECONDS for seconds in times)


@pytest.mark.parametrize("service", SERVICES)
def test_a_peer_takes_over_from_a_service_that_is_killed(world: World, service: str) -> None:
    """At the end of the dead one's lease, and with the same outcome."""
    diamond = SCENARIOS["diamond"]
    without = baseline(world, diamond, service, plays=1)
    case = Case("diamond", service, Plan(without.changes // 2, "sent"), peer=True)
    verdict = judge(world, diamond, case, without.states)
    assert not verdict.violations
    assert verdict.recovery is None or verdict.recovery < LEASE_SECONDS / 3 + 1


@pytest.mark.parametrize("victim", ["top/fetch", "bottom/publish"])
def test_a_step_of_a_pod_that_is_killed_at_any_call_costs_at_most_its_attempt(world: World, victim: str) -> None:
    repeated = SCENARIOS["repeated"]
    without = baseline(world, repeated, victim, plays=1)
    cases = list(every_case("repeated", victim, without))
    ends_as_if_nothing_was(world, repeated, spread(cases, min(4, len(cases))), without)


def test_the_harness_sees_a_lost_entry_and_a_doubled_one(world: World, tmp_path: Path) -> None:
    """What it compares is not the same whatever happens."""
    failure = SCENARIOS["failure"]
    without = baseline(world, failure, "submitter", plays=1)
    (state,) = without.states
    other = {**state, "events": [*state["events"], state["events"][0]]}
    assert judge(world, failure, Case("failure", "submitter", Plan(0, "before")), [other]).violations
    other = {**state, "run": {**state["run"], "taskFailed": "2"}}
    assert judge(world, failure, Case("failure", "submitter", Plan(0, "before")), [other]).violations
