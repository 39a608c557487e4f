"""Text in the theme's colours, for what draws with Rich."""

from typing import Any

from rich.style import Style
from rich.text import Text
from textual.app import App

from tui.glyphs import Mark
from tui.palette import style_of


def tint(app: App[Any], text: str, style: str) -> Text:
    """`style` is that of a Mark, maybe after `bold`. User data is taken literally."""
    name = style.removeprefix("bold ")
    drawn = Style(bold=True) if name == "bold" else style_of(app, name)
    return Text(text, style=drawn + Style(bold=True) if style.startswith("bold") else drawn, no_wrap=False)


def marked(app: App[Any], mark: Mark, ascii_only: bool, text: str = "") -> Text:
    """A mark, and more text in its colour."""
    return tint(app, f"{mark.shown(ascii_only)}{text}", mark.style)
