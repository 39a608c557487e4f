"""What stands in a DAG for `${params.NAME}`: its defaults and the values of a submission. No I/O happens here.

Substitution happens once, when the DAG is read, so everything behind the parser (task records, memoization keys, Jobs)
sees values only. A value is text and is never looked through for parameters itself.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from helios.dag_format import DagSpec, EnvItem, EnvSpec, InputSpec, TaskSpec, plain_text
from helios.dag_names import name_fault
from helios.dag_problem import DagLimits, Findings, Path, quoted

BEGINNING = "${params."
"""Reserved in the fields that take parameters; `$${params.` is the text itself."""

_REFERENCE = re.compile(r"(\$?)\$\{params\.(?:([A-Za-z0-9][A-Za-z0-9._-]*)\})?")


class ParamsUnreadable(ValueError):
    """The parameters of a submission are not understood; says why."""


def read_params(text: str | None) -> dict[str, str]:
    """The field `params` of a submission: a JSON object of text, numbers and booleans. Raises ParamsUnreadable."""
    if not text:
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ParamsUnreadable(f"params is not a JSON object: {str(error)[:200]}") from None
    if not isinstance(found, _Pairs):
        raise ParamsUnreadable('params is not a JSON object; send {"NAME": "VALUE"}')
    values: dict[str, str] = {}
    for name, value in found.pairs:
        if not isinstance(value, str | bool):
            raise ParamsUnreadable(f"params: the value of {quoted(name)} is neither text nor a number nor a boolean")
        values[name] = plain_text(value)
    return values


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


def escaped(text: str) -> str:
    """Text that reads as `text` where parameters are substituted."""
    return text.replace(BEGINNING, "$" + BEGINNING)


def bind(
    spec: DagSpec, given: Mapping[str, str], limits: DagLimits, findings: Findings
) -> tuple[DagSpec, dict[str, str]]:
    """The DAG with every parameter replaced, and the value of each. `given`: those of the submission.

    What is unknown, missing or too large is reported; where a value is missing, the text stays and is passed over.
    """
    values = _values(spec, given, limits, findings)
    binder = _Binder(spec, values, limits, findings)
    tasks = [binder.task(task, ("tasks", at)) for at, task in enumerate(spec.tasks)]
    on_exit = binder.task(spec.on_exit, ("onExit",)) if spec.on_exit is not None else None
    if on_exit is spec.on_exit and all(new is old for new, old in zip(tasks, spec.tasks, strict=True)):
        return spec, values
    return replace(spec, tasks=tasks, on_exit=on_exit), values


def _values(spec: DagSpec, given: Mapping[str, str], limits: DagLimits, findings: Findings) -> dict[str, str]:
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


class _Binder:
    """Replaces parameters in the fields that take them; what that adds is bounded over the whole DAG."""

    def __init__(self, spec: DagSpec, values: Mapping[str, str], limits: DagLimits, findings: Findings) -> None:
        self._declared = spec.params or {}
        self._values = values
        self._limits = limits
        self._findings = findings
        self._added = 0

    def task(self, task: TaskSpec, path: Path) -> TaskSpec:
        changes: dict[str, Any] = {
            "image": self._text(task.image, (*path, "image")),
            "command": self._texts(task.command, (*path, "command")),
            "args": self._texts(task.args, (*path, "args")),
            "outputs": self._texts(task.outputs, (*path, "outputs")),
            "inputs": self._inputs(task.inputs, (*path, "inputs")),
            "env": self._env(task.env, (*path, "env")),
        }
        changed = {name: value for name, value in changes.items() if value is not getattr(task, name)}
        return replace(task, **changed) if changed else task

    def _text(self, text: str, path: Path) -> str:
        if BEGINNING not in text:
            return text
        return _REFERENCE.sub(lambda found: self._replacement(found, path), text)

    def _replacement(self, found: re.Match[str], path: Path) -> str:
        escape, name = found.groups()
        if escape:
            return found[0][1:]
        if name is None:
            self._findings.add(
                path,
                f"{BEGINNING} begins the name of a parameter, {BEGINNING}NAME}}; ${BEGINNING} stands for the text",
            )
            return found[0]
        value = self._values.get(name)
        if value is None:
            if name in self._declared or self._findings.wrong_exactly("params", name):
                self._findings.pass_over(path)
            else:
                near = self._findings.suggestion(name, self._declared)
                self._findings.add(
                    path,
                    f"no parameter is named {quoted(name)}{near or '; declare it under params'}"
                    f" (${BEGINNING} stands for the text)",
                )
            return found[0]
        self._added += max(0, len(value) - len(found[0]))
        if self._added > self._limits.max_params_added_chars:
            self._findings.refuse(
                f"the parameters stand for more than {self._limits.max_params_added_chars:,} characters in all; "
                "put what is large into a file and name that as an input",
                path=path,
            )
        return value

    def _texts(self, texts: list[str] | None, path: Path) -> list[str] | None:
        if not _any_reference(texts or ()):
            return texts
        return [self._text(text, (*path, at)) for at, text in enumerate(texts or ())]

    def _inputs(self, inputs: list[InputSpec] | None, path: Path) -> list[InputSpec] | None:
        if inputs is None or not any(_any_reference(_written(source)) for source in inputs):
            return inputs
        return [self._input(source, (*path, at)) for at, source in enumerate(inputs)]

    def _input(self, source: InputSpec, path: Path) -> InputSpec:
        def bound(text: str | None, field: str) -> str | None:
            return None if text is None else self._text(text, (*path, field))

        return replace(
            source, uri=bound(source.uri, "uri"), name=bound(source.name, "name"), as_=bound(source.as_, "as")
        )

    def _env(self, env: EnvSpec | None, path: Path) -> EnvSpec | None:
        if isinstance(env, dict):
            if not _any_reference(value for value in env.values() if isinstance(value, str)):
                return env
            return {
                name: self._text(value, (*path, name)) if isinstance(value, str) else value
                for name, value in env.items()
            }
        if env is None or not _any_reference(item.value for item in env if isinstance(item.value, str)):
            return env
        return [self._item(item, (*path, at)) for at, item in enumerate(env)]

    def _item(self, item: EnvItem, path: Path) -> EnvItem:
        return replace(item, value=self._text(item.value, path)) if isinstance(item.value, str) else item


def _written(source: InputSpec) -> Iterable[str]:
    return (text for text in (source.uri, source.name, source.as_) if text is not None)


def _any_reference(texts: Iterable[str]) -> bool:
    return any(BEGINNING in text for text in texts)
