"""From the path of a value back to its line, when there is a problem to report. No I/O happens here."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from helios.dag_problem import Path

Node = tuple[str, str, int]
"""`{` or `[` or `.` (a scalar) or `]` (the end of a list or mapping); the scalar's text; the line."""


@dataclass(slots=True)
class _Level:
    path: Path | None
    """None: nothing in here is asked for."""
    is_list: bool
    count: int = 0
    key: str | None = None
    key_line: int = 0


def locate(nodes: Iterator[Node], paths: Collection[Path]) -> dict[Path, int]:
    """The line of each path: that of its key, or of an entry's beginning in a list; else of its nearest parent."""
    asked = {path[:length] for path in paths for length in range(len(path) + 1)}
    lines: dict[Path, int] = {}
    levels: list[_Level] = []
    for kind, text, line in nodes:
        if kind == "]":
            levels.pop()
            continue
        path: Path | None = ()
        if levels:
            top = levels[-1]
            if not top.is_list and top.key is None:
                top.key, top.key_line = text, line
                continue
            step: str | int = top.count if top.key is None else top.key
            path = None if top.path is None else (*top.path, step)
            line = line if top.key is None else top.key_line
            top.count += 1
            top.key = None
        if path is not None and path in asked:
            lines[path] = line
        else:
            path = None
        if kind != ".":
            levels.append(_Level(path, kind == "["))
    return {path: _nearest_line(path, lines) for path in paths}


def _nearest_line(path: Path, lines: Mapping[Path, int]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
