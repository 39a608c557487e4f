"""A DAG drawn as a tree: each task once, below the last of its parents, with the others named beside it."""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Branch(NamedTuple):
    """One line of the tree."""

    name: str
    guide: str
    """What stands before the name: `│  └─ `."""
    also_after: tuple[str, ...]
    """Parents that it does not stand below."""
    hidden: int
    """Tasks below it that are folded away."""


def branches(
    parents: Sequence[tuple[str, Sequence[str]]], folded: Collection[str] = (), *, ascii_only: bool = False
) -> list[Branch]:
    """The lines of the tree, top to bottom; `parents` are in the order of the DAG. Linear in tasks and edges."""
    place = {name: index for index, (name, _) in enumerate(parents)}
    above: dict[str, str] = {}
    others: dict[str, tuple[str, ...]] = {}
    below: dict[str, list[str]] = {}
    roots: list[str] = []
    for name, each in parents:
        known = [parent for parent in each if parent in place]
        if not known:
            roots.append(name)
            continue
        last = max(known, key=place.__getitem__)
        above[name] = last
        others[name] = tuple(parent for parent in known if parent != last)
        below.setdefault(last, []).append(name)
    sizes = _sizes([name for name, _ in parents], above)
    last_guide, guide, through = ("`- ", "|- ", "|  ") if ascii_only else ("└─ ", "├─ ", "│  ")
    lines: list[Branch] = []
    stack: list[tuple[str, str, str]] = [(name, "", "") for name in reversed(roots)]
    while stack:
        name, before, indent = stack.pop()
        children = below.get(name, [])
        hidden = sizes[name] if name in folded else 0
        lines.append(Branch(name, before, others.get(name, ()), hidden))
        if hidden:
            continue
        for index in range(len(children) - 1, -1, -1):
            is_last = index == len(children) - 1
            stack.append(
                (children[index], indent + (last_guide if is_last else guide), indent + ("   " if is_last else through))
            )
    return lines


def _sizes(names: Sequence[str], above: dict[str, str]) -> dict[str, int]:
    """How many tasks stand below each. A task may be named before its parents, so a number goes up once known."""
    waiting = dict.fromkeys(names, 0)
    for parent in above.values():
        waiting[parent] += 1
    sizes = dict.fromkeys(names, 0)
    done = [name for name in names if waiting[name] == 0]
    while done:
        name = done.pop()
        parent = above.get(name)
        if parent is None:
            continue
        sizes[parent] += sizes[name] + 1
        waiting[parent] -= 1
        if waiting[parent] == 0:
            done.append(parent)
    return sizes
