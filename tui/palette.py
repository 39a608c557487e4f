"""The styles of tui/glyphs.py as Rich styles in the colours of the theme that is on."""

from typing import Any

from rich.style import Style
from textual.app import App
from textual.color import Color, ColorParseError

VARIABLES = {
    "success": "text-success",
    "error": "text-error",
    "warning": "text-warning",
    "primary": "text-primary",
    "accent": "text-accent",
    "foreground": "foreground",
}


def style_of(app: App[Any], name: str, *, dim: bool = False) -> Style:
    """The style of that name; `muted` is the foreground dimmed, and so is everything where `dim` is set."""
    variable = VARIABLES.get(name, "foreground")
    colour = app.theme_variables.get(variable, "")
    faint = dim or name == "muted"
    try:
        rich = Color.parse(colour).rich_color
    except ColorParseError:  # "auto 87%" and the like: a colour that depends on what is behind it
        return Style(dim=faint, bold=name == "error")
    return Style(color=rich, dim=faint, bold=name == "error")
