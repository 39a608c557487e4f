"""How the system is: what the doctor finds wrong with its fix, streams, services, Jobs, caches and dead letters."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, VerticalScroll
from textual.widgets import DataTable, OptionList, Static
from textual.widgets.option_list import Option

from cli.checkup import Finding
from cli.dead_letters import discard, retry
from cli.failure import CommandFailed
from cli.figures import duration
from cli.letters import Letter, remedy
from cli.output import harmless
from cli.table import shortened
from tui.model.health import Health
from tui.screens.screen import HeliosScreen
from tui.source.health import HealthReader
from tui.widgets.dialogs import Confirm
from tui.widgets.health_text import BAD, GOOD, caches, jobs, services, streams
from tui.widgets.letter_view import LetterView
from tui.widgets.tint import marked

LETTER_COLUMNS = (("age", 9), ("stream", 14), ("reason", 40), ("run", 28), ("deliveries", 10))


class Section(Static, can_focus=True):
    """A part that can be stepped to."""


class HealthScreen(HeliosScreen):
    """Looks every two seconds, in a thread, while it is in front."""

    TITLE = "Health"
    TICKS_PER_SECOND = 0.5
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 -- Textual declares it without ClassVar
    BINDINGS: ClassVar = [
        Binding("escape", "back", "Back", id="health.back"),
        Binding("enter", "view", "View letter", id="health.view"),
        Binding("t", "letter('retry')", "Retry", id="health.retry"),
        Binding("D", "letter('discard')", "Discard", id="health.discard"),
        Binding("y", "copy_fix", "Copy fix", id="health.copy_fix"),
        Binding("r", "refresh", "Refresh", id="health.refresh"),
        Binding("right", "app.focus_next", "Next", show=False, id="health.next"),
        Binding("left", "app.focus_previous", "Previous", show=False, id="health.previous"),
    ]
    DEFAULT_CSS = """
    HealthScreen #sections { height: 1fr; }
    HealthScreen #columns { height: auto; layout: vertical; }
    HealthScreen .column { height: auto; }
    HealthScreen .part { height: auto; border: round $panel-lighten-2; padding: 0 1; }
    HealthScreen .part:focus { border: round $accent; }
    HealthScreen .part.-bad { border: round $error; }
    HealthScreen .part.-bad:focus { border: round $accent; }
    HealthScreen #findings { max-height: 12; }
    HealthScreen #findings > .option-list--option-highlighted { background: $surface-lighten-1; color: $foreground; }
    HealthScreen #letters { max-height: 14; padding: 0; }
    HealthScreen.-wide #columns { layout: horizontal; }
    HealthScreen.-wide .column { width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.health: Health | None = None
        self.letters: dict[str, Letter] = {}
        self.failed: list[Finding] = []
        self.is_looking = False
        self.reader: HealthReader | None = None

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="sections", can_focus=False):
            yield OptionList(id="findings", classes="part", markup=False)
            with Container(id="columns"):
                with Container(classes="column"):
                    table: DataTable[Text] = DataTable(id="letters", classes="part", cursor_type="row")
                    for title, width in LETTER_COLUMNS:
                        table.add_column(title, width=width, key=title)
                    yield table
                    yield Section("", id="services", classes="part", markup=False)
                    yield Section("", id="jobs", classes="part", markup=False)
                    yield Section("", id="caches", classes="part", markup=False)
                with Container(classes="column"):
                    yield Section("", id="streams", classes="part", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        titles = {"findings": "Doctor: loading …", "letters": "Dead letters", "services": "Services"}
        titles |= {"jobs": "Jobs", "caches": "Caches", "streams": "Streams"}
        for part, title in titles.items():
            self.query_one(f"#{part}").border_title = title
        self.query_one("#letters").border_subtitle = "enter view, t retry, D discard"
        self.query_one("#findings").border_subtitle = "y copies the fix"

    def tick(self) -> None:
        self.action_refresh()

    def action_refresh(self) -> None:
        if not self.is_looking:
            self.is_looking = True
            self.look()

    @work(thread=True)
    def look(self) -> None:
        if self.reader is None:
            self.reader = HealthReader(self.session.link, read_only=self.session.options.read_only)
        try:
            found = self.reader.look()
        except CommandFailed as failure:
            self.helios.call_from_thread(self.tell, failure)
        else:
            self.helios.call_from_thread(self.take, found)

    def tell(self, failure: CommandFailed) -> None:
        self.is_looking = False
        if self.is_mounted:
            finding = Finding("redis", False, failure.message, failure.hint)
            self.show_findings([finding], stale=self.health is not None)

    def take(self, found: Health) -> None:
        self.is_looking = False
        self.health = found
        if not self.is_mounted:
            return
        plain = self.session.options.ascii_only
        self.show_findings(found.findings)
        self.query_one("#streams", Static).update(streams(self.helios, found, plain))
        self.query_one("#services", Static).update(services(self.helios, found, plain))
        self.query_one("#jobs", Static).update(jobs(found))
        self.query_one("#caches", Static).update(caches(self.helios, found))
        self.show_letters(found)
        faulty = {each.check for each in found.failed}
        self.query_one("#streams").set_class(any(row.name in faulty for row in found.streams), "-bad")
        self.query_one("#services").set_class(bool(faulty & {"submitter", "jobrunner", "collector"}), "-bad")
        self.query_one("#jobs").set_class("runs" in faulty, "-bad")

    def show_findings(self, findings: Sequence[Finding], *, stale: bool = False) -> None:
        """What failed first, each with its fix; the rest only as a number."""
        options = self.query_one("#findings", OptionList)
        failed = [each for each in findings if not each.ok]
        highlighted = options.highlighted or 0
        plain = self.session.options.ascii_only
        options.clear_options()
        for each in failed:
            line = Text.assemble(marked(self.helios, BAD, plain), f"  {harmless(each.check)}: {harmless(each.detail)}")
            line.append("\n  fix: ", style="bold").append(harmless(each.fix))
            options.add_option(Option(line))
        if not failed:
            options.add_option(Option(marked(self.helios, GOOD, plain, "  nothing is stuck")))
        options.highlighted = min(highlighted, options.option_count - 1)
        options.border_title = f"Doctor: {len(failed)} failed, {len(findings) - len(failed)} ok" + (
            "; below is what was seen last" if stale else ""
        )
        options.set_class(bool(failed), "-bad")
        self.failed = failed

    def show_letters(self, found: Health) -> None:
        table: DataTable[Any] = self.query_one("#letters", DataTable)  # pyright: ignore[reportUnknownVariableType]
        chosen = self.chosen()
        self.letters = {f"{each.partition}/{each.id}": each for each in found.letters}
        table.clear()
        for key, letter in self.letters.items():
            row = (
                duration(max(0, found.now_ms - letter.since)),
                letter.stream.rpartition("}:")[2] if "}" in letter.stream else letter.stream.removeprefix("helios:"),
                letter.reason,
                f"{letter.run} {letter.run_status or 'gone'}" if letter.run else "–",
                letter.deliveries,
            )
            table.add_row(*(Text(shortened(harmless(text), 60)) for text in row), key=key)
        if chosen is not None and (kept := f"{chosen.partition}/{chosen.id}") in self.letters:
            table.move_cursor(row=list(self.letters).index(kept))
        shown = f", the newest {len(found.letters)} shown" if len(found.letters) < found.letters_in_all else ""
        mark = (BAD if found.letters_in_all else GOOD).shown(self.session.options.ascii_only)
        table.border_title = f"Dead letters: {found.letters_in_all}{shown}" if found.letters_in_all else (
            f"Dead letters: none, {mark}"
        )  # fmt: skip
        table.set_class(found.letters_in_all > 0, "-bad")

    def chosen(self) -> Letter | None:
        """The letter under the cursor."""
        row = self.query_one("#letters", DataTable).cursor_row
        keys = list(self.letters)
        return self.letters[keys[row]] if 0 <= row < len(keys) else None

    def action_back(self) -> None:
        self.dismiss()

    def action_copy_fix(self) -> None:
        row = self.query_one("#findings", OptionList).highlighted
        if self.health is None or row is None or row >= len(self.failed):
            self.notify("There is nothing to fix.")
            return
        self.helios.copy_to_clipboard(self.failed[row].fix)
        self.notify(f"Copied: {self.failed[row].fix}", markup=False)

    @on(DataTable.RowSelected, "#letters")
    def row_selected(self) -> None:
        self.action_view()

    @work
    async def action_view(self) -> None:
        letter = self.chosen()
        if letter is None:
            self.notify("There is no dead letter.")
            return
        answer = await self.helios.push_screen_wait(LetterView(letter))
        if answer in ("retry", "discard"):
            self.ask_about(letter, answer)

    def action_letter(self, what: Literal["retry", "discard"]) -> None:
        letter = self.chosen()
        if letter is None:
            self.notify("There is no dead letter.")
            return
        self.ask_about(letter, what)

    def ask_about(self, letter: Letter, what: str) -> None:
        if self.session.options.read_only:
            self.notify("This dashboard was started read-only.", severity="warning")
            return
        way, words = remedy(letter)
        if what == "retry" and way == "none":
            self.notify(f"{words}\nDiscard the letter once you have read it.", severity="error", markup=False)
            return
        self.confirm(letter, what, words)

    @work
    async def confirm(self, letter: Letter, what: str, words: str) -> None:
        question = words if what == "retry" else f"Discard this letter for good?\n{shortened(letter.reason, 200)}"
        if await self.helios.push_screen_wait(Confirm(harmless(question), yes=what.capitalize(), no="Keep")):
            self.carry_out(letter, what)

    @work(thread=True)
    def carry_out(self, letter: Letter, what: str) -> None:
        try:
            done = (retry if what == "retry" else discard)(self.session.link, letter)
        except CommandFailed as failure:
            self.helios.call_from_thread(
                self.notify, f"{failure.message}\n{failure.hint}", severity="error", markup=False
            )
        else:
            self.helios.call_from_thread(self.notify, f"Letter of {letter.stream}: {done}", markup=False)
        self.helios.call_from_thread(self.action_refresh)
