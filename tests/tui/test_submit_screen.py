"""Writing a DAG and submitting it, key by key."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from textual.pilot import Pilot
from textual.widgets import Button, Checkbox, Input

from helios.heartbeat import Heartbeat
from helios.keys import SUBMISSIONS
from helios.streams import Entry
from services.submitter.accept import accept
from tests.stage import Stage
from tests.tui.driving import drive
from tests.tui.pictures import NARROW, WIDE, assert_looks, screen_text
from tests.tui.stage import until
from tui.app import HeliosApp
from tui.screens.submit import SubmitScreen
from tui.widgets.dag_editor import DagEditor
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.problem_list import ProblemList

VALID = "dagName: typed\ntasks:\n- name: a\n  image: i\n  command: [x]\n"
WRONG = "dagName: typed\ntasks:\n- name: a\n  image: i\n  comand: [x]\n- name: a\n  image: i\n  command: [x]\n"


@contextmanager
def submitter(client: redis.Redis) -> Iterator[None]:
    """The submitter's acceptance in a thread of its own."""
    Stage(client)
    over = threading.Event()

    def serve() -> None:
        last = "0-0"
        while not over.is_set():
            for entry, fields in client.xrange(SUBMISSIONS, f"({last}"):
                accept(client, Entry(stream=SUBMISSIONS, id=entry, fields=fields), 1)
                last = entry
            over.wait(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def submissions(client: redis.Redis) -> list[dict[str, str]]:
    return [fields for _, fields in client.xrange(SUBMISSIONS)]


async def write(app: HeliosApp, pilot: Pilot[None], text: str) -> SubmitScreen:
    """Open the editor, put a text into it, and wait until it is checked."""
    await pilot.press("f3")
    await until(pilot, "the editor is open", lambda: isinstance(app.screen, SubmitScreen))
    screen = app.screen
    assert isinstance(screen, SubmitScreen)
    screen.editor.load_text(text)
    await checked(pilot, screen)
    return screen


async def checked(pilot: Pilot[None], screen: SubmitScreen) -> None:
    words = ("problem", "valid")
    await until(pilot, "it is changed", lambda: screen._timer is not None)
    await pilot.pause(0.2)
    await until(pilot, "it is checked", lambda: any(word in screen.verdict[0] for word in words))


def test_problems_are_named_with_their_lines_while_one_types(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, "dagName: x\n")
        assert screen.checked.problems
        screen.editor.load_text("")
        await pilot.press(*"dagName", "colon", "space", "q", "enter")
        await until(
            pilot, "it is checked again", lambda: screen.checked.problems and screen.editor.text == "dagName: q\n"
        )
        await until(pilot, "it is told", lambda: "✘" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_f8_and_enter_jump_to_problems(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, WRONG)
        lines = [problem.line for problem in screen.checked.problems]
        assert len(lines) >= 2
        for line in (lines[0], lines[1]):
            await pilot.press("f8")
            assert line is not None
            assert screen.editor.cursor_location[0] == line - 1
        screen.query_one(ProblemList).focus()
        screen.query_one(ProblemList).highlighted = 0
        await pilot.press("enter")
        await until(pilot, "the editor has the focus", lambda: app.focused is screen.editor)
        assert screen.editor.cursor_location[0] + 1 == lines[0]

    drive(valkey, tmp_path, steps)


def test_a_dag_with_problems_is_not_submitted(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, WRONG)
        await pilot.press("f9")
        await until(pilot, "the problems have the focus", lambda: app.focused is screen.query_one(ProblemList))
        assert submissions(valkey) == []

    drive(valkey, tmp_path, steps)


@pytest.mark.parametrize("how", ["f9", "ctrl+g", "button"])
def test_a_dag_is_submitted_by_key_and_by_button_and_its_run_is_selected(
    valkey: redis.Redis, tmp_path: Path, how: str
) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        if how == "button":
            await pilot.click("#send")
        else:
            await pilot.press(how)
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        [(run, _)] = valkey.xrange(SUBMISSIONS)
        await until(pilot, "the run is selected", lambda: app.home.grid.key == run)

    with submitter(valkey):
        drive(valkey, tmp_path, steps)
    [sent] = submissions(valkey)
    assert (sent["dag"], sent["useCache"]) == (VALID, "true")
    assert sent["requestId"].startswith("tui-")


def test_the_cache_can_be_switched_off_for_a_run(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        box = screen.query_one("#use-cache", Checkbox)
        assert box.value
        assert "Enable node-level cache for this run" in screen_text(app)
        await pilot.press("ctrl+t")
        assert not box.value
        await until(pilot, "it is told", lambda: "off overrides its useCache: true" in screen_text(app))
        await pilot.press("f9")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    with submitter(valkey):
        drive(valkey, tmp_path, steps)
    assert submissions(valkey)[0]["useCache"] == "false"


def test_a_rejection_stays_on_the_editor_with_its_problems(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        await pilot.press("f9")
        await until(pilot, "it is sent", lambda: submissions(valkey))
        [(run, _)] = valkey.xrange(SUBMISSIONS)
        valkey.hset(f"helios:{{p0}}:run:{run}", mapping={"status": "REJECTED", "problems": "no [b]such thing"})
        await until(pilot, "it is told", lambda: "rejected" in screen_text(app))
        assert app.screen is screen
        assert "no [b]such thing" in screen_text(app)
        assert run in screen_text(app)

    drive(valkey, tmp_path, steps)


def test_without_a_submitter_it_says_so_and_the_submission_waits(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("f9")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        await until(pilot, "it is told", lambda: "submitter is alive" in screen_text(app))

    drive(valkey, tmp_path, steps)
    assert len(submissions(valkey)) == 1


def test_a_submitter_that_is_slow_is_told_otherwise(valkey: redis.Redis, tmp_path: Path) -> None:
    Heartbeat(valkey, "submitter", "s1").beat()

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("f9")
        await until(pilot, "it is told", lambda: "submitter has not" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_a_key_pressed_twice_submits_once(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        screen.action_submit()
        screen.action_submit()
        assert screen.query_one("#send", Button)
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    with submitter(valkey):
        drive(valkey, tmp_path, steps)
    assert len(submissions(valkey)) == 1


def test_a_read_only_dashboard_submits_nothing(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("f9")
        await until(pilot, "it is told", lambda: "read-only" in screen_text(app).partition("\n")[2])

    drive(valkey, tmp_path, steps, read_only=True)
    assert submissions(valkey) == []


def test_what_was_written_is_there_again_later(valkey: redis.Redis, tmp_path: Path) -> None:
    async def first(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("f2")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        await pilot.press("n")
        await until(pilot, "the editor is open", lambda: isinstance(app.screen, SubmitScreen))
        assert app.screen.query_one(DagEditor).text == VALID

    async def second(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("n")
        await until(pilot, "the editor is open", lambda: isinstance(app.screen, SubmitScreen))
        assert app.screen.query_one(DagEditor).text == VALID

    drive(valkey, tmp_path, first)
    drive(valkey, tmp_path, second)


def test_a_file_is_opened_and_saved(valkey: redis.Redis, tmp_path: Path) -> None:
    file, other = tmp_path / "dag.yaml", tmp_path / "other.yaml"
    file.write_text(VALID)
    other.write_text("precious")

    async def answer(app: HeliosApp, pilot: Pilot[None], text: str) -> None:
        await until(pilot, "it asks", lambda: isinstance(app.screen, Ask))
        app.screen.query_one(Input).value = text
        await pilot.press("enter")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, WRONG)
        await pilot.press("ctrl+o")
        await answer(app, pilot, str(file))
        await until(pilot, "it is open", lambda: screen.editor.text == VALID)
        screen.editor.load_text(WRONG)
        await until(pilot, "it is changed", lambda: app.draft.is_dirty)
        await pilot.press("ctrl+o")
        await until(pilot, "it asks first", lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        await pilot.press("ctrl+s")
        await until(pilot, "it is saved", lambda: file.read_text() == WRONG)
        app.draft.path = ""
        await pilot.press("ctrl+s")
        await answer(app, pilot, str(other))
        await until(pilot, "it asks before it replaces", lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, "the editor is back", lambda: app.screen is screen)
        assert other.read_text() == "precious"

    drive(valkey, tmp_path / "state", steps)


def test_a_file_that_is_not_there_is_told(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("ctrl+o")
        await until(pilot, "it asks", lambda: isinstance(app.screen, Ask))
        app.screen.query_one(Input).value = "/nowhere/dag.yaml"
        await pilot.press("enter")
        await until(pilot, "it is told", lambda: "cannot read" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_where_there_is_no_terminal_the_users_own_editor_is_not_started(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        await pilot.press("ctrl+l")
        await until(pilot, "it is told", lambda: "no terminal" in screen_text(app))
        assert screen.editor.text == VALID

    drive(valkey, tmp_path, steps)


def test_escape_leads_back_to_the_runs(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        screen.query_one(ProblemList).focus()
        await pilot.press("escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path, steps)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("name", "text"), [("valid", VALID), ("problems", WRONG)])
def test_how_it_looks(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int], name: str, text: str) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, text)
        screen.editor.cursor_blink = False
        await pilot.pause(0.1)
        assert_looks(app, f"submit-{name}-{'narrow' if size == NARROW else 'wide'}")

    drive(valkey, tmp_path, steps, size=size)


def test_the_template_is_what_a_newcomer_sees(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("n")
        await until(pilot, "it is checked", lambda: "valid: my-first-run, 2 tasks" in screen_text(app))

    drive(valkey, tmp_path, steps)
