"""Downloading a task's outputs from a real object store, by keys."""

import hashlib
import io
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from textual.pilot import Pilot
from textual.widgets import Input

from cli.connection import Link
from cli.download import PlaceTaken
from helios.keys import Keys
from helios.records import AttemptRecord, OutputRecord
from helios.settings import Settings
from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.played_run import RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.screens.downloads import DownloadScreen
from tui.screens.run import RunScreen
from tui.source.artifacts import DownloadCancelled, download
from tui.widgets.dialogs import Ask, Confirm

CONTENT = b"a report\n"
Steps = Callable[[HeliosApp, Pilot[None]], Awaitable[None]]


def settings_of(s3: Any) -> Settings:
    return Settings(
        s3_endpoint=f"http://{s3.endpoint}", s3_access_key="helios", s3_secret_key="helios-secret", s3_bucket="corpora"
    )


def store(s3: Any, name: str, content: bytes = CONTENT) -> OutputRecord:
    s3.client.put_object("corpora", f"runs/{name}", io.BytesIO(content), len(content))
    return OutputRecord(name, len(content), hashlib.sha256(content).hexdigest(), f"runs/{name}")


def open_outputs(
    client: redis.Redis,
    state: Path,
    outputs: list[OutputRecord],
    settings: Settings,
    steps: Steps,
    *,
    size: tuple[int, int] = NARROW,
) -> None:
    play(client, "done")
    record = AttemptRecord(exitCode=0, outputs=outputs)
    client.hset(Keys(0).task(RUN, "split"), "record", msgspec.json.encode(record))

    async def whole(app: HeliosApp, pilot: Pilot[None]) -> None:
        app.session.link.settings = settings
        await pilot.press("enter")
        await until(
            pilot, "its tasks are there", lambda: isinstance(app.screen, RunScreen) and "split" in screen_text(app)
        )
        await pilot.press("d")
        await until(
            pilot, "its outputs are there", lambda: isinstance(app.screen, DownloadScreen) and app.screen.outputs
        )
        await steps(app, pilot)

    drive(client, state, whole, size=size)


async def choose_folder(app: HeliosApp, pilot: Pilot[None], folder: Path) -> None:
    await until(pilot, "it asks for the folder", lambda: isinstance(app.screen, Ask))
    app.screen.query_one(Input).value = str(folder)
    await pilot.press("enter")


def test_one_output_is_brought_and_another_file_is_not_replaced_unasked(
    valkey: redis.Redis, tmp_path: Path, real_s3: Any
) -> None:
    folder = tmp_path / "results"
    place = folder / "report.txt"

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await choose_folder(app, pilot, folder)
        await until(pilot, "it is there", place.exists)
        assert place.read_bytes() == CONTENT
        place.write_text("precious")
        for answer, content in (("n", b"precious"), ("y", CONTENT)):
            await until(pilot, "the outputs are back", lambda: isinstance(app.screen, DownloadScreen))
            await until(pilot, "it is done", lambda: not getattr(app.screen, "_is_busy", True))
            await pilot.press("enter")
            await choose_folder(app, pilot, folder)
            await until(pilot, "it asks first", lambda: isinstance(app.screen, Confirm))
            await pilot.press(answer)
            await until(pilot, "the file is right", lambda content=content: place.read_bytes() == content)
        await pilot.press("escape")
        await until(pilot, "the run is back", lambda: isinstance(app.screen, RunScreen))

    open_outputs(valkey, tmp_path / "state", [store(real_s3, "report.txt")], settings_of(real_s3), steps)


def test_all_outputs_are_brought_by_one_key(valkey: redis.Redis, tmp_path: Path, real_s3: Any) -> None:
    outputs = [store(real_s3, "one"), store(real_s3, "deep/two")]

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("a")
        await choose_folder(app, pilot, tmp_path / "all")
        await until(pilot, "it is told", lambda: "2 outputs in" in screen_text(app))

    open_outputs(valkey, tmp_path / "state", outputs, settings_of(real_s3), steps)
    assert (tmp_path / "all" / "deep" / "two").read_bytes() == CONTENT


def test_one_that_fails_does_not_keep_the_others(valkey: redis.Redis, tmp_path: Path, real_s3: Any) -> None:
    damaged = store(real_s3, "damaged")
    real_s3.client.put_object("corpora", "runs/damaged", io.BytesIO(b"otherwise"), len(CONTENT))
    outputs = [damaged, store(real_s3, "one")]

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("a")
        await choose_folder(app, pilot, tmp_path / "some")
        await until(pilot, "it is told", lambda: "1 output could not be fetched. damaged" in screen_text(app))

    open_outputs(valkey, tmp_path / "state", outputs, settings_of(real_s3), steps)
    assert [each.name for each in (tmp_path / "some").iterdir()] == ["one"]


def test_a_store_that_is_not_there_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    settings = Settings(s3_endpoint="http://127.0.0.1:1", s3_access_key="a", s3_secret_key="b")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await choose_folder(app, pilot, tmp_path / "none")
        await until(pilot, "it is told", lambda: "object store" in screen_text(app), 40)

    open_outputs(valkey, tmp_path / "state", [OutputRecord("x", 3, "0" * 64, "runs/x")], settings, steps)


def test_a_download_that_is_stopped_goes_on_where_it_was(valkey: redis.Redis, tmp_path: Path, real_s3: Any) -> None:
    content = bytes(range(256)) * 20_000
    output = store(real_s3, "large.bin", content)
    link, cancelled, told = Link(valkey, settings_of(real_s3)), threading.Event(), list[int]()

    def stop_at_once(name: str, done: int, total: int) -> None:
        told.append(done)
        cancelled.set()

    with pytest.raises(DownloadCancelled):
        download(link, output, tmp_path, force=False, tell=stop_at_once, cancelled=cancelled)
    assert 0 < told[0] < len(content)
    assert not (tmp_path / "large.bin").exists()
    cancelled.clear()
    rest: list[int] = []
    found = download(
        link, output, tmp_path, force=False, tell=lambda _, done, __: rest.append(done), cancelled=cancelled
    )
    assert found.is_fresh
    assert rest[0] > told[0]
    assert (tmp_path / "large.bin").read_bytes() == content
    again = download(link, output, tmp_path, force=False, tell=stop_at_once, cancelled=cancelled)
    assert not again.is_fresh
    (tmp_path / "large.bin").write_bytes(b"other")
    with pytest.raises(PlaceTaken):
        download(link, output, tmp_path, force=False, tell=stop_at_once, cancelled=cancelled)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_how_it_looks(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    outputs = [
        OutputRecord("report.txt", 9, "5891b5b522d5df08" * 4, "runs/report.txt"),
        OutputRecord("parts", 1_200_000, "0a" * 32, "runs/parts", archive=True),
    ]

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        app.session.feed.clock_offset_ms = 0
        await still(pilot)
        assert_looks(app, f"download-{'narrow' if size == NARROW else 'wide'}")

    open_outputs(valkey, tmp_path, outputs, Settings(), steps, size=size)
