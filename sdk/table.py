"""Runs and DAGs as notebooks show them: HTML without scripts, everything in it escaped; and the table that is live."""

import html
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdk.records import RunInfo

if TYPE_CHECKING:
    from cli.run_progress import RunProgress
    from sdk.client import Run

ROWS = 50
"""Tasks that are shown; those that did not succeed come first."""
FRAME_SECONDS = 0.5
"""A live table is drawn anew no more often."""

COLOURS = {
    "SUCCEEDED": "#1a7f37",
    "FAILED": "#cf222e",
    "UPSTREAM_FAILED": "#cf222e",
    "REJECTED": "#cf222e",
    "CANCELLED": "#9a6700",
    "RUNNING": "#0969da",
}
_ORDER = {"FAILED": 0, "RUNNING": 1, "UPSTREAM_FAILED": 2, "CANCELLED": 3, "QUEUED": 4, "WAITING": 5, "SUCCEEDED": 6}

Cell = tuple[str, str]
"""Text and colour."""


def run_html(info: RunInfo) -> str:
    """A run: its metrics in a line, and its tasks."""
    from cli.figures import duration, size

    facts = [info.dag_name, info.status]
    if info.duration_ms is not None:
        facts.append(duration(info.duration_ms))
    facts.append(f"{info.task_succeeded:,} of {info.task_count:,} tasks succeeded")
    if info.cache_hit_bytes or info.cache_miss_bytes:
        facts.append(f"cache {info.cache_hit}: {size(info.cache_hit_bytes)} hit, {size(info.cache_miss_bytes)} missed")
    rows: list[list[Cell]] = []
    for task in sorted(info.tasks, key=lambda each: _ORDER.get(each.status, 0))[:ROWS]:
        took = task.end_time - task.start_time if task.end_time is not None and task.start_time is not None else None
        rows.append(
            [
                (task.name, ""),
                (task.status, COLOURS.get(task.status, "")),
                (str(task.attempt), ""),
                (task.cache, ""),
                (duration(took), ""),
                (task.reason or "", ""),
            ]
        )
    return _page(info.dag_id, facts, ["task", "status", "attempt", "cache", "time", "reason"], rows, len(info.tasks))


def dag_html(name: str, tasks: Sequence[Mapping[str, Any]]) -> str:
    """A DAG that is being built: each task with its image and what it waits for."""
    rows: list[list[Cell]] = []
    for task in tasks[:ROWS]:
        inputs: list[dict[str, Any]] = task.get("inputs") or []
        before: dict[str, None] = dict.fromkeys(task.get("depends_on") or ())
        before |= {each["fromTask"]: None for each in inputs if "fromTask" in each}
        rows.append(
            [
                (str(task["name"]), ""),
                (str(task["image"]), ""),
                (", ".join(before), ""),
                (", ".join(task.get("outputs") or ()), ""),
            ]
        )
    return _page(name, [f"{len(tasks):,} tasks"], ["task", "image", "after", "outputs"], rows, len(tasks))


def progress_html(run: str, progress: "RunProgress") -> str:
    """A run that goes on."""
    tasks = sorted(progress.tasks.values(), key=lambda each: (_ORDER.get(each.status, 0), -(each.ended_at or 0)))
    facts = [f"{number:,} {status.lower().replace('_', ' ')}" for status, number in progress.counts.items() if number]
    rows: list[list[Cell]] = [
        [
            (each.name, ""),
            (each.phase or each.status, COLOURS.get(each.status, "")),
            (str(each.attempt), ""),
            (each.cache, ""),
            (each.reason, ""),
        ]
        for each in tasks[:ROWS]
    ]
    return _page(run, facts, ["task", "status", "attempt", "cache", "reason"], rows, len(tasks))


def _page(title: str, facts: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[Cell]], total: int) -> str:
    left = 'style="text-align:left"'
    cells = "".join(f"<th {left}>{html.escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(_cell(each) for each in row)}</tr>" for row in rows)
    more = f"<p>… and {total - len(rows):,} more tasks</p>" if total > len(rows) else ""
    summary = html.escape(" · ".join(facts))
    return (
        f"<div><p><b>{html.escape(title)}</b> · {summary}</p>"
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def _cell(cell: Cell) -> str:
    text, colour = cell
    style = f"text-align:left;color:{colour}" if colour else "text-align:left"
    return f'<td style="{style}">{html.escape(text)}</td>'


class _Html:
    """What a notebook displays; a place where there is no HTML shows the line."""

    def __init__(self, page: str, line: str) -> None:
        self.page, self.line = page, line

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return self.line


class _NotebookDisplay:
    """Draws in one output of a cell, again and again. IPython is there already where this is used, and nowhere asked
    for."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._next_frame = 0.0
        self._handle: Any = None

    def show(self, progress: "RunProgress", changed: object) -> None:
        del changed
        now = time.monotonic()
        if self._handle is None or now >= self._next_frame or progress.ended:
            self._next_frame = now + FRAME_SECONDS
            self.draw(_Html(progress_html(self.run, progress), f"run {self.run}"))

    def draw(self, shown: object) -> None:
        if self._handle is None:
            display: Any = sys.modules["IPython.display"]
            self._handle = display.display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def close(self) -> None:
        pass


def in_notebook() -> bool:
    """Whether this runs in a kernel that can draw; a terminal's IPython cannot."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and "IPython.display" in sys.modules else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def shown_live(run: "Run", timeout: float | None) -> RunInfo:
    """Follow a run to its end and show it; see Run.watch."""
    from cli.follow import Follower
    from cli.watch import display_of

    deadline = None if timeout is None else time.monotonic() + timeout
    with run.session.speaking() as link:
        follower = Follower(link, run.id)
        changed = follower.read()
    display = _NotebookDisplay(run.id) if in_notebook() else display_of(run.id, follower.progress)
    try:
        while True:
            display.show(follower.progress, changed)
            if follower.ended:
                break
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {run.id} goes on after {timeout:g} s")
            with run.session.speaking():
                changed = follower.read()
    finally:
        display.close()
    info = run.info()
    if isinstance(display, _NotebookDisplay):
        display.draw(info)
    return info
