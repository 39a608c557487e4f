"""YAML text of a DAG to plain data, from the events of libyaml: nothing is composed, no alias is copied, no class is
looked up, and depth costs a refusal instead of the process. No I/O happens here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, cast

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from helios.dag_lines import Node
from helios.dag_problem import DagLimits, Findings, Path, quoted
from helios.dag_scalar import Container, Places, Unusable, Written, plain

_TAG_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%TAG")
_NO_KEY = object()
_MERGE = object()
_TAGS_OF_TEXT = ("!", "tag:yaml.org,2002:str")
_TAGS_OF_COLLECTIONS = ("!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: object
    nodes: int
    chars: int


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    container: Container
    anchor: str | None
    nodes_before: int
    chars_before: int
    key: object = _NO_KEY
    merged: list[object] = field(default_factory=list[object])


class YamlReader:
    """Builds plain data from libyaml's events, with a stack of its own: depth costs a refusal, not the process."""

    def __init__(self, text: str, limits: DagLimits, findings: Findings) -> None:
        self._text = text
        self._limits = limits
        self._findings = findings
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._nodes = 0
        self._chars = 0
        self._collections = 0
        self._alias_nodes = 0
        self._alias_chars = 0
        self._data: object = None
        self._written: Places = []

    def read(self) -> tuple[object, Places]:
        """The data, and where in it a `Written` is. Raises yaml.YAMLError, DagInvalid."""
        # libyaml compares each %TAG with all before it, so a megabyte of them would take minutes.
        if self._text.count("%TAG") > 16 and len(_TAG_DIRECTIVE.findall(self._text)) > 16:
            self._findings.refuse("too many YAML directives (%TAG)")
        documents = 0
        for event in _events(self._text):
            if isinstance(event, ScalarEvent):
                self._scalar(event)
            elif isinstance(event, MappingStartEvent | SequenceStartEvent):
                self._open(event)
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                self._close(event)
            elif isinstance(event, AliasEvent):
                self._alias(event)
            elif isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail("a second YAML document begins here; a file holds one DAG", event)
        if documents == 0:
            self._findings.refuse("the text holds only comments; a DAG needs dagName and tasks")
        return self._data, self._written

    def _scalar(self, event: ScalarEvent) -> None:
        value: object = event.value
        self._nodes += 1
        self._chars += len(event.value)
        if self._nodes > self._limits.max_nodes:
            self._fail(f"more than {self._limits.max_nodes:,} values", event)
        if event.tag is not None and event.tag not in _TAGS_OF_TEXT:
            self._report_tag(event.tag, event)
        elif event.tag is None and event.implicit[0]:
            if event.value == "<<" and self._expects_key():
                self._stack[-1].key = _MERGE
                return
            value = plain(event.value, self._limits)
            if isinstance(value, Unusable):
                self._report(value.reason, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1, len(event.value))
        self._attach(value, event)

    def _open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        kind = "mapping" if isinstance(event, MappingStartEvent) else "list"
        if self._expects_key():
            self._fail(f"a key must be text, not a {kind}", event)
        if len(self._stack) >= self._limits.max_nesting:
            nesting = self._limits.max_nesting
            self._findings.refuse(f"lists and mappings are nested more than {nesting} deep", _line(event))
        self._nodes += 1
        self._collections += 1
        if self._collections > self._limits.max_collections:
            self._fail(f"more than {self._limits.max_collections:,} lists and mappings", event)
        if event.tag is not None and event.tag not in _TAGS_OF_COLLECTIONS:
            self._report_tag(event.tag, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # an alias inside it would never end
        container: Container = {} if kind == "mapping" else []
        self._stack.append(_Open(container, event.anchor, self._nodes - 1, self._chars))

    def _close(self, event: Event) -> None:
        closed = self._stack.pop()
        if closed.merged and isinstance(closed.container, dict):
            self._merge(closed.container, closed.merged, event)
        if closed.anchor is not None:
            self._anchors[closed.anchor] = _Anchored(
                closed.container, self._nodes - closed.nodes_before, self._chars - closed.chars_before
            )
        self._attach(closed.container, event)

    def _alias(self, event: AliasEvent) -> None:
        assert event.anchor is not None
        target = self._anchors.get(event.anchor)
        if target is None:
            known = event.anchor in self._anchors
            self._fail(f"the alias *{event.anchor} {'is inside its own anchor' if known else 'has no anchor'}", event)
        self._alias_nodes += target.nodes
        self._alias_chars += target.chars
        self._nodes += target.nodes
        self._chars += target.chars
        if self._alias_nodes > self._limits.max_alias_nodes or self._alias_chars > self._limits.max_alias_chars:
            self._fail(
                f"the aliases up to here stand for more than {self._limits.max_alias_nodes:,} values or "
                f"{self._limits.max_alias_chars:,} characters",
                event,
            )
        self._attach(target.value, event)

    def _attach(self, value: object, event: Event) -> None:
        """Put a finished value where the text has it."""
        if not self._stack:
            self._data = value.value if isinstance(value, Written) else value
            return
        top = self._stack[-1]
        container = top.container
        if len(container) >= self._limits.max_entries:
            message = f"more than {self._limits.max_entries:,} entries in one list or mapping"
            self._findings.refuse(message, _line(event), path=self._path()[: len(self._stack) - 1])
        if isinstance(container, list):
            container.append(value)
            if isinstance(value, Written):
                self._written.append((container, len(container) - 1))
        elif top.key is _NO_KEY:
            top.key = self._key(value, container, event)
        elif top.key is _MERGE:
            top.merged.append(value)
            top.key = _NO_KEY
        else:
            key = cast("str", top.key)
            container[key] = value
            if isinstance(value, Written):
                self._written.append((container, key))
            top.key = _NO_KEY

    def _key(self, value: object, container: dict[str, object], event: Event) -> str:
        if not isinstance(value, str):
            shown = event.value if isinstance(event, ScalarEvent) else ""
            self._report(f"a key must be text; put it in quotes: {quoted(shown)}", event)
            return shown
        if value in container:
            line = _line(event)
            self._findings.add((*self._path(), value), f"the key {quoted(value)} is there more than once", line)
        return value

    def _merge(self, container: dict[str, object], merged: list[object], event: Event) -> None:
        """Apply `<<: *base`: what the mapping itself says goes first, then the bases in their order."""
        bases: list[object] = []
        for base in merged:
            bases.extend(cast("list[object]", base) if isinstance(base, list) else [base])
        own = dict(container)
        container.clear()
        for base in reversed(bases):
            if not isinstance(base, dict):
                self._fail("'<<' takes a mapping or a list of mappings", event)
            container.update(cast("dict[str, object]", base))
        container.update(own)
        self._written.extend((container, key) for key, value in container.items() if isinstance(value, Written))

    def _expects_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].key is _NO_KEY and isinstance(self._stack[-1].container, dict)

    def _path(self) -> Path:
        """Of the value that is being read; of the mapping itself when its key is."""
        path: list[str | int] = []
        for level in self._stack:
            if isinstance(level.container, list):
                path.append(len(level.container))
            elif isinstance(level.key, str):
                path.append(level.key)
        return tuple(path)

    def _report_tag(self, tag: str, event: Event) -> None:
        self._report(f"the tag {quoted(tag)} is not supported", event)

    def _report(self, message: str, event: Event) -> None:
        self._findings.add(self._path(), message, _line(event))

    def _fail(self, message: str, event: Event) -> NoReturn:
        self._findings.refuse(message, _line(event), path=self._path())


def _events(text: str) -> Iterator[Event]:
    parser = yaml.CSafeLoader(text)
    try:
        while True:
            event = parser.get_event()
            if event is None or isinstance(event, StreamEndEvent):
                return
            yield event
    finally:
        parser.dispose()


def _line(event: Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


_HINTS = {
    "mapping values are not allowed in this context": "a value with ': ' in it needs quotes",
    "found unexpected end of stream": "a quote is not closed",
    "found a tab character that violates indentation": "YAML indents with spaces only",
    "found character that cannot start any token": "a value that begins with it needs quotes",
}


def refuse_yaml(text: str, error: yaml.YAMLError, findings: Findings) -> NoReturn:
    """Say where and why libyaml gave up."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text.encode()[: error.position]
        line = before.count(b"\n") + 1
        findings.refuse(f"not valid YAML: {error.reason}", line, error.position - before.rfind(b"\n"))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = error.problem or "unreadable"
        hint = f"; {_HINTS[problem]}" if problem in _HINTS else ""
        if text[mark.index : mark.index + 1] == "\t":
            problem, hint = "a tab", "; YAML indents with spaces only"
        context = f" {error.context}" if error.context else ""
        line, column = mark.line + 1, mark.column + 1
        if mark.index >= len(text.rstrip()):  # libyaml takes the end of the text for a line of its own
            line, column = text.rstrip().count("\n") + 1, len(text.rstrip()) - text.rstrip().rfind("\n")
        findings.refuse(f"not valid YAML: {problem}{context}{hint}", line, column)
    findings.refuse(f"not valid YAML: {error}")


def yaml_nodes(text: str) -> Iterator[Node]:
    """The nodes of a text that was read before."""
    for event in _events(text):
        if isinstance(event, ScalarEvent):
            yield ".", event.value, _line(event)
        elif isinstance(event, MappingStartEvent):
            yield "{", "", _line(event)
        elif isinstance(event, NodeEvent):  # an alias is one place in the text, whatever it stands for
            yield "[" if isinstance(event, SequenceStartEvent) else ".", "", _line(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            yield "]", "", _line(event)
