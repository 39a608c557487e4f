"""The DAG that is being written: its text, where it came from, and what is wrong with it."""

from collections.abc import Mapping

import msgspec

from cli.figures import count
from helios.dag import DagInvalid, parse_dag, readable_params
from helios.dag_format import plain_text
from helios.dag_problem import LIMITS, Problem

TEMPLATE = """\
# A DAG: tasks, each in a container of its own. Problems are named below while you type.
dagName: my-first-run
tasks:
  - name: write
    image: alpine:3.20
    command: [sh, -c, "echo Hello from Helios > greeting.txt"]
    outputs: [greeting.txt]
  - name: read
    image: alpine:3.20
    command: [cat, greeting.txt]
    inputs: [{fromTask: write, name: greeting.txt}]     # an input implies the dependency
"""


class Draft(msgspec.Struct):
    """What the editor holds when nobody looks at it."""

    text: str = TEMPLATE
    path: str = ""
    """The file that it was opened from, or saved to."""
    saved: str | None = None
    """The text as it is in that file."""
    stamp: int = 0
    """The file's modification time when it was read or written, in nanoseconds."""
    use_cache: bool = True
    params: dict[str, str] = {}
    """Values of parameters, by name; also of such as the text does not declare at the moment."""
    request_id: str = ""
    """Of a submission of this text, with this box, that is not known to have arrived: trying again sends the same."""

    @property
    def is_dirty(self) -> bool:
        return self.saved is not None and self.text != self.saved

    @property
    def would_be_lost(self) -> bool:
        """Whether another text in its place would take away something that is in no file."""
        if self.saved is not None:
            return self.is_dirty
        return bool(self.text.strip()) and self.text != TEMPLATE


class Checked(msgspec.Struct, frozen=True):
    """What validation says of a text."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    dag: str = ""
    tasks: int = 0
    use_cache: bool = True
    declared: dict[str, str | None] = {}
    """The DAG's parameters with their defaults; None of those that need a value."""
    params: dict[str, str] = {}
    """The values that it was checked with: those given, of parameters that it declares."""

    @property
    def is_valid(self) -> bool:
        return not self.problems

    @property
    def summary(self) -> str:
        """`3 problems`, or `valid: word-count, 5 tasks, 1 warning`."""
        if self.problems:
            return count(len(self.problems), "problem")
        warned = f", {count(len(self.warnings), 'warning')}" if self.warnings else ""
        return f"valid: {self.dag}, {count(self.tasks, 'task')}{warned}"


def check(text: str, given: Mapping[str, str] | None = None) -> Checked:
    """Every problem of a DAG's text, with its line; takes some tenths of a second for the largest.

    `given`: values of parameters. An empty one, and one of a parameter that the text does not declare, is none.
    """
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) > LIMITS.max_payload_bytes:
        said = f"it has {len(encoded):,} bytes; the limit of a DAG is {LIMITS.max_payload_bytes:,}"
        return Checked((Problem(said),))
    declared = _declared(encoded)
    params = {name: value for name, value in (given or {}).items() if value and name in declared}
    try:
        parsed = parse_dag(encoded, params=params)
    except DagInvalid as invalid:
        return Checked(tuple(invalid.problems), declared=declared, params=params)
    dag = parsed.dag
    return Checked((), tuple(parsed.warnings), dag.dag_name, len(dag.tasks), dag.use_cache, declared, params)


def _declared(text: bytes) -> dict[str, str | None]:
    """The parameters that a text declares, as far as it can be read."""
    if b"params" not in text:
        return {}
    declared = readable_params(text)
    return {name: None if default is None else plain_text(default) for name, default in declared.items()}


def place_words(problem: Problem) -> str:
    """`12:5 tasks[2].image`: where a problem is."""
    line = "" if problem.line is None else str(problem.line)
    place = f"{line}:{problem.column}" if line and problem.column is not None else line
    return " ".join(part for part in (place, problem.path) if part)
