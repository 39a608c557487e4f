"""What an import could not carry over, and what it is made of. No I/O happens here."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from cli.imports.document import Value

Weight = Literal["lost", "note"]
"""`lost`: the DAG does not do all that the original does, so the import is not complete. `note`: what it does is the
same, and something around it is not."""


class Loss(msgspec.Struct, frozen=True, order=True):
    """One thing that is not in the result as it was. `what` is the field or text, `reason` a sentence."""

    line: int
    what: str
    reason: str
    weight: Weight = "lost"


@dataclass(slots=True)
class Losses:
    """Collects them, each once."""

    found: dict[Loss, None] = field(default_factory=dict[Loss, None])

    def lost(self, at: Value | int, what: str, reason: str) -> None:
        self.found.setdefault(Loss(at if isinstance(at, int) else at.line, what, reason))

    def note(self, at: Value | int, what: str, reason: str) -> None:
        self.found.setdefault(Loss(at if isinstance(at, int) else at.line, what, reason, "note"))

    def unknown(self, value: Value, known: Set[str], reasons: Mapping[str, str], harmless: Mapping[str, str]) -> None:
        """Every field that is not known; an empty one says nothing."""
        for name, each in (value.fields or {}).items():
            if name in known or each.is_empty:
                continue
            if name in harmless:
                self.note(each, name, harmless[name])
            else:
                self.lost(each, name, reasons.get(name, "Helios has nothing like it"))

    def sorted(self) -> list[Loss]:
        return sorted(self.found)


class Imported(msgspec.Struct):
    """A DAG as plain data, and what is not in it."""

    dag: dict[str, Any]
    losses: list[Loss]

    @property
    def complete(self) -> bool:
        return not any(each.weight == "lost" for each in self.losses)
