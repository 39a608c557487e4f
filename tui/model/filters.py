"""What `/` understands: words that must all be found in a run.

word-count 5 failed     each word, in any column, whatever the case
status:failed dag:etl   in that column
node=n1                 one of the column's values as a whole
duration>30s start<2h   longer than; started less than two hours ago
tasks>=10               at least that many
!hit:miss               not so
"two words"             a word with blanks
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tui.model.columns import BY_NAME, COLUMNS, Column, Look

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_WORD = re.compile(r'!?(?:"[^"]*"?|[^\s"])+')
_PARTS = re.compile(r"([A-Za-z_]+)(:|=|<=|>=|<|>)(.*)", re.DOTALL)
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}


class FilterInvalid(ValueError):
    """The text is no filter; the message says why, and what would be one."""


class Term(NamedTuple):
    """One word: a text to be found in a column, or in any, or a number to compare with."""

    column: Column | None
    operator: str
    text: str
    """In lower case."""
    number: float
    negated: bool

    def matches(self, it: Look) -> bool:
        return self._found(it) != self.negated

    def _found(self, it: Look) -> bool:
        if self.column is None:
            return any(self.text in text.casefold() for column in COLUMNS for text in column.texts(it))
        if self.operator in COMPARISONS and self.column.number is not None:
            number = self.column.number(it)
            return number is not None and COMPARISONS[self.operator](number, self.number)
        found = [text.casefold() for text in self.column.texts(it)]
        return self.text in found if self.operator == "=" else any(self.text in text for text in found)


class Filter(NamedTuple):
    """All of whose terms must hold."""

    terms: tuple[Term, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether a run may come or go as time passes, without a change of its own."""
        return any(term.column is None or term.column.moves for term in self.terms)

    @property
    def ages(self) -> bool:
        """Whether this is so even of runs that ended."""
        return any(term.column is not None and term.column.name == "start" and term.number >= 0 for term in self.terms)

    def matches(self, it: Look) -> bool:
        return all(term.matches(it) for term in self.terms)


def parse_filter(text: str) -> Filter:
    """Raises FilterInvalid. An empty text is a filter that every run passes."""
    return Filter(tuple(_term(word) for word in _WORD.findall(text)))


def _term(word: str) -> Term:
    negated = word.startswith("!")
    bare = word[1:] if negated else word
    if not bare:
        raise FilterInvalid("! needs a word after it, as in !status:failed")
    parts = None if bare.startswith('"') else _PARTS.fullmatch(bare)
    if parts is None:
        return Term(None, ":", bare.replace('"', "").casefold(), -1, negated)
    name, operator, rest = parts.groups()
    column = BY_NAME.get(name.lower())
    if column is None:
        raise FilterInvalid(f"there is no column {name}; there are {_names(COLUMNS)}")
    number = _number(column, name, operator, rest) if operator in COMPARISONS else -1
    return Term(column, operator, rest.replace('"', "").casefold(), number, negated)


def _number(column: Column, name: str, operator: str, text: str) -> float:
    if column.number is None:
        able = _names([each for each in COLUMNS if each.number is not None])
        raise FilterInvalid(f"{operator} compares {able} only; for {name} there are : and =")
    example = "30s or 2h" if column.is_time else "5"
    found = _AMOUNT.fullmatch(text)
    if found is None or (found[2] and not column.is_time):
        raise FilterInvalid(f"{name}{operator} needs a {'time' if column.is_time else 'number'}, such as {example}")
    return float(found[1]) * (UNITS_MS[found[2] or "s"] if column.is_time else 1)


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns)
