"""One dead letter in full, and what can be done about it."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from cli.figures import moment
from cli.letters import Letter, remedy
from cli.output import harmless


class LetterView(ModalScreen[str]):
    """Gives `retry`, `discard`, or nothing."""

    BINDINGS: ClassVar = [
        Binding("escape,q", "leave('')", "Back", id="letter.back"),
        Binding("t", "leave('retry')", "Retry", id="letter.retry"),
        Binding("D", "leave('discard')", "Discard", id="letter.discard"),
    ]
    DEFAULT_CSS = """
    LetterView { align: center middle; }
    LetterView > Vertical { width: 90%; height: auto; max-height: 90%; padding: 0 1; }
    LetterView > Vertical { border: round $error; background: $surface; }
    LetterView VerticalScroll { height: auto; max-height: 100%; }
    LetterView Label { color: $text-muted; dock: bottom; }
    """

    def __init__(self, letter: Letter) -> None:
        super().__init__()
        self.letter = letter

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "Dead letter"
            with VerticalScroll():
                yield Static(letter_text(self.letter), markup=False)
            yield Label("t retry   D discard   esc back")

    def action_leave(self, answer: str) -> None:
        self.dismiss(answer)


def letter_text(letter: Letter) -> Text:
    """Every field of it, readable whatever it holds."""
    text = Text()
    about = {
        "reason": letter.reason,
        "stream": letter.stream,
        "entry": letter.entry,
        "deliveries": letter.deliveries,
        "buried": f"{moment(letter.since)} ({letter.id} in {letter.dead})",
        "run": f"{letter.run} {letter.run_status or 'is not kept'}" if letter.run else "none",
        "retry": remedy(letter)[1],
    }
    for name, value in about.items():
        text.append(f"{name:<11}", style="bold").append(f"{harmless(value)}\n")
    text.append("\nthe entry's fields\n", style="bold")
    for name, value in letter.fields.items():
        text.append(f"  {harmless(name)}: ", style="bold").append(f"{harmless(value)}\n")
    return text
