"""Which of a run's tasks are shown, and in which order."""

from collections.abc import Callable, Iterable, Mapping

from tui.glyphs import CACHE_MARKS, task_mark
from tui.model.tasks import TaskRow


def _began(row: TaskRow) -> float:
    return row.launched_at or row.queued_at or float("inf")


def _took(row: TaskRow) -> float:
    begin = row.launched_at or row.queued_at
    return -(row.ended_at - begin) if begin is not None and row.ended_at is not None else 0


def _trouble(row: TaskRow) -> int:
    return {"FAILED": 0, "UNKNOWN": 1, "UPSTREAM_FAILED": 2, "CANCELLED": 3, "RUNNING": 4}.get(row.status, 5)


ORDERS: dict[str, Callable[[TaskRow], float]] = {
    "DAG order": lambda _: 0,
    "start": _began,
    "longest first": _took,
    "most missed first": lambda row: -row.miss_bytes,
    "failed first": _trouble,
}
"""Each a stable sort of the DAG's order."""


def listed(rows: Mapping[str, TaskRow], wanted: str, order: str) -> list[str]:
    """Names of the tasks that pass the filter, in that order."""
    names = [name for name, row in rows.items() if passes(row, wanted)]
    return names if order == "DAG order" else sorted(names, key=lambda name: ORDERS[order](rows[name]))


def passes(row: TaskRow, wanted: str) -> bool:
    """Whether every word is in the task's name, state, cache outcome, node or causes; `!word` must be in none, and
    `status:`, `cache:`, `node:` and `cause:` look into one of them only."""
    return all(_passes_word(row, word) for word in wanted.lower().split())


def _passes_word(row: TaskRow, word: str) -> bool:
    if word.startswith("!"):
        return len(word) == 1 or not _passes_word(row, word[1:])
    kind, colon, rest = word.partition(":")
    fields = _fields(row)
    if colon and kind in fields:
        return any(rest in text for text in fields[kind])
    return any(word in text for texts in fields.values() for text in texts)


def _fields(row: TaskRow) -> dict[str, list[str]]:
    state = task_mark(row.status, skipped=row.skipped is not None)
    found: Iterable[str] = (each.cause for each in row.view.inputs) if row.view is not None else ()
    return {
        "name": [row.name.lower()],
        "status": [row.status.lower(), state.word],
        "cache": [CACHE_MARKS[row.cache].word.lower() if row.cache in CACHE_MARKS else ""],
        "node": [row.node.lower()],
        "cause": list(found),
    }
