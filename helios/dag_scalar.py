"""What a scalar in the text of a DAG stands for: YAML 1.2's core schema, and JSON's numbers. No I/O happens here."""

import math
import re
from dataclasses import dataclass

from helios.dag_problem import DagLimits, quoted

Container = dict[str, object] | list[object]
Places = list[tuple[Container, str | int]]
"""Values by the container they are in and their key or position there."""


@dataclass(frozen=True, slots=True)
class Written:
    """A scalar whose text says more than its value: `1.10`, `0x1F`, `True`."""

    value: bool | int | float
    text: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands where a value was that is reported already."""

    reason: str


_CONSTANTS: dict[str, object] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    "true": True,
    "false": False,
    **{text: Written(True, text) for text in ("True", "TRUE")},
    **{text: Written(False, text) for text in ("False", "FALSE")},
}
_MAY_NOT_BE_TEXT = frozenset("-+.0123456789tTfFnN~")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)")
_FRACTION = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def plain(text: str, limits: DagLimits) -> object:
    """The value of a plain scalar by YAML's core schema: None, bool, int, float, str, `Written` or `Unusable`."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _MAY_NOT_BE_TEXT:
        return text
    if _DECIMAL.fullmatch(text):
        return integer(text, text, 10, limits)
    if _BASED.fullmatch(text):
        return integer(text, text[2:], 16 if text[1] == "x" else 8, limits)
    if _FRACTION.fullmatch(text):
        return fraction(text)
    if _NOT_FINITE.fullmatch(text):
        return Unusable(f"{text} is not a number that can be used here; put it in quotes if it is meant as text")
    return text


def integer(text: str, digits: str, base: int, limits: DagLimits) -> "int | Written | Unusable":
    """A whole number, written as `text`, whose digits to the given base are `digits`."""
    count = len(digits.lstrip("+-"))
    if count > limits.max_integer_digits:
        return Unusable(
            f"a whole number of {count:,} digits; at most {limits.max_integer_digits} are taken as a number: "
            "put it in quotes if it is meant as text"
        )
    value = int(digits, base)
    return value if str(value) == text else Written(value, text)


def fraction(text: str) -> "float | Written | Unusable":
    """A number with a decimal point or an exponent."""
    if len(text) > 400 or math.isinf(value := float(text)):
        return Unusable(f"{quoted(text, 40)} is too large or too long for a number")
    return value if str(value) == text else Written(value, text)
