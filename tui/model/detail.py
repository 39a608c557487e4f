"""What is said below the table of the run that the cursor is on, and in place of rows where there are none."""

from cli.figures import duration, size
from tui.model.columns import cache_mark, run_mark, tasks_text
from tui.model.connection import Connection
from tui.model.runs import RunRow
from tui.model.status import Part
from tui.model.table import printable


def notice(connection: Connection, runs: int, chosen: str) -> str:
    """Why there is no row: `runs` are known, `chosen` is the filter's text."""
    if runs:
        return f"None of {runs:,} runs passes the filter {chosen!r}. Escape clears it."
    match connection.state:
        case "loading":
            return "Loading runs…"
        case "lost":
            return "Nothing is known yet: Redis does not answer."
        case _:
            return "No run yet. n writes a DAG and submits it; `helios run FILE` does so too."


def detail_text(row: RunRow | None, marked: str | None, now_ms: int, *, ascii_only: bool) -> list[Part]:
    """DAG, state, figures and reason of a run, most important first."""
    if row is None:
        return [Part("", "muted")]
    parts = [Part(printable(row.dag) or row.run, "foreground")]
    if marked == row.run:
        parts.append(Part("marked: c on another run compares both", "accent"))
    elif marked is not None:
        parts.append(Part(f"c compares with {marked}", "accent"))
    mark = run_mark(row)
    parts.append(Part(mark.shown(ascii_only), mark.style))
    if row.reason:
        parts.append(
            Part(printable(" ".join(row.reason.split())), "error" if row.status in ("FAILED", "REJECTED") else "muted")
        )
    if row.status == "REJECTED":
        return parts
    parts.append(Part(tasks_text(row), "muted"))
    took = row.duration_ms(now_ms)
    if took is not None:
        parts.append(Part(f"{'took' if row.ended else 'for'} {duration(took)}", "muted"))
    if row.cache_enabled and row.hit_bytes + row.miss_bytes:
        mark = cache_mark(row)
        parts.append(Part(f"cache {size(row.hit_bytes)} hit, {size(row.miss_bytes)} missed", mark.style))
    if len(row.nodes) > 1:
        parts.append(Part(printable(f"on {', '.join(row.nodes)}"), "muted"))
    return parts
