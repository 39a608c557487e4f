"""What can be wrong with a DAG, and how much of it may be there. No I/O happens here."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NoReturn

from msgspec import Struct

Path = tuple[str | int, ...]
"""The way to a value: `("tasks", 2, "inputs", 0, "fromTask")`; `()` is the whole document."""


class DagLimits(Struct, frozen=True, kw_only=True):
    """How large a DAG may be. What is larger is refused before it costs memory or time."""

    max_payload_bytes: int = 16 * 1024 * 1024
    """The text of one DAG."""
    max_nesting: int = 64
    """Lists and mappings inside one another; the format itself needs 7. In JSON without odd values the limit is that
    of Python's reader, about 900; only `artifactRepository` can hold so much, and it is not looked into."""
    max_collections: int = 500_000
    """Lists and mappings in one text."""
    max_nodes: int = 1_500_000
    """Values, keys, lists and mappings in one text."""
    max_entries: int = 10_000
    """Entries of one list or mapping, whatever it holds."""
    max_alias_nodes: int = 1_000_000
    """Nodes that YAML aliases and merge keys may add to those that are written."""
    max_alias_chars: int = 4 * 1024 * 1024
    """Text that YAML aliases and merge keys may add to what is written."""
    max_tasks: int = 10_000
    """Tasks of one DAG."""
    max_chain_tasks: int = 2_000
    """Tasks of the longest chain, from a root to a leaf."""
    max_edges: int = 200_000
    """Entries of all `depends_on` and `inputs` lists together."""
    max_inputs_per_task: int = 10_000
    max_outputs_per_task: int = 10_000
    max_dag_name_chars: int = 128
    max_task_name_chars: int = 253
    """With an output's path and the ids around it, an object's key stays below the 1,024 bytes S3 allows."""
    max_path_bytes: int = 512
    """The path of one input or output."""
    max_path_parts: int = 32
    """Folders of such a path, and its file."""
    max_path_part_bytes: int = 255
    """What Linux file systems allow between two slashes."""
    max_key_bytes: int = 1024
    """The key of an external object: S3's own limit."""
    max_image_chars: int = 512
    max_argument_bytes: int = 131_071
    """One entry of `command` or `args`, or `NAME=value` of `env`: Linux starts no process with a longer one."""
    max_task_text_bytes: int = 1024 * 1024
    """`command`, `args` and `env` of one task together: Kubernetes stores no object above 1.5 MiB."""
    max_retries: int = 20
    """`retries.count`."""
    max_timeout_seconds: int = 366 * 24 * 3600
    """`timeoutSeconds`."""
    max_age_seconds: int = 366 * 24 * 3600
    """`memoize.maxAge`."""
    max_params: int = 256
    """`params`."""
    max_param_name_chars: int = 128
    max_params_bytes: int = 64 * 1024
    """Names and values of all parameters together: they are kept in the run's record."""
    max_params_added_chars: int = 4 * 1024 * 1024
    """Text that parameters may add to what is written."""
    max_fanned_chars: int = 8 * 1024 * 1024
    """Text of all tasks that `forEach` makes, as if they were written one by one, and of what names them."""
    max_later_fans: int = 100
    """Tasks whose `forEach` goes over an output: whenever one such list is there the DAG is read again."""
    max_when_chars: int = 1_000
    """`when`."""
    max_when_nesting: int = 16
    """Parentheses and `not` in one another."""
    max_notices: int = 8
    """Entries of `notify`."""
    max_integer_digits: int = 18
    """Of any number without a fraction, so that it fits 64 bits everywhere."""
    max_problems: int = 100
    """Problems reported one by one; the others are counted."""
    max_suggestions: int = 20
    """Problems of one DAG for which a near name is looked up."""


LIMITS = DagLimits()
_SUGGESTION = "; did you mean "


class Problem(Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong, or, among warnings, without effect. Lines and columns count from 1."""

    message: str
    path: str = ""
    """`tasks[2].inputs[0].fromTask`; empty when it concerns the text as a whole."""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place: list[str] = []
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.column is not None:
            place.append(f"column {self.column}")
        if self.path:
            place.append(self.path)
        return f"{', '.join(place)}: {self.message}" if place else self.message


class DagInvalid(ValueError):
    """The DAG is refused. `problems` holds every one that was found, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Finding(Struct, frozen=True):
    """A problem whose line is still to be looked up."""

    path: Path
    message: str
    line: int | None = None
    column: int | None = None


class Origins(Struct):
    """Where in the text a DAG's tasks are from, when `forEach` has made several of one. By position among all."""

    tasks: list[int] = []
    """The position in the text."""
    instances: list[str] = []
    """The name, for one of several; else empty."""
    varying: list[frozenset[str]] = []
    """The fields that values were put into."""
    entries: dict[tuple[int, str], list[int]] = {}
    """Of a task's list (`depends_on`, `inputs`) that has become another: each entry's position in the text."""
    joins: set[int] = set()
    """Those that wait for what their `forEach` makes; their one input is where that has its list from."""

    def path(self, made: Path) -> Path:
        """The path in the text."""
        if len(made) < 2 or made[0] != "tasks" or not isinstance(made[1], int):
            return made
        if made[1] in self.joins:
            # Its other fields are the instances', where they are checked.
            moved = ("forEach", *made[4:]) if made[2:3] == ("inputs",) else ()
            return ("tasks", self.tasks[made[1]], *(moved or made[2:]))
        found: Path = ("tasks", self.tasks[made[1]], *made[2:])
        if len(made) > 3 and isinstance(made[2], str) and isinstance(made[3], int):
            moved = self.entries.get((made[1], made[2]))
            if moved is not None:
                found = (*found[:3], moved[made[3]], *made[4:])
        return found

    def instance(self, made: Path) -> str:
        """` (in 'count-eu')` where what is there may be right in other instances."""
        if len(made) < 3 or made[0] != "tasks" or not isinstance(made[1], int) or made[2] not in self.varying[made[1]]:
            return ""
        name = self.instances[made[1]]
        return f" (in {quoted(name)})" if name else ""


class Findings:
    """Collects what is wrong. Keeps the first `limit` and counts the rest, so its memory is bounded.

    After `begin_stage`, what lies at or below a path found wrong before is not reported: a stand-in is there.
    """

    def __init__(self, limits: DagLimits) -> None:
        self.kept: list[Finding] = []
        self.omitted = 0
        self._limits = limits
        self._suggestions = 0
        self._wrong: set[Path] = set()
        self._wrong_before: frozenset[Path] = frozenset()
        self._origins: Origins | None = None
        self._ignored: set[Path] = set()
        self._said: set[tuple[Path, str]] = set()

    def __bool__(self) -> bool:
        return bool(self.kept)

    def add(self, path: Path, message: str, line: int | None = None, column: int | None = None) -> None:
        """Record that `message` is true of the value at `path`."""
        instance = ""
        if self._origins is not None:
            if (
                self._ignored
                and path[-1:] != ("fromTask",)
                and any(path[:length] in self._ignored for length in range(1, len(path) + 1))
            ):
                return
            instance = self._origins.instance(path)
            moved = path[1:3] in self._origins.entries
            path = self._origins.path(path)
            # What collects a thousand outputs is wrong a thousand times in the same place.
            said = (path, "" if moved else message.partition(_SUGGESTION)[0])
            if said in self._said:
                return
            if len(self.kept) < self._limits.max_problems:
                self._said.add(said)
        if (
            path
            and self._wrong_before
            and any(path[:length] in self._wrong_before for length in range(1, len(path) + 1))
        ):
            return
        if len(self.kept) >= self._limits.max_problems:
            self.omitted += 1
            return
        self._wrong.add(path)
        self.kept.append(Finding(path, message + instance, line, column))

    def refuse(self, message: str, line: int | None = None, column: int | None = None, path: Path = ()) -> NoReturn:
        """Record what makes it pointless to read on, and raise DagInvalid with all that was found."""
        self.add(path, message, line, column)
        raise DagInvalid(self.problems())

    def pass_over(self, path: Path) -> None:
        """From the next stage on be silent about the value at `path`: what it lacks is reported elsewhere."""
        self._wrong.add(path)

    def trace(self, origins: Origins | None) -> None:
        """From now on paths are those of tasks that were made; what is wrong with several of one is said once."""
        self._origins = origins

    def ignore(self, made: Path) -> None:
        """Be silent, while paths are traced, about the value at `made` and what is in it: it is of no consequence. What
        task an input comes from is of some: every edge has to be one.
        """
        self._ignored.add(made)

    def position(self, *path: str | int) -> int:
        """The position in the text of the list's entry at `path`."""
        last = (self._origins.path(path) if self._origins is not None else path)[-1]
        assert isinstance(last, int)
        return last

    def begin_stage(self) -> None:
        """From now on stay silent about values known to be wrong."""
        self._wrong_before = frozenset(self._wrong)

    def wrong_under(self, *prefix: str | int) -> bool:
        """Whether an earlier stage found fault with the value at `prefix` or with anything in it."""
        prefix = self._origins.path(prefix) if self._origins is not None else prefix
        return any(path[: len(prefix)] == prefix for path in self._wrong_before)

    def wrong_exactly(self, *path: str | int) -> bool:
        """Whether an earlier stage found fault with the value at `path` itself."""
        return (self._origins.path(path) if self._origins is not None else path) in self._wrong_before

    def suggestion(self, wrong: str, candidates: Collection[str]) -> str:
        """`; did you mean 'split'?`, or nothing when no candidate is near or enough was suggested already."""
        if self._suggestions >= self._limits.max_suggestions:
            return ""
        self._suggestions += 1
        near = nearest(wrong, candidates)
        return "" if near is None else f"{_SUGGESTION}{quoted(near)}?"

    def problems(self, locate: Callable[[set[Path]], Mapping[Path, int]] | None = None) -> list[Problem]:
        """The findings with their lines, sorted by line. `locate` maps the given paths, or their nearest
        existing parents, to lines; it is called at most once."""
        unplaced = {found.path for found in self.kept if found.line is None}
        lines: Mapping[Path, int] = locate(unplaced) if locate is not None and unplaced else {}
        problems = [
            Problem(
                message=found.message,
                path=path_text(found.path),
                line=found.line if found.line is not None else lines.get(found.path),
                column=found.column,
            )
            for found in self.kept
        ]
        problems.sort(key=lambda problem: problem.line or 0)
        if self.omitted:
            problems.append(Problem(f"… and {self.omitted:,} more {'problem' if self.omitted == 1 else 'problems'}"))
        return problems


_SHOWN_STEPS = 12
"""Of a path in a message; the format itself needs 7."""


def path_text(path: Path) -> str:
    """`("tasks", 2, "env", "A B")` -> `tasks[2].env['A B']`."""
    parts: list[str] = []
    for step in path[:_SHOWN_STEPS]:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", step):
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{quoted(step)}]")
    return "".join(parts) + ("…" if len(path) > _SHOWN_STEPS else "")


def quoted(text: str, max_chars: int = 80) -> str:
    """The text in quotes, with control characters escaped and its middle left out when it is long."""
    if len(text) > max_chars:
        half = max_chars // 2 - 1
        text = f"{text[:half]}…{text[-half:]}"
    return ascii(text) if not text.isprintable() else repr(text)


def nearest(wrong: str, candidates: Collection[str]) -> str | None:
    """The candidate that `wrong` was probably meant to be. For a set or a mapping, its cost hardly grows with it."""
    if not 2 <= len(wrong) <= 64:
        return None
    one_edit_away = sorted(edited for edited in _edits(wrong) if edited in candidates)
    if one_edit_away:
        return one_edit_away[0]
    alike = (candidate for candidate in candidates if abs(len(candidate) - len(wrong)) <= 3)
    found = difflib.get_close_matches(wrong, list(islice(alike, 200)), n=1, cutoff=0.7)
    return found[0] if found else None


def _edits(word: str) -> set[str]:
    """Every text one deletion, transposition, replacement or insertion away, over the alphabet of names."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/"
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    edits = {left + right[1:] for left, right in splits if right}
    edits.update(left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1)
    edits.update(left + letter + right[1:] for left, right in splits if right for letter in alphabet)
    edits.update(left + letter + right for left, right in splits for letter in alphabet)
    return edits
