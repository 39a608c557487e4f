"""DAGs as plain data (dicts, lists, scalars, named as in the text) that programs make: checked and written. No I/O
happens here."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import yaml

from helios.dag import DagInvalid, ParsedDag, parse_dag
from helios.dag_problem import LIMITS, Problem
from helios.dag_scalar import plain

Rename = Callable[[str], str]


def parse_plain(document: Mapping[str, Any], rename: Rename = str) -> ParsedDag:
    """The DAG and its warnings; raises DagInvalid with every problem. Problems have no lines; `rename` is given each
    one's path (`tasks[2].image`) and returns the one to show. Parameters that only a submission gives are taken as
    given: what stands for them is a word that every field takes.
    """
    declared: Mapping[str, Any] = document.get("params") or {}
    missing = {name: "param" for name, value in declared.items() if value is None}
    try:
        parsed = parse_dag(msgspec.json.encode(document), params=missing)
    except DagInvalid as invalid:
        raise DagInvalid([_placed(each, rename) for each in invalid.problems]) from None
    return msgspec.structs.replace(parsed, warnings=[_placed(each, rename) for each in parsed.warnings])


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
