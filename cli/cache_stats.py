"""What the cache did over all runs that ended: sums from Redis as figures, and as text. No I/O happens here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cli.figures import count, duration, size
from cli.table import Cell, Column, Painter, lay_out, plain
from helios.podwire import NodeState
from helios.records import MISS_CAUSES

ROWS_SHOWN = 50
"""DAGs and nodes listed, those that moved most first; `-o json` has them all."""

_NUMBERS = (
    "runs",
    "tasks",
    "skipped",
    "hits",
    "misses",
    "hitBytes",
    "missBytes",
    "peerBytes",
    "storeBytes",
    "fetchMs",
    "savedMs",
)


class Cause(msgspec.Struct):
    """The inputs that hit or missed for one cause."""

    inputs: int = 0
    bytes: int = 0


class Sums(msgspec.Struct):
    """What the runs of a DAG, or those with tasks on a node, moved, took and saved; times are added up over inputs.

    Hits, misses and causes count inputs of last attempts; bytes and times are those of all attempts.
    """

    runs: int = 0
    tasks: int = 0
    skipped: int = 0
    """Of the tasks: those for which an earlier success stood."""
    hits: int = 0
    misses: int = 0
    hitBytes: int = 0
    missBytes: int = 0
    peerBytes: int = 0
    storeBytes: int = 0
    fetchMs: int = 0
    savedMs: int = 0
    causes: dict[str, Cause] = {}

    @property
    def hit_ratio(self) -> float | None:
        """The share of bytes that hit, of those for which the cache was on; None where there are none."""
        asked = self.hitBytes + self.missBytes - self.causes.get("disabled", Cause()).bytes
        return min(1.0, self.hitBytes / asked) if asked > 0 else None

    def add(self, fields: Mapping[str, str]) -> None:
        """Add the sums of one partition, as Redis holds them. What is no number counts for nothing."""
        for field, text in fields.items():
            if not text.isdecimal():
                continue
            kind, _, cause = field.partition(":")
            if field in _NUMBERS:
                setattr(self, field, getattr(self, field) + int(text))
            elif cause and kind in ("inputs", "bytes"):
                found = self.causes.setdefault(cause, Cause())
                setattr(found, kind, getattr(found, kind) + int(text))


class NodeCache(msgspec.Struct, frozen=True):
    """A node's cache as its keeper told last, `at` in epoch milliseconds."""

    state: NodeState
    at: int | None


class CacheStats(msgspec.Struct):
    """By DAG name and by node. A node may have a cache without sums, and sums without a word of its keeper."""

    total: Sums
    dags: dict[str, Sums]
    nodes: dict[str, Sums]
    caches: dict[str, NodeCache]


def total_of(sums: Iterable[Sums]) -> Sums:
    total = Sums()
    for each in sums:
        for field in _NUMBERS:
            setattr(total, field, getattr(total, field) + getattr(each, field))
        for cause, found in each.causes.items():
            known = total.causes.setdefault(cause, Cause())
            known.inputs, known.bytes = known.inputs + found.inputs, known.bytes + found.bytes
    return total


def node_cache_of(fields: Mapping[str, str]) -> NodeCache | None:
    """A node's cache from its hash in Redis; None where there is none."""
    if not fields:
        return None
    numbers = {name: int(text) for name, text in fields.items() if text.isdecimal()}
    state = NodeState(**{name: numbers[name] for name in NodeState.__struct_fields__ if name in numbers})
    return NodeCache(state, numbers.get("at"))


def stats_object(stats: CacheStats) -> dict[str, Any]:
    """What `-o json` prints."""
    caches: dict[str, dict[str, Any]] = {
        node: {**msgspec.structs.asdict(cache.state), "at": cache.at} for node, cache in stats.caches.items()
    }
    nodes = {node: stats.nodes.get(node, Sums()) for node in (*stats.nodes, *stats.caches)}
    return {
        "total": _sums_object(stats.total),
        "dags": [{"dagName": dag, **_sums_object(sums)} for dag, sums in _by_bytes(stats.dags)],
        "nodes": [{"node": node, **_sums_object(sums), "cache": caches.get(node)} for node, sums in _by_bytes(nodes)],
    }


def _sums_object(sums: Sums) -> dict[str, Any]:
    return {**{name: getattr(sums, name) for name in _NUMBERS}, "hitRatio": sums.hit_ratio, "causes": sums.causes}


def _by_bytes(sums: Mapping[str, Sums]) -> list[tuple[str, Sums]]:
    return sorted(sums.items(), key=lambda each: (-each[1].hitBytes - each[1].missBytes, each[0]))


def stats_lines(stats: CacheStats, now_ms: int, paint: Painter = plain) -> list[str]:
    """The whole table."""
    lines = total_lines(stats.total, paint) if stats.total.runs else []
    parts = (_sum_rows("DAG", stats.dags, paint), _sum_rows("NODE", stats.nodes, paint))
    for part in (*parts, _cache_rows(stats.caches, now_ms, paint), _cause_rows(stats.total, paint)):
        lines += ["", *part] if part and lines else part
    return lines


def total_lines(sums: Sums, paint: Painter = plain) -> list[str]:
    saved = f"{duration(sums.savedMs)} of downloading" if sums.savedMs else "no time that is known"
    spent = f"; {duration(sums.fetchMs)} spent on inputs" if sums.fetchMs else ""
    skipped = f", {sums.skipped:,} of them skipped" if sums.skipped else ""
    lines = [
        f"counted  {count(sums.runs, 'run')}, {count(sums.tasks, 'task')}{skipped}",
        f"saved    {paint(saved, 'green')}{spent}",
    ]
    ratio = sums.hit_ratio
    if ratio is None:
        return [*lines, "hit      no input was looked for in a cache"]
    unknown = sums.missBytes - sums.peerBytes - sums.storeBytes
    came_from = ((sums.peerBytes, "from other nodes"), (sums.storeBytes, "from the store"), (unknown, "from either"))
    sources = ", ".join(f"{size(bytes_)} {where}" for bytes_, where in came_from if bytes_ > 0)
    missed = f"{size(sums.missBytes)} missed{f' ({sources})' if sources else ''}"
    return [*lines, f"hit      {_percent(ratio)} of the bytes: {size(sums.hitBytes)} from the cache, {missed}"]


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio * 100:.0f} %"


def _sum_rows(title: str, sums: Mapping[str, Sums], paint: Painter) -> list[str]:
    titles = ("RUNS", "TASKS", "SKIPPED", "HIT", "FROM CACHE", "FROM NODES", "FROM STORE", "SPENT", "SAVED")
    columns = [Column(title), *(Column(each, right=True) for each in titles)]
    ordered = _by_bytes(sums)
    rows = [
        (
            name,
            f"{each.runs:,}",
            f"{each.tasks:,}",
            f"{each.skipped:,}" if each.skipped else "",
            _percent(each.hit_ratio),
            size(each.hitBytes),
            size(each.peerBytes),
            size(each.storeBytes),
            duration(each.fetchMs),
            Cell(duration(each.savedMs), "green"),
        )
        for name, each in ordered[:ROWS_SHOWN]
    ]
    return _limited(columns, rows, len(ordered), paint)


def _cache_rows(caches: Mapping[str, NodeCache], now_ms: int, paint: Painter) -> list[str]:
    titles = ("BLOBS", "BYTES", "LIMIT", "FREE DISK", "EVICTED", "CORRUPT", "SEEDED", "IN VAIN", "TOLD")
    columns = [Column("CACHE OF"), *(Column(each, right=True) for each in titles)]
    ordered = sorted(caches.items())
    rows = [
        (
            node,
            f"{cache.state.blobs:,}",
            size(cache.state.bytes),
            size(cache.state.limitBytes) if cache.state.limitBytes else "none",
            size(cache.state.freeBytes),
            size(cache.state.evictedBytes),
            f"{cache.state.corruptBlobs:,}",
            size(cache.state.seededBytes),
            size(cache.state.seedWastedBytes),
            "" if cache.at is None else f"{duration(now_ms - cache.at)} ago",
        )
        for node, cache in ordered[:ROWS_SHOWN]
    ]
    return _limited(columns, rows, len(ordered), paint)


def _cause_rows(sums: Sums, paint: Painter) -> list[str]:
    columns = [Column("WHY MISSED"), Column("INPUTS", right=True), Column("BYTES", right=True)]
    missed = [(cause, found) for cause, found in sums.causes.items() if cause in (*MISS_CAUSES, "unknown")]
    missed.sort(key=lambda each: (-each[1].bytes, each[0]))
    rows = [(cause, f"{found.inputs:,}", size(found.bytes)) for cause, found in missed]
    return _limited(columns, rows, len(rows), paint)


def _limited(columns: Sequence[Column], rows: Sequence[Any], in_all: int, paint: Painter) -> list[str]:
    if not rows:
        return []
    rest = [f"… and {in_all - len(rows):,} more, with -o json"] if in_all > len(rows) else []
    return [*lay_out(columns, rows, paint), *rest]
