"""The three cards above the table of runs: cached runs, the others, and the run that ended last."""

from typing import NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from cli.figures import count, duration
from tui.model.columns import cache_mark, run_mark, tasks_text
from tui.model.runs import Averages, RunRow
from tui.model.table import printable
from tui.palette import style_of

WIDE = 120
"""Columns from which there is room for more words."""


class Card(NamedTuple):
    """Two lines, the second in a style of tui/glyphs.py, and a word for the lower edge."""

    first: str
    first_style: str = "foreground"
    second: str = ""
    edge: str = ""


def average_card(runs: int, average_ms: float | None, *, is_wide: bool, gain: float | None = None) -> Card:
    """Finished, successful runs and their average; `gain` is what the cache saves of the other average, from 1 down."""
    first = f"{runs:,} {'run' if runs == 1 else 'runs'} ok"
    if average_ms is None:
        return Card(first, "muted", "no average yet")
    second = f"{'average' if is_wide else 'avg'} {duration(round(average_ms))}"
    if gain is None:
        return Card(first, "foreground", second)
    edge = f"gain {gain * 100:.0f} %" if gain >= 0 else f"loss {-gain * 100:.0f} %"
    return Card(first, "foreground", second, f"{edge} against non-cached" if is_wide else edge)


def last_card(row: RunRow | None, *, is_wide: bool, ascii_only: bool) -> Card:
    """How the run that ended last went."""
    if row is None:
        return Card("none has ended", "muted", "")
    mark, dag = run_mark(row), printable(row.dag)
    tasks = tasks_text(row) if row.status != "REJECTED" else count(row.problems, "problem")
    if not is_wide:
        return Card(f"{mark.plain if ascii_only else mark.glyph} {tasks}", mark.style, f"{mark.word}: {dag}")
    took = duration(row.duration_ms(row.ended_at or 0))
    cache = cache_mark(row).shown(ascii_only)
    facts = [row.run, *([f"took {took}"] if took else []), f"cache {cache}" if row.cache_enabled else "cache off"]
    return Card(f"{mark.shown(ascii_only)}  {tasks}  {dag}", mark.style, ", ".join(facts))


class Cards(Horizontal):
    DEFAULT_CSS = """
    Cards {
        height: 4;
        Static { width: 1fr; height: 4; border: round $panel-lighten-2; padding: 0 1; border-title-color: $text-accent;
            border-subtitle-color: $text-success; text-wrap: nowrap; text-overflow: ellipsis; }
    }
    """

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.ascii_only = ascii_only
        self._shown: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        for title in ("Cached", "Non-cached", "Last run"):
            card = Static("", markup=False)
            card.border_title = title
            if self.ascii_only:
                card.styles.border = ("ascii", "gray")
            yield card

    def show(self, averages: Averages, last: RunRow | None) -> None:
        """Write those cards anew that say something else than before."""
        is_wide = self.app.size.width >= WIDE
        cards = (
            average_card(averages.cached, averages.cached_ms, is_wide=is_wide, gain=averages.gain),
            average_card(averages.non_cached, averages.non_cached_ms, is_wide=is_wide),
            last_card(last, is_wide=is_wide, ascii_only=self.ascii_only),
        )
        shown = (cards, self.app.theme)
        if shown == self._shown:
            return
        self._shown = shown
        for widget, card in zip(self.query(Static), cards, strict=True):
            lines = Text(card.first, style=style_of(self.app, card.first_style), no_wrap=True, overflow="ellipsis")
            lines.append(f"\n{card.second}", style=style_of(self.app, "muted"))
            widget.update(lines)
            widget.border_subtitle = card.edge
