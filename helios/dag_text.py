"""From the text of a DAG to plain data, whatever the text is: bounded in memory and time. No I/O happens here.

Text that is JSON takes the fast way through `json`, everything else is YAML.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import yaml

from helios.dag_json import json_nodes, read_json
from helios.dag_lines import locate
from helios.dag_problem import DagLimits, Findings, Path
from helios.dag_scalar import Places, Written
from helios.dag_yaml import YamlReader, refuse_yaml, yaml_nodes


@dataclass(slots=True)
class Document:
    """Plain data (dicts with text keys, lists, scalars, `Unusable`) and the way back to its lines."""

    text: str
    is_json: bool
    data: object
    written: Places = field(default_factory=Places)
    """Where a `Written` is; aliased containers appear once, as they exist once."""
    _settled: list[tuple[dict[str | int, object], str | int, Written]] = field(
        default_factory=list[tuple[dict[str | int, object], str | int, Written]]
    )

    def settle_numbers(self, as_text: Collection[int]) -> None:
        """Replace every `Written`: by its text in the containers with these `id`s, elsewhere by its value."""
        for container, key in self.written:
            slots = cast("dict[str | int, object]", container)
            scalar = slots[key]
            if isinstance(scalar, Written):
                slots[key] = scalar.text if id(container) in as_text else scalar.value
                if id(container) not in as_text:
                    self._settled.append((slots, key, scalar))
        self.written.clear()

    def unsettle_numbers(self) -> None:
        """Put back each `Written` that became its value, for messages that quote what the user wrote."""
        for slots, key, scalar in self._settled:
            slots[key] = scalar
        self._settled.clear()

    def lines_of(self, paths: Collection[Path]) -> dict[Path, int]:
        """The line of each path, or of its nearest parent in the text. Reads the whole text once more."""
        nodes = json_nodes(self.text) if self.is_json else yaml_nodes(self.text)
        return locate(nodes, paths)


def read_document(payload: bytes, limits: DagLimits, findings: Findings) -> Document:
    """The one document of the payload. What is wrong in places goes to `findings`; raises DagInvalid when the text
    cannot be read at all."""
    text = _decoded(payload, limits, findings)
    not_json: json.JSONDecodeError | None = None
    if text.lstrip(" \t\r\n").startswith("{"):
        try:
            return Document(text, True, *read_json(text, limits, findings))
        except json.JSONDecodeError as error:
            not_json = error  # a YAML flow mapping begins with a brace too
        except RecursionError:
            findings.refuse("lists and mappings are nested too deeply")
    try:
        return Document(text, False, *YamlReader(text, limits, findings).read())
    except yaml.YAMLError as error:
        if not_json is not None and re.match(r'\s*\{\s*["}]', text):
            findings.refuse(f"not valid JSON: {not_json.msg}", not_json.lineno, not_json.colno)
        refuse_yaml(text, error, findings)


def _decoded(payload: bytes, limits: DagLimits, findings: Findings) -> str:
    if len(payload) > limits.max_payload_bytes:
        findings.refuse(f"{len(payload):,} bytes; the limit is {limits.max_payload_bytes:,} bytes")
    if payload.startswith((b"\xff\xfe", b"\xfe\xff")):
        findings.refuse("the text is UTF-16; save it as UTF-8")
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = payload.count(b"\n", 0, error.start) + 1
        column = error.start - payload.rfind(b"\n", 0, error.start)
        findings.refuse(f"not UTF-8: byte 0x{payload[error.start]:02x}", line, column)
    if not text.strip():
        findings.refuse("the text is empty; a DAG needs dagName and tasks")
    return text
