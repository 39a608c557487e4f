"""Text in the theme's colours, for what draws with Rich."""

from typing import Any

from rich.text import Text
from textual.app import App

from tui.glyphs import Mark


def tint(app: App[Any], text: str, style: str) -> Text:
    """`style` is that of a Mark, maybe after `bold`. User data is taken literally."""
    words = ["dim" if word == "muted" else _colour(app, word) for word in style.split()]
    return Text(text, style=" ".join(word for word in words if word), no_wrap=False)


def _colour(app: App[Any], name: str) -> str:
    if name in ("", "bold", "dim", "foreground"):
        return "" if name == "foreground" else name
    found = app.theme_variables.get(name, "")
    return found[:7] if found.startswith("#") else ""


def marked(app: App[Any], mark: Mark, ascii_only: bool, text: str = "") -> Text:
    """A mark, and more text in its colour."""
    return tint(app, f"{mark.shown(ascii_only)}{text}", mark.style)
