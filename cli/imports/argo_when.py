"""Argo's `when`: conditions as text, decided now or turned into a test of sh. No I/O happens here.

Argo puts the values in and has the text evaluated: `heads == heads && 3 < 10`. Words need no quotes there. Carried over
are `==`, `!=`, `<`, `<=`, `>`, `>=` (of whole numbers), `=~` and `!~`, with `&&`, `||`, `!` and parentheses; an
expression `{{= … }}` with no more than that in it is the same. Functions are not carried over.

As in Argo (govaluate), a number that is written without quotes is compared as one: `1 == 1.0`, and `1 == '1'` does
not hold. The shell compares texts. So where a value is known only while the workflow runs, what is left to the shell is
only what comes to the same there; the rest is more than these rules know.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from helios.dag_problem import LIMITS

_TOKEN = re.compile(
    r"""\s*(?P<by>&&|\|\||==|!=|=~|!~|<=|>=|<|>|\(|\)|!)|\s*(?P<quoted>'[^']*'|"[^"]*")|\s*(?P<word>(?:\0\d+\0|[^\s=!<>&|()'"\0~])+)"""
)
_LITERALS = {"true": True, "false": False}
_NUMBERS = {"<": "-lt", "<=": "-le", ">": "-gt", ">=": "-ge"}
_LATE = re.compile(r"\0\d+\0")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_PLAIN_NUMBER = re.compile(r"0|-?[1-9]\d*|-?(?:0|[1-9]\d*)\.\d*[1-9]")
"""As a number is usually printed, so that what is the same number is the same text."""
_JOINED = {"&&": " and ", "||": " or "}
_OWN_TO_GO = re.compile(r"\\[A-Za-z]|\(\?|[*+?}]\?")
"""What a regular expression has in Go and not, or in another sense, in grep -E."""


class Operand(NamedTuple):
    """One side of a comparison."""

    text: str
    quoted: bool

    @property
    def late(self) -> bool:
        return _LATE.search(self.text) is not None

    @property
    def value(self) -> str | float | bool:
        if self.quoted:
            return self.text
        if self.text in _LITERALS:
            return _LITERALS[self.text]
        return float(self.text) if _NUMBER.fullmatch(self.text) else self.text


_NOTHING = Operand("", quoted=True)


class Condition(NamedTuple):
    """A tree: `by` is a comparison of `left` and `right`, or && or || or ! of `parts`, or "true" or "false".

    `text` is the whole as it was written.
    """

    text: str
    by: str
    left: Operand = _NOTHING
    right: Operand = _NOTHING
    parts: "tuple[Condition, ...]" = ()


class _Unreadable(Exception):
    """The text is more than these rules know."""


def condition(text: str) -> Condition | None:
    """None for one that is more than these rules know."""
    tokens = _tokens(text)
    if not tokens:
        return None
    reader = _Reader(text, tokens)
    try:
        found = reader.either()
    except _Unreadable:
        return None
    return found if reader.at == len(tokens) else None


def decided(asked: Condition) -> bool | None:
    """What it comes to; None where that depends on a value that is not known yet."""
    match asked.by:
        case "true" | "false":
            return _LITERALS[asked.by]
        case "&&" | "||":
            told = [decided(each) for each in asked.parts]
            stops = asked.by == "||"
            return stops if stops in told else None if None in told else not stops
        case "!":
            told = decided(asked.parts[0])
            return None if told is None else not told
        case _:
            return None if asked.left.late or asked.right.late else _compared(asked)


def shell_test(asked: Condition, quoted: Callable[[str], str]) -> str:
    """A command of sh that succeeds where it holds; `quoted` makes a word of a text."""
    told = decided(asked)
    if told is not None:
        return "true" if told else "false"
    match asked.by:
        case "&&" | "||":
            return f" {asked.by} ".join(f"{{ {shell_test(each, quoted)}; }}" for each in asked.parts)
        case "!":
            return f"! {{ {shell_test(asked.parts[0], quoted)}; }}"
        case "=~" | "!~":
            no = "! " if asked.by == "!~" else ""
            return f"{no}printf %s {quoted(asked.left.text)} | grep -Eq -e {quoted(asked.right.text)}"
        case _:
            by = _NUMBERS.get(asked.by) or asked.by.replace("==", "=")
            return f"[ {quoted(asked.left.text)} {by} {quoted(asked.right.text)} ]"


def item_test(asked: Condition, quoted: Callable[[str], str | None]) -> str | None:
    """The condition in Helios' own words, for a task with `forEach`; `quoted` makes a word of a text. None where Helios
    has no words for it."""
    test = _of_items(asked, quoted)
    if test is None:
        return None
    if asked.by in _JOINED:
        test = test[1:-1]
    # Each parenthesis may have a `not` before it.
    fits = len(test) <= LIMITS.max_when_chars and test.count("(") * 2 < LIMITS.max_when_nesting
    return test if fits else None


def _of_items(asked: Condition, quoted: Callable[[str], str | None]) -> str | None:
    told = decided(asked)
    if told is not None:
        return "true" if told else "false"
    match asked.by:
        case "&&" | "||":
            parts = [part for each in asked.parts if (part := _of_items(each, quoted)) is not None]
            return f"({_JOINED[asked.by].join(parts)})" if len(parts) == len(asked.parts) else None
        case "!":
            part = _of_items(asked.parts[0], quoted)
            return None if part is None else f"not {part}"
        case "==" | "!=":
            left, right = quoted(asked.left.text), quoted(asked.right.text)
            return None if left is None or right is None else f"{left} {asked.by} {right}"
        case _:
            return None


def _compared(asked: Condition) -> bool | None:
    left, right = asked.left.text, asked.right.text
    match asked.by:
        case "==" | "!=":
            one, other = asked.left.value, asked.right.value
            return (type(one) is type(other) and one == other) == (asked.by == "==")
        case "=~" | "!~":
            try:
                found = re.search(right, left) is not None
            except re.error:
                return None
            return found if asked.by == "=~" else not found
        case _:
            return {"<": int(left) < int(right), "<=": int(left) <= int(right)}.get(
                asked.by, int(left) > int(right) if asked.by == ">" else int(left) >= int(right)
            )


def _is_same_in_shell(by: str, left: Operand, right: Operand) -> bool:
    """Whether sh, which compares texts, or grep comes to what Argo does, where a side is known only later."""
    if not left.late and not right.late:
        return True
    if by in ("=~", "!~"):
        return _OWN_TO_GO.search(right.text) is None
    if by in _NUMBERS:
        return True
    for late, other in ((left, right), (right, left)):
        if not late.late or other.late:
            continue
        value = other.value
        # Numbers differ from texts in Argo, whatever they look like.
        if late.quoted and not isinstance(value, str):
            return False
        if not late.quoted and isinstance(value, float) and _PLAIN_NUMBER.fullmatch(other.text) is None:
            return False
        if not late.quoted and other.quoted and (_NUMBER.fullmatch(other.text) or other.text in _LITERALS):
            return False
    return True


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            return []
        at = match.end()
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind][1:-1] if kind == "quoted" else match[kind]))
    return tokens


class _Reader:
    """By recursive descent: `||` binds less than `&&`, `!` most."""

    def __init__(self, text: str, tokens: Sequence[tuple[str, str]]) -> None:
        self.text = text
        self.tokens = tokens
        self.at = 0

    def either(self) -> Condition:
        return self._joined("||", lambda: self._joined("&&", self._one))

    def _joined(self, by: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._sees(by):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Condition(self.text, by, parts=tuple(parts))

    def _sees(self, by: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == ("by", by):
            self.at += 1
            return True
        return False

    def _one(self) -> Condition:
        if self._sees("!"):
            return Condition(self.text, "!", parts=(self._one(),))
        if self._sees("("):
            found = self.either()
            if not self._sees(")"):
                raise _Unreadable
            return found
        left = self._operand()
        by = next((by for by in ("==", "!=", "=~", "!~", *_NUMBERS) if self._sees(by)), None)
        if by is None:
            if left.quoted or left.text not in _LITERALS:
                raise _Unreadable
            return Condition(self.text, left.text)
        right = self._operand()
        if by in _NUMBERS and not all(_is_whole(each) for each in (left, right)):
            raise _Unreadable
        if not _is_same_in_shell(by, left, right):
            raise _Unreadable
        return Condition(self.text, by, left, right)

    def _operand(self) -> Operand:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] == "by":
            raise _Unreadable
        kind, text = self.tokens[self.at]
        self.at += 1
        return Operand(text, kind == "quoted")


def _is_whole(side: Operand) -> bool:
    """Texts are ordered by their letters in Argo, so only what has no quotes."""
    return not side.quoted and (_LATE.fullmatch(side.text) or re.fullmatch(r"-?\d{1,18}", side.text)) is not None
