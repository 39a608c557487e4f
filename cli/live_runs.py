"""The newest runs on a terminal, as a table that is drawn anew in place."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.output import styled
from cli.run_text import RUN_COLUMNS, run_row
from cli.table import lay_out
from cli.watch_runs import RunsFollower

LINES_AROUND = 3
CLOCK_SECONDS = 1.0


class LiveRuns:
    """Draws on stdout; the last picture stays when closed."""

    def __init__(self) -> None:
        self.console = Console()
        self._live = Live(console=self.console, auto_refresh=False)
        self._live.start()
        self._next_frame = 0.0

    def show(self, follower: RunsFollower, changed: Sequence[Mapping[str, Any]]) -> None:
        """Draw again if something changed, and once a second for the clock."""
        now = time.monotonic()
        if changed or now >= self._next_frame:
            self._next_frame = now + CLOCK_SECONDS
            self._live.update(self._picture(follower), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _picture(self, follower: RunsFollower) -> Text:
        runs = follower.newest()[: max(1, self.console.height - LINES_AROUND)]
        lines = lay_out(RUN_COLUMNS, [run_row(run) for run in runs], _paint) if runs else ["there is no run yet"]
        lines.append(f"{time.strftime('%H:%M:%S')}  Ctrl-C ends the watching")
        picture = Text.from_ansi("\n".join(lines))
        picture.no_wrap, picture.overflow = True, "ellipsis"
        return picture


def _paint(text: str, style: str) -> str:
    return styled(text, style, sys.stdout)
