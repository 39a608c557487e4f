"""`when`: a condition on parameters and items, decided when the DAG is read. No I/O happens here.

    any  := all ("or" all)*          all := not ("and" not)*          not := "not" not | "(" any ")" | comparison
    comparison := text | text ("==" | "!=") text | text ["not"] "in" "[" [text ("," text)*] "]"

A text is a word or in quotes; what it refers to is put in after it is read, so that no value can change the condition.
All compare texts. A text on its own has to be `true` or `false`. There is nothing that does not end.
"""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from helios.dag_binding import mentions_item
from helios.dag_problem import DagLimits, Findings, Path, quoted

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign>==|!=|[()\[\],])|'(?P<one>[^']*)'|"(?P<two>[^"]*)"
    |(?P<word>(?:\$?\$\{(?:params|item)[^{}\s]*\}|[^\s()\[\],'"=!<>&|$\\{}])+)|(?P<odd>\S))""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "in")
_INSTEAD = {
    "=": "write ==",
    "&": "write and",
    "|": "write or",
    "!": "write not, or !=",
    "$": "it begins ${params.NAME}, ${item} or ${item.FIELD}",
    **dict.fromkeys("<>", "values are text: there are ==, != and in"),
    **dict.fromkeys("'\"", "the quote does not end"),
}
_QUOTE = "put other text in quotes"


class _Token(Struct, frozen=True):
    kind: str
    """A sign or a keyword itself, `text`, or empty at the end."""
    text: str
    at: int
    """Its position, from 1."""


class Compared(Struct, frozen=True):
    """Whether a text is one of others; `negated`: none of them."""

    text: str
    among: tuple[str, ...]
    negated: bool = False


class Itself(Struct, frozen=True):
    """A text that says `true` or `false`."""

    text: str


class Not(Struct, frozen=True):
    of: "Condition"


class All(Struct, frozen=True):
    of: tuple["Condition", ...]


class Some(Struct, frozen=True):
    of: tuple["Condition", ...]


Condition = Compared | Itself | Not | All | Some


class _Unreadable(ValueError):
    pass


def read_condition(text: str, has_items: bool, path: Path, limits: DagLimits, findings: Findings) -> Condition | None:
    """None after reporting why it is not understood. `has_items`: the task has `forEach`."""
    if len(text) > limits.max_when_chars:
        findings.add(path, f"has {len(text):,} characters; the limit is {limits.max_when_chars:,}")
        return None
    try:
        read = _Reader(text, limits).whole()
    except _Unreadable as error:
        findings.add(path, str(error))
        return None
    if not has_items and any(mentions_item(each) for each in texts_of(read)):
        findings.add(path, "${item} has a meaning only with forEach, which the task does not have")
        return None
    return read


def texts_of(condition: Condition) -> Iterator[str]:
    """The texts in it, as they are written."""
    match condition:
        case Compared():
            yield condition.text
            yield from condition.among
        case Itself():
            yield condition.text
        case Not():
            yield from texts_of(condition.of)
        case All() | Some():
            for each in condition.of:
                yield from texts_of(each)


def holds(condition: Condition, value: Callable[[str], str], fault: Callable[[str], None]) -> bool:
    """`value` gives what a text stands for; `fault` takes what is wrong with one that is neither true nor false."""
    match condition:
        case Compared():
            found = value(condition.text)
            return any(found == value(each) for each in condition.among) != condition.negated
        case Itself():
            found = value(condition.text)
            if found not in ("true", "false"):
                text, example = quoted(condition.text), quoted(f"{condition.text[:40]} == yes")
                fault(f"{text} is {quoted(found)}, neither true nor false; compare it, as in {example}")
            return found == "true"
        case Not():
            return not holds(condition.of, value, fault)
        case All():
            return all(holds(each, value, fault) for each in condition.of)
        case Some():
            return any(holds(each, value, fault) for each in condition.of)


class _Reader:
    """Goes down no deeper than the limit on nesting."""

    def __init__(self, text: str, limits: DagLimits) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self._limit = limits.max_when_nesting

    def whole(self) -> Condition:
        if not self._peek().kind:
            raise _Unreadable("is empty; write a condition such as ${params.env} == prod, or leave it out")
        read = self._some()
        if self._peek().kind:
            raise self._unexpected("and, or, or the end")
        return read

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *kinds: str) -> _Token | None:
        token = self._peek()
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _unexpected(self, wanted: str) -> _Unreadable:
        token = self._peek()
        got = f"{quoted(token.text, 40)} at character {token.at}" if token.kind else "the end"
        return _Unreadable(f"expected {wanted}, got {got}; {_QUOTE}")

    def _some(self) -> Condition:
        read = [self._all()]
        while self._take("or"):
            read.append(self._all())
        return read[0] if len(read) == 1 else Some(tuple(read))

    def _all(self) -> Condition:
        read = [self._not()]
        while self._take("and"):
            read.append(self._not())
        return read[0] if len(read) == 1 else All(tuple(read))

    def _not(self) -> Condition:
        opened = self._take("not", "(")
        if opened is None:
            return self._comparison()
        self._depth += 1
        if self._depth > self._limit:
            raise _Unreadable(f"has more than {self._limit} parentheses and nots in one another")
        if opened.kind == "not":
            read: Condition = Not(self._not())
        else:
            read = self._some()
            if not self._take(")"):
                raise self._unexpected("and, or, or ')'")
        self._depth -= 1
        return read

    def _comparison(self) -> Condition:
        text = self._text("a text")
        sign = self._take("==", "!=")
        if sign is not None:
            return Compared(text, (self._text(f"a text after {sign.kind}"),), sign.kind == "!=")
        negated = self._take("not") is not None
        if not self._take("in"):
            if negated:
                raise self._unexpected("in after not")
            return Itself(text)
        if not self._take("["):
            raise self._unexpected("a list such as [a, b] after in")
        among: list[str] = []
        while not self._take("]"):
            if among and not self._take(","):
                raise self._unexpected("',' or ']'")
            among.append(self._text("a text"))
        return Compared(text, tuple(among), negated)

    def _text(self, wanted: str) -> str:
        token = self._take("text")
        if token is None:
            raise self._unexpected(wanted)
        return token.text


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        word, at = found[kind], found.start(kind) + 1
        if kind == "odd":
            reason = _INSTEAD.get(word, _QUOTE)
            raise _Unreadable(f"{quoted(word)} at character {at} is not understood; {reason}")
        if kind == "sign" or (kind == "word" and word in _WORDS):
            yield _Token(word, word, at)
        else:
            yield _Token("text", word, at)
    yield _Token("", "", len(text) + 1)
