"""One task's card on the whole screen, where the run view has no room for it."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from tui.model.card import card_lines
from tui.screens.screen import HeliosScreen
from tui.source.run_details import RunDetails
from tui.widgets.task_card import TaskCard


class TaskScreen(HeliosScreen):
    TITLE = "Task"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter", "back", "Back", id="task.back")]
    DEFAULT_CSS = "TaskScreen TaskCard { height: 1fr; }"

    def __init__(self, task: str, details: RunDetails | None) -> None:
        super().__init__()
        self.task_name = task
        self.details = details

    def compose_body(self) -> ComposeResult:
        yield TaskCard()

    def tick(self) -> None:
        feed = self.session.feed
        with feed.lock:
            row = feed.board.rows.get(self.task_name) if feed.board is not None else None
            task = self.details.tasks.get(self.task_name) if self.details is not None else None
            lines = (
                tuple(card_lines(row, task, feed.now_ms(), ascii_only=self.session.options.ascii_only))
                if row is not None
                else ()
            )
        self.query_one(TaskCard).show_task(self.task_name, lines)

    def action_back(self) -> None:
        self.app.pop_screen()
