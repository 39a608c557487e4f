"""The table of runs, driven by keys."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from textual.pilot import Pilot

from helios.dag import parse_dag
from helios.keys import CONTROLS, SUBMISSIONS, keys_of_run
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.played_run import DAG
from tests.tui.run_rows import RunsApp, put, row, run_fields, run_id, running_fields
from tests.tui.stage import NOW_MS, session_of, still, until
from tui.intents import OpenCompare, OpenRun, OpenSubmit
from tui.model.connection import Connection
from tui.screens.runs import RunsScreen
from tui.widgets.cards import average_card, last_card
from tui.widgets.dialogs import Ask, Confirm

Steps = Callable[[RunsApp, Pilot[None]], Awaitable[Any]]

VARIED: tuple[dict[str, str], ...] = (
    {},
    {"status": "FAILED", "taskSucceeded": "3", "taskFailed": "1", "taskUpstreamFailed": "1", "cacheHit": "Partial",
     "reason": "task 'count' ended with exit code 3 [disk full]", "nodes": "n1,n2"},
    {"cacheEnabled": "false", "cacheHit": "N/A", "dagName": "train-model"},
    {"status": "CANCELLED", "taskSucceeded": "2", "taskCancelled": "3", "cacheHit": "Miss", "reason": "asked for"},
    {"status": "REJECTED", "startTime": "", "endTime": "", "durationMs": "", "taskCount": "", "taskSucceeded": "",
     "nodes": "", "cacheHit": "N/A", "problems": "one\ntwo"},
)  # fmt: skip


def table(client: redis.Redis, steps: Steps, *, runs: int = 5, size: tuple[int, int] = NARROW, **options: Any) -> None:
    """Show `runs` varied runs, the last one going on, and take the steps."""

    async def go() -> None:
        session = session_of(client, **options)
        session.feed.connection = Connection("live")
        for number in range(runs):
            put(session, number, run_fields(number, **VARIED[number % len(VARIED)]))
        if runs:
            put(session, runs, running_fields(runs))
        app = RunsApp(session)
        async with app.run_test(size=size) as pilot:
            await until(pilot, "all runs are shown", lambda: len(app.home.rows) == (runs + 1 if runs else 0))
            await steps(app, pilot)

    asyncio.run(go())


def said(app: RunsApp) -> str:
    return "\n".join(str(each.message) for each in app._notifications)  # pyright: ignore[reportPrivateUsage]


def order(app: RunsApp) -> list[str]:
    return app.home.grid.order


# Pictures.


@pytest.mark.parametrize(("name", "size"), [("narrow", NARROW), ("wide", WIDE)])
def test_the_table(valkey: redis.Redis, name: str, size: tuple[int, int]) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await pilot.pause()
        await still(pilot)
        assert_looks(app, f"runs-{name}")

    table(valkey, steps, size=size)


def test_all_eight_columns_fit_the_smallest_screen(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        text = screen_text(app)
        titles = next(line for line in text.splitlines() if "Run ID" in line)
        assert titles.split() == [
            "Run",
            "ID▼",
            "Start",
            "Duration",
            "Cache",
            "Cache",
            "hit",
            "Status",
            "Tasks",
            "Nodes",
        ]
        assert f"{run_id(0)} 21:55:00 10.0 s" in " ".join(text.split())

    table(valkey, steps)


def test_no_glyph_is_shown_where_only_ascii_is_wanted(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await pilot.pause()
        assert screen_text(app).replace("…", "").isascii()

    table(valkey, steps, ascii_only=True)


def test_a_terminal_that_grows_shows_more(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        assert "train-model" not in screen_text(app)
        await pilot.resize_terminal(*WIDE)
        await until(pilot, "the DAG column", lambda: "train-model" in screen_text(app))
        assert "average 10.0 s" in screen_text(app)
        assert "3/5 ok, 2 failed" in screen_text(app)

    table(valkey, steps)


def test_nothing_moves_while_it_is_paused_and_all_of_it_shows_afterwards(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        app.paused = True
        put(app.session, 5, None)
        app.home._tick()  # pyright: ignore[reportPrivateUsage] -- what the timer does
        await pilot.press("1", "1", "down", "up")
        assert run_id(5) in screen_text(app)
        app.paused = False
        await until(pilot, "the run went", lambda: run_id(5) not in screen_text(app))

    table(valkey, steps)


# States.


@pytest.mark.parametrize(
    ("connection", "notice"),
    [
        (Connection("live"), "No run yet. n writes a DAG"),
        (Connection("loading"), "Loading runs"),
        (Connection("lost", NOW_MS, NOW_MS), "Nothing is known yet"),
    ],
)
def test_an_empty_table_says_why(valkey: redis.Redis, connection: Connection, notice: str) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        app.session.feed.connection = connection
        await until(pilot, "the notice", lambda: notice in screen_text(app))

    table(valkey, steps, runs=0)


def test_rows_are_dim_while_the_connection_is_lost(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        def dim() -> bool:
            return all(part.style is not None and part.style.dim for part in app.home.grid.render_line(2))

        assert not dim()
        app.session.feed.connection = Connection("lost", NOW_MS - 4000, NOW_MS + 3000, "it is away")
        await until(pilot, "rows are dim", dim)
        app.session.feed.connection = Connection("live")
        await until(pilot, "rows are bright", lambda: not dim())

    table(valkey, steps)


# It lives.


def test_changes_show_without_a_key(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        run = put(app.session, 5, run_fields(5))
        await until(pilot, "the run ended", lambda: "running" not in screen_text(app))
        assert "10.0 s" in screen_text(app)
        put(app.session, 5, None)
        await until(pilot, "the run went", lambda: run not in screen_text(app))

    table(valkey, steps)


def test_running_durations_tick(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        began = app.home.rows[run_id(5)].started_at or 0
        app.session.clock = lambda: began + 61_000
        await until(pilot, "a minute has passed", lambda: "1 m 01 s" in screen_text(app))
        app.session.clock = lambda: began + 62_000
        await until(pilot, "a second has passed", lambda: "1 m 02 s" in screen_text(app))

    table(valkey, steps)


def test_the_cursor_stays_on_its_run_when_others_come_and_when_it_is_sorted(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        key = app.home.grid.key
        put(app.session, 9, run_fields(9))
        await until(pilot, "the new run is shown", lambda: run_id(9) in order(app))
        assert app.home.grid.key == key
        before = order(app)
        for pressed in ("3", "6", "S", "s", "7"):
            await pilot.press(pressed)
            assert app.home.grid.key == key
            assert sorted(order(app)) == sorted(before)

    table(valkey, steps)


def test_columns_sort_by_number_by_the_next_and_by_a_click(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        newest_first = sorted(order(app), reverse=True)
        assert order(app) == newest_first
        await pilot.press("1")
        assert order(app) == newest_first[::-1]
        await pilot.press("3")
        assert order(app)[0] == run_id(5)  # it goes on since long
        await pilot.press("S")
        assert order(app)[0] == run_id(4)  # rejected: none at all
        await pilot.click(app.home.grid, offset=(3, 0))
        await until(pilot, "sorted by id", lambda: order(app) == newest_first)
        await pilot.press("9")
        assert "which has no room here" in said(app)

    table(valkey, steps)


def test_select_waits_for_a_run_and_clears_a_filter_that_hides_it(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"status:failed", "enter")
        app.home.select(run_id(7))
        await pilot.pause()
        assert app.home.grid.key == run_id(1)
        put(app.session, 7, running_fields(7))
        await until(pilot, "the cursor is on it", lambda: app.home.grid.key == run_id(7))
        assert len(order(app)) == 7

    table(valkey, steps)


def test_a_thousand_runs_scroll_with_the_selected_one_in_sight(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        app.home.select(run_id(3))
        await until(pilot, "it is in sight", lambda: run_id(3) in screen_text(app))

    table(valkey, steps, runs=1000)


# The filter.


def test_a_filter_shows_while_it_is_typed_is_kept_and_cleared(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"status:fail")
        await until(pilot, "filtered", lambda: order(app) == [run_id(1)])
        assert "1 of 6" in screen_text(app)
        await pilot.press("enter", "y")
        assert app.clipboard == run_id(1)
        assert "/ status:fail" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, "cleared", lambda: len(order(app)) == 6)
        assert "status:fail" not in screen_text(app)
        assert app.home.grid.key == run_id(1)
        assert app.home.grid.has_focus

    table(valkey, steps)


def test_what_is_no_filter_is_told_and_leaves_the_table(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"colour:red")
        await until(pilot, "told", lambda: "there is no column colour; there are id," in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "gone", lambda: "there is no column" not in screen_text(app))

    table(valkey, steps)


def test_a_filter_that_nothing_passes_says_so(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"dag:[none]")
        await until(pilot, "it says so", lambda: "None of 6 runs passes the filter 'dag:[none]'" in screen_text(app))

    table(valkey, steps)


# Actions.


def test_enter_opens_c_compares_and_n_submits(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter", "c")
        assert f"◆{run_id(5)}" in screen_text(app)
        await pilot.press("down", "c", "n")
        await until(pilot, "three intents", lambda: len(app.intents) == 3)
        opened, compared, new = app.intents
        assert isinstance(opened, OpenRun)
        assert opened.run == run_id(5)
        assert isinstance(compared, OpenCompare)
        assert (compared.left, compared.right) == (run_id(4), run_id(5))
        assert isinstance(new, OpenSubmit)
        assert "◆" not in screen_text(app)

    table(valkey, steps)


def submissions(client: redis.Redis) -> list[dict[str, str]]:
    entries: Any = client.xrange(SUBMISSIONS)
    return [fields for _, fields in entries]


@pytest.mark.parametrize(("key", "use_cache"), [("r", "true"), ("R", "false")])
def test_a_run_is_submitted_again_once_and_the_cursor_goes_to_it(valkey: redis.Redis, key: str, use_cache: str) -> None:
    dag = parse_dag(DAG).dag
    valkey.set(keys_of_run(run_id(5), 1).dag(run_id(5)), msgspec.json.encode(dag))

    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press(key, key)
        await until(pilot, "submitted", lambda: "Submitted as" in said(app))
        (sent,) = submissions(valkey)
        assert parse_dag(sent["dag"].encode()).dag == dag
        assert sent["useCache"] == use_cache
        assert sent["requestId"]
        new = str(valkey.xrange(SUBMISSIONS)[0][0])  # type: ignore[index]
        with app.session.feed.lock:
            app.session.feed.runs.load(new, running_fields(8, dagId=new), "1-0")
        await until(pilot, "the cursor is on it", lambda: app.home.grid.key == new)

    table(valkey, steps)


def test_a_run_without_its_dag_cannot_be_submitted_again(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        await until(pilot, "told", lambda: f"the DAG of run {run_id(5)} is not kept" in said(app))
        assert submissions(valkey) == []

    table(valkey, steps)


def test_a_run_is_cancelled_after_a_yes_only(valkey: redis.Redis) -> None:
    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("x")
        await until(pilot, "asked", lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        await until(pilot, "back", lambda: isinstance(app.screen, RunsScreen))
        assert valkey.xlen(CONTROLS) == 0
        await pilot.press("x")
        await until(pilot, "asked", lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, "sent", lambda: "Asked to cancel" in said(app))
        entries: Any = valkey.xrange(CONTROLS)
        assert [fields for _, fields in entries] == [{"run": run_id(5), "action": "cancel"}]
        await pilot.press("down", "x")
        await until(pilot, "told", lambda: "has ended already" in said(app))

    table(valkey, steps)


def test_nothing_is_changed_in_a_read_only_dashboard(valkey: redis.Redis) -> None:
    valkey.set(keys_of_run(run_id(5), 1).dag(run_id(5)), "{}")

    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("r", "R", "x")
        await until(pilot, "told thrice", lambda: said(app).count("read-only") == 3)
        assert valkey.exists(SUBMISSIONS, CONTROLS) == 0

    table(valkey, steps, read_only=True)


def test_the_table_is_exported_as_it_is_shown(
    valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def export(app: RunsApp, pilot: Pilot[None], name: str) -> None:
        await pilot.press("e")
        await until(pilot, "asked", lambda: isinstance(app.screen, Ask))
        await pilot.press("ctrl+u", *name, "enter")

    async def steps(app: RunsApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"!status:failed", "enter", "1")
        await export(app, pilot, "runs.json")
        await until(pilot, "written", lambda: "Wrote 5 runs" in said(app))
        found = json.loads((tmp_path / "runs.json").read_bytes())
        assert [each["dagId"] for each in found] == order(app)
        await pilot.press("escape")
        await export(app, pilot, "runs.json")
        await until(pilot, "asked", lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, "back", lambda: isinstance(app.screen, RunsScreen))
        assert len(json.loads((tmp_path / "runs.json").read_bytes())) == 5
        await export(app, pilot, "runs.json")
        await until(pilot, "asked", lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, "written", lambda: "Wrote 6 runs" in said(app))
        assert len(json.loads((tmp_path / "runs.json").read_bytes())) == 6
        await export(app, pilot, "missing/runs.csv")
        await until(pilot, "told", lambda: "cannot write missing/runs.csv" in said(app))

    table(valkey, steps)


# Cards.


def test_the_cards_say_counts_averages_and_the_gain() -> None:
    card = average_card(12, 3400, is_wide=True, gain=0.625)
    assert card[0] == "12 runs ok"
    assert card.second == "average 3.4 s"
    assert card.edge == "gain 62 % against non-cached"
    assert average_card(1, 3400, is_wide=False, gain=-0.1).edge == "loss 10 %"
    assert average_card(0, None, is_wide=False).second == "no average yet"


def test_the_last_card_says_how_the_tasks_went() -> None:
    card = last_card(row(), is_wide=False, ascii_only=False)
    assert (card.first, card.second) == ("✔ 5/5 ok, 0 failed", "ok: word-count")
    failed = last_card(row(status="FAILED", succeeded=4, failed=1), is_wide=True, ascii_only=True)
    assert failed.first == "x failed  4/5 ok, 1 failed  word-count"
    assert last_card(None, is_wide=True, ascii_only=False).first == "none has ended"
