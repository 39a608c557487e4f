"""The table of runs, the cards above it, and what can be done with a run."""

import asyncio
import copy
import gc
import time
import uuid
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from cli.failure import CommandFailed
from cli.reruns import ask_to_cancel, rerun
from tui.glyphs import CACHE_SWITCH_MARKS
from tui.intents import OpenCompare, OpenRun, OpenSubmit
from tui.model.columns import COLUMNS, DURATION, RUN_ID, START, TASKS, Look, id_order
from tui.model.connection import Connection
from tui.model.detail import detail_text, notice
from tui.model.export import table_file
from tui.model.filters import Filter
from tui.model.listing import Listing
from tui.model.runs import Averages, RunRow
from tui.model.table import Cell
from tui.palette import style_of
from tui.screens.screen import HeliosScreen
from tui.widgets.cards import Cards
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.filter_bar import FilterBar
from tui.widgets.grid import Grid

REST_SECONDS = 1.0
"""After a rerun, so that a key pressed twice submits once."""
PATIENCE_SECONDS = 10.0
"""For the submitter to accept a rerun."""
HURRIED_TICKS_PER_SECOND = 20.0
"""Until the first runs are there: a quarter of a second more is long for somebody who waits for a first look."""
DESCENDING_FIRST = (RUN_ID, START, DURATION, TASKS)


class RunsScreen(HeliosScreen):
    TITLE = "Runs"
    AUTO_FOCUS = "#runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("n", "submit", "New", id="runs.submit"),
        Binding("r", "rerun(True)", "Rerun", id="runs.rerun", tooltip="Submit its DAG again, with the cache"),
        Binding("R", "rerun(False)", "Rerun without cache", id="runs.rerun-without-cache", show=False),
        Binding("x", "cancel", "Cancel", id="runs.cancel"),
        Binding("c", "compare", "Compare", id="runs.compare"),
        Binding("e", "export", "Export", id="runs.export", show=False),
        Binding("y", "copy", "Copy id", id="runs.copy", show=False),
        Binding("s", "sort_next", "Sort by the next column", id="runs.sort-next", show=False),
        Binding("S", "sort_reverse", "Reverse order", id="runs.sort-reverse", show=False),
        *(
            Binding(
                str(number),
                f"sort({number - 1})",
                f"Sort by {column.heading.title}",
                id=f"runs.sort-{number}",
                show=False,
            )
            for number, column in enumerate(COLUMNS, start=1)
        ),
        Binding("escape", "leave", "Clear filter and mark", id="runs.clear", show=False),
    ]
    DEFAULT_CSS = """
    RunsScreen {
        #detail { height: 1; padding: 0 1; background: $panel; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, RunRow] = {}
        """Copies of the feed's, as of the last tick, so that what is drawn in between is of one moment."""
        self.running: set[str] = set()
        self.listing = Listing()
        self.now_ms = 0
        self.averages = Averages()
        self.last: RunRow | None = None
        self.connection: Connection | None = None
        self.marked: str | None = None
        self.wanted: str | None = None
        self._is_sending = False
        self._sent_at = -REST_SECONDS
        self._detail: Text | None = None

    def compose_body(self) -> ComposeResult:
        ascii_only = self.session.options.ascii_only
        yield Cards(ascii_only=ascii_only)
        yield FilterBar()
        yield Grid([column.heading for column in COLUMNS], self._cells, ascii_only=ascii_only, id="runs")
        yield Static("", id="detail", markup=False)

    @property
    def grid(self) -> Grid:
        return self.query_one("#runs", Grid)

    def _cells(self, run: str) -> list[Cell]:
        look = Look(self.rows[run], self.now_ms, self.session.options.ascii_only)
        return [column.cell(look) for column in COLUMNS]

    # What is shown.

    def on_mount(self) -> None:
        self._hurry = self.set_interval(1 / HURRIED_TICKS_PER_SECOND, self._tick_hurriedly)

    def _tick_hurriedly(self) -> None:
        is_loaded = self.session.feed.connection.state != "loading"
        self._tick()
        if is_loaded:
            self._hurry.stop()
            gc.freeze()  # else each full collection walks the history again, a tenth of a second for 10,000 runs

    def tick(self) -> None:
        feed, before = self.session.feed, self.now_ms // 1000
        with feed.lock:
            changed = feed.runs.take_changed()
            if not self.rows:
                changed |= feed.runs.rows.keys()
            connection = feed.connection
            for run in changed:
                self._take(run, feed.runs.rows.get(run))
            if changed:
                last = feed.runs.last_ended()
                self.averages, self.last = feed.runs.averages(), copy.copy(last)
        now_ms = self.session.clock() + feed.clock_offset_ms
        second_passed = now_ms // 1000 != before
        if not (changed or second_passed or self.wanted or connection != self.connection):
            return
        self.now_ms, self.connection = now_ms, connection
        self.listing.update(self.rows, changed, now_ms)
        if second_passed:
            self.listing.pass_time(self.rows, self.running, now_ms)
        self._show(changed | self.running if second_passed else changed)
        self._go_to_wanted()

    def _take(self, run: str, row: RunRow | None) -> None:
        if row is None:
            self.rows.pop(run, None)
        else:
            self.rows[run] = copy.copy(row)
        if row is None or row.ended:
            self.running.discard(run)
        else:
            self.running.add(run)

    def _show(self, changed: set[str]) -> None:
        connection = self.connection or Connection()
        self.query_one(Cards).show(self.averages, self.last)
        grid, listing, filter_bar = self.grid, self.listing, self.query_one(FilterBar)
        grid.set_notice(notice(connection, len(self.rows), filter_bar.text))
        grid.set_dim(connection.state == "lost")
        grid.set_sorted(COLUMNS.index(listing.column), descending=listing.descending)
        grid.set_rows(listing.order)
        grid.refresh_rows(changed)
        filter_bar.show_count(len(listing.order), len(self.rows))
        self._show_detail()

    @on(Grid.Moved)
    def _show_detail(self) -> None:
        row = self.rows.get(self.grid.key or "")
        options = self.session.options
        parts = detail_text(row, self.marked, self.now_ms, ascii_only=options.ascii_only)
        text = Text("  ", no_wrap=True, overflow="ellipsis").join(
            Text(part.text, style=style_of(self.app, part.style)) for part in parts
        )
        text.no_wrap, text.overflow = True, "ellipsis"
        if text != self._detail:
            self._detail = text
            self.query_one("#detail", Static).update(text)

    def on_resize(self) -> None:
        if self.is_mounted:
            self.query_one(Cards).show(self.averages, self.last)

    # Which runs, and in what order.

    def select(self, run: str) -> None:
        """Put the cursor on this run as soon as it is there; a filter that hides it is cleared."""
        self.wanted = run
        if self.is_mounted:
            self._go_to_wanted()

    def _go_to_wanted(self) -> None:
        run = self.wanted
        if run is None or run not in self.rows:
            return
        self.wanted = None
        if not self.listing.shows(run):
            self._clear_filter()
        self.grid.select(run)

    def _arrange(self, column: int | None = None, descending: bool | None = None, chosen: Filter | None = None) -> None:
        listing = self.listing
        listing.arrange(
            self.rows,
            self.now_ms,
            column=listing.column if column is None else COLUMNS[column],
            descending=listing.descending if descending is None else descending,
            chosen=listing.filter if chosen is None else chosen,
        )
        self._show(set())

    def action_sort(self, column: int) -> None:
        """By this column; again, the other way round."""
        if COLUMNS[column] is self.listing.column:
            self._arrange(descending=not self.listing.descending)
        else:
            self._arrange(column, COLUMNS[column] in DESCENDING_FIRST)
        if not self.grid.is_shown(column):
            self.notify(f"Sorted by {COLUMNS[column].heading.title}, which has no room here.")

    def action_sort_next(self) -> None:
        shown = [each for each in range(len(COLUMNS)) if self.grid.is_shown(each)]
        now = COLUMNS.index(self.listing.column)
        self.action_sort(next((each for each in shown if each > now), shown[0]))

    def action_sort_reverse(self) -> None:
        self._arrange(descending=not self.listing.descending)

    @on(Grid.HeadingChosen)
    def _heading_chosen(self, event: Grid.HeadingChosen) -> None:
        self.action_sort(event.column)

    def action_filter(self) -> None:
        self.query_one(FilterBar).open()

    @on(FilterBar.Changed)
    def _filter_changed(self) -> None:
        self._arrange(chosen=self.query_one(FilterBar).chosen)

    @on(FilterBar.Left)
    def _filter_left(self) -> None:
        self.grid.focus()

    def _clear_filter(self) -> None:
        self.query_one(FilterBar).clear()
        self.grid.is_moved = True  # whoever filtered looked for the run that the cursor is on
        self.grid.focus()
        self._arrange(chosen=Filter())

    def action_leave(self) -> None:
        """Clear the filter, or else the mark."""
        if self.query_one(FilterBar).is_open:
            self._clear_filter()
        else:
            self._mark(None)

    # What can be done with a run.

    @on(Grid.Chosen)
    def _chosen(self, event: Grid.Chosen) -> None:
        self.post_message(OpenRun(event.key))

    def action_submit(self) -> None:
        self.post_message(OpenSubmit())

    def action_compare(self) -> None:
        """Mark this run; or show it beside the one that is marked."""
        run = self.grid.key
        if run is None or run == self.marked:
            self._mark(None)
        elif self.marked is None or self.marked not in self.rows:
            self._mark(run)
        else:
            left, right = sorted((self.marked, run), key=id_order)
            self._mark(None)
            self.post_message(OpenCompare(left, right))

    def _mark(self, run: str | None) -> None:
        self.marked = run
        self.grid.set_marked(frozenset() if run is None else frozenset({run}))
        self._show_detail()

    def action_copy(self) -> None:
        if self.grid.key is not None:
            self.app.copy_to_clipboard(self.grid.key)
            self.notify(f"Copied {self.grid.key}.")

    def _may_change(self, what: str) -> str | None:
        """The selected run, if there is one and changing anything is allowed."""
        if self.session.options.read_only:
            self.notify(f"{what} is not possible: the dashboard is read-only.", severity="warning")
            return None
        return self.grid.key

    def _tell(self, error: CommandFailed) -> None:
        self.notify(f"{error.message}\nNext: {error.hint}", severity="error", timeout=10, markup=False)

    def action_rerun(self, use_cache: bool) -> None:
        run = self._may_change("A rerun")
        if run is not None and not self._is_sending and time.monotonic() > self._sent_at + REST_SECONDS:
            self._is_sending = True
            self._rerun(run, use_cache)

    @work
    async def _rerun(self, run: str, use_cache: bool) -> None:
        try:
            new = await asyncio.to_thread(
                rerun, self.session.link, run, use_cache=use_cache, request_id=f"tui-{uuid.uuid4()}"
            )
        except CommandFailed as error:
            self._tell(error)
        else:
            self.notify(f"Submitted as {new}, cache {CACHE_SWITCH_MARKS[use_cache].word}.")
            self.select(new)
            self.set_timer(PATIENCE_SECONDS, lambda: self._tell_if_missing(new))
        finally:
            self._is_sending, self._sent_at = False, time.monotonic()

    def _tell_if_missing(self, run: str) -> None:
        if self.wanted == run:
            self.notify(
                f"Run {run} is submitted but not accepted yet.\nNext: see under Health whether a submitter is alive",
                severity="warning",
            )

    @work
    async def action_cancel(self) -> None:
        run = self._may_change("Cancelling")
        if run is None:
            return
        if self.rows[run].ended:
            self.notify(f"Run {run} has ended already.", severity="warning")
            return
        if not await self.app.push_screen_wait(Confirm(f"Cancel run {run} of {self.rows[run].dag}?", yes="Cancel it")):
            return
        try:
            await asyncio.to_thread(ask_to_cancel, self.session.link, run)
        except CommandFailed as error:
            self._tell(error)
        else:
            self.notify(f"Asked to cancel {run}.")

    @work
    async def action_export(self) -> None:
        """The runs that are shown, in their order, as they are when the key is pressed."""
        rows, now_ms = [self.rows[run] for run in self.listing.order], self.now_ms
        proposal = time.strftime("helios-runs-%Y%m%d-%H%M%S.csv", time.localtime(now_ms / 1000))
        question = f"Export {len(rows):,} runs to which file? One that ends with .json holds JSON."
        name = await self.app.push_screen_wait(Ask(question, value=proposal))
        if not name or not name.strip():
            return
        path = Path(name.strip()).expanduser()
        try:
            content = await asyncio.to_thread(table_file, path.name, rows, now_ms)
            if await self.save_asking(path, content):
                self.notify(f"Wrote {len(rows):,} runs to {path.absolute()}.", markup=False)
        except CommandFailed as error:
            self._tell(error)
