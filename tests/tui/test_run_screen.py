"""One run on the screen, key by key."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from textual.pilot import Pilot
from textual.widgets import Input

from helios.dag import parse_dag
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from tests.stage import Stage
from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.played_run import DAG, RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.screens.run import RunScreen
from tui.screens.task import TaskScreen
from tui.widgets.dialogs import Confirm
from tui.widgets.task_card import TaskCard

Steps = Callable[[HeliosApp, Pilot[None], RunScreen], Awaitable[None]]


def open_run(
    client: redis.Redis, state: Path, played: str, steps: Steps, *, size: tuple[int, int] = NARROW, **options: bool
) -> None:
    """Play the run, open it, and take the steps once its tasks are there. The server's clock stands still too."""
    play(client, played)

    async def whole(app: HeliosApp, pilot: Pilot[None]) -> None:
        app.session.feed.clock_offset_ms = 0
        await pilot.press("enter")
        await until(pilot, "the run is open", lambda: isinstance(app.screen, RunScreen))
        screen = app.screen
        assert isinstance(screen, RunScreen)
        await until(pilot, "its tasks are there", lambda: "count-ab" in screen_text(app))
        await until(pilot, "its details are there", lambda: screen.details is not None)
        await steps(app, pilot, screen)

    drive(client, state, whole, size=size, **options)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("played", ["running", "failed", "done"])
def test_how_it_looks(valkey: redis.Redis, tmp_path: Path, played: str, size: tuple[int, int]) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await still(pilot)
        assert_looks(app, f"run-{played}-{'narrow' if size == NARROW else 'wide'}")

    open_run(valkey, tmp_path, played, steps, size=size)


def test_in_ascii_no_sign_is_outside_of_it(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("t")
        await still(pilot)
        shown = "\n".join(screen_text(app).splitlines()[:12])
        assert shown.isascii(), [char for char in shown if not char.isascii()]

    open_run(valkey, tmp_path, "failed", steps, ascii_only=True)


def test_the_tree_has_each_task_below_its_parents_and_folds(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("t")
        await until(pilot, "it is a tree", lambda: "├─ count-aa" in screen_text(app))
        assert "└─ join" in screen_text(app)
        screen.grid.select("split")
        await pilot.press("left")
        await until(pilot, "it is folded", lambda: "split (+3)" in screen_text(app))
        assert "count-aa" not in screen_text(app)
        await pilot.press("right")
        await until(pilot, "it is unfolded", lambda: "count-aa" in screen_text(app))
        await pilot.press("t")
        await until(pilot, "it is a chart again", lambda: "├─" not in screen_text(app))

    open_run(valkey, tmp_path, "done", steps)


def test_a_filter_leaves_the_tasks_that_pass_it(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("slash", *"cause", "colon", *"never")
        await until(pilot, "one is left", lambda: screen.grid.order == ["split"])
        await pilot.press("enter")
        assert app.focused is screen.grid
        await pilot.press("slash", *"xyz")
        await until(pilot, "none is left", lambda: "No task passes" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "all are back", lambda: len(screen.grid.order) == 4)

    open_run(valkey, tmp_path, "done", steps)


def test_sorting_keeps_the_cursor_on_its_task(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        screen.grid.select("count-ab")
        orders: list[list[str]] = []
        for _ in range(5):
            before = screen.order
            await pilot.press("s")
            await until(pilot, "it is sorted otherwise", lambda before=before: screen.order != before)
            orders.append(list(screen.grid.order))
            assert screen.grid.key == "count-ab"
        start, longest, missed, failed, dag = orders
        assert start[0] == longest[0] == missed[0] == "split"
        assert failed[0] == "count-ab"
        assert dag == ["split", "count-aa", "count-ab", "join"]

    open_run(valkey, tmp_path, "failed", steps)


def test_the_first_failed_task_is_a_key_away(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("E")
        assert screen.grid.key == "count-ab"
        await until(pilot, "its reason is told", lambda: "wc: part-ab: [No such] file" in screen_text(app))

    open_run(valkey, tmp_path, "failed", steps)


def test_the_cause_of_a_miss_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        assert "missed corpus.txt never-here 1.2 MB" in screen_text(app)

    open_run(valkey, tmp_path, "done", steps)


def test_enter_shows_the_card_of_a_task(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        screen.grid.select("count-aa")
        await pilot.press("enter")
        await until(pilot, "the card is there", lambda: isinstance(app.screen, TaskScreen))
        await until(pilot, "it is filled", lambda: "exit code" in screen_text(app))
        shown = screen_text(app)
        for words in ("this node had stored it as an output", "sha256 5891b5b522d5df08", "CPU time", "48 MB", "node-1"):
            assert words in shown
        await still(pilot)
        assert_looks(app, "task-narrow")
        await pilot.press("escape")
        await until(pilot, "the run is back", lambda: app.screen is screen)

    open_run(valkey, tmp_path, "done", steps)


def test_in_a_wide_terminal_the_card_is_beside_the_tasks(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("down")
        await until(pilot, "the card follows the cursor", lambda: screen.query_one(TaskCard).border_title == "count-aa")
        await until(pilot, "a secret is named, not told", lambda: "KEY=secret vault/api" in screen_text(app))
        await pilot.press("enter")
        assert app.focused is screen.query_one(TaskCard)
        await pilot.press("escape")
        assert app.focused is screen.grid

    open_run(valkey, tmp_path, "done", steps, size=WIDE)


def test_a_run_is_cancelled_once_that_is_confirmed(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("x")
        await until(pilot, "it asks", lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        await until(pilot, "the run is back", lambda: app.screen is screen)
        assert valkey.xlen(CONTROLS) == 0
        await pilot.press("x")
        await until(pilot, "it asks", lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, "it is asked for", lambda: valkey.xlen(CONTROLS) == 1)
        assert valkey.xrange(CONTROLS)[0][1] == {"run": RUN, "action": "cancel"}

    open_run(valkey, tmp_path, "running", steps)


@pytest.mark.parametrize(("key", "use_cache"), [("r", "true"), ("R", "false")])
def test_a_rerun_sends_the_same_dag_in_a_form_that_is_accepted(
    valkey: redis.Redis, tmp_path: Path, key: str, use_cache: str
) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press(key)
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        [(_, sent)] = valkey.xrange(SUBMISSIONS)
        assert sent["useCache"] == use_cache
        assert "memoize" not in sent
        again, first = parse_dag(sent["dag"].encode()).dag, parse_dag(DAG).dag
        assert again == first

    open_run(valkey, tmp_path, "done", steps)


@pytest.mark.parametrize("key", ["r", "R"])
def test_a_rerun_of_a_run_that_skipped_nothing_skips_nothing(valkey: redis.Redis, tmp_path: Path, key: str) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        valkey.hset(Keys(0).run(RUN), "memoize", "false")
        await pilot.press(key)
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        [(_, sent)] = valkey.xrange(SUBMISSIONS)
        assert sent["memoize"] == "false"

    open_run(valkey, tmp_path, "done", steps)


@pytest.mark.parametrize("key", ["x", "r", "R"])
def test_a_read_only_dashboard_changes_nothing(valkey: redis.Redis, tmp_path: Path, key: str) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press(key)
        await until(pilot, "it is told", lambda: "Nothing is changed" in screen_text(app))
        assert app.screen is screen
        assert valkey.xlen(CONTROLS) == valkey.xlen(SUBMISSIONS) == 0

    open_run(valkey, tmp_path, "running", steps, read_only=True)


def test_ids_and_names_are_copied(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("y")
        await until(pilot, "the id is copied", lambda: app.clipboard == RUN)
        await pilot.press("Y")
        await until(pilot, "the name is copied", lambda: app.clipboard == "split")

    open_run(valkey, tmp_path, "done", steps)


def test_escape_leads_back_to_the_run_in_the_table(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        assert app.home.grid.key == RUN
        assert app.session.feed.board is None

    open_run(valkey, tmp_path, "done", steps)


def test_it_moves_with_the_run(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = Stage(valkey)
    stage.open({"a": [], "b": ["a"]})

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, "its tasks are there", lambda: "waiting" in screen_text(app))
        stage.launch("a")
        await until(pilot, "it runs", lambda: "running" in screen_text(app).splitlines()[4])
        stage.end("a", cache="Miss", miss=7_000)
        stage.settle("a")
        await until(pilot, "it missed", lambda: "7 KB" in screen_text(app))
        await until(pilot, "the next is queued", lambda: "queued" in screen_text(app).splitlines()[5])

    drive(valkey, tmp_path, steps)


def test_why_a_submission_was_rejected_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    from services.submitter.accept import reject

    Stage(valkey)
    reject(valkey, RUN, ["line 3: no [such] field", "line 9: too long"], 1, "broken")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "it is listed", lambda: RUN in screen_text(app))
        await pilot.press("enter")
        await until(pilot, "it is told", lambda: "Rejected: line 3: no [such] field; line 9" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_a_run_that_is_gone_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    play(valkey, "done")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "it is listed", lambda: RUN in screen_text(app))
        valkey.flushall()
        await pilot.press("enter")
        await until(pilot, "it is told", lambda: "no longer kept" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_the_filter_field_takes_no_key_for_a_command(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        await pilot.press("slash", "x", "t", "s")
        assert screen.query_one("#filter", Input).value == "xts"
        assert app.screen is screen

    open_run(valkey, tmp_path, "done", steps)


def test_the_card_in_a_wide_terminal(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: RunScreen) -> None:
        app.push_screen(TaskScreen("count-aa", screen.details))
        await until(pilot, "it is filled", lambda: "stored it as an output" in screen_text(app))
        await still(pilot)
        assert_looks(app, "task-wide")

    open_run(valkey, tmp_path, "done", steps, size=WIDE)
