"""A minute of `make soak`: some hundred tasks, and each kind of fault once at least."""

import pytest

from tests.soak.faults import LINK_FAULTS, Pace
from tests.soak.processes import SERVICES
from tests.soak.soak import Options, soak

SMOKE = Options(
    seed=7,
    tasks=300,
    seconds=18,
    at_most_seconds=240,
    lease=3,
    decks=1,
    restarts_at_end=True,
    pace=Pace(
        service=(0.1, 0.8),
        redis=(2.0, 4.0),
        node=(3.0, 5.0),
        link=(0.2, 0.5),
        link_fault=(0.2, 0.8),
        rest=0.3,
        service_deck=("restart", "takeover", "pause", "drain"),
        redis_deck=("kill", "power cut", "restart"),
    ),
)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_nothing_is_lost_and_nothing_committed_twice_whatever_is_killed_or_cut_off() -> None:
    outcome = soak(SMOKE)
    assert list(outcome.verdict.violations) == [], outcome.faults.counts
    assert outcome.faults.stuck == []
    figures = outcome.verdict.figures
    assert figures.tasks > 250, "hardly anything was run, so hardly anything was shown"
    assert {
        *(f"{service} {what}" for service in SERVICES for what in _OF_A_SERVICE),
        *(f"Redis: {kind}" for kind in SMOKE.pace.redis_deck),
        *(f"link: {fault}" for fault in LINK_FAULTS),
        *("node killed, started again", "client killed, started again", "an entry repeated"),
    } <= outcome.faults.counts.keys()


_OF_A_SERVICE = (
    "killed, started again",
    "killed, not started again",
    "paused beyond its lease",
    "told to end",
)
