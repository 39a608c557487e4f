"""Pictures of screens: what the terminal would show, as text and as SVG, compared with what is kept in the folder.

HELIOS_PICTURES=keep writes them anew; look at each before committing it.
"""

import os
import re
from pathlib import Path
from typing import Any

from textual.app import App

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
NARROW = (80, 24)
WIDE = (160, 50)


def screen_text(app: App[Any]) -> str:
    """What is on the screen, line by line, without trailing blanks; nothing while it has not been laid out yet."""
    strips = app.screen._compositor.render_strips(app.size)  # the one place where the lines are at hand
    if len(strips) != app.size.height:
        return ""
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def picture_of(app: App[Any]) -> str:
    """The screen as SVG. The ids that Rich derives from the content are made the same for every picture, and the fonts
    that it would load from elsewhere are left to whoever looks at it."""
    svg = app.export_screenshot(title="helios")
    svg = re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)
    return re.sub(r"terminal-[0-9]+", "terminal", svg).replace("Fira Code", "monospace")


def assert_looks(app: App[Any], name: str) -> None:
    """Compare with the kept picture `name.svg`; a difference leaves `name.now.svg` beside it."""
    kept, now = FOLDER / f"{name}.svg", FOLDER / f"{name}.now.svg"
    picture = picture_of(app)
    if os.environ.get("HELIOS_PICTURES") == "keep":
        FOLDER.mkdir(exist_ok=True)
        kept.write_text(picture, encoding="utf-8")
        now.unlink(missing_ok=True)
        return
    assert kept.exists(), f"there is no picture {kept}; make it with HELIOS_PICTURES=keep and look at it"
    if picture != kept.read_text(encoding="utf-8"):
        now.write_text(picture, encoding="utf-8")
        raise AssertionError(f"{name} looks otherwise than before: compare {now} with {kept}\n{screen_text(app)}")
    now.unlink(missing_ok=True)
