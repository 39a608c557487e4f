"""Writing a DAG and submitting it, key by key."""

import json
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
from tests.tui.stage import still, until
from tui.app import HeliosApp
from tui.model.draft import TEMPLATE
from tui.screens.submit import REST_SECONDS, SubmitScreen
from tui.source.submitting import Sent
from tui.widgets.dag_editor import MOST_COLOURED_LINES, DagEditor
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.param_fields import ParamFields
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


def limit_memory(client: redis.Redis, size: int) -> None:
    """Of one byte: no writes are taken; of none: there is no limit."""
    client.execute_command("CONFIG", "SET", "maxmemory", size)  # pyright: ignore[reportUnknownMemberType] -- open stub


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
    await pilot.pause()
    await until(pilot, "it is checked", lambda: screen.is_checked)


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
        await pilot.press("shift+f8")
        assert lines[0] is not None
        assert screen.editor.cursor_location[0] == lines[0] - 1
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
        screen = await write(app, pilot, TEMPLATE)
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
        await write(app, pilot, TEMPLATE)
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
        assert app.focused is screen.editor
        await pilot.press("escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path, steps)


def show_cursor(screen: SubmitScreen) -> None:
    """From now on, always. Textual keeps the line that it drew while the cursor was off under the same name as one with
    a cursor that does not blink, so what it keeps is forgotten.
    """
    screen.editor.cursor_blink = False
    screen.editor._line_cache.clear()
    screen.editor.refresh()


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("name", "text"), [("valid", VALID), ("problems", WRONG)])
def test_how_it_looks(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int], name: str, text: str) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, text)
        show_cursor(screen)
        await still(pilot)
        assert_looks(app, f"submit-{name}-{'narrow' if size == NARROW else 'wide'}")

    drive(valkey, tmp_path, steps, size=size)


def test_the_template_is_what_a_newcomer_sees(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await pilot.press("n")
        await until(pilot, "it is checked", lambda: "valid: my-first-run, 2 tasks" in screen_text(app))

    drive(valkey, tmp_path, steps)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_how_a_newcomer_and_a_rejection_see_it(valkey: redis.Redis, tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, TEMPLATE)
        show_cursor(screen)
        await still(pilot)
        width = "narrow" if size == NARROW else "wide"
        await still(pilot)
        assert_looks(app, f"submit-template-{width}")
        screen._take(Sent("1764027300000-0", "REJECTED", ("3:5: tasks[0].image: it is not allowed here",)), "")
        await until(pilot, "it is told", lambda: "rejected" in screen_text(app))
        await still(pilot)
        assert_looks(app, f"submit-rejected-{width}")

    drive(valkey, tmp_path, steps, size=size)


def test_a_rejection_is_not_overwritten_by_a_check_that_was_on_its_way(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        screen.editor.load_text(f"{VALID}# typed last\n")
        await pilot.pause()
        timer = screen._timer
        assert timer is not None
        await pilot.press("f9")
        await until(pilot, "it is sent", lambda: submissions(valkey))
        [(run, _)] = valkey.xrange(SUBMISSIONS)
        valkey.hset(f"helios:{{p0}}:run:{run}", mapping={"status": "REJECTED", "problems": "no such thing"})
        await until(pilot, "it is told", lambda: "rejected" in screen_text(app))
        await pilot.pause(2 * REST_SECONDS)  # in which the check would have come
        assert "rejected" in screen_text(app)
        assert "no such thing" in screen_text(app)

    drive(valkey, tmp_path, steps)


def test_a_submission_that_redis_did_not_take_is_repeated_as_the_same_request(
    valkey: redis.Redis, tmp_path: Path
) -> None:
    """The promise that submitting again is safe holds when one leaves the editor in between, and only for the same."""

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        limit_memory(valkey, 1)
        await pilot.press("f9")
        await until(pilot, "it is told", lambda: "not known to be submitted" in screen_text(app))
        request = app.draft.request_id
        assert request
        limit_memory(valkey, 0)
        await pilot.press("f2")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        await pilot.press("f3")
        await until(pilot, "the editor is open", lambda: isinstance(app.screen, SubmitScreen))
        await pilot.press("f9")
        await until(pilot, "it is sent", lambda: submissions(valkey))
        assert submissions(valkey)[0]["requestId"] == request
        await until(pilot, "it is over", lambda: app.screen is app.home and not app.draft.request_id)

    try:
        drive(valkey, tmp_path, steps)
    finally:
        limit_memory(valkey, 0)


@pytest.mark.parametrize("change", ["ctrl+t", "x"])
def test_what_was_changed_is_another_request(valkey: redis.Redis, tmp_path: Path, change: str) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        app.draft.request_id = "tui-earlier"
        await pilot.press(change)
        await until(pilot, "it is another request", lambda: not app.draft.request_id)

    drive(valkey, tmp_path, steps)


def test_the_last_keys_are_kept_however_fast_one_leaves(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, "")
        await pilot.press("x", "y", "escape")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)

    drive(valkey, tmp_path, steps)
    assert (tmp_path / "draft.yaml").read_text() == "xy"


def test_what_is_in_no_file_is_not_replaced_unasked(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        await pilot.press("ctrl+o")
        await until(pilot, "it asks first", lambda: isinstance(app.screen, Confirm))
        await pilot.press("escape")
        await until(pilot, "the editor is back", lambda: app.screen is screen)
        assert screen.editor.text == VALID

    drive(valkey, tmp_path, steps)


def test_a_files_name_may_look_like_markup(valkey: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "[").mkdir()
    file = tmp_path / "[" / "b].yaml"

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("ctrl+s")
        await until(pilot, "it asks", lambda: isinstance(app.screen, Ask))
        app.screen.query_one(Input).value = str(file)
        await pilot.press("enter")
        await until(pilot, "it is told", lambda: "Saved" in screen_text(app))
        assert file.read_text() == VALID

    drive(valkey, tmp_path / "state", steps)


def test_an_editor_that_is_no_command_is_told(
    valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "vi 'x")

    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        await write(app, pilot, VALID)
        await pilot.press("ctrl+l")
        await until(pilot, "it is told", lambda: "no command" in screen_text(app))

    drive(valkey, tmp_path, steps)


def test_a_text_that_is_too_long_to_colour_at_each_key_has_no_colours(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, VALID)
        assert screen.editor.language == "yaml"
        screen.editor.load_text(VALID + "#\n" * MOST_COLOURED_LINES)
        await until(pilot, "it is plain", lambda: screen.editor.language is None)
        screen.editor.load_text(VALID)
        await until(pilot, "it is coloured", lambda: screen.editor.language == "yaml")

    drive(valkey, tmp_path, steps)


WITH_PARAMS = (
    "dagName: typed\nparams:\n  date:\n  book: moby\ntasks:\n"
    "- name: a\n  image: i\n  command: [x, '${params.date}', '${params.book}']\n"
)


def test_a_parameter_without_a_default_has_to_be_filled_in_before_it_is_submitted(
    valkey: redis.Redis, tmp_path: Path
) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, WITH_PARAMS)
        fields = list(screen.query_one(ParamFields).query(Input))
        assert [(each.name, each.placeholder) for each in fields] == [
            ("date", "a value"),
            ("book", "default: moby"),
        ]
        await until(pilot, "it is told by the field", lambda: "date *" in screen_text(app))
        assert [each.path for each in screen.checked.problems] == ["params.date"]
        assert [each.has_class("-invalid") for each in fields] == [True, False]
        await pilot.press("f9")
        await until(pilot, "the field has the focus", lambda: app.focused is fields[0])
        assert submissions(valkey) == []
        await pilot.press(*"may")
        await until(pilot, "nothing is wrong", lambda: screen.is_checked and not screen.checked.problems)
        assert not fields[0].has_class("-invalid")
        await pilot.press("f9")
        await until(pilot, "the runs are back", lambda: app.screen is app.home)
        assert [json.loads(each["params"]) for each in submissions(valkey)] == [{"date": "may"}]

    with submitter(valkey):
        drive(valkey, tmp_path, steps)


def test_values_of_parameters_stay_while_the_text_changes(valkey: redis.Redis, tmp_path: Path) -> None:
    async def steps(app: HeliosApp, pilot: Pilot[None]) -> None:
        screen = await write(app, pilot, WITH_PARAMS)
        await pilot.press("f5")
        await until(pilot, "the first that lacks a value", lambda: getattr(app.focused, "name", "") == "date")
        await pilot.press(*"may", "tab")
        assert getattr(app.focused, "name", "") == "book"
        await pilot.press(*"emma")
        await until(pilot, "it is checked", lambda: screen.is_checked and not screen.checked.problems)
        screen.editor.load_text(VALID)
        await checked(pilot, screen)
        assert not screen.query_one(ParamFields).query(Input)
        assert screen.checked.params == {}
        assert not screen.checked.problems
        await pilot.press("f5")
        screen.editor.load_text(WITH_PARAMS)
        await checked(pilot, screen)
        assert screen.checked.params == {"date": "may", "book": "emma"}
        assert [each.value for each in screen.query_one(ParamFields).query(Input)] == ["may", "emma"]

    drive(valkey, tmp_path, steps)
