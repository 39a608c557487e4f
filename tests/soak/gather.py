"""The end of a soak as a History: everything that Redis, the folder of Jobs and the ledgers hold by then."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import redis

from helios.events import AnyEvent, decode_event
from helios.keys import (
    COLLECTOR_GROUP,
    CONTROLS,
    JOBRUNNER_GROUP,
    SUBMISSIONS,
    SUBMITTER_GROUP,
    Keys,
    all_partitions,
    keys_of_run,
)
from helios.localjobs import is_released, list_jobs
from tests.soak.history import Cut, History, RunState
from tests.soak.ledger import Acknowledged, Line, read
from tests.soak.workload import Planned, tasks_of

CHUNK = 1000


def history_of(
    client: redis.Redis,
    plans: list[Planned],
    ledgers: Path,
    jobs: Path,
    partitions: int,
    cuts: Iterable[Cut],
    exits: dict[str, int],
) -> History:
    lines: list[Line] = [line for file in sorted(ledgers.iterdir()) for line in read(file)]
    runs: dict[str, RunState] = {}
    for keys in all_partitions(partitions):
        for run in client.zrange(keys.runs, 0, -1):
            runs[run] = _run(client, keys, run)
    aliases: dict[str, str] = {}
    answered = [line.run for line in lines if isinstance(line, Acknowledged) and line.run not in runs]
    for run in answered:
        if first := client.hget(keys_of_run(run, partitions).run(run), "aliasOf"):
            aliases[run] = first
    events: list[tuple[str, AnyEvent]] = []
    missing = 0
    for keys in all_partitions(partitions):
        found = list(_events(client, keys))
        added: Any = client.xinfo_stream(keys.events)["entries-added"] if client.exists(keys.events) else 0
        missing += added - len(found)
        events += found
    return History(
        plans=plans,
        lines=lines,
        cuts=tuple(cuts),
        runs=runs,
        aliases=aliases,
        waiting=frozenset(entry for entry, _ in client.xrange(SUBMISSIONS)),
        events=events,
        events_missing=missing,
        sums=_sums(client, partitions),
        left=left(client, jobs, partitions),
        exits=exits,
    )


def left(client: redis.Redis, jobs: Path, partitions: int) -> dict[str, int]:
    """What is still there, by what it is; nothing when all is done."""
    found: dict[str, int] = {}
    for stream, group in _work_streams(partitions):
        found[f"entries of {stream}"] = client.xlen(stream)
        if client.exists(stream):
            groups: Any = client.xinfo_groups(stream)
            found[f"pending in {stream}"] = sum(each["pending"] for each in groups if each["name"] == group)
    for keys in all_partitions(partitions):
        found[f"dead letters of {keys.dead}"] = client.xlen(keys.dead)
        found[f"active runs of {keys.active}"] = client.zcard(keys.active)
    found["Jobs"] = len(list_jobs(jobs))
    pods = jobs / "pods"
    names = [each.name for each in pods.iterdir()] if pods.is_dir() else []
    found["pods that are not released"] = sum(not is_released(jobs, name) for name in names)
    return {what: count for what, count in found.items() if count}


def _work_streams(partitions: int) -> Iterator[tuple[str, str]]:
    yield SUBMISSIONS, SUBMITTER_GROUP
    yield CONTROLS, SUBMITTER_GROUP
    for keys in all_partitions(partitions):
        yield keys.finished, SUBMITTER_GROUP
        yield keys.ready, JOBRUNNER_GROUP
        yield keys.cancelled, JOBRUNNER_GROUP
        yield keys.launched, COLLECTOR_GROUP
        yield keys.settled, COLLECTOR_GROUP
        yield keys.checks, COLLECTOR_GROUP


def _run(client: redis.Redis, keys: Keys, run: str) -> RunState:
    fields: dict[str, str] = client.hgetall(keys.run(run))
    names: list[str] = client.lrange(keys.task_names(run), 0, -1)
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.hgetall(keys.task(run, name))
    tasks = dict(zip(names, pipeline.execute() if names else (), strict=True))
    text = client.get(keys.dag(run))
    dag = tuple(tasks_of(json.loads(text))) if text else ()
    return RunState(fields=fields, tasks=tasks, dag=dag, partition=keys.partition)


def _events(client: redis.Redis, keys: Keys) -> Iterator[tuple[str, AnyEvent]]:
    start = "-"
    while found := client.xrange(keys.events, min=start, count=CHUNK):
        for entry, fields in found:
            yield entry, decode_event(fields["event"])
        start = f"({found[-1][0]}"


def _sums(client: redis.Redis, partitions: int) -> dict[tuple[int, str], dict[str, int]]:
    found: dict[tuple[int, str], dict[str, int]] = {}
    for keys in all_partitions(partitions):
        for whose in client.zrange(keys.counted, 0, -1):
            fields: dict[str, str] = client.hgetall(keys.stats(whose))
            found[keys.partition, whose] = {name: int(count) for name, count in fields.items()}
    return found
