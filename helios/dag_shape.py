"""From plain data to the structs of the format, naming every value that does not fit. No I/O happens here.

msgspec converts what is right at once; only when it refuses is the data walked along the types, which it stops at the
first fault of and this does not.
"""

from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import inspect

from helios.dag_format import DagSpec, plain_text
from helios.dag_problem import DagLimits, Findings, Path, quoted
from helios.dag_scalar import Unusable, Written
from helios.dag_text import Document


def to_spec(document: Document, limits: DagLimits, findings: Findings) -> DagSpec | None:
    """The document as structs, with stand-ins where `findings` now says what is wrong; None when nothing can be said
    about its tasks."""
    data = document.data
    if not isinstance(data, dict):
        findings.add((), f"expected a mapping with dagName and tasks, got {_kind(data)}")
        return None
    root = cast("dict[str, object]", data)
    tasks = root.get("tasks")
    if isinstance(tasks, list) and len(cast("list[object]", tasks)) > limits.max_tasks:
        count = len(cast("list[object]", tasks))
        findings.add(("tasks",), f"{count:,} tasks; the limit is {limits.max_tasks:,}")
        return None
    _report_long_lists(root, limits, findings)
    as_text = {id(container) for container in _text_containers(root)}
    document.settle_numbers(as_text | {id(root.get("params"))})
    try:
        return msgspec.convert(root, DagSpec)
    except msgspec.ValidationError as error:
        document.unsettle_numbers()
        mended = _mended(root, inspect.type_info(DagSpec), (), findings)
        if not findings:
            findings.add((), str(error))
    try:
        return msgspec.convert(mended, DagSpec)
    except msgspec.ValidationError:
        return None


def _all_tasks(root: dict[str, object]) -> Iterator[tuple[Path, object]]:
    """As DagSpec.all_tasks, whatever shape they are of."""
    for at, task in enumerate(_items(root.get("tasks"))):
        yield ("tasks", at), task
    yield ("onExit",), root.get("onExit")


def _report_long_lists(root: dict[str, object], limits: DagLimits, findings: Findings) -> None:
    """Take lists of a task that are too long for any use out of the data, before anything goes through them."""
    for path, task in _all_tasks(root):
        fields = cast("dict[str, object]", task) if isinstance(task, dict) else {}
        for key, value in fields.items():
            if isinstance(value, list) and len(cast("list[object]", value)) > limits.max_entries:
                reason = f"more than {limits.max_entries:,} entries in one list or mapping"
                findings.add((*path, key), reason)
                fields[key] = Unusable(reason)


def _text_containers(root: dict[str, object]) -> Iterator[object]:
    """The mappings and lists whose numbers are taken as text, the way they are written."""
    for _, task in _all_tasks(root):
        yield _get(task, "forEach")
        yield from _items(_get(task, "forEach"))
        yield _get(task, "env")
        yield from _items(_get(task, "env"))
        yield _get(_get(task, "resources"), "requests")
        yield _get(_get(task, "resources"), "limits")


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _get(value: object, key: str) -> object:
    return cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None


_WHY_REQUIRED = {
    "command": "is required: Helios starts the command itself and does not know the image's own entrypoint",
}
_BOOLEANS_OF_YAML_1_1 = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}
_MISSING = object()


def _mended(value: object, type_: inspect.Type, path: Path, findings: Findings) -> Any:
    """The value with what does not fit the type reported and left out, or replaced where it is required.

    Recurses over the types, which are seven deep, never over the data.
    """
    match type_:
        case inspect.Metadata():
            return _mended(value, type_.type, path, findings)
        case inspect.AnyType():
            return value
        case _ if isinstance(value, Written) and _same_shape(value.value, type_):
            return value.value
        case inspect.StructType() if isinstance(value, dict):
            return _mended_struct(cast("dict[str, object]", value), type_, path, findings)
        case inspect.DictType() if isinstance(value, dict):
            mended = {
                key: _mended(item, type_.value_type, (*path, key), findings)
                for key, item in cast("dict[str, object]", value).items()
            }
            return {key: item for key, item in mended.items() if item is not _MISSING}
        case inspect.ListType() if isinstance(value, list):
            items = [
                _mended(item, type_.item_type, (*path, at), findings)
                for at, item in enumerate(cast("list[object]", value))
            ]
            # Later stages count positions, so nothing may move up.
            return [_stand_in(type_.item_type) if item is _MISSING else item for item in items]
        case inspect.UnionType():
            for member in type_.types:
                if _same_shape(value, member):
                    return _mended(value, member, path, findings)
        case _ if _same_shape(value, type_):
            return value
        case _:
            pass
    if not isinstance(value, Unusable):  # which is reported already
        findings.add(path, _mismatch(value, type_, findings))
    return _MISSING


def _mended_struct(value: dict[str, object], type_: inspect.StructType, path: Path, findings: Findings) -> Any:
    fields = {each.encode_name: each for each in type_.fields}
    mended: dict[str, object] = {}
    for key, item in value.items():
        if key in fields:
            mended[key] = _mended(item, fields[key].type, (*path, key), findings)
        else:
            near = findings.suggestion(key, fields) or f"; the fields here are {', '.join(fields)}"
            findings.add((*path, key), f"unknown field {quoted(key)}{near}")
    for name, each in fields.items():
        if each.required and name not in value:
            findings.add((*path, name), _WHY_REQUIRED.get(name, "is required"))
            mended[name] = _MISSING
        if mended.get(name) is _MISSING:
            del mended[name]
            if each.required:
                mended[name] = _stand_in(each.type)
    return mended


def _stand_in(type_: inspect.Type) -> object:
    match type_:
        case inspect.Metadata():
            return _stand_in(type_.type)
        case inspect.StructType():
            return {each.encode_name: _stand_in(each.type) for each in type_.fields if each.required}
        case inspect.ListType():
            return []
        case _:
            return ""


def _same_shape(value: object, type_: inspect.Type) -> bool:
    match type_:
        case inspect.Metadata():
            return _same_shape(value, type_.type)
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, float)
        case inspect.NoneType():
            return value is None
        case inspect.LiteralType():
            return isinstance(value, str) and value in type_.values
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.DictType() | inspect.StructType():
            return isinstance(value, dict)
        case inspect.UnionType():
            return any(_same_shape(value, member) for member in type_.types)
        case _:
            return False


def _mismatch(value: object, type_: inspect.Type, findings: Findings) -> str:
    wanted = list(dict.fromkeys(_wanted(type_)))
    if "a number" in wanted and "a whole number" in wanted:
        wanted.remove("a whole number")
    shown = (
        value.text if isinstance(value, Written) else plain_text(value) if isinstance(value, str | int | float) else ""
    )
    hint = ""
    if "true or false" in wanted and isinstance(value, str) and value.lower() in _BOOLEANS_OF_YAML_1_1:
        hint = f"; write {_BOOLEANS_OF_YAML_1_1[value.lower()]}: in YAML 1.2 {quoted(value)} is text"
    elif "text" in wanted and isinstance(value, bool | int | float | Written):
        hint = f"; put it in quotes: {quoted(shown)}"
    elif "text" in wanted and value is None:
        hint = '; write "" for empty text'
    elif "a list" in wanted and isinstance(value, str):
        hint = f"; write [{quoted(value)}]"
    elif isinstance(type_, inspect.UnionType) and shown:
        structs = [member for member in type_.types if isinstance(member, inspect.StructType)]
        if len(structs) == 1 and len(structs[0].fields) == 1:
            hint = f"; write {{{structs[0].fields[0].encode_name}: {shown[:40]}}}"
    if isinstance(value, str) and (values := list(_literals(type_))):
        hint = findings.suggestion(value, values)
    return f"expected {' or '.join(wanted)}, got {_kind(value)}{hint}"


def _wanted(type_: inspect.Type) -> Iterator[str]:
    match type_:
        case inspect.Metadata():
            yield from _wanted(type_.type)
        case inspect.UnionType():
            for member in type_.types:
                yield from _wanted(member)
        case inspect.LiteralType():
            yield from (quoted(str(value)) for value in type_.values)
        case inspect.StrType():
            yield "text"
        case inspect.BoolType():
            yield "true or false"
        case inspect.IntType():
            yield "a whole number"
        case inspect.FloatType():
            yield "a number"
        case inspect.ListType():
            yield "a list"
        case inspect.DictType() | inspect.StructType():
            yield "a mapping"
        case _:
            return


def _literals(type_: inspect.Type) -> Iterator[str]:
    match type_:
        case inspect.Metadata():
            yield from _literals(type_.type)
        case inspect.UnionType():
            for member in type_.types:
                yield from _literals(member)
        case inspect.LiteralType():
            yield from (str(value) for value in type_.values)
        case _:
            return


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {plain_text(value)}"
        case int() | float():
            return f"the number {value}"
        case Written():
            return f"the {'boolean' if isinstance(value.value, bool) else 'number'} {value.text}"
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"
