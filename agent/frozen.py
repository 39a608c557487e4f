"""Frozen structs for a process that must start fast: dataclasses cost it ten milliseconds (they import inspect, ast and
tokenize, and compile every class's methods), typing's tuples three.

A subclass's annotated fields are its constructor's parameters, by position or by name; there are no defaults. Type
checkers see a frozen dataclass.
"""

TYPE_CHECKING = False
"""Type checkers take this name for true, wherever it is defined."""

if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda decorated: decorated


@dataclass_transform(frozen_default=True)
class Frozen:
    """The base; the fields named in `secret` stay out of the repr: `class Link(Frozen, secret=("url",))`."""

    _secret: tuple[str, ...] = ()

    def __init_subclass__(cls, *, secret: tuple[str, ...] = ()) -> None:
        cls.__match_args__ = tuple(cls.__annotations__)
        cls._secret = secret

    def __init__(self, *values: object, **named: object) -> None:
        fields = self.__match_args__
        given = {**dict(zip(fields, values, strict=False)), **named}
        if len(values) + len(named) != len(fields) or given.keys() != set(fields):
            raise TypeError(f"{type(self).__name__} takes exactly {', '.join(fields)}")
        for name in fields:
            object.__setattr__(self, name, given[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__[name] for name in self.__match_args__))

    def __repr__(self) -> str:
        shown = (f"{name}={self.__dict__[name]!r}" for name in self.__match_args__ if name not in self._secret)
        return f"{type(self).__name__}({', '.join(shown)})"
