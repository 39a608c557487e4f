"""The values of a DAG's parameters for one run: a line each with its name, a field, and what is wrong with it."""

from collections.abc import Iterable, Mapping

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from cli.output import harmless
from helios.dag_problem import Problem


class ParamFields(VerticalScroll):
    """Out of sight where the DAG declares none. A field that is empty leaves the parameter its default."""

    DEFAULT_CSS = """
    ParamFields {
        height: auto; max-height: 5; display: none; padding: 0 1;
        &.-open { display: block; }
        Horizontal { height: 1; }
        .name { width: 24; color: $text-muted; }
        Input { width: 1fr; }
        .fault { width: auto; max-width: 40; padding: 0 1; color: $text-error; }
    }
    """
    can_focus = False

    class Changed(Message):
        def __init__(self, name: str, value: str) -> None:
            super().__init__()
            self.name = name
            self.value = value

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(id="params")
        self.given = given
        """What was typed so far, by name; kept by whoever made this, also for names that are not declared now."""
        self.declared: dict[str, str | None] = {}
        """The defaults by name, None of those that need a value."""

    def compose(self) -> ComposeResult:
        for name, default in self.declared.items():
            needed = default is None
            with Horizontal():
                yield Static(f"{harmless(name)}{' *' if needed else ''}", classes="name", markup=False)
                hint = "a value" if needed else f"default: {harmless(default or '')}"
                yield Input(self.given.get(name, ""), placeholder=hint, name=name, compact=True, select_on_focus=False)
                yield Static("", classes="fault", markup=False)

    async def declare(self, declared: Mapping[str, str | None]) -> None:
        """Show these; fields that stay the same keep the cursor."""
        if dict(declared) == self.declared:
            return
        focused = self.app.focused
        had_focus = focused.name if isinstance(focused, Input) and focused in self.query(Input) else None
        self.declared = dict(declared)
        self.set_class(bool(declared), "-open")
        await self.recompose()
        for field in self.query(Input):
            if field.name == had_focus:
                field.focus()

    def show_faults(self, problems: Iterable[Problem]) -> None:
        """What is wrong with each parameter, beside it."""
        faults = {each.path: each.message for each in problems}
        for row in self.query(Horizontal):
            field = row.query_one(Input)
            fault = faults.get(f"params.{field.name}", "")
            field.set_class(bool(fault), "-invalid")
            needed = fault and not field.value and self.declared.get(field.name or "") is None
            row.query_one(".fault", Static).update("needs a value" if needed else harmless(fault))

    def focus_first(self, problems: Iterable[Problem] = ()) -> bool:
        """Go to the first field with a problem, or to the first; False where there is none."""
        paths = {each.path for each in problems}
        fields = list(self.query(Input))
        wrong = [each for each in fields if f"params.{each.name}" in paths]
        for field in (wrong or fields)[:1]:
            field.focus()
        return bool(fields)

    @on(Input.Changed)
    def typed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed(event.input.name or "", event.value))

    @on(Input.Submitted)
    def entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()
