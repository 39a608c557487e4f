"""Where a DAG is written, checked while one types, and submitted."""

import asyncio
import uuid
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.timer import Timer
from textual.widgets import Button, Checkbox, Static

from cli.failure import CommandFailed
from helios.dag_problem import Problem
from tui.glyphs import CACHE_SWITCH_MARKS
from tui.intents import SelectRun
from tui.model.draft import Checked, check
from tui.palette import style_of
from tui.screens.screen import HeliosScreen
from tui.source.drafts import changed_meanwhile, keep_newest, open_file, save_file
from tui.source.own_editor import edited, editor_command
from tui.source.submitting import Sent, send
from tui.widgets.dag_editor import DagEditor
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.param_fields import ParamFields
from tui.widgets.problem_list import ProblemList
from tui.widgets.switch import Switch

if TYPE_CHECKING:
    from tui.app import HeliosApp

REST_SECONDS = 0.15
"""The text is checked when no key was pressed for so long."""
LABEL = "Enable node-level cache for this run"


class SubmitScreen(HeliosScreen):
    TITLE = "Submit"
    AUTO_FOCUS = "#editor"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f9,ctrl+g", "submit", "Submit", id="submit.submit", key_display="F9"),
        Binding("f8", "next_problem", "Next problem", id="submit.next-problem", key_display="F8"),
        Binding(
            "shift+f8,f20",  # terminals send the one or the other
            "next_problem(-1)",
            "Previous problem",
            id="submit.previous-problem",
            key_display="Shift+F8",
            show=False,
        ),
        Binding("f5", "parameters", "Parameters", id="submit.parameters", key_display="F5", show=False),
        Binding("ctrl+t", "toggle_cache", "Cache", id="submit.toggle-cache"),
        Binding("ctrl+o", "open", "Open", id="submit.open"),
        Binding("ctrl+s", "save", "Save", id="submit.save"),
        Binding("ctrl+l", "edit", "$EDITOR", id="submit.edit"),
        Binding("escape", "close", "Back", id="submit.close", priority=True),
    ]
    DEFAULT_CSS = """
    SubmitScreen {
        #switches { height: 1; padding: 0 1; }
        #use-cache { width: auto; border: none; padding: 0; height: 1; background: transparent; }
        #gap { width: 1fr; }
        #send { height: 1; min-width: 12; border: none; }
        #verdict { height: 1; padding: 0 1; background: $panel; }
    }
    SubmitScreen.-tall ProblemList { height: 12; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked = Checked()
        self.verdict: tuple[str, str] = ("checking…", "muted")
        self._sending = False
        self._number = self._checked_number = 0
        """Of the text; what was found in an earlier one is not shown."""
        self._timer: Timer | None = None

    @property
    def editor(self) -> DagEditor:
        return self.query_one(DagEditor)

    @property
    def list(self) -> ProblemList:
        return self.query_one(ProblemList)

    @property
    def fields(self) -> ParamFields:
        return self.query_one(ParamFields)

    def compose_body(self) -> ComposeResult:
        draft, ascii_only = self.helios.draft, self.session.options.ascii_only
        glyph = "[db]" if ascii_only else CACHE_SWITCH_MARKS[True].glyph
        yield DagEditor(draft.text)
        yield ParamFields(draft.params)
        yield ProblemList()
        yield Static("", id="verdict", markup=False)
        with Horizontal(id="switches"):
            yield Switch(f"{glyph} {LABEL}", draft.use_cache, id="use-cache")
            yield Static(id="gap")
            yield Button("Submit F9", id="send", variant="primary")

    def on_mount(self) -> None:
        super().on_mount()
        self.set_class(self.size.height >= 40, "-tall")
        self._check_soon()

    def on_resize(self) -> None:
        self.set_class(self.size.height >= 40, "-tall")

    # The text, and what is wrong with it.

    @on(DagEditor.Changed)
    def changed(self) -> None:
        draft, text = self.helios.draft, self.editor.text
        if text != draft.text:
            draft.text, draft.request_id = text, ""
        self._check_soon()

    @on(ParamFields.Changed)
    def given(self, event: ParamFields.Changed) -> None:
        draft = self.helios.draft
        if event.value != draft.params.get(event.name, ""):
            draft.params[event.name], draft.request_id = event.value, ""
            self._check_soon()

    def action_parameters(self) -> None:
        if not self.fields.focus_first(self.checked.problems):
            self.notify("This DAG declares no parameters.")

    def _check_soon(self) -> None:
        self._number += 1
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(REST_SECONDS, self._check)

    @work
    async def _check(self) -> None:
        number, text, given = self._number, self.editor.text, dict(self.helios.draft.params)
        checked = await asyncio.to_thread(check, text, given)
        await asyncio.to_thread(self._keep, self.helios)
        if number == self._number and self.is_mounted:
            self.checked, self._checked_number = checked, number
            await self.fields.declare(checked.declared)
            self._show(checked)

    @property
    def is_checked(self) -> bool:
        """Whether what is shown was found in the text as it is now."""
        return self._checked_number == self._number

    def on_unmount(self) -> None:
        self._keep(self.helios)  # the last keys may have been pressed too lately for a check

    @staticmethod
    def _keep(helios: "HeliosApp") -> None:
        keep_newest(helios.state_folder, lambda: helios.draft.text)

    def _show(self, checked: Checked) -> None:
        style = "error" if checked.problems else "warning" if checked.warnings else "success"
        self._say(f"{checked.summary}{self._overridden()}", style)
        self.list.show_findings(checked.problems, checked.warnings, ascii_only=self.session.options.ascii_only)
        self.fields.show_faults(checked.problems)
        self.editor.mark(each.line for each in checked.problems if each.line is not None)

    def _say(self, words: str, style: str) -> None:
        signs = {"error": ("✘", "x"), "warning": ("▲", "!"), "success": ("✔", "+"), "muted": ("…", "-")}
        glyph = signs[style][self.session.options.ascii_only]
        draft = self.helios.draft
        self.verdict = (words, style)
        line = Text(f"{glyph} {words}", style=style_of(self.app, style))
        if draft.path:
            line.append(f"   {draft.path}{' (changed)' if draft.is_dirty else ''}", style=style_of(self.app, "muted"))
        self.query_one("#verdict", Static).update(line)

    @on(Checkbox.Changed, "#use-cache")
    def switched(self, event: Checkbox.Changed) -> None:
        draft = self.helios.draft
        if event.value != draft.use_cache:
            draft.use_cache, draft.request_id = event.value, ""
        if self.checked.dag:
            self._show(self.checked)

    def _overridden(self) -> str:
        """What the box makes of the DAG's own word on the cache."""
        checked, on = self.checked, self.helios.draft.use_cache
        if not checked.dag or checked.use_cache == on:
            return ""
        return f"; {'on' if on else 'off'} overrides its useCache: {'true' if checked.use_cache else 'false'}"

    def action_toggle_cache(self) -> None:
        self.query_one("#use-cache", Checkbox).toggle()

    def action_next_problem(self, step: int = 1) -> None:
        problem = self.list.next_problem(step)
        if problem is None:
            self.notify("There is no problem.")
        else:
            self._go_to(problem)

    @on(ProblemList.Chosen)
    def problem_chosen(self, event: ProblemList.Chosen) -> None:
        self._go_to(event.problem)

    def _go_to(self, problem: Problem) -> None:
        if problem.line is not None:
            self.editor.go_to(problem.line, problem.column)

    # Files.

    @work
    async def action_open(self) -> None:
        draft = self.helios.draft
        lost = f"{draft.path} has changes that are not saved." if draft.path else "What is written here is in no file."
        if draft.would_be_lost and not await self.app.push_screen_wait(
            Confirm(f"{lost} Open another file in its place?", yes="Open")
        ):
            return
        name = await self.app.push_screen_wait(Ask("Open which file?", placeholder="dag.yaml"))
        if not name:
            return
        try:
            opened = await asyncio.to_thread(open_file, name)
        except CommandFailed as failure:
            self._complain(failure)
            return
        opened.use_cache, opened.params = draft.use_cache, draft.params
        self.helios.draft = opened
        self.editor.load_text(opened.text)

    @work
    async def action_save(self) -> None:
        draft = self.helios.draft
        name: str | None = draft.path
        replace = bool(name)
        if not name:
            name = await self.app.push_screen_wait(Ask("Save as which file?", value="dag.yaml"))
        elif changed_meanwhile(draft):
            replace = await self.app.push_screen_wait(
                Confirm(f"{name} was changed by somebody else meanwhile. Replace it?", yes="Replace")
            )
            if not replace:
                return
        if not name:
            return
        await self._save(name, replace)

    async def _save(self, name: str, replace: bool) -> None:
        text = self.editor.text
        try:
            try:
                saved = await asyncio.to_thread(save_file, text, name, replace=replace)
            except FileExistsError:
                if not await self.app.push_screen_wait(Confirm(f"{name} exists. Replace it?", yes="Replace")):
                    return
                saved = await asyncio.to_thread(save_file, text, name, replace=True)
        except CommandFailed as failure:
            self._complain(failure)
            return
        draft = self.helios.draft
        saved.use_cache, saved.request_id, saved.text = draft.use_cache, draft.request_id, self.editor.text
        saved.params = draft.params
        self.helios.draft = saved
        self._say(*self.verdict)
        self.notify(f"Saved {saved.path}.", markup=False)

    def action_edit(self) -> None:
        """Hand the text to the user's own editor, and wait for it."""
        try:
            command = editor_command()
            with self.app.suspend():
                text = edited(command, self.editor.text)
        except SuspendNotSupported:
            self.notify("Here there is no terminal for another editor.", severity="error")
            return
        except CommandFailed as failure:
            self._complain(failure)
            return
        if isinstance(text, CommandFailed):
            self._complain(text)
        elif text != self.editor.text:
            self.editor.load_text(text)

    # Submitting.

    @on(Button.Pressed, "#send")
    def pressed(self) -> None:
        self.action_submit()

    def action_submit(self) -> None:
        if self.session.options.read_only:
            self.notify("Nothing is submitted: this dashboard is read-only.", severity="warning")
            return
        if self._sending:
            return
        self._sending = True
        self._number += 1  # a check that is on its way must not overwrite what becomes of this
        if self._timer is not None:
            self._timer.stop()
        self.helios.run_worker(self._submit())  # the dashboard's, so that leaving this screen does not cut it short

    async def _submit(self) -> None:
        button = self.query_one("#send", Button)
        button.disabled = True
        try:
            draft, text = self.helios.draft, self.editor.text
            draft.request_id = draft.request_id or f"tui-{uuid.uuid4().hex}"
            use_cache, request = draft.use_cache, draft.request_id  # now: what is changed meanwhile is another request
            checked = await asyncio.to_thread(check, text, dict(draft.params))
            self.checked = checked
            await self.fields.declare(checked.declared)
            self._show(checked)
            if checked.problems:
                self.notify(f"Not submitted: {checked.summary}.", severity="error")
                if not all(each.path.startswith("params.") for each in checked.problems) or not (
                    self.fields.focus_first(checked.problems)
                ):
                    self.list.focus()
                return
            self._say("submitting…", "muted")
            sent = await asyncio.to_thread(
                send, self.session.link, text, use_cache=use_cache, request_id=request, params=checked.params
            )
            self._take(sent, request)
        except CommandFailed as failure:
            if self.is_mounted:
                self._say(f"not known to be submitted: {failure.message}", "error")
            self.helios.notify(
                f"{failure.message}. Submitting again is safe: the same text starts one run. {failure.hint}",
                severity="error",
                markup=False,
            )
        finally:
            self._sending = False
            if self.is_mounted:
                button.disabled = False

    def _take(self, sent: Sent, request: str) -> None:
        if self.helios.draft.request_id == request:
            self.helios.draft.request_id = ""
        if sent.status == "REJECTED" and not self.is_mounted:
            self.helios.notify(f"Rejected: {'; '.join(sent.problems[:3])}", severity="error", markup=False)
            return
        if sent.status == "REJECTED":
            problems = tuple(Problem(each) for each in sent.problems)
            self.list.show_findings(problems, ascii_only=self.session.options.ascii_only)
            self._say(f"rejected: run {sent.run}", "error")
            self.list.focus()
            return
        self.helios.select_run(SelectRun(sent.run))
        if sent.status is None:
            why = "the submitter has not come to it" if sent.is_anyone_there else "no submitter is alive"
            self.helios.notify(f"Submitted, but not accepted yet: {why}; helios doctor.", severity="warning")
        else:
            self.helios.notify(f"Run {sent.run} is accepted.")

    def _complain(self, failure: CommandFailed) -> None:
        self.notify(f"{failure.message}; {failure.hint}", severity="error", markup=False)

    def action_close(self) -> None:
        self.helios.switch_home()
