"""Two runs side by side: what took how long, and what differs in their DAGs and inputs."""

from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, VerticalScroll
from textual.widgets import DataTable, Static

from cli.failure import CommandFailed
from cli.figures import duration, size
from cli.output import harmless
from cli.table import shortened
from helios.records import TaskView
from tui.glyphs import CACHE_MARKS, CACHE_SWITCH_MARKS, RUN_MARKS, UNKNOWN, Mark, task_mark
from tui.intents import OpenRun
from tui.model.comparison import Change, Comparison, Side, TaskDelta, compare, signed_duration
from tui.screens.screen import HeliosScreen
from tui.source.comparison import read_comparison
from tui.widgets.dialogs import Ask
from tui.widgets.tint import marked, tint

COLUMNS = (
    ("task", 15),
    ("left", 8),
    ("right", 8),
    ("delta", 9),
    ("left was", 14),
    ("right was", 14),
    ("hit", 14),
    ("missed", 14),
    ("ratio", 6),
)
"""Titles and widths; the first six fill 80 columns, all of them the wide table."""
SORTS = ("delta", "name", "ratio")
CHANGE_MARKS = {
    "added": Mark("+", "added", "success", "+"),
    "removed": Mark("−", "removed", "error", "-"),
    "changed": Mark("≠", "changed", "warning", "~"),
}


class CompareScreen(HeliosScreen):
    """`left` is the earlier of the two. Read again while one of them goes on."""

    TITLE = "Compare"
    TICKS_PER_SECOND = 0.5
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-wide")]  # noqa: RUF012 -- Textual declares it without ClassVar
    BINDINGS: ClassVar = [
        Binding("escape", "back", "Back", id="compare.back"),
        Binding("w", "swap", "Swap", id="compare.swap"),
        Binding("o", "only_differences", "Only differences", id="compare.only_differences"),
        Binding("s", "sort", "Sort", id="compare.sort"),
        Binding("slash", "filter", "Filter", key_display="/", id="compare.filter"),
        Binding("enter", "open('right')", "Open right", id="compare.open_right"),
        Binding("l", "open('left')", "Open left", id="compare.open_left"),
        Binding("r", "refresh", "Refresh", show=False, id="compare.refresh"),
    ]
    DEFAULT_CSS = """
    CompareScreen #heading { height: auto; padding: 0 1; }
    CompareScreen #sides { height: 1fr; layout: vertical; }
    CompareScreen #tasks { height: 1fr; min-height: 5; }
    CompareScreen #changes { height: 1fr; padding: 0 1; border-top: solid $primary; }
    CompareScreen #changes:focus { border-top: solid $accent; }
    CompareScreen.-wide #sides { layout: horizontal; }
    CompareScreen.-wide #tasks { width: 120; height: 1fr; }
    CompareScreen.-wide #changes { width: 1fr; border-top: none; border-left: solid $primary; }
    CompareScreen.-wide #changes:focus { border-top: none; border-left: solid $accent; }
    """

    def __init__(self, left: str, right: str) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.found: Comparison | None = None
        self.only_differing = False
        self.sorting = SORTS[0]
        self.wanted = ""
        self.is_reading = False

    def compose_body(self) -> ComposeResult:
        yield Static("loading …", id="heading", markup=False)
        with Container(id="sides"):
            table: DataTable[Text] = DataTable(id="tasks", cursor_type="row", zebra_stripes=True)
            for title, width in COLUMNS:
                table.add_column(title, width=width, key=title)
            yield table
            with VerticalScroll(id="changes"):
                yield Static("", id="changes-text", markup=False)

    def tick(self) -> None:
        ended = self.found is not None and all(
            side.fields is None or side.fields["status"] != "RUNNING" for side in (self.found.left, self.found.right)
        )
        if not ended:
            self.action_refresh()

    def action_refresh(self) -> None:
        if not self.is_reading:
            self.is_reading = True
            self.read(self.left, self.right)

    @work(thread=True)
    def read(self, left: str, right: str) -> None:
        try:
            found = read_comparison(self.session.link, left, right)
        except CommandFailed as failure:
            self.helios.call_from_thread(self.tell, failure)
        else:
            self.helios.call_from_thread(self.take, found)

    def tell(self, failure: CommandFailed) -> None:
        self.is_reading = False
        self.notify(f"{failure.message}\n{failure.hint}", severity="error", markup=False)

    def take(self, found: Comparison) -> None:
        self.is_reading = False
        if found.left.run == self.left:  # else the sides were swapped meanwhile, and the next look shows them
            self.found = found
            self.show()

    def show(self) -> None:
        if self.found is None or not self.is_mounted:
            return
        self.query_one("#heading", Static).update(self.heading(self.found))
        self.query_one("#changes-text", Static).update(self.changes(self.found))
        table: DataTable[Any] = self.query_one("#tasks", DataTable)  # pyright: ignore[reportUnknownVariableType]
        cursor = table.cursor_row
        table.clear()
        for delta in self.shown_tasks(self.found):
            table.add_row(*self.cells(delta))
        table.move_cursor(row=min(cursor, max(0, table.row_count - 1)))

    def shown_tasks(self, found: Comparison) -> list[TaskDelta]:
        tasks = [
            each
            for each in found.tasks
            if self.wanted.casefold() in each.name.casefold() and (each.differs or not self.only_differing)
        ]
        if self.sorting == "name":
            tasks.sort(key=lambda each: each.name)
        elif self.sorting == "ratio":
            tasks.sort(key=lambda each: -(each.ratio or 0))
        return tasks

    def heading(self, found: Comparison) -> Table:
        grid = Table.grid(padding=(0, 2))
        left, right = found.left, found.right
        grid.add_row("", self.run_text(left), self.run_text(right), "")
        lines = found.headings
        if self.helios.size.width < 150:
            lines = [line for line in lines if line.delta or line.label == "duration"]
        for line in lines:
            grid.add_row(
                tint(self.helios, line.label, "muted"), line.left, line.right, tint(self.helios, line.delta, "bold")
            )
        for note in found.notes:
            mark = marked(self.helios, Mark("!", "note", "warning", "!"), self.session.options.ascii_only)
            grid.add_row(mark, Text(shortened(note, 100)))
        showing = f"enter opens the right run; sorted by {self.sorting}" + (
            ", only differences" if self.only_differing else ""
        )
        showing += f", filter {self.wanted!r}" if self.wanted else ""
        grid.add_row(tint(self.helios, "shown", "muted"), tint(self.helios, showing, "muted"))
        return grid

    def run_text(self, side: Side) -> Text:
        plain = self.session.options.ascii_only
        if side.fields is None:
            return Text.assemble(side.run, " ", marked(self.helios, UNKNOWN, plain, ": gone"))
        mark = RUN_MARKS.get(side.fields["status"], UNKNOWN)
        cache = CACHE_SWITCH_MARKS[bool(side.fields["cacheEnabled"])]
        name = shortened(harmless(side.fields["dagName"]), 20)
        return Text.assemble(
            tint(self.helios, side.run, "bold"), f" {name} ", marked(self.helios, mark, plain), " cache ",
            marked(self.helios, cache, plain),
        )  # fmt: skip

    def cells(self, delta: TaskDelta) -> list[Text]:
        changed = "" if delta.delta_ms is None else signed_duration(delta.delta_ms)
        style = "muted" if not delta.delta_ms else "error" if delta.delta_ms > 0 else "success"
        return [
            Text(shortened(harmless(delta.name), 15)),
            Text(duration(delta.left_ms) or "–"),
            Text(duration(delta.right_ms) or "–"),
            tint(self.helios, changed, style),
            self.outcome(delta.left),
            self.outcome(delta.right),
            self.moved(delta, "cacheHitBytes"),
            self.moved(delta, "cacheMissBytes"),
            Text("" if delta.ratio is None else f"{delta.ratio:.1f}x"),
        ]

    def outcome(self, view: TaskView | None) -> Text:
        plain = self.session.options.ascii_only
        if view is None:
            return tint(self.helios, "not in it", "muted")
        mark = task_mark(view.status, skipped=view.skipped is not None)
        if view.status != "SUCCEEDED" or view.cache == "N/A":
            return marked(self.helios, mark, plain)
        cache = CACHE_MARKS.get(view.cache, UNKNOWN)
        return Text.assemble(marked(self.helios, mark, plain), " ", marked(self.helios, cache, plain))

    def moved(self, delta: TaskDelta, field: str) -> Text:
        """Bytes of both sides, once where they are the same."""
        sides = ["–" if view is None else size(getattr(view, field)) for view in (delta.left, delta.right)]
        return Text(self.arrow.join(dict.fromkeys(sides)))

    @property
    def arrow(self) -> str:
        return " -> " if self.session.options.ascii_only else " → "

    def changes(self, found: Comparison) -> Text:
        text = Text()
        knows_dags = found.left.dag is not None and found.right.dag is not None
        for title, changes, none in (
            ("What changed in the DAG", found.dag_changes, "nothing" if knows_dags else "not known: a DAG is missing"),
            ("What changed in the inputs", found.input_changes, "nothing that is known"),
        ):
            text.append_text(tint(self.helios, f"{title} ({len(changes)})\n", "bold"))
            kept = [each for each in changes if self.wanted.casefold() in each.task.casefold()]
            for change in kept:
                text.append_text(self.change(change))
            if not kept:
                words = "none by this filter" if changes else none
                text.append_text(tint(self.helios, f"  {words}\n", "muted"))
        return text

    def change(self, change: Change) -> Text:
        mark = marked(self.helios, CHANGE_MARKS[change.kind], self.session.options.ascii_only)
        text = Text.assemble("  ", mark, f" {harmless(change.task) or 'DAG'}: {harmless(change.field)}\n")
        sides = [shortened(harmless(each), 200) for each in (change.before, change.after) if each is not None]
        between = self.arrow if sum(len(each) for each in sides) < 30 else f"\n    {self.arrow}"
        return text.append(f"      {between.join(sides)}\n")

    def action_back(self) -> None:
        self.dismiss()

    def action_swap(self) -> None:
        self.left, self.right = self.right, self.left
        if self.found is not None:
            now_ms = self.session.clock() + self.session.feed.clock_offset_ms
            self.found = compare(self.found.right, self.found.left, now_ms)
        self.show()

    def action_only_differences(self) -> None:
        self.only_differing = not self.only_differing
        self.show()

    def action_sort(self) -> None:
        self.sorting = SORTS[(SORTS.index(self.sorting) + 1) % len(SORTS)]
        self.show()

    @work
    async def action_filter(self) -> None:
        answer = await self.helios.push_screen_wait(Ask("Only tasks whose name holds", value=self.wanted))
        if answer is not None:
            self.wanted = answer
            self.show()

    @on(DataTable.RowSelected)
    def row_selected(self) -> None:
        self.action_open("right")

    def action_open(self, side: str) -> None:
        self.post_message(OpenRun(self.right if side == "right" else self.left))
