"""Two runs side by side on the real Valkey."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import redis
from textual.pilot import Pilot

from helios.dag import parse_dag
from helios.keys import keys_of_run
from helios.records import AttemptRecord, InputRecord, OutputRecord
from helios.settings import Settings
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.pilots import OneScreen
from tests.tui.stage import NOW_MS, session_of, still, until
from tui.screens.compare import CompareScreen

LEFT, RIGHT = "1764027000000-0", "1764027100000-0"
DAG = """
{"dagName": "[daily]", "tasks": [
  {"name": "make", "image": "%s", "command": ["make"], "outputs": ["a.csv"]},
  {"name": "use", "image": "alpine", "command": ["use"], "env": {"TOKEN": {"secret": "vault", "key": "%s"}, "N": "%s"},
   "inputs": [{"fromTask": "make", "name": "a.csv"}]}%s]}
"""


def put_run(
    client: redis.Redis, run: str, dag: str, *, seconds: int, digest: str, cause: str, ended: bool = True
) -> None:
    keys = keys_of_run(run, Settings().partitions)
    parsed = parse_dag(dag.encode()).dag
    start = int(run.partition("-")[0])
    fields: dict[Any, Any] = {"dagId": run, "dagName": parsed.dag_name, "status": "SUCCEEDED" if ended else "RUNNING"}
    fields |= {"startTime": str(start), "cacheEnabled": "true", "taskCount": str(len(parsed.tasks))}
    fields["cacheHitBytes" if cause == "cached" else "cacheMissBytes"] = "2000000"
    if ended:
        fields |= {"endTime": str(start + seconds * 1000), "durationMs": str(seconds * 1000)}
    client.hset(keys.run(run), mapping=fields)
    client.set(keys.dag(run), msgspec.json.encode(parsed))
    client.rpush(keys.task_names(run), *(task.name for task in parsed.tasks))
    for task in parsed.tasks:
        inputs = tuple(InputRecord(each.as_, 2_000_000, cause) for each in task.inputs)
        outputs = tuple(OutputRecord(path, 2_000_000, digest) for path in task.outputs)
        hit = 2_000_000 if inputs and cause == "cached" else 0
        miss = 2_000_000 if inputs and cause != "cached" else 0
        outcome = "N/A" if not inputs else "Hit" if hit else "Miss"
        record = AttemptRecord(
            exitCode=0, node="n1", cache=outcome, cacheHitBytes=hit, cacheMissBytes=miss, inputs=inputs, outputs=outputs
        )
        values: dict[Any, Any] = {"status": "SUCCEEDED", "attempt": "1", "launchedAt": str(start), "node": "n1"}
        length = seconds * (500 if task.name == "make" else 900)
        values |= {"endedAt": str(start + length), "record": msgspec.json.encode(record).decode()}
        client.hset(keys.task(run, task.name), mapping=values)


@pytest.fixture
def runs(valkey: redis.Redis) -> redis.Redis:
    extra = ', {"name": "more", "image": "alpine", "command": ["true"]}'
    name = DAG.replace("[daily]", "daily")
    put_run(valkey, LEFT, name % ("alpine:1", "old-key", "1", ""), seconds=20, digest="a" * 64, cause="never-here")
    put_run(valkey, RIGHT, name % ("alpine:2", "new-key", "2", extra), seconds=10, digest="b" * 64, cause="cached")
    return valkey


def play(
    client: redis.Redis,
    script: Callable[[Pilot[Any], OneScreen, CompareScreen], Awaitable[None]],
    size: tuple[int, int] = WIDE,
    right: str = RIGHT,
    **options: bool,
) -> None:
    async def whole() -> None:
        screen = CompareScreen(LEFT, right)
        app = OneScreen(session_of(client, **options), screen)
        async with app.run_test(size=size) as pilot:
            await until(pilot, "both runs are read", lambda: screen.found)
            await pilot.pause()
            await script(pilot, app, screen)

    asyncio.run(whole())


def test_everything_that_differs_is_on_the_screen(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        shown = screen_text(app)
        for words in (
            "-10.0 s", "alpine:1 → alpine:2", "'1' → '2'", "secret vault, key old-key",
            "→ secret vault, key new-key", "added more: task",
            "aaaaaaaaaaaa → bbbbbbbbbbbb", "never-here → cached", "not in it", "+2 MB",
            "2 MB → 0 B",
        ):  # fmt: skip
            assert words in shown, f"{words!r} is not in\n{shown}"
        assert screen.found is not None
        assert [each.ratio for each in screen.found.tasks] == [0.5, 0.5, None]

    play(runs, script)


@pytest.mark.parametrize(("size", "name"), [(NARROW, "compare-narrow"), (WIDE, "compare-wide")])
def test_how_it_looks(runs: redis.Redis, size: tuple[int, int], name: str) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        await until(pilot, "the table is shown", lambda: "use" in screen_text(app))
        await still(pilot)
        assert_looks(app, name)

    play(runs, script, size)


def test_without_colour_and_other_glyphs_all_of_it_is_ascii(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        assert "alpine:1 -> alpine:2" in screen_text(app)
        assert "✔" not in screen_text(app)

    play(runs, script, ascii_only=True)


def test_the_sides_are_swapped_and_each_run_is_opened(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        await pilot.press("enter")
        await pilot.press("l")
        await until(pilot, "both are opened", lambda: app.opened == [RIGHT, LEFT])
        await pilot.press("w")
        await until(pilot, "the difference is the other way", lambda: "+10.0 s" in screen_text(app))
        assert "removed more: task" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, "the new right one is opened", lambda: app.opened[-1] == LEFT and len(app.opened) == 3)

    play(runs, script)


def names(screen: CompareScreen) -> list[str]:
    assert screen.found is not None
    return [each.name for each in screen.shown_tasks(screen.found)]


def test_tasks_are_sorted_filtered_and_reduced_to_those_that_differ(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        assert names(screen) == ["use", "make", "more"]
        await pilot.press("s")
        assert names(screen) == ["make", "more", "use"]
        await pilot.press("s", "s", "o")
        assert names(screen) == ["use", "more"]
        await pilot.press("slash")
        await until(pilot, "it asks", lambda: app.screen is not screen)
        await pilot.press("m", "o", "enter")
        await until(pilot, "one is left", lambda: names(screen) == ["more"])
        assert "filter 'mo'" in screen_text(app)

    play(runs, script)


def test_escape_leads_back(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        await pilot.press("escape")
        await until(pilot, "it is closed", lambda: app.screen is not screen)

    play(runs, script)


def test_a_run_that_is_gone_is_said_to_be_gone(runs: redis.Redis) -> None:
    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        shown = screen_text(app)
        assert "run 1-1 is no longer kept" in shown
        assert "not known: a DAG is missing" in shown

    play(runs, script, right="1-1")


def test_a_run_that_goes_on_is_read_again_until_it_ends_and_two_dags_are_named(runs: redis.Redis) -> None:
    going = f"{NOW_MS - 5_000}-0"
    dag = DAG.replace("[daily]", "weekly") % ("alpine:1", "old-key", "1", "")
    put_run(runs, going, dag, seconds=3, digest="a" * 64, cause="changed", ended=False)

    async def script(pilot: Pilot[Any], app: OneScreen, screen: CompareScreen) -> None:
        shown = screen_text(app)
        assert "is still running" in shown
        assert "two DAGs: daily and weekly" in shown
        assert "→ changed" in shown
        ended: dict[Any, Any] = {"status": "FAILED", "durationMs": "3000"}
        runs.hset(keys_of_run(going, Settings().partitions).run(going), mapping=ended)
        await until(pilot, "its end is seen", lambda: "failed" in screen_text(app))

    play(runs, script, right=going)
