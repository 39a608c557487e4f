"""The columns of the table of runs: what each says of a run, how it sorts, and what a filter finds in it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from cli.figures import count, duration, moment
from tui.glyphs import CACHE_MARKS, CACHE_SWITCH_MARKS, RUN_MARKS, UNKNOWN, Mark
from tui.model.runs import RunRow
from tui.model.table import Cell, Heading


class Look(NamedTuple):
    """A run as it is looked at: the Redis server's time in milliseconds, and whether glyphs are ASCII."""

    row: RunRow
    now_ms: int
    ascii_only: bool = False


class Column(msgspec.Struct, frozen=True):
    """One column, as functions of a look at a run."""

    name: str
    """As in a filter."""
    heading: Heading
    cell: Callable[[Look], Cell]
    order: Callable[[Look], Any]
    """What it sorts by; comparable with that of any other run."""
    texts: Callable[[Look], tuple[str, ...]]
    """What a filter finds; the comparison with `=` is with one of them as a whole."""
    number: Callable[[Look], int | None] | None = None
    """What `<` and `>` compare: milliseconds where `is_time`, else a number."""
    is_time: bool = False
    moves: bool = False
    """Whether what it says of a run that goes on changes with time."""


def id_order(run: str) -> tuple[int, int]:
    milliseconds, _, sequence = run.partition("-")
    return (int(milliseconds), int(sequence)) if milliseconds.isdecimal() and sequence.isdecimal() else (0, 0)


def _mark_cell(mark: Mark, ascii_only: bool) -> Cell:
    return Cell(mark.shown(ascii_only), mark.style)


def run_mark(row: RunRow) -> Mark:
    return RUN_MARKS.get(row.status, UNKNOWN)


def cache_mark(row: RunRow) -> Mark:
    return CACHE_MARKS.get(row.cache_hit, CACHE_MARKS["Unknown"])


def tasks_text(row: RunRow) -> str:
    """`4/5 ok, 1 failed`; `0 failed` is said of a run that ended only."""
    text = f"{row.succeeded}/{row.tasks} ok"
    if row.failed or row.ended:
        text += f", {row.failed} failed"
    return f"{text}, {row.cancelled} cancelled" if row.cancelled else text


def _tasks_cell(it: Look) -> Cell:
    if it.row.status == "REJECTED":
        return Cell(
            count(it.row.problems, "problem"), "error", f"{it.row.problems} prob." if it.row.problems else "muted"
        )
    short = f"{it.row.succeeded}/{it.row.tasks}"
    if not it.row.failed and len(short) < TASKS.heading.least - 2:
        short += " ok"
    elif it.row.failed:
        short += f" {it.row.failed}{'x' if it.ascii_only else '✘'}"
    return Cell(tasks_text(it.row), "error" if it.row.failed else "foreground", short)


def _nodes_cell(it: Look) -> Cell:
    nodes = it.row.nodes
    if not nodes:
        return Cell("-" if it.ascii_only else "–", "muted")
    return Cell(", ".join(nodes), "foreground", str(len(nodes)) if len(nodes) > 1 else "")


@lru_cache(maxsize=16_384)
def started(milliseconds: int | None) -> str:
    """A filter over all runs asks for each start again with every key that is pressed."""
    return moment(milliseconds)


def _start_cell(it: Look) -> Cell:
    text = started(it.row.started_at)
    return Cell(text, "foreground", text[11:])


def _duration_cell(it: Look) -> Cell:
    text = duration(it.row.duration_ms(it.now_ms))
    short = text.replace(" m", "m").replace(" s", "s").replace(" h", "h")
    return Cell(text, "foreground" if it.row.ended else "primary", short)


def _absent_last(value: int | None) -> int:
    return -1 if value is None else value


STATUS_ORDER = {"RUNNING": 0, "FAILED": 1, "REJECTED": 2, "CANCELLED": 3, "SUCCEEDED": 4}
CACHE_ORDER = {"Hit": 0, "Partial": 1, "Miss": 2, "N/A": 3}

RUN_ID = Column(
    "id",
    Heading("Run ID", 15, 18),
    lambda it: Cell(it.row.run),
    lambda it: id_order(it.row.run),
    lambda it: (it.row.run,),
)
START = Column(
    "start",
    Heading("Start", 8, 19),
    _start_cell,
    lambda it: _absent_last(it.row.started_at),
    lambda it: (started(it.row.started_at),),
    lambda it: None if it.row.started_at is None else it.now_ms - it.row.started_at,
    is_time=True,
    moves=True,
)
DURATION = Column(
    "duration",
    Heading("Duration", 8, 10, right=True),
    _duration_cell,
    lambda it: _absent_last(it.row.duration_ms(it.now_ms)),
    lambda it: (duration(it.row.duration_ms(it.now_ms)),),
    lambda it: it.row.duration_ms(it.now_ms),
    is_time=True,
    moves=True,
)
CACHE = Column(
    "cache",
    Heading("Cache", 5, 7),
    lambda it: _mark_cell(CACHE_SWITCH_MARKS[it.row.cache_enabled], it.ascii_only),
    lambda it: it.row.cache_enabled,
    lambda it: (CACHE_SWITCH_MARKS[it.row.cache_enabled].word,),
)
CACHE_HIT = Column(
    "hit",
    Heading("Cache hit", 9, 11),
    lambda it: _mark_cell(cache_mark(it.row), it.ascii_only),
    lambda it: CACHE_ORDER.get(it.row.cache_hit, 4),
    lambda it: (it.row.cache_hit,),
)
STATUS = Column(
    "status",
    Heading("Status", 11, 13),
    lambda it: _mark_cell(run_mark(it.row), it.ascii_only),
    lambda it: STATUS_ORDER.get(it.row.status, 5),
    lambda it: (run_mark(it.row).word, it.row.status),
)
TASKS = Column(
    "tasks",
    Heading("Tasks", 9, 32),
    _tasks_cell,
    lambda it: (it.row.failed, it.row.tasks),
    lambda it: (tasks_text(it.row),),
    lambda it: it.row.tasks,
)
NODES = Column(
    "node",
    Heading("Nodes", 6, 24),
    _nodes_cell,
    lambda it: it.row.nodes,
    lambda it: it.row.nodes or ("",),
)
DAG = Column(
    "dag",
    Heading("DAG", 12, 24, need=1),
    lambda it: Cell(it.row.dag),
    lambda it: it.row.dag,
    lambda it: (it.row.dag,),
)

COLUMNS = (RUN_ID, START, DURATION, CACHE, CACHE_HIT, STATUS, TASKS, NODES, DAG)
"""The eight of the table, and the DAG's name, which is shown where there is room."""

BY_NAME = {column.name: column for column in COLUMNS} | {"run": RUN_ID, "nodes": NODES, "task": TASKS}
