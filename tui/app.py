"""The dashboard as a whole: which screens there are, how one leads to another, and what is the same on all of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.segment import Segments
from rich.traceback import Traceback
from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.reactive import reactive
from textual.screen import Screen

from tui.bindings import binding_ids
from tui.intents import OpenCompare, OpenRun, OpenSubmit, SelectRun
from tui.preferences import Preferences, keep_theme, preferences_file, state_folder, theme_chosen
from tui.screens.compare import CompareScreen
from tui.screens.health import HealthScreen
from tui.screens.help import HelpScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.screens.submit import SubmitScreen
from tui.screens.too_small import TooSmall, is_too_small
from tui.session import Session
from tui.source.drafts import kept_draft

NO_PREFERENCES = Preferences()


class HeliosApp(App[None]):
    TITLE = "Helios"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", "Help", id="app.help", key_display="?"),
        Binding("f2", "show_runs", "Runs", id="app.runs", show=False),
        Binding("f3", "show_submit", "Submit", id="app.submit", show=False),
        Binding("f4,H", "show_health", "Health", id="app.health", key_display="H"),
        Binding("space", "pause", "Pause", id="app.pause"),
        Binding("ctrl+r", "reconnect", "Reconnect now", id="app.reconnect", show=False),
        Binding("q,ctrl+q", "quit", "Quit", id="app.quit", key_display="q"),
    ]

    paused: reactive[bool] = reactive(False)
    """Nothing on screen moves while this is set; the feed goes on."""

    def __init__(
        self,
        session: Session,
        preferences: Preferences = NO_PREFERENCES,
        *,
        state: Path | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.preferences = preferences
        self.state_folder = state or state_folder()
        self.draft = kept_draft(self.state_folder)
        """The DAG that is being written; it outlives the screen where that is done."""
        self.home = RunsScreen()

    def on_mount(self) -> None:
        self.set_keymap(self.preferences.keys)
        self.session.feed.start()
        self.push_screen(self.home)
        self._choose_theme()
        self.call_after_refresh(self._warn_of_unknown_keys)

    def on_unmount(self) -> None:
        self.session.feed.stop()

    def _choose_theme(self) -> None:
        wanted = self.session.options.theme or self.preferences.theme or theme_chosen(self.state_folder)
        if wanted in self.available_themes:
            self.theme = wanted
        elif wanted:
            self.notify(f"There is no theme {wanted!r}; ctrl+p, Theme lists them.", severity="warning")
        self.theme_changed_signal.subscribe(self, lambda theme: keep_theme(self.state_folder, theme.name))

    def _warn_of_unknown_keys(self) -> None:
        unknown = sorted(set(self.preferences.keys) - binding_ids())
        if unknown:
            self.notify(
                f"There are no keys named {', '.join(unknown)}, which {preferences_file()} sets; ? lists the names.",
                severity="warning",
                timeout=15,
            )

    def _fatal_error(self) -> None:
        """Says where it failed, as Textual does, but not what the variables held: credentials are among them."""
        self.bell()
        trace = Traceback(show_locals=False, width=None)
        self._exit_renderables.append(Segments(self.console.render(trace, self.console.options)))
        self._close_messages_no_wait()

    # Which screen is shown.

    @on(OpenRun)
    def open_run(self, intent: OpenRun) -> None:
        self.push_screen(RunScreen(intent.run))

    @on(SelectRun)
    def select_run(self, intent: SelectRun) -> None:
        self.switch_home()
        self.home.select(intent.run)

    @on(OpenSubmit)
    def open_submit(self) -> None:
        self.action_show_submit()

    @on(OpenCompare)
    def open_compare(self, intent: OpenCompare) -> None:
        self.push_screen(CompareScreen(intent.left, intent.right))

    def switch_home(self) -> None:
        """Leave whatever is above the table of runs."""
        while self.screen is not self.home and len(self.screen_stack) > 2:
            self.pop_screen()

    def action_show_runs(self) -> None:
        self.switch_home()

    def action_show_submit(self) -> None:
        self._show(SubmitScreen)

    def action_show_health(self) -> None:
        self._show(HealthScreen)

    def _show(self, kind: type[SubmitScreen] | type[HealthScreen]) -> None:
        if not isinstance(self.screen, kind):
            self.switch_home()
            self.push_screen(kind())

    # What is the same everywhere.

    def action_help(self) -> None:
        if isinstance(self.screen, HelpScreen):
            return
        title = f"{self.screen.TITLE or 'Keys'}: what works here"
        ascii_only = self.session.options.ascii_only
        self.push_screen(HelpScreen(title, self._key_lines(), str(preferences_file()), ascii_only=ascii_only))

    def _key_lines(self) -> list[tuple[str, str, str]]:
        """Keys, what they do and their name, of every binding of ours that is active now: the screen's first."""
        lines: dict[str, tuple[list[str], str, str]] = {}
        active_now = [each for each in self.screen.active_bindings.values() if each.binding.id]
        for active in sorted(active_now, key=lambda each: (each.node is not self.screen, each.node is self)):
            binding = active.binding
            keys, _, _ = lines.setdefault(binding.id or "", ([], binding.description, binding.id or ""))
            shown = self.get_key_display(binding)
            if shown not in keys:
                keys.append(shown)
        return [(" ".join(keys), does, name) for keys, does, name in lines.values()]

    def action_pause(self) -> None:
        self.paused = not self.paused

    def action_reconnect(self) -> None:
        self.session.feed.reconnect_now()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Everything that a key does here, by name, and Textual's own commands."""
        yield SystemCommand("Runs", "Go to the table of runs", self.action_show_runs)
        yield SystemCommand("Submit", "Write a DAG and submit it", self.action_show_submit)
        yield SystemCommand("Health", "See whether everything works", self.action_show_health)
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and not binding.system and active.node is screen:
                action = binding.action
                yield SystemCommand(
                    binding.description,
                    f"Key {self.get_key_display(binding)}",
                    lambda action=action: self.call_later(screen.run_action, action),
                )
        yield from super().get_system_commands(screen)

    def on_resize(self, event: Resize) -> None:
        small = is_too_small(event.size.width, event.size.height)
        if isinstance(self.screen, TooSmall):
            if small:
                self.screen.say(event.size.width, event.size.height)
            else:
                self.pop_screen()
        elif small:
            self.push_screen(TooSmall())
