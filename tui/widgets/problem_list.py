"""What is wrong with a DAG, a line each; choosing one goes to where it is."""

from collections.abc import Sequence

from rich.text import Text
from textual import on
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from cli.output import harmless
from helios.dag_problem import Problem
from tui.model.draft import place_words
from tui.palette import style_of


class ProblemList(OptionList):
    DEFAULT_CSS = """
    ProblemList { height: 6; border: round $panel; padding: 0 1; }
    ProblemList:focus { border: round $primary; }
    """

    class Chosen(Message):
        def __init__(self, problem: Problem) -> None:
            super().__init__()
            self.problem = problem

    def __init__(self) -> None:
        super().__init__(id="problems", markup=False)
        self.problems: list[Problem] = []

    def show_findings(
        self, problems: Sequence[Problem], warnings: Sequence[Problem] = (), *, ascii_only: bool = False
    ) -> None:
        """Show problems, then warnings."""
        found = [*problems, *warnings]
        if found == self.problems:
            return
        self.problems = found
        bad, warned = ("x", "!") if ascii_only else ("✘", "▲")
        lines = [self._line(each, bad, "error") for each in problems]
        lines += [self._line(each, warned, "warning") for each in warnings]
        self.clear_options()
        self.add_options([Option(line) for line in lines])

    def _line(self, problem: Problem, glyph: str, style: str) -> Text:
        place = place_words(problem)
        line = Text(f"{glyph} ", style=style_of(self.app, style))
        if place:
            line.append(f"{place}  ", style=style_of(self.app, "muted"))
        return line.append(" ".join(harmless(problem.message).split()), style=style_of(self.app, "foreground"))

    def next_problem(self, step: int = 1) -> Problem | None:
        """The one after the one that is marked, or the first; it is marked then. A step of -1 goes backwards."""
        if not self.problems:
            return None
        here = self.highlighted
        if here is None:
            here = -1 if step > 0 else 0
        self.highlighted = (here + step) % len(self.problems)
        return self.problems[self.highlighted or 0]

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Chosen(self.problems[event.option_index]))
