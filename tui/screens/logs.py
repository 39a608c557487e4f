"""What one task printed: its fetch, its command, its publish, as it is and as it grows."""

import asyncio
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from cli.failure import CommandFailed
from cli.figures import count
from tui.model.log_lines import LogState, first_error, matches, plain, state_part
from tui.model.table import printable
from tui.palette import style_of
from tui.screens.screen import HeliosScreen
from tui.source.logs import LogReader, whole_log
from tui.widgets.dialogs import Ask
from tui.widgets.log_view import LINES_KEPT, LogView

STEPS = ("fetch", "task", "publish")


class LogsScreen(HeliosScreen):
    TITLE = "Logs"
    AUTO_FOCUS = "#log"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "step('fetch')", "Fetch", id="logs.fetch"),
        Binding("2", "step('task')", "Task", id="logs.task"),
        Binding("3", "step('publish')", "Publish", id="logs.publish"),
        Binding("tab", "next_step(1)", "Next step", id="logs.next-step", show=False),
        Binding("shift+tab", "next_step(-1)", "Previous step", id="logs.previous-step", show=False),
        Binding("left_square_bracket", "attempt(-1)", "Earlier attempt", id="logs.earlier", show=False),
        Binding("right_square_bracket", "attempt(1)", "Later attempt", id="logs.later", show=False),
        Binding("f", "follow", "Follow", id="logs.follow"),
        Binding("slash", "search", "Search", id="logs.search", key_display="/"),
        Binding("n", "next(1)", "Next match", id="logs.next", show=False),
        Binding("N", "next(-1)", "Previous match", id="logs.previous", show=False),
        Binding("e", "first_error", "First error", id="logs.first-error"),
        Binding("w", "wrap", "Wrap", id="logs.wrap"),
        Binding("S", "save", "Save", id="logs.save", show=False),
        Binding("y", "copy", "Copy line", id="logs.copy", show=False),
        Binding("Y", "copy_matches", "Copy all matches", id="logs.copy-matches", show=False),
        Binding("escape", "leave", "Back", id="logs.back"),
    ]
    DEFAULT_CSS = """
    LogsScreen {
        #which { height: 1; padding: 0 1; }
        #search { display: none; height: 1; }
        #search.-open { display: block; }
        #state { height: 1; padding: 0 1; background: $panel; }
    }
    """

    def __init__(self, run: str, task: str, attempt: int) -> None:
        super().__init__()
        self.run_id, self.task_name, self.attempts = run, task, attempt
        """The task, and how many attempts of it are known."""
        self.attempt, self.step = attempt, "task"
        self.state = LogState("loading")
        self.found: list[int] = []
        self.current: int | None = None
        self.held: list[str] = []
        """Lines that came while the dashboard was paused."""
        self._coming: LogState | None = None
        """How the log stands since then."""
        self._passed = 0
        """How many lines came then that are too many to be held."""
        self._reader: LogReader | None = None

    def compose_body(self) -> ComposeResult:
        yield Static("", id="which", markup=False)
        yield LogView(id="log")
        yield Input(id="search", compact=True, placeholder="text to look for")
        yield Static("", id="state", markup=False)

    @property
    def view(self) -> LogView:
        return self.query_one(LogView)

    def on_mount(self) -> None:
        super().on_mount()
        self._open()

    def on_unmount(self) -> None:
        if self._reader is not None:
            self._reader.stop()

    def _open(self) -> None:
        """Read the log of the step and attempt that are chosen, and no other."""
        if self._reader is not None:
            self._reader.stop()
        self.view.clear()
        self.found, self.current, self.state = [], None, LogState("loading")
        self.held, self._coming, self._passed = [], None, 0
        self._reader = LogReader(self.session.link, self.run_id, self.task_name, self.attempt, self.step)
        self._read(self._reader)
        self._show()

    @work(thread=True)
    def _read(self, reader: LogReader) -> None:
        def take(lines: list[str], state: LogState) -> None:
            if not reader.is_stopped:
                self.app.call_from_thread(self._take, reader, lines, state)

        reader.read_all(take)

    def _take(self, reader: LogReader, lines: list[str], state: LogState) -> None:
        if reader is not self._reader or not self.is_mounted:
            return
        if self.helios.paused:
            self.held += lines
            over = max(0, len(self.held) - LINES_KEPT)
            del self.held[:over]
            self._passed += over
            self._coming = state
            return
        if lines:
            gone = self.view.add(lines)
            self.current = self.current - gone if self.current is not None and self.current >= gone else None
            self._search()
        if lines or state != self.state:
            self.state = state
            self._show()

    def tick(self) -> None:
        if self._reader is not None and self._coming is not None:
            lines, state = self.held, self._coming
            self.view.gone += self._passed
            self.held, self._coming, self._passed = [], None, 0
            self._take(self._reader, lines, state)
        feed = self.session.feed
        with feed.lock:
            row = feed.board.rows.get(self.task_name) if feed.board is not None else None
            attempts = row.attempt if row is not None else 0
        if attempts > self.attempts:
            goes_on = self.attempt == self.attempts and self.view.follows
            self.attempts = attempts
            if goes_on:
                self.attempt = attempts
                self._open()
            self._show()

    def _show(self) -> None:
        ascii_only = self.session.options.ascii_only
        line = Text(no_wrap=True)
        line.append(printable(self.task_name), style=style_of(self.app, "foreground"))
        line.append(f"  attempt {self.attempt} of {self.attempts}  ", style=style_of(self.app, "muted"))
        for number, step in enumerate(STEPS, start=1):
            chosen = step == self.step
            line.append(
                f"[{number} {step}] " if chosen else f" {number} {step}  ",
                style=style_of(self.app, "accent" if chosen else "muted"),
            )
        self.query_one("#which", Static).update(line)
        part = state_part(
            self.state, len(self.view.lines), follows=self.view.follows, hidden=self.view.gone, ascii_only=ascii_only
        )
        state = Text(part.text, style=style_of(self.app, part.style))
        wanted = self.query_one("#search", Input).value
        if wanted:
            here = self.found.index(self.current) + 1 if self.current in self.found else 0
            state.append(f"   {wanted!r}: {here}/{len(self.found)}", style=style_of(self.app, "warning"))
        self.query_one("#state", Static).update(state)

    def action_step(self, step: str) -> None:
        if step != self.step:
            self.step = step
            self._open()

    def action_next_step(self, by: int) -> None:
        self.action_step(STEPS[(STEPS.index(self.step) + by) % len(STEPS)])

    def action_attempt(self, by: int) -> None:
        wanted = self.attempt + by
        if 1 <= wanted <= self.attempts:
            self.attempt = wanted
            self._open()
        else:
            self.notify(f"There is no {'earlier' if by < 0 else 'later'} attempt.")

    def action_follow(self) -> None:
        if self.view.follows:
            self.view.set_follows(False)
        else:
            self.view.action_follow()

    @on(LogView.FollowChanged)
    def _follow_changed(self) -> None:
        self._show()

    def action_wrap(self) -> None:
        self.view.set_wrap(not self.view.wraps)

    # Searching.

    def action_search(self) -> None:
        field = self.query_one("#search", Input)
        field.add_class("-open")
        field.focus()

    def _search(self) -> None:
        self.found = matches(self.view.lines, self.query_one("#search", Input).value)
        self.view.light(self.found)

    @on(Input.Changed, "#search")
    def typed(self) -> None:
        self._search()
        self.current = None
        if self.found:
            self._go_to(self.found[0])
        else:
            self.view.mark((), None)
        self._show()

    @on(Input.Submitted, "#search")
    def kept(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "-open")
        self.view.focus()

    def action_next(self, step: int) -> None:
        if not self.found:
            self.notify("Nothing is found; / searches.")
            return
        here = self.found.index(self.current) if self.current in self.found else (-1 if step > 0 else 0)
        self._go_to(self.found[(here + step) % len(self.found)])

    def _go_to(self, line: int) -> None:
        self.current = line
        self.view.mark(self.found, line)
        self._show()

    def action_first_error(self) -> None:
        line = first_error(self.view.lines)
        if line is not None:
            self._go_to(line)
        elif self.view.lines:
            self.notify("No line speaks of an error; this is the last one.")
            self._go_to(len(self.view.lines) - 1)
        else:
            self.notify("There is no line.")

    # Taking it elsewhere.

    def action_copy(self) -> None:
        line = self.current if self.current is not None else len(self.view.lines) - 1
        if line >= 0:
            self.app.copy_to_clipboard(plain(self.view.lines[line]))
            self.notify("Copied the line.")

    def action_copy_matches(self) -> None:
        if self.found:
            self.app.copy_to_clipboard("\n".join(plain(self.view.lines[each]) for each in self.found))
            self.notify(f"Copied {count(len(self.found), 'line')}.")
        else:
            self.notify("Nothing is found; / searches.")

    @work
    async def action_save(self) -> None:
        """All that is kept of the log as it is now, not only what is held here."""
        attempt, step = self.attempt, self.step
        name = await self.app.push_screen_wait(
            Ask("Save this log as which file?", value=f"{self.task_name}.{attempt}.{step}.log")
        )
        if not name:
            return
        path = Path(name).expanduser()
        try:
            lines = await asyncio.to_thread(whole_log, self.session.link, self.run_id, self.task_name, attempt, step)
            content = "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")
            if await self.save_asking(path, content):
                self.notify(f"Saved {path}.", markup=False)
        except CommandFailed as failure:
            self.notify(f"{failure.message}; {failure.hint}", severity="error", markup=False)

    def action_leave(self) -> None:
        field = self.query_one("#search", Input)
        if field.has_class("-open"):
            field.value = ""
            field.remove_class("-open")
            self.view.focus()
        else:
            self.app.pop_screen()
