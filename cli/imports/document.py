"""YAML as it is written, each value with its line. No I/O happens here.

A scalar is its text: `5`, `true` and `"5"` are what Argo puts into a command in any case, and only few fields are
numbers.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_NODES = 500_000
"""Values in a text, those that aliases repeat counted each time."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value: `text` of a scalar (None for null), `items` of a list, `fields` of a mapping."""

    line: int
    text: str | None = None
    items: "list[Value] | None" = None
    fields: "dict[str, Value] | None" = None
    kind: str = ""
    """What YAML takes a scalar for: int, bool, float, str …"""

    def get(self, *path: str) -> "Value":
        """What is below it at that path; nothing, on this line, where there is no such thing."""
        found = self
        for name in path:
            found = (found.fields or {}).get(name) or Value(found.line)
        return found

    @property
    def is_empty(self) -> bool:
        return self.text is None and not self.items and not self.fields

    def __iter__(self) -> "Iterator[Value]":
        return iter(self.items or ())

    def texts(self) -> "Iterator[str]":
        """It and all below it, as far as it is text."""
        if self.text is not None:
            yield self.text
        for each in (*(self.items or ()), *(self.fields or {}).values()):
            yield from each.texts()

    def number(self) -> int | None:
        """A whole number, or None."""
        return int(self.text) if self.text is not None and self.text.strip().lstrip("-").isdecimal() else None

    def plain(self) -> object:
        """As plain data, for JSON."""
        if self.fields is not None:
            return {name: each.plain() for name, each in self.fields.items()}
        if self.items is not None:
            return [each.plain() for each in self.items]
        if self.text is not None and self.kind in ("int", "float", "bool"):
            with contextlib.suppress(json.JSONDecodeError):  # such as 0x1F and yes, which stay texts
                return json.loads(self.text)
        return self.text


class Unreadable(ValueError):
    """The text is no YAML that can be used."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class _Reader:
    seen: int = 0
    open: set[int] = field(default_factory=set[int])

    def value(self, node: Node, depth: int = 0) -> Value:
        self.seen += 1
        line = node.start_mark.line + 1
        if self.seen > MAX_NODES or depth > 60 or id(node) in self.open:
            raise Unreadable("it holds too much, or is nested too deeply", line)
        self.open.add(id(node))
        try:
            match node:
                case ScalarNode():
                    return Value(
                        line, None if node.tag.endswith(":null") else str(node.value), kind=node.tag.rpartition(":")[2]
                    )
                case SequenceNode():
                    return Value(line, items=[self.value(each, depth + 1) for each in node.value])
                case MappingNode():
                    return Value(line, fields=self._fields(node, depth))
                case _:
                    return Value(line)
        finally:
            self.open.discard(id(node))

    def _fields(self, node: MappingNode, depth: int) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        pairs: list[tuple[Node, Node]] = node.value
        for key, each in pairs:
            value = self.value(each, depth + 1)
            if key.tag.endswith(":merge"):
                for merged in value.items or [value]:
                    fields = {**(merged.fields or {}), **fields}
                continue
            # A field is where its name is, which in a block may be lines above its value.
            line = key.start_mark.line + 1
            fields[str(key.value)] = Value(line, value.text, value.items, value.fields, value.kind)
        return fields


def documents(text: str) -> list[Value]:
    """Each document of a text. Raises Unreadable."""
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        raise Unreadable(f"no valid YAML: {error.problem or error.context}", line) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(f"no valid YAML: {error}") from None
    reader = _Reader()
    return [reader.value(node) for node in nodes if not (isinstance(node, ScalarNode) and not node.value)]
