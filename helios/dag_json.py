"""JSON text of a DAG to plain data, with every key and number that needs a second look named. No I/O happens here."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from helios.dag_lines import Node
from helios.dag_problem import DagLimits, Findings, Path, quoted
from helios.dag_scalar import Container, Places, Unusable, Written, fraction, integer

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


class _Repeating(dict[str, object]):
    """An object of the text that has some keys twice."""

    repeated: tuple[str, ...] = ()


class _JsonHooks:
    """What `json` calls for values that need a second look; `seen` says whether there were any."""

    def __init__(self, limits: DagLimits, findings: Findings) -> None:
        self.seen = False
        self._limits = limits
        self._findings = findings

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(pairs) > self._limits.max_entries:
            self._findings.refuse(f"more than {self._limits.max_entries:,} entries in one list or mapping")
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        self.seen = True
        counted: dict[str, int] = {}
        for key, _ in pairs:
            counted[key] = counted.get(key, 0) + 1
        repeating = _Repeating(members)
        repeating.repeated = tuple(key for key, times in counted.items() if times > 1)
        return repeating

    def integer(self, text: str) -> object:
        if len(text) > self._limits.max_integer_digits:
            return self._second_look(integer(text, text, 10, self._limits))
        return int(text)

    def fraction(self, text: str) -> object:
        value = fraction(text)
        return value if isinstance(value, float) else self._second_look(value)

    def constant(self, text: str) -> object:
        return self._second_look(Unusable(f"{text} is not a number in JSON"))

    def _second_look(self, value: object) -> object:
        self.seen = self.seen or isinstance(value, Unusable | Written)
        return value


def read_json(text: str, limits: DagLimits, findings: Findings) -> tuple[object, Places]:
    """The data, and where in it a `Written` is. Raises json.JSONDecodeError, RecursionError, DagInvalid."""
    if text.count("{") + text.count("[") > limits.max_collections:
        findings.refuse(f"more than {limits.max_collections:,} lists and mappings")
    if text.count(",") + text.count(":") > limits.max_nodes:
        outside_strings = _STRING.sub("", text)
        if outside_strings.count(",") + outside_strings.count(":") > limits.max_nodes:
            findings.refuse(f"more than {limits.max_nodes:,} values")
    hooks = _JsonHooks(limits, findings)
    data: object = json.loads(
        text,
        object_pairs_hook=hooks.pairs,
        parse_int=hooks.integer,
        parse_float=hooks.fraction,
        parse_constant=hooks.constant,
    )
    written: Places = []
    if isinstance(data, dict) and (hooks.seen or re.search(r"\\u[dD][89a-fA-F]", text)):
        written = _look_again(cast("dict[str, object]", data), limits, findings)
    return cast("object", data), written


_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Step:
    """A container's place in the one around it: whole paths for all of them would cost depth times their number."""

    parent: "_Step | None"
    key: str | int
    depth: int


def _path(step: _Step | None, key: str | int) -> Path:
    path = [key]
    while step is not None:
        path.append(step.key)
        step = step.parent
    return tuple(reversed(path))


def _look_again(data: dict[str, object], limits: DagLimits, findings: Findings) -> Places:
    """Name the places of what the hooks could not place, and of half characters, which no text may hold."""
    written: Places = []
    to_visit: list[tuple[Container, _Step | None]] = [(data, None)]
    while to_visit:
        container, step = to_visit.pop()
        depth = step.depth + 1 if step is not None else 1
        if depth > limits.max_nesting:
            findings.refuse(f"lists and mappings are nested more than {limits.max_nesting} deep")
        if isinstance(container, _Repeating):
            for key in container.repeated:
                findings.add(_path(step, key), f"the key {quoted(key)} is there more than once")
        entries = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(entries):
            slots = cast("dict[str | int, object]", container)
            if isinstance(key, str) and _SURROGATE.search(key):
                findings.add(_path(step, key), "the key holds half a character (a lone surrogate)")
                del slots[key]
            elif isinstance(value, str) and _SURROGATE.search(value):
                findings.add(_path(step, key), "the text holds half a character (a lone surrogate)")
                slots[key] = Unusable("half a character")
            elif isinstance(value, Unusable):
                findings.add(_path(step, key), value.reason)
            elif isinstance(value, Written):
                written.append((container, key))
            elif isinstance(value, dict | list):
                to_visit.append((cast("Container", value), _Step(step, key, depth)))
    return written


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')


def json_nodes(text: str) -> Iterator[Node]:
    """The nodes of a text that is known to be JSON."""
    line, counted_to = 1, 0
    for token in _JSON_TOKEN.finditer(text):
        line += text.count("\n", counted_to, token.start())
        counted_to = token.start()
        word = token.group()
        if word in "{[":
            yield word, "", line
        elif word in "}]":
            yield "]", "", line
        elif "\\" in word:
            yield ".", cast("str", json.loads(word)), line
        else:
            yield ".", word.strip('"'), line
