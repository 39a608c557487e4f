"""A run as `-o json` and the HTTP API show it: the run hash with its names unchanged, and its tasks.
docs/cli.md documents the shape.

Rule: every name below is there in every run, and no other; what is not known is null. Names are added, never renamed or
removed; what the services keep in the hash for themselves is left out.
"""

from collections.abc import Mapping
from typing import Any

from helios.records import RUN_ACCOUNT, RUN_COUNTERS, RUN_NUMBERS, InputRecord, TaskView, run_numbers

TEXTS = ("dagId", "dagName", "status", "cacheHit", "nodes", "reason")

ORDER = (
    "dagId",
    "dagName",
    "status",
    "startTime",
    "endTime",
    "durationMs",
    "cacheEnabled",
    "memoize",
    "params",
    "cacheHit",
    "taskCount",
    *RUN_COUNTERS,
    *RUN_ACCOUNT,
    "nodes",
    "reason",
    "problems",
    "warnings",
)

SWITCHES: dict[str, Any] = {"cacheEnabled": False, "memoize": True, "params": {}}
"""What they are in a run that does not say."""

NULLABLE = ("startTime", "endTime", "durationMs", *RUN_ACCOUNT)


def run_object(fields: Mapping[str, str]) -> dict[str, Any]:
    """Raises ValueError for a record that is damaged."""
    known = run_numbers({name: readable(text) for name, text in fields.items()})
    shown: dict[str, Any] = {}
    for name in ORDER:
        if name in known:
            shown[name] = known[name]
        elif name in NULLABLE or name == "reason":
            shown[name] = None
        elif name in RUN_NUMBERS:
            shown[name] = 0
        elif name in TEXTS:
            shown[name] = ""
        else:
            shown[name] = SWITCHES.get(name, [])
    return shown


def task_object(view: TaskView) -> dict[str, Any]:
    return {
        "name": view.name,
        "status": view.status,
        "attempt": view.attempt,
        "node": view.node,
        "cache": view.cache,
        "cacheHitBytes": view.cacheHitBytes,
        "cacheMissBytes": view.cacheMissBytes,
        "fetchMs": view.fetchMs,
        "savedMs": view.savedMs,
        "peerBytes": view.peerBytes,
        "storeBytes": view.storeBytes,
        "inputs": [_input_object(each) for each in view.inputs],
        "startTime": view.startTime,
        "endTime": view.endTime,
        "exitCode": view.exitCode,
        "reason": readable(view.reason) if view.reason is not None else None,
        "skipped": {"run": view.skipped.run, "task": view.skipped.task} if view.skipped is not None else None,
        "outputs": [{"name": each.name, "bytes": each.bytes, "sha256": each.sha256} for each in view.outputs],
    }


def _input_object(each: InputRecord) -> dict[str, Any]:
    """An account without a source is of fetch's log or of an earlier version: it knows no times either."""
    return {
        "name": each.name,
        "bytes": each.bytes,
        "cause": each.cause,
        "source": each.source or None,
        "ms": each.ms if each.source else None,
        "savedMs": each.savedMs if each.source else None,
        "sha256": each.sha256 or None,
        "version": readable(each.version) if each.version else None,
        "detail": readable(each.detail) if each.detail else None,
    }


def readable(text: str) -> str:
    """Text as Unicode: bytes that were not UTF-8 become replacement characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text
