"""How states look: a glyph, a word and a style for each, never a colour alone. Pure functions.

Styles are names of Textual theme variables, without the dollar sign; what draws with Rich resolves them by the theme.
"""

from typing import NamedTuple


class Mark(NamedTuple):
    """How one state looks."""

    glyph: str
    word: str
    style: str
    """success, error, warning, primary, accent, foreground or muted."""
    plain: str
    """The glyph in ASCII."""

    def shown(self, ascii_only: bool) -> str:
        return f"{self.plain if ascii_only else self.glyph} {self.word}"


RUN_MARKS = {
    "RUNNING": Mark("▶", "running", "primary", ">"),
    "SUCCEEDED": Mark("✔", "ok", "success", "+"),
    "FAILED": Mark("✘", "failed", "error", "x"),
    "CANCELLED": Mark("⊘", "cancelled", "warning", "/"),
    "REJECTED": Mark("✘", "rejected", "error", "!"),
}

TASK_MARKS = {
    "WAITING": Mark("·", "waiting", "muted", "."),
    "QUEUED": Mark("…", "queued", "muted", "-"),
    "RUNNING": RUN_MARKS["RUNNING"],
    "SUCCEEDED": RUN_MARKS["SUCCEEDED"],
    "FAILED": RUN_MARKS["FAILED"],
    "UPSTREAM_FAILED": Mark("✘", "not started", "error", "x"),
    "CANCELLED": RUN_MARKS["CANCELLED"],
    "UNKNOWN": Mark("?", "unknown", "warning", "?"),
}

SKIPPED = Mark("↷", "skipped", "success", "~")
"""A task that succeeded without running, because an earlier success stands for it."""

CACHE_MARKS = {
    "Hit": Mark("●", "Hit", "success", "*"),
    "Partial": Mark("◐", "Partial", "warning", "o"),
    "Miss": Mark("○", "Miss", "accent", "-"),
    "N/A": Mark("–", "N/A", "muted", " "),
    "Unknown": Mark("?", "Unknown", "warning", "?"),
}

CACHE_SWITCH_MARKS = {
    True: Mark("⛁", "on", "foreground", "#"),
    False: Mark("–", "off", "muted", "-"),
}

STAGE_MARKS = {
    "queued": Mark("░", "queued", "muted", "."),
    "starting": Mark("▒", "starting", "warning", ":"),
    "fetching": Mark("▓", "fetching", "accent", "f"),
    "running": Mark("█", "running", "primary", "="),
    "publishing": Mark("▓", "publishing", "success", "p"),
}

UNKNOWN = Mark("?", "unknown", "warning", "?")


def task_mark(status: str, *, skipped: bool) -> Mark:
    """How a task looks."""
    return SKIPPED if skipped and status == "SUCCEEDED" else TASK_MARKS.get(status, UNKNOWN)
