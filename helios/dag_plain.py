"""DAGs as plain data (dicts, lists, scalars, named as in the text) that programs make: checked and written. No I/O
happens here."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import yaml

from helios.dag import DagInvalid, ParsedDag, parse_dag
from helios.dag_problem import LIMITS, Findings, Problem
from helios.dag_scalar import plain
from helios.dag_shape import to_spec
from helios.dag_text import read_document

Rename = Callable[[str], str]


def parse_plain(document: Mapping[str, Any], rename: Rename = str) -> ParsedDag:
    """The DAG and its warnings; raises DagInvalid with every problem. Problems have no lines; `rename` is given each
    one's path (`tasks[2].image`) and returns the one to show. The parameters are not decided: it is read as a draft.
    """
    try:
        parsed = parse_dag(msgspec.json.encode(document), draft=True)
    except DagInvalid as invalid:
        raise DagInvalid([_placed(each, rename) for each in invalid.problems]) from None
    return msgspec.structs.replace(parsed, warnings=[_placed(each, rename) for each in parsed.warnings])


def read_plain(text: bytes) -> dict[str, Any]:
    """A DAG file as YAML has it, its parameters still in it. Raises DagInvalid with every problem and its line."""
    findings = Findings(LIMITS)
    spec = to_spec(read_document(text, LIMITS, findings), LIMITS, findings)
    declared = (spec.params if spec is not None else None) or {}
    parse_dag(text, draft=True)
    document: dict[str, Any] = _said(msgspec.to_builtins(spec))
    return {**document, "params": declared} if declared else document


def _said(value: Any) -> Any:
    """Without what is left out."""
    if isinstance(value, dict):
        items = cast(dict[str, Any], value)
        return {name: _said(each) for name, each in items.items() if each is not None}
    if isinstance(value, list):
        return [_said(each) for each in cast(list[Any], value)]
    return value


def _placed(problem: Problem, rename: Rename) -> Problem:
    return Problem(problem.message, rename(problem.path) if problem.path else "")


def yaml_text(document: Mapping[str, Any]) -> str:
    """YAML that is read as the same data by YAML 1.2's core schema, which DAGs are in, and by YAML 1.1, which most
    other tools read. In the order of the keys; text of several lines as a block.
    """
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would not take as text, beside what YAML 1.1 would not. Repeats what it has twice."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: Any, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text and text.isascii() and all(line.isprintable() for line in text.split("\n")):
        style = "|"
    elif not text.isprintable() or plain(text, LIMITS) is not text:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
