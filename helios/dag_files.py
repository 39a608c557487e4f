"""Where a task's inputs and outputs are placed, and which of them are in each other's way. No I/O happens here."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from helios.dag_format import InputSpec, TaskSpec
from helios.dag_names import path_fault, uri_fault
from helios.dag_problem import DagLimits, Findings, Path, quoted


def check_files(task: TaskSpec, path: Path, limits: DagLimits, findings: Findings) -> None:
    """Where inputs and outputs are placed: each path usable, and no two in each other's way."""
    inputs, outputs = task.inputs or (), task.outputs or ()
    for field, entries, limit in (
        ("inputs", inputs, limits.max_inputs_per_task),
        ("outputs", outputs, limits.max_outputs_per_task),
    ):
        if len(entries) > limit:
            findings.add((*path, field), f"{len(entries):,} {field}; the limit for one task is {limit:,}")
    places: dict[str, int] = {}
    for at, source in enumerate(inputs):
        place = _check_input(source, (*path, "inputs", at), limits, findings)
        if place is None:
            continue
        if place in places:
            here, other = findings.position(*path, "inputs", at), findings.position(*path, "inputs", places[place])
            findings.add(
                (*path, "inputs", at),
                f"is placed at {quoted(place)}, as inputs[{other}] is; use 'as'"
                if here != other
                else f"several of its files are placed at {quoted(place)}; give each a place of its own with ${{item}} "
                "in 'as', or leave 'as' without any",
            )
        places.setdefault(place, at)
    below = _Below(places)
    for place, at in places.items() if below else ():
        inner = below.first(place)
        if inner is not None:
            other = findings.position(*path, "inputs", places[inner])
            findings.add(
                (*path, "inputs", at),
                f"is placed at {quoted(place)}, which inputs[{other}] needs as a folder; use 'as'",
            )
    _check_outputs(outputs, places, below, path, limits, findings)


def _check_outputs(
    outputs: "list[str] | tuple[()]",
    places: Mapping[str, int],
    below: "_Below",
    path: Path,
    limits: DagLimits,
    findings: Findings,
) -> None:
    seen: set[str] = set()
    for at, output in enumerate(outputs):
        here = (*path, "outputs", at)
        fault = path_fault(output, limits)
        if fault is None and output in seen:
            fault = f"{quoted(output)} is listed more than once"
        elif fault is None and output in places:
            other = findings.position(*path, "inputs", places[output])
            fault = f"{quoted(output)} is where inputs[{other}] is placed; inputs cannot be written to"
        elif fault is None and below and (inner := below.first(output)) is not None:
            other = findings.position(*path, "inputs", places[inner])
            fault = f"{quoted(output)} is the folder in which inputs[{other}] is placed"
        elif fault is None and places and (folder := next((each for each in _folders(output) if each in places), None)):
            other = findings.position(*path, "inputs", places[folder])
            fault = f"{quoted(output)} lies in {quoted(folder)}, where inputs[{other}] is placed"
        seen.add(output)
        if fault is not None:
            findings.add(here, fault)


class _Below:
    """Finds paths that lie below a given one. False when none lies below any folder."""

    def __init__(self, places: Iterable[str]) -> None:
        # With "/" as the least character, what lies below a path comes directly after it.
        self._sorted = sorted(place.replace("/", "\0") for place in places)
        self._any = any("\0" in place for place in self._sorted)

    def __bool__(self) -> bool:
        return self._any

    def first(self, folder: str) -> str | None:
        prefix = folder.replace("/", "\0") + "\0"
        at = bisect_left(self._sorted, prefix)
        found = at < len(self._sorted) and self._sorted[at].startswith(prefix)
        return self._sorted[at].replace("\0", "/") if found else None


def _folders(place: str) -> Iterator[str]:
    """`a/b/c` -> `a`, `a/b`."""
    at = place.find("/")
    while at != -1:
        yield place[:at]
        at = place.find("/", at + 1)


def _check_input(source: InputSpec, path: Path, limits: DagLimits, findings: Findings) -> str | None:
    """Where the input is placed; None when it cannot be said."""
    if source.uri is not None and (source.from_task is not None or source.name is not None):
        findings.add(path, "has uri and fromTask or name; an input is one or the other")
        return None
    if source.uri is None and source.from_task is None:
        findings.add(path, "needs fromTask and name, or uri")
        return None
    if source.uri is None and source.name is None:
        findings.add((*path, "name"), f"is required: which output of {quoted(source.from_task or '')} is it")
        return None
    fault = uri_fault(source.uri, limits) if source.uri is not None else None
    if fault is not None:
        findings.add((*path, "uri"), fault)
        if source.as_ is None:
            return None
    place = source.path()
    fault = path_fault(place, limits)
    if fault is None:
        return place
    if source.as_ is not None:
        findings.add((*path, "as"), fault)
    elif source.uri is not None:
        findings.add((*path, "uri"), f"{fault}; give it another path with 'as'")
    else:
        findings.add((*path, "name"), fault)
    return None
