"""The table as a file: CSV (RFC 4180) or JSON, with the names of `helios runs -o json` where a row has the same.

Times are epoch milliseconds; what is not known is empty in CSV and null in JSON.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from helios.run_object import readable
from tui.model.runs import RunRow

FIELDS = (
    "dagId",
    "dagName",
    "status",
    "startTime",
    "endTime",
    "durationMs",
    "cacheEnabled",
    "cacheHit",
    "taskCount",
    "taskSucceeded",
    "taskFailedOrUpstreamFailed",
    "taskCancelled",
    "cacheHitBytes",
    "cacheMissBytes",
    "nodes",
    "reason",
    "problemCount",
)


def record(row: RunRow, now_ms: int) -> dict[str, Any]:
    """One run; the duration of one that goes on is up to now."""
    values = (
        row.run,
        readable(row.dag),
        row.status,
        row.started_at,
        row.ended_at,
        row.duration_ms(now_ms),
        row.cache_enabled,
        row.cache_hit,
        row.tasks,
        row.succeeded,
        row.failed,
        row.cancelled,
        row.hit_bytes,
        row.miss_bytes,
        readable(",".join(row.nodes)),
        readable(row.reason) or None,
        row.problems,
    )
    return dict(zip(FIELDS, values, strict=True))


def as_json(rows: Sequence[RunRow], now_ms: int) -> bytes:
    """An array with one object for each row, in their order."""
    return msgspec.json.format(msgspec.json.encode([record(row, now_ms) for row in rows]), indent=2) + b"\n"


def as_csv(rows: Sequence[RunRow], now_ms: int) -> bytes:
    """A line of names, then one for each row; UTF-8, lines end with CR LF."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow(_csv_value(value) for value in record(row, now_ms).values())
    return text.getvalue().encode("utf-8")


def _csv_value(value: Any) -> Any:
    return ("true" if value else "false") if isinstance(value, bool) else value


def table_file(name: str, rows: Sequence[RunRow], now_ms: int) -> bytes:
    """What belongs into a file of this name: JSON for `.json`, else CSV."""
    return as_json(rows, now_ms) if name.lower().endswith(".json") else as_csv(rows, now_ms)
