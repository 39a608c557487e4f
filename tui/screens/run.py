"""One run: its tasks on the time axis or as a tree, and all that is known of the one that the cursor is on."""

import asyncio
import uuid
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from cli.failure import CommandFailed
from cli.figures import duration, size
from cli.reruns import ask_to_cancel, rerun
from tui.glyphs import CACHE_MARKS, RUN_MARKS, STAGE_MARKS, UNKNOWN, task_mark
from tui.intents import SelectRun
from tui.model.card import card_lines
from tui.model.columns import tasks_text
from tui.model.runs import RunRow
from tui.model.table import Cell, Heading, printable
from tui.model.task_listing import ORDERS, listed
from tui.model.tasks import Board, TaskRow, causes, spans
from tui.model.timeline import Axis, bar, ruler
from tui.model.tree import Branch, branches
from tui.palette import style_of
from tui.screens.screen import HeliosScreen
from tui.screens.task import TaskScreen
from tui.source.run_details import RunDetails, read_details
from tui.widgets.dialogs import Confirm
from tui.widgets.grid import Grid
from tui.widgets.task_card import TaskCard

WIDE = 120
TASK, STATUS, CACHE, HIT, MISSED, CAUSE, TIME = range(7)
HEADINGS = (
    Heading("Task", 14, 24),
    Heading("Status", 13),
    Heading("Cache", 9),
    Heading("Hit", 7, right=True),
    Heading("Missed", 7, right=True),
    Heading("Why missed", 16, 20, need=1),
    Heading("Time", 20, 200),
)


class RunScreen(HeliosScreen):
    TITLE = "Run"
    AUTO_FOCUS = "#tasks"
    TICKS_PER_SECOND = 10
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "logs", "Logs", id="run.logs"),
        Binding("t", "tree", "Tree", id="run.tree"),
        Binding("slash", "filter", "Filter", id="run.filter", key_display="/"),
        Binding("s", "sort", "Sort", id="run.sort"),
        Binding("d", "download", "Download", id="run.download"),
        Binding("x", "cancel", "Cancel", id="run.cancel"),
        Binding("r", "rerun(True)", "Rerun", id="run.rerun", show=False),
        Binding("R", "rerun(False)", "Rerun without cache", id="run.rerun-without-cache", show=False),
        Binding("E", "first_failed", "First failed task", id="run.first-failed", show=False),
        Binding("left,minus", "fold(True)", "Fold", id="run.fold", show=False),
        Binding("right,plus", "fold(False)", "Unfold", id="run.unfold", show=False),
        Binding("y", "copy_run", "Copy id", id="run.copy", show=False),
        Binding("Y", "copy_task", "Copy task name", id="run.copy-task", show=False),
        Binding("escape", "leave", "Back", id="run.back"),
    ]
    DEFAULT_CSS = """
    RunScreen {
        #about, #legend { height: 1; padding: 0 1; }
        #filter { display: none; height: 1; }
        #filter.-open { display: block; }
        #body { height: 1fr; }
        #tasks { width: 1fr; height: 100%; }
        #card { width: 46; height: 100%; display: none; }
        #why { height: 2; padding: 0 1; background: $panel; }
    }
    RunScreen.-wide #card { display: block; }
    RunScreen.-wide #why { height: 1; }
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self.board: Board | None = None
        self.details: RunDetails | None = None
        self.order = "DAG order"
        self.is_tree = False
        self.folded: set[str] = set()
        self._branches: dict[str, Branch] = {}
        self._tree: tuple[Board, frozenset[str]] | None = None
        """What the tree was drawn from, where that is the whole DAG."""
        self._axis = Axis(0, 1)
        self._now_ms = 0
        self._about: Text | None = None
        self._legend: Text | None = None
        self._sending = False

    def compose_body(self) -> ComposeResult:
        yield Static("", id="about", markup=False)
        yield Static("", id="legend", markup=False)
        yield Input(id="filter", compact=True, placeholder="words of a task, or status:failed cache:miss cause:changed")
        with Horizontal(id="body"):
            yield Grid(HEADINGS, self._cells, ascii_only=self.session.options.ascii_only, id="tasks")
            yield TaskCard(id="card")
        yield Static("", id="why", markup=False)

    @property
    def grid(self) -> Grid:
        return self.query_one("#tasks", Grid)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_class(self.app.size.width >= WIDE, "-wide")
        self.session.feed.watch(self.run_id)
        self._read_details()

    def on_unmount(self) -> None:
        self.session.feed.watch(None)

    def on_resize(self) -> None:
        self.set_class(self.app.size.width >= WIDE, "-wide")

    @work
    async def _read_details(self) -> None:
        try:
            self.details = await asyncio.to_thread(read_details, self.session.link, self.run_id)
        except CommandFailed as failure:
            self._complain(failure)
        else:
            self._draw_again()

    # What is shown.

    def tick(self) -> None:
        feed, before = self.session.feed, self._now_ms // 1000
        self.grid.set_dim(feed.connection.state == "lost")
        with feed.lock:
            board, run = feed.board, feed.runs.rows.get(self.run_id)
            if board is None or board.run != self.run_id:
                self.grid.set_notice("Loading tasks…")
                return
            is_new = board is not self.board
            self.board, self._now_ms = board, feed.now_ms()
            changed = board.take_changed()
            if is_new:
                changed = set(board.rows)
            second_passed = self._now_ms // 1000 != before
            going_on = {name for name, row in board.rows.items() if not row.ended} if second_passed else set[str]()
            if not (changed or (second_passed and going_on) or self._about is None):
                return
            self._draw(board, run, changed | going_on)

    def _draw(self, board: Board, run: RunRow | None, changed: set[str]) -> None:
        axis = self._axis_of(board)
        if axis != self._axis:
            self._axis = axis
            changed = set(board.rows)
        self.grid.set_rows(self._order(board))
        self.grid.refresh_rows(changed)
        self.grid.set_notice(self._notice(board))
        self._show_about(run)
        self._show_task()

    def _axis_of(self, board: Board) -> Axis:
        begins = [row.queued_at for row in board.rows.values() if row.queued_at is not None]
        begin = min([*begins, board.started_at] if board.started_at is not None else begins, default=self._now_ms)
        if all(row.ended for row in board.rows.values()):
            ends = [row.ended_at for row in board.rows.values() if row.ended_at is not None]
            return Axis(begin, max([*ends, begin + 1]))
        # In steps, so that the whole table is not drawn anew for each moment that passes.
        length = max(1_000, self._now_ms - begin)
        step = max(1_000, length // 20)
        return Axis(begin, begin + (length // step + 1) * step)

    def _order(self, board: Board) -> list[str]:
        wanted = self.query_one("#filter", Input).value
        tree = (board, frozenset(self.folded)) if self.is_tree and not wanted.strip() else None
        if tree is not None and tree == self._tree:
            return list(self._branches)  # the DAG does not change, so its tree need not be drawn anew with each event
        self._tree = tree
        names = listed(board.rows, wanted, self.order)
        if not self.is_tree:
            self._branches = {}
            return names
        kept = set(names)
        shown = branches(
            [(row.name, row.parents) for row in board.rows.values() if row.name in kept],
            self.folded,
            ascii_only=self.session.options.ascii_only,
        )
        self._branches = {each.name: each for each in shown}
        return [each.name for each in shown]

    def _notice(self, board: Board) -> str:
        if board.rows:
            return "No task passes the filter. Escape clears it."
        details = self.details
        if details is None:
            return "Loading tasks…"
        if not details.exists:
            return "This run is no longer kept."
        return f"Rejected: {printable('; '.join(details.problems))}" if details.problems else "It has no tasks."

    def _cells(self, name: str) -> list[Cell]:
        board = self.board
        row = board.rows.get(name) if board is not None else None
        if row is None:
            return [Cell("") for _ in HEADINGS]
        ascii_only = self.session.options.ascii_only
        mark = task_mark(row.status, skipped=row.skipped is not None)
        outcome = CACHE_MARKS.get(row.cache, UNKNOWN)
        moved = row.ended and row.hit_bytes + row.miss_bytes > 0
        room = self.grid.width_of(TIME)
        return [
            Cell(self._label(row)),
            Cell(mark.shown(ascii_only), mark.style),
            Cell(outcome.shown(ascii_only), outcome.style) if row.ended else Cell(""),
            Cell(size(row.hit_bytes) if moved else "", "muted"),
            Cell(size(row.miss_bytes) if moved else "", "foreground" if row.miss_bytes else "muted"),
            Cell(self._why(row), "warning"),
            Cell("", parts=bar(spans(row, self._now_ms), self._axis, room, ascii_only=ascii_only)),
        ]

    def _label(self, row: TaskRow) -> str:
        branch = self._branches.get(row.name)
        if branch is None:
            return row.name
        hidden = f" (+{branch.hidden})" if branch.hidden else ""
        after = f" ({'<' if self.session.options.ascii_only else '←'} {', '.join(branch.also_after)})"
        return f"{branch.guide}{row.name}{hidden}{after if branch.also_after else ''}"

    @staticmethod
    def _why(row: TaskRow) -> str:
        missed = causes(row) if row.ended else []
        if len(missed) == 1:
            return f"{missed[0][0]} {missed[0][1]}"
        return f"{len(missed)}: {', '.join(sorted({cause for _, cause, _ in missed}))}" if missed else ""

    def _show_about(self, run: RunRow | None) -> None:
        ascii_only = self.session.options.ascii_only
        line = Text(no_wrap=True, overflow="ellipsis")
        if run is not None:
            mark, outcome = RUN_MARKS.get(run.status, UNKNOWN), CACHE_MARKS.get(run.cache_hit, UNKNOWN)
            line.append(printable(run.dag), style=style_of(self.app, "foreground"))
            line.append(f"  {run.run}  ", style=style_of(self.app, "muted"))
            line.append(mark.shown(ascii_only), style=style_of(self.app, mark.style))
            took = run.duration_ms(self._now_ms)
            line.append(f"  {tasks_text(run)}{f'  {duration(took)}' if took is not None else ''}  ")
            line.append(outcome.shown(ascii_only), style=style_of(self.app, outcome.style))
            if run.hit_bytes + run.miss_bytes:
                line.append(f"  {size(run.hit_bytes)} hit, {size(run.miss_bytes)} missed")
            if run.saved_ms:
                line.append(f"  saved {duration(run.saved_ms)}", style=style_of(self.app, "success"))
        else:
            line.append(self.run_id)
        if line != self._about:
            self._about = line
            self.query_one("#about", Static).update(line)
        self._show_legend()

    def _show_legend(self) -> None:
        line = Text(no_wrap=True, overflow="ellipsis")
        for mark in STAGE_MARKS.values():
            line.append(f"{mark.shown(self.session.options.ascii_only)}  ", style=style_of(self.app, mark.style))
        if self.is_tree or self.order != "DAG order":
            line.append("as a tree" if self.is_tree else f"by {self.order}", style=style_of(self.app, "muted"))
        headings = (*HEADINGS[:TIME], HEADINGS[TIME]._replace(title=self._ruler()))
        if line != self._legend or headings != self.grid.headings:
            self._legend, self.grid.headings = line, headings
            self.query_one("#legend", Static).update(line)
            self.grid.refresh()

    def _ruler(self) -> str:
        return ruler(self._axis, max(0, self.grid.width_of(TIME)))

    def _show_task(self) -> None:
        board, name = self.board, self.grid.key
        row = board.rows.get(name) if board is not None and name is not None else None
        why = self.query_one("#why", Static)
        if row is None:
            why.update("")
            return
        task = self.details.tasks.get(row.name) if self.details is not None else None
        ascii_only = self.session.options.ascii_only
        if self.has_class("-wide"):
            lines = card_lines(row, task, self._now_ms, ascii_only=ascii_only)
            self.query_one(TaskCard).show_task(printable(row.name), lines)
        missed = ", ".join(f"{printable(item)} {cause} {size(count)}" for item, cause, count in causes(row))
        words = [printable(row.name)]
        if row.reason:
            words.append(printable(" ".join(row.reason.split())))
        if missed:
            words.append(f"missed {missed}")
        why.update("  ".join(words))

    # What can be done.

    @on(Grid.Moved, "#tasks")
    def moved(self) -> None:
        with self.session.feed.lock:
            self._show_task()

    @on(Grid.Chosen, "#tasks")
    def chosen(self, event: Grid.Chosen) -> None:
        if self.has_class("-wide"):
            self.query_one(TaskCard).focus()
        else:
            self.app.push_screen(TaskScreen(event.key, self.details))

    def _draw_again(self) -> None:
        feed = self.session.feed
        with feed.lock:
            if self.board is not None:
                self._draw(self.board, feed.runs.rows.get(self.run_id), set(self.board.rows))

    def action_tree(self) -> None:
        self.is_tree = not self.is_tree
        self._draw_again()

    def action_fold(self, fold: bool) -> None:
        name = self.grid.key
        if not self.is_tree or name is None:
            return
        (self.folded.add if fold else self.folded.discard)(name)
        self._draw_again()

    def action_sort(self) -> None:
        orders = list(ORDERS)
        self.order = orders[(orders.index(self.order) + 1) % len(orders)]
        self.is_tree = False
        self._draw_again()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    @on(Input.Changed, "#filter")
    def filtered(self) -> None:
        self._draw_again()

    @on(Input.Submitted, "#filter")
    def kept(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "-open")
        self.grid.focus()

    def action_first_failed(self) -> None:
        board = self.board
        failed = [n for n in self.grid.order if board is not None and board.rows[n].status in ("FAILED", "UNKNOWN")]
        if failed:
            self.grid.select(failed[0])
        else:
            self.notify("No task has failed.")

    def action_logs(self) -> None:
        from tui.screens.logs import LogsScreen

        row = self._row()
        if row is not None:
            self.app.push_screen(LogsScreen(self.run_id, row.name, max(1, row.attempt)))

    def action_download(self) -> None:
        from tui.screens.downloads import DownloadScreen

        row = self._row()
        if row is not None:
            self.app.push_screen(DownloadScreen(self.run_id, row.name))

    def _row(self) -> TaskRow | None:
        name = self.grid.key
        return self.board.rows.get(name) if self.board is not None and name is not None else None

    def _may_change(self) -> bool:
        if self.session.options.read_only:
            self.notify("Nothing is changed: this dashboard is read-only.", severity="warning")
        return not self.session.options.read_only

    @work
    async def action_cancel(self) -> None:
        if not self._may_change() or not await self.app.push_screen_wait(
            Confirm(f"Cancel run {self.run_id}? What runs is ended.", yes="Cancel the run", no="Leave it")
        ):
            return
        try:
            await asyncio.to_thread(ask_to_cancel, self.session.link, self.run_id)
            self.notify("The cancellation is on its way.")
        except CommandFailed as failure:
            self._complain(failure)

    @work
    async def action_rerun(self, use_cache: bool) -> None:
        if self._sending or not self._may_change():
            return
        self._sending = True
        try:
            request = f"tui-{uuid.uuid4().hex}"
            new = await asyncio.to_thread(
                rerun, self.session.link, self.run_id, use_cache=use_cache, request_id=request
            )
            self.helios.notify(f"Run {new} is submitted.")
            self.post_message(SelectRun(new))
        except CommandFailed as failure:
            self._complain(failure)
        finally:
            self._sending = False

    def action_copy_run(self) -> None:
        self.app.copy_to_clipboard(self.run_id)
        self.notify(f"Copied {self.run_id}.")

    def action_copy_task(self) -> None:
        if self.grid.key is not None:
            self.app.copy_to_clipboard(self.grid.key)
            self.notify(f"Copied {self.grid.key}.", markup=False)

    def action_leave(self) -> None:
        field = self.query_one("#filter", Input)
        if field.has_class("-open"):
            field.value = ""
            field.remove_class("-open")
            self.grid.focus()
        elif self.focused is not self.grid:
            self.grid.focus()
        else:
            self.post_message(SelectRun(self.run_id))

    def _complain(self, failure: CommandFailed) -> None:
        self.notify(f"{failure.message}; {failure.hint}", severity="error", markup=False)
