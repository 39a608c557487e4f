"""A task's logs on the screen, key by key."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from textual.pilot import Pilot
from textual.widgets import Input

from helios.keys import Keys
from tests.stage import Stage
from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.played_run import RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.screens.logs import LogsScreen
from tui.screens.run import RunScreen
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.log_view import LINES_KEPT

KEYS = Keys(0)
Steps = Callable[[HeliosApp, Pilot[None], LogsScreen], Awaitable[None]]


def write(client: redis.Redis, task: str, step: str, *lines: str, run: str = RUN, attempt: int = 1) -> None:
    pipeline = client.pipeline()
    for line in lines:
        pipeline.xadd(KEYS.log(run, task, attempt, step), {"line": line.encode("utf-8", "surrogateescape")})
    pipeline.execute()


def open_logs(
    client: redis.Redis, state: Path, steps: Steps, *, size: tuple[int, int] = NARROW, lines: list[str] | None = None
) -> None:
    """A run that has ended, and the logs of its first task."""
    play(client, "done")
    write(
        client, "split", "task", *(lines if lines is not None else ["one", "two [b]bold[/b]", "Error: three", "four"])
    )
    write(client, "split", "fetch", "[HELIOS] Init container starting for task 'split'")

    async def whole(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(
            pilot, "its tasks are there", lambda: isinstance(app.screen, RunScreen) and "split" in screen_text(app)
        )
        await pilot.press("l")
        await until(pilot, "the log is open", lambda: isinstance(app.screen, LogsScreen))
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        await until(pilot, "it is read", lambda: screen.state.kind == "complete")
        await steps(app, pilot, screen)

    drive(client, state, whole, size=size)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_how_it_looks(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("e")
        await still(pilot)
        assert_looks(app, f"logs-{'narrow' if size == NARROW else 'wide'}")

    open_logs(valkey, tmp_path, steps, size=size)


def test_each_step_has_a_key(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        assert "two [b]bold[/b]" in screen_text(app)
        await pilot.press("1")
        await until(pilot, "fetch's is shown", lambda: "Init container" in screen_text(app))
        await pilot.press("3")
        await until(pilot, "publish said nothing", lambda: "nothing was printed" in screen_text(app))
        await pilot.press("2")
        await until(pilot, "the task's is back", lambda: "four" in screen_text(app))

    open_logs(valkey, tmp_path, steps)


def test_the_first_error_is_a_key_away(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("e")
        assert screen.current == 2
        await pilot.press("y")
        await until(pilot, "it is copied", lambda: app.clipboard == "Error: three")

    open_logs(valkey, tmp_path, steps)


def test_without_an_error_the_last_line_is_gone_to(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("e")
        assert screen.current == 1
        await until(pilot, "it is told", lambda: "No line speaks" in screen_text(app))

    open_logs(valkey, tmp_path, steps, lines=["fine", "well"])


def test_a_search_counts_and_goes_round(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("slash", "o")
        await until(pilot, "it is found", lambda: "'o': 1/4" in screen_text(app))
        await pilot.press("enter")
        for key, here in (("n", 2), ("n", 3), ("n", 4), ("n", 1), ("N", 4)):
            await pilot.press(key)
            await until(pilot, f"it is at {here}", lambda here=here: f"'o': {here}/4" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "the search is over", lambda: screen.query_one("#search", Input).value == "")
        await pilot.press("n")
        await until(pilot, "it is told", lambda: "Nothing is found" in screen_text(app))

    open_logs(valkey, tmp_path, steps)


def test_long_lines_are_wrapped_on_demand(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        assert "the end" not in screen_text(app)
        await pilot.press("w")
        await until(pilot, "it is wrapped", lambda: "the end" in screen_text(app))
        await pilot.press("w")
        await until(pilot, "it is cut again", lambda: "the end" not in screen_text(app))

    open_logs(valkey, tmp_path, steps, lines=["x" * 200 + "the end"])


def test_what_could_move_the_cursor_is_shown_and_does_nothing(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        shown = screen_text(app)
        assert "\\x1b" in shown
        assert "\x1b" not in shown
        assert "red" in shown

    open_logs(valkey, tmp_path, steps, lines=["a\x1b[2Jb\x07c", "\x1b[31mred\x1b[0m"])


def test_only_the_end_of_a_very_long_log_is_held(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        assert len(screen.view.lines) == LINES_KEPT
        assert screen.view.lines[-1] == f"line {LINES_KEPT + 10}"
        assert f"line {LINES_KEPT + 10}" in screen_text(app)
        await pilot.press("home")
        await until(pilot, "the first is shown", lambda: screen.view.lines[0] in screen_text(app))
        assert not screen.view.follows

    open_logs(valkey, tmp_path, steps, lines=[f"line {number}" for number in range(1, LINES_KEPT + 11)])


def test_a_log_is_saved_and_nothing_replaced_unasked(valkey: redis.Redis, tmp_path: Path) -> None:
    file = tmp_path / "split.log"
    file.write_text("precious")

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        for answer, content in (("n", "precious"), ("y", "fine\nwell\n")):
            await pilot.press("S")
            await until(pilot, "it asks", lambda: isinstance(app.screen, Ask))
            app.screen.query_one(Input).value = str(file)
            await pilot.press("enter")
            await until(pilot, "it asks first", lambda: isinstance(app.screen, Confirm))
            await pilot.press(answer)
            await until(pilot, "the log is back", lambda: app.screen is screen)
            await until(pilot, "the file is right", lambda content=content: file.read_text() == content)

    open_logs(valkey, tmp_path / "state", steps, lines=["fine", "well"])


def test_a_log_that_made_room_says_so(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        valkey.hset(KEYS.run(RUN), "logsDropped", "1")
        await pilot.press("3")
        await until(pilot, "it is told", lambda: "made room" in screen_text(app))

    open_logs(valkey, tmp_path, steps)


def test_there_is_no_attempt_before_the_first(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("left_square_bracket")
        await until(pilot, "it is told", lambda: "no earlier attempt" in screen_text(app))
        await pilot.press("right_square_bracket")
        await until(pilot, "it is told", lambda: "no later attempt" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, "the run is back", lambda: isinstance(app.screen, RunScreen))

    open_logs(valkey, tmp_path, steps)


def test_a_log_that_grows_is_followed_and_completed(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    run = "1764027260123-0"
    stage.launch("a")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(
            pilot, "its task is there", lambda: isinstance(app.screen, RunScreen) and "running" in screen_text(app)
        )
        await pilot.press("l")
        await until(pilot, "there is none yet", lambda: "no log yet" in screen_text(app))
        await until(pilot, "the collector is told", lambda: valkey.exists(KEYS.watched(run)))
        write(valkey, "a", "task", "first", run=run)
        await until(pilot, "it is shown", lambda: "first" in screen_text(app) and "follows" in screen_text(app))
        await pilot.press("f")
        await until(pilot, "it stays", lambda: "it goes on" in screen_text(app))
        await pilot.press("end")
        write(valkey, "a", "task", "second", run=run)
        stage.end("a")
        await until(pilot, "it is complete", lambda: "complete, 2 lines" in screen_text(app))

    drive(valkey, tmp_path, steps)


def open_live(client: redis.Redis, state: Path, task: str, steps: Steps) -> None:
    """The log of one task of the run that is in Redis."""

    async def whole(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, "the run is open", lambda: isinstance(app.screen, RunScreen))
        run = app.screen
        assert isinstance(run, RunScreen)
        await until(pilot, "its tasks are there", lambda: task in run.grid.order)
        run.grid.select(task)
        await pilot.press("l")
        await until(pilot, "the log is open", lambda: isinstance(app.screen, LogsScreen))
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        await steps(app, pilot, screen)

    drive(client, state, whole)


def running(client: redis.Redis, *, retries: int = 0) -> Stage:
    stage = Stage(client)
    stage.open({"a": []}, run=RUN, retries={"a": retries})
    stage.launch("a", run=RUN)
    return stage


def test_it_goes_on_with_the_next_attempt_and_back_to_the_one_before(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = running(valkey, retries=1)
    write(valkey, "a", "task", "words of the first")
    write(valkey, "a", "task", "words of the second", attempt=2)

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is shown", lambda: "words of the first" in screen_text(app))
        stage.end("a", status="FAILED", run=RUN)
        stage.settle("a", run=RUN)
        await until(pilot, "it goes on", lambda: "words of the second" in screen_text(app))
        assert "attempt 2 of 2" in screen_text(app)
        await pilot.press("left_square_bracket")
        await until(pilot, "it goes back", lambda: "words of the first" in screen_text(app))
        assert "attempt 1 of 2" in screen_text(app)

    open_live(valkey, tmp_path, "a", steps)


def test_an_attempt_that_is_looked_at_stays_when_another_begins(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = running(valkey, retries=1)
    write(valkey, "a", "task", "words of the first")

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is shown", lambda: "words of the first" in screen_text(app))
        await pilot.press("home")
        stage.end("a", status="FAILED", run=RUN)
        stage.settle("a", run=RUN)
        await until(pilot, "there is another", lambda: "attempt 1 of 2" in screen_text(app))
        await pilot.press("right_square_bracket")
        await until(pilot, "it is gone to", lambda: "attempt 2 of 2" in screen_text(app))

    open_live(valkey, tmp_path, "a", steps)


def test_that_a_task_was_never_started_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    play(valkey, "failed")

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is told", lambda: "this task was never started" in screen_text(app))

    open_live(valkey, tmp_path, "join", steps)


def test_that_a_run_is_gone_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    running(valkey)

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is followed", lambda: screen.state.kind == "following")
        valkey.flushall()
        await until(pilot, "it is told", lambda: "this run is no longer kept" in screen_text(app))

    open_live(valkey, tmp_path, "a", steps)


def test_nothing_moves_while_the_dashboard_is_paused(valkey: redis.Redis, tmp_path: Path) -> None:
    stage = running(valkey)
    write(valkey, "a", "task", "before")

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is shown", lambda: "before" in screen_text(app))
        await pilot.press("space")
        write(valkey, "a", "task", "[meanwhile]")
        stage.end("a", run=RUN)
        await until(pilot, "it is read", lambda: screen.held == ["[meanwhile]"])
        assert "meanwhile" not in screen_text(app)
        await pilot.press("space")
        await until(pilot, "it is shown", lambda: "[meanwhile]" in screen_text(app) and "complete" in screen_text(app))

    open_live(valkey, tmp_path, "a", steps)


def test_of_a_very_long_log_all_is_saved(valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"line {number}" for number in range(LINES_KEPT + 7_000)]

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "it is told", lambda: "the 7,000 before are not shown" in screen_text(app))
        await pilot.press("S")
        await until(pilot, "it asks", lambda: isinstance(app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, "it is saved", lambda: (tmp_path / "split.1.task.log").exists())
        assert (tmp_path / "split.1.task.log").read_text().splitlines() == lines

    open_logs(valkey, tmp_path / "state", steps, lines=lines)


def test_tabs_and_bytes_that_are_no_text_keep_the_line_in_place(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        shown = screen_text(app)
        assert "a       b" in shown and "c\N{REPLACEMENT CHARACTER}d\\u202ee" in shown
        shown.encode()
        assert all(each.cell_length == app.size.width for each in map(screen.view.render_line, range(4)))

    open_logs(valkey, tmp_path, steps, lines=["a\tb", "c\udcffd\u202ee"])


def is_lit(screen: LogsScreen, row: int) -> bool:
    """Whether the row of the log looks otherwise than one that is below its end."""
    plain, line = screen.view.render_line(screen.view.size.height - 1), screen.view.render_line(row)
    return {each.style and each.style.bgcolor for each in line} != {each.style and each.style.bgcolor for each in plain}


def test_the_line_gone_to_stays_lit(valkey: redis.Redis, tmp_path: Path) -> None:
    running(valkey)
    write(valkey, "a", "task", "x", "Error: y", "z")

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "read", lambda: len(screen.view.lines) == 3)
        await pilot.press("e")
        assert is_lit(screen, 1) and not is_lit(screen, 0)
        write(valkey, "a", "task", "later")
        await until(pilot, "read", lambda: len(screen.view.lines) == 4)
        assert is_lit(screen, 1) and not is_lit(screen, 0)

    open_live(valkey, tmp_path, "a", steps)


def test_scrolling_up_is_said(valkey: redis.Redis, tmp_path: Path) -> None:
    running(valkey)
    write(valkey, "a", "task", *[f"line {n}" for n in range(100)])

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "read", lambda: "100 lines, follows" in screen_text(app))
        await pilot.press("up")
        await until(pilot, "said", lambda: "it goes on" in screen_text(app))

    open_live(valkey, tmp_path, "a", steps)


def test_what_is_looked_at_stays_when_old_lines_go(valkey: redis.Redis, tmp_path: Path) -> None:
    running(valkey)
    write(valkey, "a", "task", *[f"line {n}." for n in range(5000)])

    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await until(pilot, "read", lambda: len(screen.view.lines) == 5000)
        await pilot.press("f")
        screen.view.scroll_to(y=2000, animate=False)
        await until(pilot, "there", lambda: "line 2000." in screen_text(app))
        write(valkey, "a", "task", *[f"more {n}" for n in range(500)])
        await until(pilot, "the oldest went", lambda: screen.view.gone == 500)
        assert screen_text(app).splitlines()[2].startswith("line 2000.")

    open_live(valkey, tmp_path, "a", steps)


def test_wide_characters_wrap_whole(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("w")
        await pilot.pause()
        assert screen_text(app).count("漢") == 100

    open_logs(valkey, tmp_path, steps, lines=["漢" * 100])


def test_tab_goes_to_the_next_step(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("tab")
        await pilot.pause()
        assert screen.step == "publish"

    open_logs(valkey, tmp_path, steps)


def test_all_that_is_found_is_copied(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None], screen: LogsScreen) -> None:
        await pilot.press("slash", *"disk", "enter")
        await pilot.press("Y")
        await until(pilot, "copied", lambda: app.clipboard == "disk a\ndisk b")

    open_logs(valkey, tmp_path, steps, lines=["disk a", "other", "disk b"])
