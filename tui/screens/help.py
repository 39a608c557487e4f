"""Contextual help: the keys that work now, with the names by which they can be rebound, and what the signs mean."""

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.glyphs import CACHE_MARKS, RUN_MARKS, SKIPPED, STAGE_MARKS, TASK_MARKS, Mark
from tui.palette import style_of


class HelpScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "close", "Close", id="help.close")]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll {
        width: 100; max-width: 96%; height: auto; max-height: 94%;
        border: round $primary; background: $surface; padding: 0 1;
    }
    HelpScreen Static { height: auto; margin-bottom: 1; }
    """

    def __init__(self, title: str, keys: list[tuple[str, str, str]], where: str, *, ascii_only: bool) -> None:
        super().__init__()
        self.heading, self.keys, self.where, self.ascii_only = title, keys, where, ascii_only

    def compose(self) -> ComposeResult:
        with VerticalScroll() as body:
            body.border_title = self.heading
            yield Static(self._key_table())
            yield Static(self._legend())
            yield Static(
                Text(f"Keys can be set in {self.where}, by the names on the right:\n  keys: {{runs.cancel: ctrl+x}}")
            )

    def _key_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_column(no_wrap=True)
        for keys, does, name in self.keys:
            table.add_row(
                Text(keys, style=style_of(self.app, "accent")),
                Text(does),
                Text(name, style=style_of(self.app, "muted")),
            )
        return table

    def _legend(self) -> Text:
        def words(marks: dict[str, Mark]) -> Text:
            parts = [Text(mark.shown(self.ascii_only), style=style_of(self.app, mark.style)) for mark in marks.values()]
            return Text("  ").join(parts)

        states = {**RUN_MARKS, **{name: mark for name, mark in TASK_MARKS.items() if name not in RUN_MARKS}}
        states["skipped"] = SKIPPED
        return Text("\n").join(
            [
                Text("States  ") + words(states),
                Text("Cache   ") + words(CACHE_MARKS),
                Text("Stages  ") + words(STAGE_MARKS),
            ]
        )

    def action_close(self) -> None:
        self.dismiss(None)
