"""The answer of `helios why` as people read it. No I/O happens here."""

from collections import Counter

from cli.differences import InputWhy, Root, Why
from cli.figures import count, size
from cli.table import Painter, plain

SHOWN = 40
"""Inputs told one by one; misses come first, and what is left is counted by cause."""
ROOTS_SHOWN = 3
WAY_SHOWN = 5
"""Tasks between an input and the root of its change."""


def why_lines(run: str, told: Why, paint: Painter = plain) -> list[str]:
    where = f" on {told.node}" if told.node else ""
    lines = [f"task      {paint(told.task, 'bold')} of run {run}: {told.status}{where}, attempt {told.attempt}"]
    if told.compared is None:
        lines.append("compared  with nothing: no earlier run of this DAG that is kept had it succeed")
    else:
        there = f", where it ran on {told.compared_node}" if told.compared_node else ""
        lines.append(f"compared  with run {told.compared}{there}")
    lines.append(f"why       {told.ran}")
    if told.reason:
        lines.append(f"failed    {paint(' '.join(told.reason.split()), 'red')}")
    lines += [f"changed   {change}" for change in told.definition]
    if not told.inputs:
        return [*lines, "", "it has no inputs"]
    ordered = sorted(told.inputs, key=lambda each: (each.hit is True, each.hit is None))
    shown = ordered[:SHOWN]
    for each in shown:
        lines += ["", *_input_lines(each, paint)]
    rest = ordered[SHOWN:]
    if rest:
        causes = Counter(each.cause or "no account" for each in rest)
        listed = ", ".join(f"{number:,} {cause}" for cause, number in causes.most_common())
        lines += ["", f"… and {count(len(rest), 'more input')}: {listed}; --input NAME tells of one"]
    return lines


def _input_lines(each: InputWhy, paint: Painter) -> list[str]:
    word = {True: paint("hit ", "green"), False: paint("miss", "yellow"), None: "?   "}[each.hit]
    figures = [size(each.bytes)] if each.bytes is not None else []
    if each.cause:
        figures.append(each.cause)
    if each.source and each.hit is False:
        figures.append({"peer": "from another node", "store": "from the store"}.get(each.source, each.source))
    origin = f" = {each.origin}" if each.origin.rpartition("/")[2] != each.name or "/" in each.name else ""
    lines = [f"{word}  {each.name}{origin}  {', '.join(figures)}".rstrip(), f"      {each.words}"]
    lines += [f"      because {_root(root)}" for root in each.roots[:ROOTS_SHOWN]]
    if len(each.roots) > ROOTS_SHOWN:
        lines.append(f"      and {count(len(each.roots) - ROOTS_SHOWN, 'more change')}; -o json has all")
    return lines


def _root(root: Root) -> str:
    between = root.path[:-1]
    if len(between) > WAY_SHOWN:
        between = (*between[: WAY_SHOWN - 1], f"… {len(between) - WAY_SHOWN:,} more …", between[-1])
    way = f" (by way of {' ← '.join(between)})" if between else ""
    return (
        f"{root.task}: {root.words}{way}" if root.kind in ("definition", "source") else f"{root.task} {root.words}{way}"
    )
