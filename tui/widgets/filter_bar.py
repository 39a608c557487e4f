"""The line in which a filter is typed, with how many runs pass it, and below it why a text is no filter."""

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Static

from tui.model.filters import Filter, FilterInvalid, parse_filter

EXAMPLE = "words, or status:failed cache:off duration>30s !hit:miss"


class FilterBar(Vertical):
    """Hidden until it is opened. `chosen` is the filter in force: that of the last text that was one."""

    DEFAULT_CSS = """
    FilterBar {
        height: auto; display: none;
        &.-open { display: block; }
        Horizontal { height: 1; }
        #filter-sign { width: 2; padding: 0; color: $text-accent; }
        Input { width: 1fr; }
        #filter-count { width: auto; padding: 0 1; color: $text-muted; }
        #filter-problem { height: auto; display: none; padding: 0 1; color: $text-error; }
        #filter-problem.-open { display: block; }
    }
    """

    class Changed(Message):
        """Another filter is in force."""

    class Left(Message):
        """Enter: the filter is kept, and the keys belong to the table again."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = Filter()
        self.text = ""
        """Of the filter in force."""

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Static("/", id="filter-sign")
            yield Input(id="filter", compact=True, select_on_focus=False, placeholder=EXAMPLE)
            yield Static("", id="filter-count", markup=False)
        yield Static("", id="filter-problem", markup=False)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self) -> None:
        self.add_class("-open")
        self.query_one(Input).focus()

    def clear(self) -> None:
        """No filter, and out of sight; sends no message."""
        field = self.query_one(Input)
        with field.prevent(Input.Changed):
            field.value = ""
        self.chosen, self.text = Filter(), ""
        self.remove_class("-open")
        self.query_one("#filter-problem").remove_class("-open")

    def show_count(self, shown: int, known: int) -> None:
        text = f"{shown:,} of {known:,}" if self.chosen.terms else ""
        count = self.query_one("#filter-count", Static)
        if count.content != text:
            count.update(text)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        problem = self.query_one("#filter-problem", Static)
        try:
            chosen = parse_filter(event.value)
        except FilterInvalid as error:
            problem.update(str(error))
            problem.add_class("-open")
            return
        problem.remove_class("-open")
        self.text = event.value
        if chosen != self.chosen:
            self.chosen = chosen
            self.post_message(self.Changed())

    @on(Input.Submitted)
    def _kept(self, event: Input.Submitted) -> None:
        event.stop()
        self.set_class(bool(self.chosen.terms), "-open")
        self.post_message(self.Left())
