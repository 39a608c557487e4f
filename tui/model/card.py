"""All that is known of one task, as lines of words and styles."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from cli.figures import duration, moment, size
from helios.dag import EnvSecret, Task
from helios.records import HIT_CAUSES, InputRecord
from tui.glyphs import CACHE_MARKS, UNKNOWN, task_mark
from tui.model.table import printable
from tui.model.tasks import TaskRow, spans

CAUSES = {
    "cached": "this node had it",
    "coalesced": "another task of this node was fetching it",
    "warm": "this node had stored it as an output",
    "never-here": "this node had not seen it",
    "evicted": "this node had it, and made room for others",
    "changed": "its source has another version than before",
    "corrupt": "what this node had was damaged",
    "disabled": "the cache is off for this run",
    "cache-fault": "this node's cache could not be used",
}
"""What each cause of helios.records means."""
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class Line(NamedTuple):
    """A label, what it says, and the style of that."""

    label: str
    text: str
    style: str = "foreground"


def card_lines(row: TaskRow, task: Task | None, now_ms: int, *, ascii_only: bool = False) -> Iterator[Line]:
    """The card, top to bottom. `task` is what the DAG says of it, None while that is not read."""
    mark = task_mark(row.status, skipped=row.skipped is not None)
    attempt = f", attempt {row.attempt}" if row.attempt else ""
    yield Line(
        "status", f"{mark.shown(ascii_only)}{attempt}{f', {row.phase.lower()}' if row.phase else ''}", mark.style
    )
    if row.reason:
        yield Line("reason", printable(" ".join(row.reason.split())), "error" if mark.style == "error" else "warning")
    if row.skipped is not None:
        yield Line(
            "skipped",
            printable(f"it did not run: these are the outputs of run {row.skipped.run} task {row.skipped.task}"),
        )
    if row.parents:
        yield Line("after", printable(", ".join(row.parents)))
    if row.node:
        yield Line("node", printable(row.node))
    yield from _record_lines(row)
    yield from _time_lines(row, now_ms)
    outcome = CACHE_MARKS.get(row.cache, UNKNOWN)
    if row.ended and row.status not in ("UPSTREAM_FAILED", "CANCELLED"):
        moved = f", {size(row.hit_bytes)} hit, {size(row.miss_bytes)} missed" if row.hit_bytes + row.miss_bytes else ""
        if row.view is not None and row.view.savedMs:
            moved += f", saved {duration(row.view.savedMs)}"
        yield Line("cache", f"{outcome.shown(ascii_only)}{moved}", outcome.style)
    yield from _input_lines(row, ascii_only)
    yield from _output_lines(row)
    if task is not None:
        yield from _spec_lines(task)


def _record_lines(row: TaskRow) -> Iterator[Line]:
    view = row.view
    if view is None or not row.ended:
        return
    if view.exitCode is not None:
        yield Line("exit code", str(view.exitCode), "error" if view.exitCode else "foreground")
    if view.cpuMs is not None:
        yield Line("CPU time", duration(view.cpuMs))
    if view.peakMemoryBytes is not None:
        yield Line("peak memory", size(view.peakMemoryBytes))


def _time_lines(row: TaskRow, now_ms: int) -> Iterator[Line]:
    if row.queued_at is not None:
        yield Line("queued", moment(row.queued_at))
    for span in spans(row, now_ms):
        yield Line(span.stage, duration(span.end - span.begin), "muted")


def _input_lines(row: TaskRow, ascii_only: bool) -> Iterator[Line]:
    view = row.view
    if view is None or not view.inputs:
        return
    yield Line("inputs", "of the last attempt that ended" if not row.ended else f"{len(view.inputs)}", "muted")
    for each in view.inputs:
        mark = CACHE_MARKS["Hit" if each.cause in HIT_CAUSES else "Miss"]
        words = f"{mark.plain if ascii_only else mark.glyph} {printable(each.name)}  {size(each.bytes)}  {each.cause}"
        yield Line("", f"{words}: {', '.join(_account(each))}", mark.style)


def _account(each: InputRecord) -> Iterator[str]:
    """What the cause means, `was etag A`, `from the store in 1.3 s`, or of a hit `saved 4.1 s`; as far as it is known.
    `helios why` knows the names of the contents that details tell by their digests.
    """
    if not each.detail.startswith("evicted "):
        yield CAUSES.get(each.cause, "unknown")
    if each.detail:
        yield _DIGEST.sub(lambda found: f"{found[0][:12]}…", printable(" ".join(each.detail.split())))
    if each.cause in HIT_CAUSES:
        if each.savedMs:
            yield f"saved {duration(each.savedMs)}"
    elif where := {"peer": "from another node", "store": "from the store"}.get(each.source):
        yield f"{where} in {duration(each.ms)}"


def _output_lines(row: TaskRow) -> Iterator[Line]:
    view = row.view
    if view is None or not view.outputs:
        return
    yield Line("outputs", f"{len(view.outputs)}", "muted")
    for each in view.outputs:
        folder = " (folder)" if each.archive else ""
        yield Line("", f"{printable(each.name)}{folder}  {size(each.bytes)}  sha256 {each.sha256[:16]}…")


def _spec_lines(task: Task) -> Iterator[Line]:
    yield Line("image", printable(task.image), "muted")
    yield Line("command", printable(" ".join((*task.command, *task.args))), "muted")
    for each in task.env:
        value = f"secret {each.secret}/{each.key}" if isinstance(each, EnvSecret) else each.value
        yield Line("env", printable(f"{each.name}={value}"), "muted")
