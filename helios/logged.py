"""What a log line is about: the run, task, attempt and entry at hand, bound once for every line that follows.

Rule: whoever takes an entry in hand binds it here, and nobody below names it again. A thread begins with nothing bound.
"""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Self

from helios.keys import SUBMISSIONS

SUBJECT = ("run", "task", "attempt", "entry")
"""What a line says of its subject, in this order."""
TEXT_CHARACTERS = 256
"""Names are shorter; what a broken entry has in their place may be megabytes."""


class about:
    """Every line inside has these fields, beside those that were bound before.

    Several are entered for each task, so it does nothing but keep them; whoever writes a line asks for them.
    """

    __slots__ = ("outer", "said", "token")

    def __init__(
        self,
        *,
        run: str | None = None,
        task: str | None = None,
        attempt: int | str | None = None,
        entry: str | None = None,
    ) -> None:
        self.said = (run, task, attempt, entry)
        self.outer: about | None = None
        self.token: Token[about | None] | None = None

    def __enter__(self) -> Self:
        self.outer = _innermost.get()
        self.token = _innermost.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.token is not None
        _innermost.reset(self.token)


_innermost: ContextVar[about | None] = ContextVar("helios_log_subject", default=None)


def subject() -> dict[str, Any]:
    """The fields that are bound here and now."""
    found: dict[str, Any] = {}
    each = _innermost.get()
    while each is not None:
        for name, value in zip(SUBJECT, each.said, strict=True):
            if value is not None:
                found.setdefault(name, value)
        each = each.outer
    return found


def about_entry(stream: str, entry: str, fields: Mapping[str, str]) -> about:
    """The same for a stream's entry. Of a submission the entry's id is the run's."""
    run = entry if stream == SUBMISSIONS else fields.get("run")
    return about(
        run=_short(run),
        task=_short(fields.get("task")),
        attempt=_number(fields.get("attempt")),
        entry=entry,
    )


def _short(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_CHARACTERS]


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else _short(text)
