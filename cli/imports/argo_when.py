"""Argo's `when`: conditions as text, decided now or turned into a test of sh. No I/O happens here.

Argo puts the values in and has the text evaluated: `heads == heads && 3 < 10`. Words need no quotes there. Carried over
are `==`, `!=`, `<`, `<=`, `>`, `>=` (of whole numbers), `=~` and `!~`, with `&&`, `||`, `!` and parentheses; an
expression `{{= … }}` with no more than that in it is the same. Functions are not carried over.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\s*(?P<by>&&|\|\||==|!=|=~|!~|<=|>=|<|>|\(|\)|!)|\s*(?P<quoted>'[^']*'|"[^"]*")|\s*(?P<word>(?:\0\d+\0|[^\s=!<>&|()'"\0~])+)"""
)
_LITERALS = {"true": True, "false": False}
_NUMBERS = {"<": "-lt", "<=": "-le", ">": "-gt", ">=": "-ge"}
_LATE = re.compile(r"\0\d+\0")


class Condition(NamedTuple):
    """A tree: `by` is a comparison of `left` and `right`, or && or || or ! of `parts`, or "true" or "false".

    `text` is the whole as it was written.
    """

    text: str
    by: str
    left: str = ""
    right: str = ""
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
            return None if _LATE.search(asked.left + asked.right) else _compared(asked)


def shell_test(asked: Condition, quoted: Callable[[str], str]) -> str:
    """A command of sh that succeeds where it holds; `quoted` makes a word of a text."""
    match asked.by:
        case "true" | "false":
            return asked.by
        case "&&" | "||":
            return f" {asked.by} ".join(f"{{ {shell_test(each, quoted)}; }}" for each in asked.parts)
        case "!":
            return f"! {{ {shell_test(asked.parts[0], quoted)}; }}"
        case "=~" | "!~":
            no = "! " if asked.by == "!~" else ""
            return f"{no}printf %s {quoted(asked.left)} | grep -Eq -e {quoted(asked.right)}"
        case _:
            by = _NUMBERS.get(asked.by) or asked.by.replace("==", "=")
            return f"[ {quoted(asked.left)} {by} {quoted(asked.right)} ]"


def _compared(asked: Condition) -> bool | None:
    left, right = asked.left, asked.right
    match asked.by:
        case "==":
            return left == right
        case "!=":
            return left != right
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


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            return []
        at = match.end()
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind].strip("'\"") if kind == "quoted" else match[kind]))
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
            if left not in _LITERALS:
                raise _Unreadable
            return Condition(self.text, left)
        right = self._operand()
        if by in _NUMBERS and not all(_LATE.fullmatch(each) or _whole(each) for each in (left, right)):
            raise _Unreadable
        return Condition(self.text, by, left, right)

    def _operand(self) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] == "by":
            raise _Unreadable
        self.at += 1
        return self.tokens[self.at - 1][1]


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", text) is not None
