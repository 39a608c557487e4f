"""What a log line is about: the run, task, attempt and entry at hand, bound once for every line that follows.

Rule: whoever takes an entry in hand binds it here, and nobody below names it again. A thread begins with nothing bound.
"""

import contextlib
from collections.abc import Generator, Mapping

from structlog.contextvars import bound_contextvars

from helios.keys import SUBMISSIONS

SUBJECT = ("run", "task", "attempt", "entry")
"""What a line says of its subject, in this order."""
TEXT_CHARACTERS = 256
"""Names are shorter; what a broken entry has in their place may be megabytes."""


@contextlib.contextmanager
def about(
    *, run: str | None = None, task: str | None = None, attempt: int | str | None = None, entry: str | None = None
) -> Generator[None]:
    """Every line inside has these fields, beside those that were bound before."""
    given = {"run": run, "task": task, "attempt": attempt, "entry": entry}
    with bound_contextvars(**{name: value for name, value in given.items() if value is not None}):
        yield


@contextlib.contextmanager
def about_entry(stream: str, entry: str, fields: Mapping[str, str]) -> Generator[None]:
    """The same for a stream's entry. Of a submission the entry's id is the run's."""
    run = entry if stream == SUBMISSIONS else fields.get("run")
    with about(
        run=_short(run),
        task=_short(fields.get("task")),
        attempt=_number(fields.get("attempt")),
        entry=entry,
    ):
        yield


def _short(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_CHARACTERS]


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else _short(text)
