"""The names of all keys that can be set anew."""

from collections.abc import Iterator

from textual.binding import BindingsMap
from textual.dom import DOMNode


def binding_ids() -> set[str]:
    """The ids of the bindings of every screen and widget of ours that has been imported."""
    return {
        binding.id
        for kind in _ours(DOMNode)
        for _, binding in BindingsMap(vars(kind).get("BINDINGS", ()))
        if binding.id
    }


def _ours(kind: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("tui."):
            yield below
        yield from _ours(below)
