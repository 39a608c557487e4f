"""What stands in a DAG for `${params.NAME}`: its defaults and the values of a submission. No I/O happens here.

Substitution happens once, when the DAG is read, so everything behind the parser (task records, memoization keys, Jobs)
sees values only. A value is text and is never looked through for parameters itself.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from helios.dag_format import DagSpec, plain_text
from helios.dag_names import name_fault
from helios.dag_problem import DagLimits, Findings, quoted

BEGINNING = "${params."
"""Reserved in the fields that take parameters; `$${params.` is the text itself."""

STAND_IN = "param"
"""For a value that is not known yet: a word that every field takes."""


class ParamsUnreadable(ValueError):
    """The parameters of a submission are not understood; says why."""


def read_params(text: str | None) -> dict[str, str]:
    """The field `params` of a submission: a JSON object of text, numbers and booleans. Raises ParamsUnreadable."""
    if not text:
        return {}
    found = _read_json(text, "params is not a JSON object")
    if not isinstance(found, _Pairs):
        raise ParamsUnreadable('params is not a JSON object; send {"NAME": "VALUE"}')
    values: dict[str, str] = {}
    for name, value in found.pairs:
        if not isinstance(value, str | bool):
            raise ParamsUnreadable(f"params: the value of {quoted(name)} is neither text nor a number nor a boolean")
        values[name] = plain_text(value)
    return values


def read_list(text: str) -> list[str | dict[str, str]]:
    """A JSON list of text, numbers and booleans, or of flat objects of them; empty text is an empty list. Raises
    ParamsUnreadable. Numbers arrive as they are written.
    """
    if not text.strip():
        return []
    found = _read_json(text, "is not a JSON list")
    if not isinstance(found, list):
        raise ParamsUnreadable("is JSON, but not a list")
    items: list[str | dict[str, str]] = []
    for at, value in enumerate(cast("list[object]", found)):
        if isinstance(value, _Pairs):
            items.append(
                {name: _listed(each, f"the field {quoted(name)} of its item {at}") for name, each in value.pairs}
            )
        else:
            items.append(_listed(value, f"its item {at}"))
    return items


def _read_json(text: str, what: str) -> Any:
    """Numbers as they are written, objects as _Pairs. Raises ParamsUnreadable, which says `what` and why."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ParamsUnreadable(f"{what}: {str(error)[:200]}") from None


def _listed(value: object, what: str) -> str:
    if not isinstance(value, str | bool):
        raise ParamsUnreadable(f"is a list, but {what} is neither text nor a number nor a boolean")
    text = plain_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ParamsUnreadable(f"is a list, but {what} is not UTF-8") from None
    return text


def recorded_params(text: str | None) -> dict[str, str]:
    """A run's parameters as its record keeps them; one that cannot be read has none."""
    try:
        return read_params(text)
    except ParamsUnreadable:
        return {}


class _Pairs:
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _once(pairs: list[tuple[str, Any]]) -> _Pairs:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is there twice")
    return _Pairs(pairs)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number that can be used here")


def param_values(
    spec: DagSpec, given: Mapping[str, str], limits: DagLimits, findings: Findings, *, draft: bool = False
) -> dict[str, str]:
    """The value of each parameter. `given`: those of the submission, which go before the defaults. What is unknown,
    missing or too large is reported. `draft`: where a value is missing, STAND_IN is taken for it.
    """
    declared = spec.params or {}
    misnamed: set[str] = set()
    for name in declared:
        fault = name_fault(name, limits.max_param_name_chars)
        if fault is not None:
            findings.add(("params", name), f"the parameter's name {fault}")
            misnamed.add(name)
    if len(declared) > limits.max_params:
        findings.refuse(f"{len(declared):,} parameters; the limit is {limits.max_params:,}", path=("params",))
    for name in given:
        if name not in declared:
            near = findings.suggestion(name, declared)
            known = (
                f"it has {', '.join(quoted(each) for each in list(declared)[:20])}"
                if declared
                else "it declares none under params"
            )
            findings.add(("params",), f"the DAG has no parameter {quoted(name)}{near or f'; {known}'}")
    values: dict[str, str] = {}
    for name, default in declared.items():
        if name in given:
            values[name] = given[name]
        elif default is not None:
            values[name] = plain_text(default)
        elif draft:
            values[name] = STAND_IN
        elif name not in misnamed:
            findings.add(
                ("params", name),
                f"has no default and no value was given; give one, such as `helios run -p {name}=VALUE`",
            )
    size = 0
    for name, value in values.items():
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            findings.add(("params", name), "the value is not UTF-8")
            values[name] = ""
    if size > limits.max_params_bytes:
        findings.refuse(
            f"the parameters have {size:,} bytes; the limit is {limits.max_params_bytes:,}: "
            "put what is large into a file and name that as an input",
            path=("params",),
        )
    return values
