"""Every state that is not the ordinary one, as it looks at both sizes."""

import re
from pathlib import Path

import pytest
import redis
from textual.pilot import Pilot

from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, picture_of, screen_text
from tests.tui.played_run import RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.model.connection import Connection
from tui.screens.help import HelpScreen

SIZES = pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])


def name_of(state: str, size: tuple[int, int]) -> str:
    return f"state-{state}-{'narrow' if size == NARROW else 'wide'}"


@SIZES
def test_empty(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "it is told", lambda: "No run yet" in screen_text(app))
        await still(pilot)
        assert_looks(app, name_of("empty", size))

    drive(valkey, tmp_path, steps, size=size)


@SIZES
def test_loading(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        app.session.feed.stop()
        app.session.feed.connection = Connection("loading", loaded=500, total=10_000)
        await until(pilot, "it is told", lambda: "loading 500 of 10,000 runs" in screen_text(app))
        await until(pilot, "the table says so", lambda: "Loading runs" in screen_text(app))
        await still(pilot)
        assert_looks(app, name_of("loading", size))

    drive(valkey, tmp_path, steps, size=size)


@SIZES
def test_filtered_empty(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    play(valkey, "done")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "the run is listed", lambda: RUN in screen_text(app))
        await pilot.press("slash", *"nothing", "enter")
        await until(pilot, "it is told", lambda: "None of 1 runs passes the filter" in screen_text(app))
        await still(pilot)
        assert_looks(app, name_of("filtered", size))

    drive(valkey, tmp_path, steps, size=size)


@SIZES
def test_the_help(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/user/.config")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await until(pilot, "it is open", lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, "it is drawn", lambda: "runs.filter" in screen_text(app))
        await still(pilot)
        assert_looks(app, name_of("help", size))

    drive(valkey, tmp_path, steps, size=size)


def test_without_colours_there_are_only_greys(
    valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    play(valkey, "failed")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await until(pilot, "the run is listed", lambda: "✘ failed" in screen_text(app))
        drawn = re.sub(r"<circle[^>]*>", "", picture_of(app))  # the window's own buttons
        colours = set(re.findall(r"#([0-9a-f]{6})\b", drawn)) - {"c5c8c6"}  # the title of the window
        assert colours
        assert {each for each in colours if len({each[:2], each[2:4], each[4:]}) > 1} == set()

    drive(valkey, tmp_path, steps)
