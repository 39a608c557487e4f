"""A forecast, and how good it was, as people read it and as JSON. No I/O happens here."""

import re
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from cli.figures import count, duration, size
from cli.forecast import Forecast, Score, TaskForecast, Weights
from cli.table import Cell, Column, Painter, lay_out, plain, shortened

ROWS = 30
"""Tasks listed one by one; more are put together by their names without digits."""
INPUTS_SHOWN = 20
NAME_CHARACTERS = 60
NODES_SHOWN = 4

TASK_COLUMNS = (
    Column("TASK"),
    Column("TASKS", right=True),
    Column("NODE"),
    Column("CACHE", right=True),
    Column("OTHER NODES", right=True),
    Column("STORE", right=True),
    Column("TIME", right=True),
    Column("NOTE"),
)
INPUT_COLUMNS = (
    Column("INPUT"),
    Column("INPUTS", right=True),
    Column("BYTES", right=True),
    Column("IS ON"),
    Column("TASKS", right=True),
    Column("NOTE"),
)
SCORE_COLUMNS = (Column("FORECAST"), Column("EXPECTED", right=True), Column("CAME TO", right=True), Column("OFF BY"))
FIGURES = {
    "hitBytes": "from the cache",
    "fetchedBytes": "brought",
    "skipped": "tasks skipped",
    "durationMs": "time",
}


def forecast_lines(forecast: Forecast, paint: Painter = plain) -> list[str]:
    lines = [*summary_lines(forecast, paint), "", *_task_table(forecast, paint)]
    inputs = _inputs(forecast)
    if inputs:
        lines += ["", *_input_table(inputs, paint)]
    return lines


def summary_lines(forecast: Forecast, paint: Painter = plain) -> list[str]:
    """The forecast in a few lines."""
    cache = "cache on" if forecast.cache_enabled else "cache off"
    nodes = forecast.nodes
    where = f", {nodes[0] if len(nodes) == 1 else count(len(nodes), 'node')}" if nodes else ""
    lines = [f"plan     {paint(forecast.dag_name, 'bold')}: {count(len(forecast.tasks), 'task')}, {cache}{where}"]
    hit, peer, store = (forecast.sum(source) for source in ("cache", "peer", "store"))
    if hit + peer + store or forecast.unsized:
        parts = [f"{size(hit)} from the cache"]
        if peer:
            parts.append(f"{size(peer)} from other nodes")
        at = f" at {size(round(forecast.rate))}/s" if forecast.rate and store else ""
        parts.append(f"{size(store)} from the store{at}")
        lines.append(f"bring    {', '.join(parts)}")
    else:
        lines.append("bring    nothing")
    lines.append(f"skip     {count(forecast.skipped, 'task')}")
    timing = forecast.timing
    if timing.expected is None:
        lines.append(f"time     unknown: {timing.words}")
    else:
        spread = f" ({duration(timing.least)} to {duration(timing.most)})" if timing.least != timing.most else ""
        words = {
            "good": "a good guess",
            "fair": "a fair guess",
            "rough": "a rough guess",
        }[timing.certainty]
        lines.append(f"time     about {duration(timing.expected)}{spread}: {words}, {timing.words}")
    unknown = forecast.unknown_bytes
    if unknown:
        lines.append(f"unsure   {size(unknown)} of outputs of tasks that will run: nobody knows their content yet")
    if forecast.unsized:
        lines.append(f"unsure   {count(forecast.unsized, 'input')} of unknown size, counted as nothing")
    lines += [f"{paint('missing', 'red')}  {uri} is not there: the run would fail" for uri in forecast.missing]
    lines += [f"{paint('trouble', 'yellow')}  {trouble}" for trouble in forecast.troubles]
    return lines


def _task_table(forecast: Forecast, paint: Painter) -> list[str]:
    if len(forecast.tasks) <= ROWS:
        return lay_out(TASK_COLUMNS, [_task_row(task) for task in forecast.tasks], paint)
    groups: dict[str, Weights] = {}
    for task in forecast.tasks:
        groups.setdefault(re.sub(r"[0-9]+", "*", task.name), Weights()).add(task)
    rows = sorted(groups.items(), key=lambda each: (-each[1].store - each[1].peer, -each[1].tasks))
    lines = lay_out(TASK_COLUMNS, [_group_row(name, group) for name, group in rows[:ROWS]], paint)
    if len(rows) > ROWS:
        lines.append(f"… and {count(len(rows) - ROWS, 'more group')}; -o json has every task")
    return lines


def _task_row(task: TaskForecast) -> tuple[Cell | str, ...]:
    known = task.run_ms
    if task.skipped is not None:
        return (task.name, "", "", "", "", "", "", Cell(f"skipped: {task.note}", "green"))
    figures = tuple(size(found) if (found := task.sum(each)) else "" for each in ("cache", "peer", "store"))
    unknown = "?" if task.node else ""  # without a node it has no container
    return (task.name, "", task.node, *figures, duration(known[1]) if known else unknown, task.note)


def _group_row(name: str, group: Weights) -> tuple[Cell | str, ...]:
    note = f"{group.skipped:,} skipped" if group.skipped else ""
    figures = tuple(size(found) if found else "" for found in (group.hit, group.peer, group.store))
    time = duration(round(median(group.run_ms))) if group.run_ms else "?"
    return (shortened(name, NAME_CHARACTERS), f"{group.tasks:,}", "", *figures, time, note)


class Wanted(Struct):
    """One content, or several whose origins differ in digits only, with how many tasks want them."""

    origin: str
    nodes: Sequence[str]
    words: str
    contents: int = 0
    bytes: int | None = None
    tasks: int = 0


def _inputs(forecast: Forecast) -> list[Wanted]:
    """What tasks want, the largest first; put together where there would be more rows than are shown."""
    wanted: dict[str, Wanted] = {}
    for task in forecast.tasks:
        for each in task.inputs:
            known = wanted.setdefault(each.content, Wanted(each.origin, each.nodes, each.words, 1, each.bytes))
            known.tasks += 1
    rows = list(wanted.values())
    if len(rows) > INPUTS_SHOWN:
        groups: dict[tuple[str, ...], Wanted] = {}
        for row in rows:
            key = (re.sub(r"[0-9]+", "*", row.origin), row.words, *row.nodes)
            group = groups.setdefault(key, Wanted(row.origin, row.nodes, row.words))
            group.origin = key[0] if group.contents else row.origin
            group.contents += row.contents
            group.tasks += row.tasks
            if row.bytes is not None:
                group.bytes = (group.bytes or 0) + row.bytes
        rows = list(groups.values())
    return sorted(rows, key=lambda row: (-(row.bytes or 0), -row.contents))


def _input_table(inputs: Sequence[Wanted], paint: Painter) -> list[str]:
    rows = [
        (
            shortened(each.origin, NAME_CHARACTERS),
            f"{each.contents:,}" if each.contents > 1 else "",
            size(each.bytes) if each.bytes is not None else "?",
            _nodes(each.nodes),
            f"{each.tasks:,}",
            each.words,
        )
        for each in inputs[:INPUTS_SHOWN]
    ]
    lines = lay_out(INPUT_COLUMNS, rows, paint)
    if len(inputs) > INPUTS_SHOWN:
        lines.append(f"… and {count(len(inputs) - INPUTS_SHOWN, 'smaller input')}; -o json has every one")
    return lines


def _nodes(nodes: Sequence[str]) -> str:
    if not nodes:
        return "none"
    more = f" and {len(nodes) - NODES_SHOWN:,} more" if len(nodes) > NODES_SHOWN else ""
    return f"{', '.join(nodes[:NODES_SHOWN])}{more}"


def forecast_object(forecast: Forecast) -> dict[str, object]:
    timing = forecast.timing
    return {
        "dagName": forecast.dag_name,
        "cacheEnabled": forecast.cache_enabled,
        "taskCount": len(forecast.tasks),
        "skipped": forecast.skipped,
        "cacheBytes": forecast.sum("cache"),
        "peerBytes": forecast.sum("peer"),
        "storeBytes": forecast.sum("store"),
        "unknownBytes": forecast.unknown_bytes,
        "unsizedInputs": forecast.unsized,
        "storeBytesPerSecond": round(forecast.rate) if forecast.rate else None,
        "durationMs": timing.expected,
        "leastMs": timing.least,
        "mostMs": timing.most,
        "certainty": timing.certainty,
        "words": timing.words,
        "nodes": list(forecast.nodes),
        "comparedWith": list(forecast.compared),
        "missing": list(forecast.missing),
        "troubles": list(forecast.troubles),
        "tasks": [_task_object(task) for task in forecast.tasks],
    }


def _task_object(task: TaskForecast) -> dict[str, object]:
    return {
        "name": task.name,
        "node": task.node or None,
        "skipped": {"run": task.skipped.run or None, "task": task.skipped.task} if task.skipped else None,
        "note": task.note,
        "runMs": task.run_ms[1] if task.run_ms else None,
        "runsKnown": task.runs_known,
        "inputs": [
            {
                "name": each.name,
                "origin": each.origin,
                "bytes": each.bytes,
                "nodes": list(each.nodes),
                "from": each.expected,
                "certainty": each.certainty,
                "words": each.words,
            }
            for each in task.inputs
        ],
    }


# The score.


def score_lines(scores: Sequence[Score], paint: Painter = plain) -> list[str]:
    rows = [
        (FIGURES[each.figure], _figure(each.figure, each.expected), _figure(each.figure, each.actual), _off(each))
        for each in scores
    ]
    return lay_out(SCORE_COLUMNS, rows, paint)


def score_object(scores: Sequence[Score]) -> dict[str, object]:
    return {each.figure: {"expected": each.expected, "actual": each.actual} for each in scores}


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    if name == "durationMs":
        return duration(round(value))
    return f"{round(value):,}" if name == "skipped" else size(round(value))


def _off(each: Score) -> str:
    if each.expected is None or each.actual is None:
        return ""
    if each.expected == each.actual:
        return "nothing"
    if not each.actual:
        return "all of it"
    off = (each.expected - each.actual) * 100 / each.actual
    return f"{off:+.0f} %" if abs(off) >= 0.5 else "less than 1 %"
