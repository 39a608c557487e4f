"""Follows all runs: a snapshot of the newest, then the events feed, which says whose records to read again.

Rule: no line for what did not change; after a gap the records are compared, so no change is told twice.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis

from cli.connection import Link, regain
from cli.figures import duration, size
from cli.lookup import newest_runs
from cli.output import harmless, put, put_json_line
from cli.run_object import read_runs
from helios.events import decode_event
from helios.records import ENDED
from helios.run_lookup import id_order

BLOCK_MS = 250
"""A read waits this long; Ctrl-C is obeyed at its end, and what happens within is read as one."""
EVENTS_READ = 5_000
SNAPSHOT_SECONDS = 30.0
"""After so long everything is read anew: the feed is capped, and may lack an entry."""

Run = Mapping[str, Any]
"""As cli.run_object has it."""


class RunsFollower:
    """The newest runs, as far as they were read."""

    def __init__(self, link: Link, limit: int, dag_name: str | None) -> None:
        self.link = link
        self.limit = limit
        self.dag_name = dag_name
        self.runs: dict[str, Run] = {}
        self._positions: dict[str, str] = {}
        self._snapshot_at = 0.0

    def newest(self) -> list[Run]:
        return [self.runs[run] for run in sorted(self.runs, key=id_order, reverse=True)]

    def read(self, block_ms: int = BLOCK_MS) -> list[Run]:
        """Wait a moment for news; returns the runs that changed, oldest first. The first read returns all."""
        try:
            if not self._positions or time.monotonic() >= self._snapshot_at:
                return self._snapshot()
            return self._load(self._touched(block_ms))
        except (redis.ConnectionError, redis.TimeoutError) as error:
            regain(self.link, error)
            self._positions = {}
            return []

    def _snapshot(self) -> list[Run]:
        positions: dict[str, str] = {}
        for keys in self.link.partitions:
            newest: Any = self.link.client.xrevrange(keys.events, count=1)
            positions[keys.events] = newest[0][0] if newest else "0-0"
        # What was followed may have ended meanwhile and have left the newest ones.
        running = [run for run, found in self.runs.items() if found["status"] not in ENDED]
        changed = self._load([*newest_runs(self.link, self.limit, self.dag_name), *running])
        self._positions = positions
        self._snapshot_at = time.monotonic() + SNAPSHOT_SECONDS
        return changed

    def _touched(self, block_ms: int) -> list[str]:
        positions: Any = self._positions
        page: Any = self.link.client.xread(positions, count=EVENTS_READ, block=block_ms)
        touched: dict[str, None] = {}
        for stream, entries in page or ():
            for _, fields in entries:
                try:
                    touched[decode_event(fields.get("event", "").encode("utf-8", "surrogateescape")).run] = None
                except (msgspec.DecodeError, UnicodeError):
                    continue
            self._positions[stream] = entries[-1][0]
        return list(touched)

    def _load(self, wanted: Sequence[str]) -> list[Run]:
        changed: list[Run] = []
        for found in read_runs(self.link, list(dict.fromkeys(wanted))):
            run: str = found["dagId"]
            if self.dag_name not in (None, found["dagName"]) or self.runs.get(run) == found:
                continue
            self.runs[run] = found
            changed.append(found)
        for run in sorted(self.runs, key=id_order, reverse=True)[self.limit :]:
            if self.runs[run]["status"] in ENDED:
                del self.runs[run]
        return sorted(changed, key=lambda each: id_order(each["dagId"]))


class PlainRuns:
    """A line for each run that started or ended, in words or as JSON. Of the runs there were, only those still running
    are told.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._told: dict[str, str] | None = None

    def show(self, follower: RunsFollower, changed: Sequence[Run]) -> None:
        del follower  # it is told what changed
        first = self._told is None
        told = self._told = self._told or {}
        for run in changed:
            status: str = run["status"]
            if told.get(run["dagId"]) == status:
                continue
            told[run["dagId"]] = status
            if first and status in ENDED:
                continue
            if self.as_json:
                put_json_line(run)
            else:
                put(change_line(run))

    def close(self) -> None: ...


def change_line(run: Run) -> str:
    """`<run>  <dag>  RUNNING, 3 tasks`, or with an ended one's figures."""
    status: str = run["status"]
    parts = [status, f"{run['taskCount']:,} tasks"]
    if status in ENDED and status != "REJECTED":
        parts = [status, f"{run['taskSucceeded']:,} of {run['taskCount']:,} tasks succeeded"]
        parts += [duration(run["durationMs"]), f"cache {run['cacheHit']}"]
        parts.append(f"{size(run['cacheHitBytes'])} hit, {size(run['cacheMissBytes'])} missed")
    elif status == "REJECTED":
        parts = [status]
    return harmless(f"{run['dagId']}  {run['dagName']}  {', '.join(part for part in parts if part)}")
