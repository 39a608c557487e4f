"""What a run is held to, and what the exit code says."""

from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from cli.conditions import Wanted, condition_lines, conditions, hit_share, percent, share_of
from tests.cli.command import Helios
from tests.redis_servers import Valkey, commands_sent
from tests.stage import RUN, Stage
from tests.waiting import wait_until


def run(**fields: Any) -> dict[str, Any]:
    return {
        "status": "SUCCEEDED",
        "durationMs": 60_000,
        "cacheHitBytes": 800,
        "cacheMissBytes": 200,
        "taskSkipped": 2,
        **fields,
    }


def held(wanted: Wanted, **fields: Any) -> dict[str, bool]:
    return {each.condition: each.holds for each in conditions(run(**fields), wanted)}


def test_only_what_is_asked_is_looked_at_and_the_status_always() -> None:
    assert held(Wanted()) == {"status": True}
    assert held(Wanted(), status="FAILED") == {"status": False}
    assert held(Wanted(status="FAILED"), status="FAILED") == {"status": True}


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Wanted(hit_bytes=0.8), True),
        (Wanted(hit_bytes=0.801), False),
        (Wanted(max_miss_bytes=200), True),
        (Wanted(max_miss_bytes=199), False),
        (Wanted(max_duration_seconds=60), True),
        (Wanted(max_duration_seconds=59.9), False),
        (Wanted(skipped=2), True),
        (Wanted(skipped=3), False),
    ],
)
def test_limits_are_part_of_what_is_allowed(wanted: Wanted, holds: bool) -> None:
    assert list(held(wanted).values()) == [True, holds]


def test_a_run_that_had_nothing_to_bring_missed_nothing() -> None:
    """Every task was skipped: the best that can happen must not fail a build."""
    (_, found) = conditions(run(cacheHitBytes=0, cacheMissBytes=0), Wanted(hit_bytes=1))
    assert (found.holds, found.actual, found.actual_text) == (True, None, "no bytes to bring")


def test_a_run_without_a_duration_holds_none() -> None:
    assert held(Wanted(max_duration_seconds=1e9), durationMs=None)["max-duration"] is False


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.floats(0, 1))
def test_the_share_is_what_both_byte_counts_say(hit: int, missed: int, wanted: float) -> None:
    share = hit_share(hit, missed)
    assert (share is None) == (hit + missed == 0)
    if share is not None:
        assert 0 <= share <= 1
        assert held(Wanted(hit_bytes=wanted), cacheHitBytes=hit, cacheMissBytes=missed)["hit-bytes"] == (
            share >= wanted
        )
        assert (percent(share) == "100 %") == (share == 1)


@pytest.mark.parametrize(("text", "share"), [("0.8", 0.8), ("80%", 0.8), ("1", 1), ("0", 0), ("99.5%", 0.995)])
def test_shares(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "80", "-1%", "101%", "nan", "much"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        share_of(text)


def test_each_condition_is_a_line() -> None:
    lines = condition_lines(conditions(run(), Wanted(hit_bytes=0.9, max_duration_seconds=300)))
    assert [line.split() for line in lines] == [
        ["CONDITION", "EXPECTED", "ACTUAL", "HOLDS"],
        ["status", "SUCCEEDED", "SUCCEEDED", "yes"],
        ["hit-bytes", "at", "least", "90", "%", "80", "%", "of", "1", "KB", "no"],
        ["max-duration", "at", "most", "5", "m", "00", "s", "1", "m", "00", "s", "yes"],
    ]


@pytest.fixture
def helios(shared_valkey: Valkey, tmp_path: Path) -> Helios:
    return Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})


@pytest.fixture
def stage(valkey: redis.Redis) -> Stage:
    stage = Stage(valkey)
    stage.open({"a": ()})
    return stage


def end(stage: Stage) -> None:
    stage.pass_through("a", cache="Partial", hit=800, miss=200)
    stage.finalise()


def test_conditions_that_hold_are_exit_code_0_and_one_that_does_not_is_1(stage: Stage, helios: Helios) -> None:
    end(stage)
    good = helios("assert", RUN, "--hit-bytes", "0.8", "--max-miss-bytes", "1KB", "--max-duration", "100000w")
    assert (good.code, good.err) == (0, "")
    assert [line.split()[-1] for line in good.out.splitlines()] == ["HOLDS", "yes", "yes", "yes", "yes"]
    bad = helios("assert", "@latest", "--hit-bytes", "90%", "-o", "json")
    assert bad.code == 1
    assert bad.json() == {
        "dagId": RUN,
        "holds": False,
        "conditions": [
            {"condition": "status", "expected": "SUCCEEDED", "actual": "SUCCEEDED", "holds": True},
            {"condition": "hit-bytes", "expected": 0.9, "actual": 0.8, "holds": False},
        ],
    }
    assert f"helios show {RUN}" in bad.err


def test_a_run_that_goes_on_is_exit_code_2_and_can_be_waited_for(stage: Stage, helios: Helios) -> None:
    done = helios("assert", RUN)
    assert done.code == 2
    assert "has not ended: it is RUNNING" in done.err
    assert "--wait" in done.err
    waiting = helios.start("assert", RUN, "--wait", "--status", "SUCCEEDED")
    before = commands_sent(stage.client, "hget")
    wait_until("it has looked twice", lambda: commands_sent(stage.client, "hget") > before + 1)
    end(stage)
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert "SUCCEEDED" in out


@pytest.mark.parametrize(
    "words",
    [("--hit-bytes", "80"), ("--max-miss-bytes", "much"), ("--max-duration", "long"), ("--status", "GOOD")],
)
def test_a_condition_that_is_none_is_exit_code_2(helios: Helios, words: tuple[str, ...]) -> None:
    done = helios("assert", RUN, *words)
    assert done.code == 2
    assert words[1] in done.err
