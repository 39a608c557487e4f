"""What `helios assert` asks of a run that has ended, and whether it holds. No I/O happens here."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cli.figures import duration, size
from cli.table import Cell, Column, Painter, lay_out, plain

COLUMNS = (Column("CONDITION"), Column("EXPECTED"), Column("ACTUAL"), Column("HOLDS"))


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions; None is not asked."""

    status: str = "SUCCEEDED"
    hit_bytes: float | None = None
    """The least share of the inputs' bytes that came from the node's cache, from 0 to 1."""
    max_miss_bytes: int | None = None
    max_duration_seconds: float | None = None
    skipped: int | None = None
    """The least number of tasks that were skipped."""


class Condition(msgspec.Struct, frozen=True):
    """One condition with what was found; `expected` and `actual` are plain values, the texts are for people."""

    condition: str
    expected: str | float
    actual: str | float | None
    holds: bool
    expected_text: str
    actual_text: str


def conditions(run: Mapping[str, Any], wanted: Wanted) -> list[Condition]:
    """One for each that is asked; `run` is the object that `helios show -o json` prints."""
    status: str = run["status"]
    found = [Condition("status", wanted.status, status, status == wanted.status, wanted.status, status)]
    hit, missed = int(run["cacheHitBytes"]), int(run["cacheMissBytes"])
    if wanted.hit_bytes is not None:
        share = hit_share(hit, missed)
        actual = "no bytes to bring" if share is None else f"{percent(share)} of {size(hit + missed)}"
        # Where nothing had to be brought, as when every task was skipped, nothing was missed either.
        holds = share is None or share >= wanted.hit_bytes
        found.append(
            Condition("hit-bytes", wanted.hit_bytes, share, holds, f"at least {percent(wanted.hit_bytes)}", actual)
        )
    if wanted.max_miss_bytes is not None:
        limit = wanted.max_miss_bytes
        found.append(
            Condition("max-miss-bytes", limit, missed, missed <= limit, f"at most {size(limit)}", size(missed))
        )
    if wanted.max_duration_seconds is not None:
        limit_ms, took = round(wanted.max_duration_seconds * 1000), run["durationMs"]
        holds = took is not None and took <= limit_ms
        shown = duration(took) or "unknown"
        found.append(Condition("max-duration", limit_ms, took, holds, f"at most {duration(limit_ms)}", shown))
    if wanted.skipped is not None:
        skipped = int(run.get("taskSkipped", 0))
        expected = f"at least {wanted.skipped:,}"
        found.append(Condition("skipped", wanted.skipped, skipped, skipped >= wanted.skipped, expected, f"{skipped:,}"))
    return found


def hit_share(hit: int, missed: int) -> float | None:
    """None where there were no bytes at all."""
    return hit / (hit + missed) if hit + missed else None


def percent(share: float) -> str:
    """Never rounded up to 100 %: what is not all is not called all."""
    return f"{int(share * 1000) / 10:g} %"


def condition_lines(found: Sequence[Condition], paint: Painter = plain) -> list[str]:
    rows = [
        (
            each.condition,
            each.expected_text,
            each.actual_text,
            Cell("yes", "green") if each.holds else Cell("no", "red"),
        )
        for each in found
    ]
    return lay_out(COLUMNS, rows, paint)


def condition_object(each: Condition) -> dict[str, object]:
    return {"condition": each.condition, "expected": each.expected, "actual": each.actual, "holds": each.holds}


def share_of(text: str) -> float:
    """`0.8` or `80%`, from 0 to 1. Raises ValueError."""
    number = text.removesuffix("%")
    try:
        share = float(number) / (100 if number != text else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share; give 0.8 or 80%")
    return share
