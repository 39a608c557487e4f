"""The table that draws only what is in sight."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tests.tui.pictures import screen_text
from tui.model.table import Cell, Heading, fit, fitted
from tui.widgets.grid import Grid

HEADINGS = (Heading("Name", 6), Heading("Words", 8, 20, right=True), Heading("Extra", 10, need=1))


class GridApp(App[None]):
    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__()
        self.drawn: list[str] = []
        self.told: list[object] = []
        self.texts: dict[str, str] = {}
        self.grid = Grid(HEADINGS, self.cells, ascii_only=ascii_only)

    def compose(self) -> ComposeResult:
        yield self.grid

    def cells(self, key: str) -> list[Cell]:
        self.drawn.append(key)
        return [Cell(key), Cell(self.texts.get(key, "word"), "success"), Cell("more", "muted")]

    def on_grid_chosen(self, event: Grid.Chosen) -> None:
        self.told.append(("chosen", event.key))

    def on_grid_moved(self, event: Grid.Moved) -> None:
        self.told.append(("moved", event.key))

    def on_grid_heading_chosen(self, event: Grid.HeadingChosen) -> None:
        self.told.append(("heading", event.column))


def keys(count: int, first: int = 0) -> list[str]:
    return [f"k{number}" for number in range(first, first + count)]


def shown(test: Callable[[GridApp, Pilot[None]], Awaitable[Any]], *, size: tuple[int, int] = (40, 12)) -> None:
    async def go() -> None:
        app = GridApp()
        async with app.run_test(size=size) as pilot:
            await test(app, pilot)

    asyncio.run(go())


def test_ten_thousand_rows_cost_what_is_in_sight() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(10_000))
        await pilot.pause()
        assert set(app.drawn) == set(keys(11))
        app.drawn.clear()
        await pilot.press("G")
        await pilot.pause()
        assert app.grid.key == "k9999"
        assert len(set(app.drawn)) <= 22
        assert "k9999" in screen_text(app).splitlines()[-1]

    shown(test)


def test_a_row_that_changed_is_drawn_again_and_no_other() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.pause()
        app.drawn.clear()
        app.texts["k3"] = "changed"
        app.grid.refresh_rows({"k3", "k50"})
        await pilot.pause()
        assert set(app.drawn) == {"k3"}
        assert "changed" in screen_text(app).splitlines()[4]

    shown(test)


def test_the_same_rows_again_draw_nothing() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.pause()
        app.drawn.clear()
        app.grid.set_rows(keys(100))
        app.grid.refresh_rows(set())
        await pilot.pause()
        assert app.drawn == []

    shown(test)


@pytest.mark.parametrize(
    ("pressed", "key"),
    [
        (["j", "down", "down", "k"], "k2"),
        (["G"], "k99"),
        (["end", "up"], "k98"),
        (["end", "home"], "k0"),
        (["end", "g"], "k0"),
        (["pagedown"], "k10"),
        (["pagedown", "pageup"], "k0"),
        (["up"], "k0"),
        (["end", "down"], "k99"),
    ],
)
def test_keys_move_the_cursor(pressed: list[str], key: str) -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.press(*pressed)
        await pilot.pause()
        assert app.grid.key == key
        assert key in app.grid.visible_keys
        assert any(line.startswith("▌") and key in line for line in screen_text(app).splitlines())

    shown(test)


def test_the_cursor_stays_on_its_row_and_the_row_on_its_line() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.press("pagedown", "pagedown", "up")
        await pilot.pause()
        key, line = app.grid.key, app.grid.cursor - app.grid.scroll_offset.y
        app.grid.set_rows(keys(150, first=-50))
        await pilot.pause()
        assert (app.grid.key, app.grid.cursor - app.grid.scroll_offset.y) == (key, line)
        app.grid.set_rows(keys(150, first=-50)[::-1])
        await pilot.pause()
        assert app.grid.key == key
        assert key in app.grid.visible_keys

    shown(test)


def test_a_cursor_that_nobody_moved_stays_at_the_top() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(10))
        app.grid.set_rows(keys(11, first=-1))
        assert app.grid.key == "k-1"
        await pilot.press("up")
        app.grid.set_rows(keys(12, first=-2))
        assert app.grid.key == "k-1"

    shown(test)


def test_the_cursor_stays_near_a_row_that_went() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(5))
        await pilot.press("down", "down")
        app.grid.set_rows(["k0", "k1", "k3", "k4"])
        assert app.grid.key == "k3"
        app.grid.set_rows(["k0"])
        assert app.grid.key == "k0"
        app.grid.set_rows([])
        assert app.grid.key is None
        await pilot.press("down", "enter", "G", "pageup")
        app.grid.set_rows(["k7"])
        assert app.grid.key == "k7"

    shown(test)


def test_enter_and_a_double_click_choose_a_row_and_a_click_moves_to_it() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.press("down", "enter")
        await pilot.click(app.grid, offset=(3, 5))
        await pilot.pause()
        assert app.grid.key == "k4"
        await pilot.click(app.grid, offset=(3, 6), times=2)
        await pilot.pause()
        assert [each for each in app.told if each[0] == "chosen"] == [("chosen", "k1"), ("chosen", "k5")]  # type: ignore[index]

    shown(test)


def test_a_click_on_a_title_names_its_column() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(3))
        await pilot.pause()
        await pilot.click(app.grid, offset=(10, 0))
        await pilot.pause()
        assert ("heading", 1) in app.told

    shown(test)


def test_who_scrolled_away_from_the_cursor_keeps_seeing_the_same_rows() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(keys(100))
        await pilot.pause()
        app.grid.scroll_to(y=40, animate=False)
        await pilot.pause()
        assert app.grid.key == "k0"
        assert "k40" in screen_text(app).splitlines()[1]
        app.grid.set_rows(keys(110, first=-10))
        await pilot.pause()
        assert "k40" in screen_text(app).splitlines()[1]

    shown(test)


def test_the_arrow_stands_at_the_column_that_sorts() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_sorted(0, descending=True)
        await pilot.pause()
        assert screen_text(app).splitlines()[0].startswith(" Name▼")
        app.grid.ascii_only = True
        app.grid.set_sorted(0, descending=False)
        await pilot.pause()
        assert screen_text(app).splitlines()[0].startswith(" Name^")

    shown(test)


def test_an_empty_table_says_why() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_notice("nothing [yet]")
        await pilot.pause()
        assert "nothing [yet]" in screen_text(app)
        app.grid.set_rows(["k0"])
        await pilot.pause()
        assert "nothing [yet]" not in screen_text(app)

    shown(test)


def test_marked_rows_and_stale_ones_look_otherwise() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.grid.set_rows(["k0", "k1"])
        app.grid.set_marked({"k1"})
        app.grid.set_dim(True)
        await pilot.pause()
        assert screen_text(app).splitlines()[2].startswith("◆k1")
        assert all(segment.style is not None and segment.style.dim for segment in app.grid.render_line(1))

    shown(test)


def test_what_could_move_the_cursor_is_not_written() -> None:
    async def test(app: GridApp, pilot: Pilot[None]) -> None:
        app.texts["k0"] = "a\x1b[2Jb\n[b]"
        app.grid.set_rows(["k0"])
        await pilot.pause()
        assert "a�[2Jb�" in "".join(segment.text for segment in app.grid.render_line(1))

    shown(test, size=(60, 12))


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=9),
    st.integers(0, 200),
)
def test_columns_fit_where_they_can(sizes: list[tuple[int, int, int]], room: int) -> None:
    """No column is narrower than it must be; what is always there is there; nothing is left out that had room."""
    headings = [Heading("x", least, most, need) for least, most, need in sizes]
    widths = fit(headings, room)
    for heading, width in zip(headings, widths, strict=True):
        assert width == 0 or heading.least <= width <= max(heading.least, heading.most)
        assert width or heading.need
    kept = [width for width in widths if width]
    must = [heading.least for heading in headings if not heading.need]
    if sum(must) + max(0, len(must) - 1) <= room:
        assert sum(kept) + max(0, len(kept) - 1) <= room


@given(st.text(), st.integers(1, 30), st.booleans())
def test_any_text_is_made_exactly_as_wide_as_its_column(text: str, width: int, right: bool) -> None:
    assert cell_len(fitted(text, width, right=right)) == width
