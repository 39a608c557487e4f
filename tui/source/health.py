"""One look at everything that can be stuck. What is costly is looked at less often, and only up to stated limits."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from cli.checkup import (
    Finding,
    check_dead_letters,
    check_runs,
    check_server,
    check_services,
    check_streams,
    server_ms,
    work_streams,
)
from cli.connection import Link, reaching
from cli.dead_letters import read_letters
from helios.heartbeat import live_services
from helios.keys import node_cache
from helios.transitions import pipelined
from tui.model.health import JOB_STATES, CacheSize, Health, Jobs, Replica, StreamRow

RUNS_SAMPLED = 20
"""So many active runs of each partition have their tasks counted, the oldest first."""
TASKS_SAMPLED = 2_000
"""So many tasks of each of them."""
SELDOM_SECONDS = 30.0
"""The server's own state and the caches' sizes are looked at this seldom."""
FILES_COUNTED = 100_000


class HealthReader:
    """Looks again and again; remembers what is looked at seldom. Used by one thread at a time."""

    def __init__(self, link: Link, *, read_only: bool) -> None:
        self.link = link
        self.read_only = read_only
        self._due = 0.0
        self._server: list[Finding] = []
        self._caches: list[CacheSize] = []

    def look(self) -> Health:
        """Raises CommandFailed when Redis cannot be used."""
        link = self.link
        with reaching(link.settings, embedded=link.stack is not None):
            self._look_seldom()
            findings = [
                *self._server,
                *check_services(link),
                *check_streams(link),
                *check_dead_letters(link),
                *check_runs(link),
            ]
            now_ms = server_ms(link)
            letters, in_all = read_letters(link)
            return Health(
                findings, _streams(link, now_ms), _replicas(link), letters, in_all, _jobs(link), self._caches, now_ms
            )

    def _look_seldom(self) -> None:
        if time.monotonic() < self._due:
            return
        if not self.read_only:  # it looks whether Redis takes writes by writing
            self._server = list(check_server(self.link))
        self._caches = _caches(self.link)
        self._due = time.monotonic() + SELDOM_SECONDS


def _streams(link: Link, now_ms: int) -> list[StreamRow]:
    return [_stream(link, stream, group, now_ms) for stream, group, _ in work_streams(link)]


def _stream(link: Link, stream: str, group: str, now_ms: int) -> StreamRow:
    try:
        length: Any = link.client.xlen(stream)
        groups: Any = link.client.xinfo_groups(stream) if link.client.exists(stream) else []
        oldest: Any = link.client.xrange(stream, count=1)
    except redis.ResponseError as error:
        return StreamRow(stream, group, trouble=str(error))
    age = max(0, now_ms - int(oldest[0][0].partition("-")[0])) if oldest else None
    ours = next((each for each in groups if each["name"] == group), None)
    if ours is None:
        return StreamRow(stream, group, length, 0, length, age, trouble=f"no group {group}" if length else "")
    return StreamRow(stream, group, length, ours["pending"], ours.get("lag"), age, ours["consumers"])


def _replicas(link: Link) -> list[Replica]:
    return [
        Replica(
            beat.get("service", ""),
            beat.get("replica", ""),
            beat.get("version", ""),
            int(beat["since"]) if beat.get("since", "").isdecimal() else None,
        )
        for beat in live_services(link.client)
    ]


def _jobs(link: Link) -> Jobs:
    counts: Counter[str] = Counter()
    active = looked_at = launched = 0
    for keys in link.partitions:
        try:
            runs: Any = link.client.zrange(  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
                keys.active, 0, RUNS_SAMPLED - 1
            )
            in_all: Any = link.client.zcard(keys.active)
            entries: Any = link.client.xlen(keys.launched)
        except redis.ResponseError:
            continue  # the doctor's findings tell of damaged keys
        active, looked_at, launched = active + in_all, looked_at + len(runs), launched + entries
        for run in runs:
            counts.update(_task_states(link, run))
    return Jobs({state: counts[state] for state in JOB_STATES}, active, looked_at, launched)


def _task_states(link: Link, run: str) -> list[str]:
    keys = link.keys(run)
    names: Any = link.client.lrange(keys.task_names(run), 0, TASKS_SAMPLED - 1)
    pipeline = pipelined(link.client)
    for name in names:
        pipeline.hmget(keys.task(run, name), "status", "phase")
    found: list[Any] = pipeline.execute(raise_on_error=False) if names else []
    return [job_state(*each) for each in found if not isinstance(each, Exception)]


def job_state(status: str | None, phase: str | None) -> str:
    """One of JOB_STATES, or empty for a task that has no Job and awaits none."""
    if status == "QUEUED":
        return "queued"
    if status != "RUNNING":
        return ""
    return {"Fetching": "fetching", "Running": "running", "Publishing": "publishing"}.get(phase or "", "launched")


def _caches(link: Link) -> list[CacheSize]:
    """Of each node as it told last; of the embedded node as its folder is, until it has told."""
    keys: list[str] = list(link.client.scan_iter(match=node_cache("*"), count=1000))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- no stub
    pipeline = pipelined(link.client)
    for key in keys:
        pipeline.hgetall(key)
    found: list[Any] = pipeline.execute(raise_on_error=False) if keys else []
    told = [_told(each) for each in found if isinstance(each, dict) and each.get("node")]
    if not told and link.stack is not None:
        return [folder_size("local", link.stack.home.cache)]
    return sorted(told, key=lambda each: each.node)


def _told(fields: dict[str, str]) -> CacheSize:
    def number(name: str) -> int:
        return int(fields[name]) if fields.get(name, "").isdecimal() else 0

    return CacheSize(
        fields.get("node", ""),
        number("bytes"),
        number("blobs"),
        free_bytes=number("freeBytes"),
        told_at=number("at"),
        limit_bytes=number("limitBytes"),
        evicted_bytes=number("evictedBytes"),
        corrupt_files=number("corruptBlobs"),
    )


def folder_size(node: str, folder: Path, limit: int = FILES_COUNTED) -> CacheSize:
    """Bytes on disk below the folder, each file once however many names it has."""
    seen: set[tuple[int, int]] = set()
    total = files = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if files >= limit:
                return CacheSize(node, total, len(seen), is_whole=False)
            files += 1
            try:
                found = (Path(place) / name).lstat()
            except OSError:
                continue  # removed meanwhile
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return CacheSize(node, total, len(seen))
