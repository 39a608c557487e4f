"""A task's outputs: choose one, or all, and a folder."""

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from cli.download import PlaceTaken
from cli.failure import RUN_FAILED, CommandFailed
from cli.figures import count, size
from helios.records import OutputRecord
from tui.model.table import Cell, Heading, printable
from tui.source.artifacts import DownloadCancelled, Downloaded, download, outputs_of
from tui.widgets.dialogs import Ask, Confirm
from tui.widgets.grid import Grid

if TYPE_CHECKING:
    from tui.app import HeliosApp

HEADINGS = (
    Heading("Output", 20, 60),
    Heading("Size", 9, right=True),
    Heading("Kind", 6),
    Heading("SHA-256", 16, 64, need=1),
)


class DownloadScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "all", "Download all", id="download.all"),
        Binding("escape", "leave", "Back", id="download.back"),
    ]
    DEFAULT_CSS = """
    DownloadScreen { align: center middle; }
    DownloadScreen > Vertical {
        width: 100; max-width: 96%; height: 16; border: round $primary; background: $surface; padding: 0 1;
    }
    DownloadScreen #progress { height: 2; }
    """

    def __init__(self, run: str, task: str) -> None:
        super().__init__()
        self.run_id, self.task_name = run, task
        self.outputs: dict[str, OutputRecord] = {}
        self._cancelled = threading.Event()
        self._is_busy = False

    @property
    def helios(self) -> "HeliosApp":
        return cast("HeliosApp", self.app)

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = printable(f"Outputs of {self.task_name}").replace("[", "\\[")
            yield Grid(HEADINGS, self._cells, ascii_only=self.helios.session.options.ascii_only, id="outputs")
            yield Static("Enter downloads one, a all of them, Escape leaves.", id="progress", markup=False)

    def _cells(self, name: str) -> list[Cell]:
        output = self.outputs[name]
        kind = "folder" if output.archive else "file"
        return [Cell(output.name), Cell(size(output.bytes)), Cell(kind, "muted"), Cell(output.sha256, "muted")]

    @work
    async def on_mount(self) -> None:
        grid = self.query_one(Grid)
        grid.focus()
        try:
            found = await asyncio.to_thread(outputs_of, self.helios.session.link, self.run_id, self.task_name)
        except CommandFailed as failure:
            self._say(f"{failure.message}; {failure.hint}")
            return
        self.outputs = {each.name: each for each in found}
        grid.set_notice("It has stored nothing.")
        grid.set_rows([each.name for each in found])

    def _say(self, text: str) -> None:
        if self.is_mounted:
            self.query_one("#progress", Static).update(printable(" ".join(text.split())))

    @on(Grid.Chosen)
    def chosen(self, event: Grid.Chosen) -> None:
        event.stop()
        self._download([self.outputs[event.key]])

    def action_all(self) -> None:
        if self.outputs:
            self._download(list(self.outputs.values()))

    def action_leave(self) -> None:
        if self._is_busy:
            self._cancelled.set()
            self._say("Stopping; what has come so far stays, and the next download goes on from there.")
        else:
            self.dismiss(None)

    @work
    async def _download(self, outputs: list[OutputRecord]) -> None:
        if self._is_busy:
            return
        folder = await self.app.push_screen_wait(Ask("Into which folder?", value="."))
        if folder is None:
            return
        self._is_busy = True
        self._cancelled.clear()
        brought: list[Downloaded] = []
        failures: list[str] = []
        try:
            for output in outputs:
                try:
                    place = await self._bring(output, Path(folder or "."))
                except CommandFailed as failure:
                    if failure.code != RUN_FAILED:  # the store cannot be used, so the others cannot be fetched either
                        raise
                    failures.append(f"{output.name}: {failure.message}; {failure.hint}")
                else:
                    brought += [place] if place is not None else []
        except DownloadCancelled:
            self._say("Stopped.")
        except CommandFailed as failure:
            self._say(f"{failure.message}; {failure.hint}")
        else:
            words = [f"{count(len(brought), 'output')} in {folder or '.'}: {brought[-1].place}"] if brought else []
            if failures:
                words.append(f"{count(len(failures), 'output')} could not be fetched. {failures[0]}")
            if words:
                self._say(". ".join(reversed(words)))
        finally:
            self._is_busy = False

    async def _bring(self, output: OutputRecord, folder: Path) -> Downloaded | None:
        """None where the user leaves what is in its place as it is."""
        try:
            return await asyncio.to_thread(self._fetch, output, folder, False)
        except PlaceTaken as taken:
            if not await self.app.push_screen_wait(Confirm(f"{taken.message}. Replace it?", yes="Replace")):
                self._say(f"{output.name} is left as it is.")
                return None
            return await asyncio.to_thread(self._fetch, output, folder, True)

    def _fetch(self, output: OutputRecord, folder: Path, force: bool) -> Downloaded:
        link = self.helios.session.link
        return download(link, output, folder, force=force, tell=self._tell, cancelled=self._cancelled)

    def _tell(self, name: str, done: int, total: int) -> None:
        share = f", {100 * done // total} %" if total else ""
        self.app.call_from_thread(self._say, f"{name}: {size(done)} of {size(total)}{share}")
