"""Puts values in where a task's fields have `${params.NAME}`, `${item}` and `${item.FIELD}`. No I/O happens here.

All are put in at once, so a value is never looked through for any of them. `${item` is reserved only where there is an
item: in tasks with `forEach`, and in inputs that such tasks make.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from helios.dag_format import DagSpec, EnvItem, EnvSpec, InputSpec, TaskSpec
from helios.dag_params import BEGINNING, STAND_IN
from helios.dag_problem import DagLimits, Findings, Path, quoted

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PARAM = re.compile(rf"(\$?)\$\{{params\.(?:({_NAME})\}})?")
_EITHER = re.compile(rf"(\$?)\$\{{(?:params\.(?:({_NAME})\}})?|(item)(?:\}}|\.(?:({_NAME})\}})?))")
_ITEM = "${item"


class Item(Struct, frozen=True):
    """What one instance of a task is made for."""

    key: str
    """What ends the instance's name."""
    value: str | Mapping[str, str] | None = None
    """None: not known, and STAND_IN is put in for whatever is asked of it."""


def mentions_item(text: str) -> bool:
    """Whether an item's value is put into the text."""
    return _ITEM in text and any(found[3] and not found[1] for found in _EITHER.finditer(text))


def mentioned_params(text: str) -> Iterable[str]:
    return (found[2] for found in _PARAM.finditer(text) if found[2] and not found[1])


def has_reference(text: str) -> bool:
    return BEGINNING in text or _ITEM in text


def escaped(text: str, *, has_items: bool = False) -> str:
    """Text that reads as `text` where values are put in; `has_items`: in a task with `forEach`."""
    return (_EITHER if has_items else _PARAM).sub(r"$\g<0>", text)


class Binder:
    """Replaces references in the fields that take them; what that adds is bounded over the whole DAG."""

    def __init__(self, spec: DagSpec, values: Mapping[str, str], limits: DagLimits, findings: Findings) -> None:
        self._declared = spec.params or {}
        self._values = values
        self._limits = limits
        self._findings = findings
        self._added = 0
        self._fanned = 0
        self._said: set[tuple[Path, str]] = set()

    def fields(self, task: TaskSpec, path: Path, item: Item | None) -> dict[str, Any]:
        """The fields that become others, but for `inputs` and `depends_on`."""
        bound: dict[str, Any] = {
            "image": self.text(task.image, (*path, "image"), item),
            "command": self._texts(task.command, (*path, "command"), item),
            "args": self._texts(task.args, (*path, "args"), item),
            "outputs": self._texts(task.outputs, (*path, "outputs"), item),
            "env": self._env(task.env, (*path, "env"), item),
        }
        return {name: value for name, value in bound.items() if value is not getattr(task, name)}

    def input(self, source: InputSpec, path: Path, item: Item | None) -> InputSpec:
        """`fromTask` is left as it is."""

        def bound(text: str | None, field: str) -> str | None:
            return None if text is None else self.text(text, (*path, field), item)

        uri, name, as_ = bound(source.uri, "uri"), bound(source.name, "name"), bound(source.as_, "as")
        if uri is source.uri and name is source.name and as_ is source.as_:
            return source
        return InputSpec(source.from_task, name, uri, as_, source.mode, source.verify)

    def text(self, text: str, path: Path, item: Item | None = None) -> str:
        if item is None:
            if BEGINNING not in text:
                return text
            return _PARAM.sub(lambda found: self._replacement(found, path, None), text)
        if not has_reference(text):
            return text
        return _EITHER.sub(lambda found: self._replacement(found, path, item), text)

    def spend(self, chars: int, path: Path) -> None:
        """Take so much text that `forEach` adds into account. Raises DagInvalid above the limit."""
        self._fanned += chars
        if self._fanned > self._limits.max_fanned_chars:
            self._findings.refuse(
                f"the tasks that forEach makes have more than {self._limits.max_fanned_chars:,} characters in all; "
                "put what is large into a file and name that as an input",
                path=path,
            )

    def _replacement(self, found: re.Match[str], path: Path, item: Item | None) -> str:
        if found[1]:
            return found[0][1:]
        value = self._of_params(found, path) if item is None or not found[3] else self._of_item(found, path, item)
        if value is None:
            return found[0]
        added = max(0, len(value) - len(found[0]))
        if item is not None:
            self.spend(added, path)
            return value
        self._added += added
        if self._added > self._limits.max_params_added_chars:
            self._findings.refuse(
                f"the parameters stand for more than {self._limits.max_params_added_chars:,} characters in all; "
                "put what is large into a file and name that as an input",
                path=path,
            )
        return value

    def _of_params(self, found: re.Match[str], path: Path) -> str | None:
        name = found[2]
        if name is None:
            self._once(
                path,
                found[0],
                lambda: (
                    f"{BEGINNING} begins the name of a parameter, {BEGINNING}NAME}}; ${BEGINNING} stands for the text"
                ),
            )
            return None
        value = self._values.get(name)
        if value is not None:
            return value
        if name in self._declared or self._findings.wrong_exactly("params", name):
            self._findings.pass_over(path)
        else:
            self._once(
                path,
                found[0],
                lambda: (
                    f"no parameter is named {quoted(name)}"
                    f"{self._findings.suggestion(name, self._declared) or '; declare it under params'}"
                    f" (${BEGINNING} stands for the text)"
                ),
            )
        return None

    def _of_item(self, found: re.Match[str], path: Path, item: Item) -> str | None:
        field = found[4]
        if field is None and not found[0].endswith("}"):
            self._once(
                path,
                found[0],
                lambda: "${item. begins the name of a field, ${item.FIELD}; $${item. stands for the text",
            )
            return None
        known = item.value
        if known is None:
            return STAND_IN
        if isinstance(known, str):
            if field is None:
                return known
            self._once(
                path,
                found[0],
                lambda: f"the item {quoted(item.key)} is no mapping, so it has no {quoted(field)}; write ${{item}}",
            )
            return None
        if field is not None and field in known:
            return known[field]
        names = ", ".join(quoted(each) for each in list(known)[:20]) or "none"
        if field is None:
            self._once(
                path,
                found[0],
                lambda: f"the item {quoted(item.key)} is a mapping; write ${{item.FIELD}}, of its fields {names}",
            )
        else:
            self._once(
                path,
                found[0],
                lambda: (
                    f"the item {quoted(item.key)} has no field {quoted(field)}"
                    f"{self._findings.suggestion(field, known) or f'; it has {names}'}"
                ),
            )
        return None

    def _once(self, path: Path, reference: str, message: Callable[[], str]) -> None:
        """Other instances are wrong in the same way."""
        if (path, reference) not in self._said and len(self._said) < 10 * self._limits.max_problems:
            self._said.add((path, reference))
            self._findings.add(path, message())

    def _texts(self, texts: list[str] | None, path: Path, item: Item | None) -> list[str] | None:
        if not any(has_reference(text) for text in texts or ()):
            return texts
        return [self.text(text, (*path, at), item) for at, text in enumerate(texts or ())]

    def _env(self, env: EnvSpec | None, path: Path, item: Item | None) -> EnvSpec | None:
        if isinstance(env, dict):
            if not any(has_reference(value) for value in env.values() if isinstance(value, str)):
                return env
            return {
                name: self.text(value, (*path, name), item) if isinstance(value, str) else value
                for name, value in env.items()
            }
        if env is None or not any(has_reference(each.value) for each in env if isinstance(each.value, str)):
            return env
        return [
            EnvItem(each.name, self.text(each.value, (*path, at), item), each.value_from)
            if isinstance(each.value, str)
            else each
            for at, each in enumerate(env)
        ]
