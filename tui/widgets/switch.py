"""A box that is ticked or empty: Textual's own shows its cross in both states, and tells them apart by colour alone."""

from textual.content import Content
from textual.widgets import Checkbox


class Switch(Checkbox):
    BUTTON_LEFT = "["
    BUTTON_RIGHT = "]"

    def __init__(self, label: str, value: bool, *, id: str) -> None:
        self.BUTTON_INNER = _tick(value)
        super().__init__(Content(label), value, id=id)

    def watch_value(self) -> None:
        self.BUTTON_INNER = _tick(self.value)  # pyright: ignore[reportConstantRedefinition] -- it is the box's own
        super().watch_value()
        self.refresh()


def _tick(value: bool) -> str:
    return "X" if value else " "
