"""The dashboard as a whole: which screens there are, and how one leads to another."""

from textual import on
from textual.app import App
from textual.reactive import reactive

from tui.intents import OpenCompare, OpenRun, OpenSubmit, SelectRun
from tui.session import Session


class HeliosApp(App[None]):
    TITLE = "Helios"

    paused: reactive[bool] = reactive(False)
    """Nothing on screen moves while this is set; the feed goes on."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    @on(OpenRun)
    def open_run(self, intent: OpenRun) -> None: ...

    @on(SelectRun)
    def select_run(self, intent: SelectRun) -> None: ...

    @on(OpenSubmit)
    def open_submit(self, intent: OpenSubmit) -> None: ...

    @on(OpenCompare)
    def open_compare(self, intent: OpenCompare) -> None: ...
