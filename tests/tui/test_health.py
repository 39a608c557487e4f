"""The health screen on the real Valkey: what is stuck, with the doctor's fix, and what is done about dead letters."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from textual.pilot import Pilot
from textual.widgets import DataTable

from cli.checkup import Finding, check_services
from cli.connection import Link
from cli.letters import Letter
from helios.heartbeat import Heartbeat
from helios.keys import SUBMISSIONS, keys_of_run, node_cache
from helios.podwire import NodeReport, NodeState
from helios.settings import Settings
from services.collector.nodes import Nodes
from tests.stage import RUN, Stage
from tests.tui.letters import bury_entry
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.pilots import OneScreen, notes
from tests.tui.stage import NOW_MS, session_of, still, until
from tui.model.health import CacheSize, Health, Jobs, Replica, StreamRow
from tui.screens.health import HealthScreen
from tui.source.health import HealthReader, folder_size, job_state

Script = Callable[[Pilot[Any], OneScreen, HealthScreen], Awaitable[None]]


@pytest.fixture
def stage(valkey: redis.Redis) -> Stage:
    stage = Stage(valkey, keys_of_run(RUN, Settings().partitions).partition)
    stage.open({"a": ()})
    return stage


def play(client: redis.Redis, script: Script, size: tuple[int, int] = WIDE, **options: bool) -> None:
    async def whole() -> None:
        screen = HealthScreen()
        app = OneScreen(session_of(client, **options), screen)
        async with app.run_test(size=size) as pilot:
            await until(pilot, "a look is complete", lambda: screen.health)
            await pilot.pause()
            await script(pilot, app, screen)

    asyncio.run(whole())


def poison(stage: Stage, reason: str = "[bold]poison[/]") -> None:
    fields = {"run": RUN, "task": "a", "attempt": "1"}
    bury_entry(stage.client, stage.keys, stage.keys.ready, fields, reason=reason)


def test_what_is_stuck_is_shown_with_the_doctors_fix_and_copied(stage: Stage) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        shown = screen_text(app)
        assert "persistence" in shown
        finding = next(each for each in check_services(app.session.link) if each.check == "submitter")
        assert f"fix: {finding.fix}" in shown
        row = [each.check for each in screen.failed].index("submitter")
        await pilot.press(*["down"] * row, "y")
        await until(pilot, "the fix is copied", lambda: app.clipboard == finding.fix)

    play(stage.client, script)


def test_streams_replicas_and_jobs_are_counted(stage: Stage) -> None:
    Heartbeat(stage.client, "jobrunner", "j1").beat()
    stage.deliver(stage.keys.ready)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        assert screen.health is not None
        ready = next(row for row in screen.health.streams if row.name == stage.keys.ready)
        assert (ready.length, ready.pending, ready.lag, ready.consumers) == (1, 1, 0, 1)
        assert [each.service for each in screen.health.replicas] == ["jobrunner"]
        assert screen.health.jobs.by_state["queued"] == 1
        assert "queued 1" in screen_text(app)
        assert "no node has told of its cache yet" in screen_text(app)
        stage.launch("a")
        await pilot.press("r")
        await until(pilot, "the Job is launched", lambda: "launched 1" in screen_text(app))

    play(stage.client, script)


def test_a_letter_is_viewed_in_full_and_retried(stage: Stage) -> None:
    poison(stage)
    stage.client.xtrim(stage.keys.ready, maxlen=0)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        screen.query_one("#letters", DataTable).focus()
        await pilot.press("enter")
        await until(pilot, "the letter is open", lambda: "the entry's fields" in screen_text(app))
        assert "[bold]poison[/]" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, "it is closed", lambda: app.screen is screen)
        await pilot.press("t")
        await until(pilot, "it asks", lambda: "still goes on" in screen_text(app))
        await pilot.press("y")
        await until(pilot, "it is put back", lambda: len(stage.entries(stage.keys.ready)) == 1)
        await until(pilot, "it says so", lambda: "put back" in notes(app))
        await until(pilot, "no letter is left", lambda: "Dead letters: none" in screen_text(app))

    play(stage.client, script)


def test_a_letter_of_an_ended_run_offers_its_dag_again(stage: Stage) -> None:
    poison(stage)
    stage.client.hset(stage.keys.run(RUN), "status", "FAILED")

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        await pilot.press("t")
        await until(pilot, "it asks", lambda: "Submit its DAG again" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "it is kept", lambda: app.screen is screen)
        assert stage.entries(SUBMISSIONS) == []
        await pilot.press("t")
        await until(pilot, "it asks", lambda: "Submit its DAG again" in screen_text(app))
        await pilot.press("y")
        await until(pilot, "it is submitted", lambda: len(stage.entries(SUBMISSIONS)) == 1)

    play(stage.client, script)


def test_a_letter_is_discarded_from_its_view(stage: Stage) -> None:
    poison(stage)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        screen.query_one("#letters", DataTable).focus()
        await pilot.press("enter")
        await until(pilot, "the letter is open", lambda: "the entry's fields" in screen_text(app))
        await pilot.press("D")
        await until(pilot, "it asks", lambda: "for good?" in screen_text(app))
        await pilot.press("y")
        await until(pilot, "it is gone", lambda: not stage.entries(stage.keys.dead))

    play(stage.client, script)


def test_a_letter_that_cannot_be_retried_is_refused_with_words(stage: Stage) -> None:
    poison(stage)
    stage.client.delete(stage.keys.run(RUN))

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        await pilot.press("t")
        await until(pilot, "it is refused", lambda: "no retry can help" in notes(app))
        assert app.screen is screen

    play(stage.client, script)


@pytest.mark.parametrize("key", ["t", "D"])
def test_read_only_changes_nothing(stage: Stage, key: str) -> None:
    poison(stage)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        await pilot.press(key)
        await until(pilot, "it is refused", lambda: "read-only" in notes(app))
        assert app.screen is screen
        assert len(stage.entries(stage.keys.dead)) == 1

    play(stage.client, script, read_only=True)


def test_the_sections_are_stepped_through_and_escape_leads_back(stage: Stage) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        seen: list[str | None] = []
        for _ in range(6):
            seen.append(app.focused.id if app.focused else None)
            await pilot.press("tab")
        assert set(seen) == {"findings", "letters", "services", "jobs", "caches", "streams"}
        await pilot.press("escape")
        await until(pilot, "it is closed", lambda: app.screen is not screen)

    play(stage.client, script, NARROW)


def test_a_redis_that_is_lost_is_the_first_finding(valkey: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        screen.session.link.client = redis.Redis(port=1)
        await pilot.press("r")
        await until(pilot, "it says so", lambda: "cannot be reached" in screen_text(app))
        assert "below is what was seen last" in screen_text(app)

    play(valkey, script)


@pytest.mark.parametrize(("size", "name"), [(NARROW, "health-narrow"), (WIDE, "health-wide")])
def test_how_it_looks(valkey: redis.Redis, size: tuple[int, int], name: str) -> None:
    letter = Letter(
        f"{NOW_MS - 60_000}-0", 0, "d", "helios:{p0}:tasks:ready", "1-1", "[poison]", "5", {"run": RUN}, "FAILED", True
    )
    looked = Health(
        [Finding("redis", True, "Valkey"), Finding("collector", False, "no replica gives a sign of life", "helios up")],
        [
            StreamRow(f"helios:{{p0}}:{each}", "jobrunner", 3, 1, 2, 4_000, 1)
            for each in ("tasks:ready", "runs:settled")
        ],
        [Replica("submitter", "s1", "0.1.0", NOW_MS - 3_600_000), Replica("jobrunner", "j1", "0.1.0", NOW_MS - 5_000)],
        [letter],
        1,
        Jobs({"queued": 2, "launched": 1, "fetching": 0, "running": 3, "publishing": 0}, 30, 20, 4),
        [CacheSize("local", 90_211_340, 312)],
        NOW_MS,
    )

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        app.paused = True
        await until(pilot, "the look under way is over", lambda: not screen.is_looking)
        screen.take(looked)
        await until(pilot, "the top line says so", lambda: "paused" in screen_text(app))
        await pilot.pause()
        await still(pilot)
        assert_looks(app, name)

    play(valkey, script, size)


def test_a_folder_counts_each_file_once_and_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 10_000)
    (tmp_path / "same").hardlink_to(tmp_path / "one")
    whole = folder_size("n", tmp_path)
    assert (whole.files, whole.is_whole) == (1, True)
    assert whole.bytes >= 10_000
    assert not folder_size("n", tmp_path, limit=1).is_whole


def test_phases_are_states_of_jobs() -> None:
    assert [job_state("RUNNING", each) for each in ("", "Pending", "Fetching", "Running", "Publishing")] == [
        "launched", "launched", "fetching", "running", "publishing",
    ]  # fmt: skip
    assert (job_state("QUEUED", None), job_state("WAITING", None)) == ("queued", "")


def commands(client: redis.Redis) -> dict[str, Any]:
    return client.info("commandstats")  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open


def test_a_read_only_look_writes_nothing(valkey: redis.Redis) -> None:
    before = commands(valkey)
    HealthReader(Link(valkey, Settings()), read_only=True).look()
    after = commands(valkey)
    calls = [stats.get("cmdstat_set", {}).get("calls", 0) for stats in (before, after)]
    assert calls[0] == calls[1]


def test_what_each_node_told_of_its_cache_is_shown(stage: Stage) -> None:
    nodes = Nodes(stage.client, "", 1000)
    for node, held in (("n2", 7), ("n1", 12_000_000_000)):
        state = NodeState(blobs=3, bytes=held, freeBytes=80_000_000_000)
        nodes.report(NodeReport(node=node, epoch="e", seq=1, full=True, state=state))

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        assert screen.health is not None
        assert [each.node for each in screen.health.caches] == ["n1", "n2"]
        assert "n1: 12 GB in 3 files, 80 GB free" in screen_text(app)

    play(stage.client, script)


def test_a_caches_limit_and_what_its_keeper_did_are_shown(stage: Stage) -> None:
    told = {"node": "n1", "blobs": 3, "bytes": 12_000_000_000, "freeBytes": 80_000_000_000, "at": 5}
    kept = {"limitBytes": 50_000_000_000, "evictedBytes": 3_000_000, "corruptBlobs": 2}
    stage.client.hset(node_cache("n1"), mapping=told | kept)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: HealthScreen) -> None:
        assert screen.health is not None
        (cache,) = screen.health.caches
        assert (cache.limit_bytes, cache.evicted_bytes, cache.corrupt_files) == (50_000_000_000, 3_000_000, 2)
        assert "n1: 12 GB of 50 GB in 3 files, 80 GB free, 3 MB evicted, 2 corrupt" in " ".join(
            screen_text(app).split()
        )

    play(stage.client, script)
