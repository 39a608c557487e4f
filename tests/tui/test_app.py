"""The dashboard as a whole, driven by keys over a real Valkey."""

from pathlib import Path

import pytest
import redis
from textual.pilot import Pilot

from tests.stage import Stage
from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.played_run import RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.model.connection import Connection
from tui.preferences import Preferences
from tui.screens.health import HealthScreen
from tui.screens.help import HelpScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.screens.submit import SubmitScreen
from tui.screens.too_small import TooSmall


def one_run(client: redis.Redis) -> str:
    stage = Stage(client)
    stage.open({"split": [], "count": ["split"]})
    stage.pass_through("split")
    stage.pass_through("count")
    stage.finalise()
    return "1764027260123-0"


@pytest.mark.parametrize(
    ("key", "screen"), [("f3", SubmitScreen), ("n", SubmitScreen), ("f4", HealthScreen), ("H", HealthScreen)]
)
def test_a_key_opens_each_screen_and_f2_leads_back(
    valkey: redis.Redis, tmp_path: Path, key: str, screen: type[object]
) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, RunsScreen)
        await pilot.press(key)
        await until(pilot, "it is open", lambda: isinstance(app.screen, screen))
        await pilot.press("f2")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path / "state", steps)


def test_enter_opens_the_run_and_escape_leads_back_to_it(valkey: redis.Redis, tmp_path: Path) -> None:
    run = one_run(valkey)

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "the run is listed", lambda: run in screen_text(app))
        await pilot.press("enter")
        await until(pilot, "the run is open", lambda: isinstance(app.screen, RunScreen))
        await until(pilot, "its tasks are there", lambda: "split" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path / "state", steps)


def test_the_help_lists_the_keys_of_the_screen_with_the_names_they_can_be_set_by(
    valkey: redis.Redis, tmp_path: Path
) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await until(pilot, "the help is open", lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, "it is drawn", lambda: "runs.cancel" in screen_text(app))
        assert "app.pause" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path / "state", steps, size=WIDE)


def test_a_key_can_be_set_anew(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("H")
        await pilot.press("f8")
        await until(pilot, "the health is open", lambda: isinstance(app.screen, HealthScreen))

    drive(valkey, tmp_path / "state", steps, preferences=Preferences(keys={"app.health": "f8"}))


def test_the_name_of_a_key_that_does_not_exist_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "it is told", lambda: "runs.cancle" in screen_text(app))

    drive(valkey, tmp_path / "state", steps, preferences=Preferences(keys={"runs.cancle": "f8"}))


def test_the_palette_has_what_keys_do(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p")
        await pilot.press(*"health")
        await until(pilot, "it is found", lambda: "See whether everything works" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, "the health is open", lambda: isinstance(app.screen, HealthScreen))

    drive(valkey, tmp_path / "state", steps)


def test_nothing_moves_while_it_is_paused(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("space")
        await until(pilot, "it says so", lambda: "paused" in screen_text(app))
        run = one_run(valkey)
        await until(pilot, "the feed has the run", lambda: run in app.session.feed.runs.rows)
        await still(pilot)
        assert run not in screen_text(app)
        await pilot.press("space")
        await until(pilot, "the run is shown", lambda: run in screen_text(app))

    drive(valkey, tmp_path / "state", steps)


def test_a_terminal_that_is_too_small_is_told_and_then_enlarged(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.resize_terminal(60, 15)
        await until(pilot, "it says so", lambda: isinstance(app.screen, TooSmall))
        await until(pilot, "it says what it needs", lambda: "too small: 60x15" in screen_text(app))
        await still(pilot)
        assert_looks(app, "app-too-small")
        await pilot.resize_terminal(80, 24)
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path / "state", steps)


def test_a_theme_is_kept_for_the_next_time(valkey: redis.Redis, tmp_path: Path) -> None:
    async def choose(app: HeliosApp, pilot: Pilot[None]) -> None:
        app.theme = "nord"
        await until(pilot, "it is kept", (tmp_path / "state" / "theme").exists)

    async def find(app: HeliosApp, pilot: Pilot[None]) -> None:
        assert app.theme == "nord"

    drive(valkey, tmp_path / "state", choose)
    drive(valkey, tmp_path / "state", find)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_lost_connection_is_told_with_the_age_of_the_data(
    valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]
) -> None:
    play(valkey, "done")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "the run is listed", lambda: RUN in screen_text(app))
        app.session.feed.stop()
        now = app.session.clock()
        app.session.feed.connection = Connection(
            "lost", since_ms=now - 12_000, retry_at_ms=now + 3_000, trouble="Redis at 127.0.0.1:6379 cannot be reached"
        )
        await until(pilot, "it is told", lambda: "data 12.0 s old, reconnecting in 3 s" in screen_text(app))
        await until(pilot, "the reason is told", lambda: "cannot be reached" in screen_text(app))
        assert RUN in screen_text(app)
        await still(pilot)
        assert_looks(app, f"app-disconnected-{'narrow' if size == NARROW else 'wide'}")

    drive(valkey, tmp_path / "state", steps, size=size)
