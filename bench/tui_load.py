"""Runs as the services would write them, but faster: a history that ended, and then events at a steady rate, each in
one transaction with the change of the record that it tells of.

    python -m bench.tui_load URL EVENTS_PER_SECOND SECONDS
"""

import itertools
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis

from helios.events import (
    EVENTS_KEPT,
    Event,
    RunAccepted,
    RunEnded,
    TaskEnded,
    TaskLaunched,
    TaskPhase,
    TasksQueued,
    encode_event,
)
from helios.keys import Keys, run_score
from helios.streams import CLIENT_OPTIONS

KEYS = Keys(0)
TASKS = 5
IN_FLIGHT = 50
"""Runs that go on at the same time."""
BATCH_SECONDS = 0.02

Pipeline = Any
Change = tuple[Event, dict[str, str | int], dict[str, int]]
"""An event, the fields of the run hash that it sets, and those that it adds to."""


def opened(run: str, number: int, started_ms: int) -> dict[str, str | int]:
    """The hash of a run whose tasks wait."""
    return {
        "dagId": run,
        "dagName": f"dag-{number % 7}",
        "status": "RUNNING",
        "startTime": started_ms,
        "cacheEnabled": "true" if number % 3 else "false",
        "taskCount": TASKS,
    }


def ended(number: int, started_ms: int, ended_ms: int) -> dict[str, str | int]:
    """What its end adds to the hash: one in ten failed."""
    failed = 1 if number % 10 == 0 else 0
    return {
        "status": "FAILED" if failed else "SUCCEEDED",
        "endTime": ended_ms,
        "durationMs": ended_ms - started_ms,
        "cacheHit": ("Hit", "Miss", "Partial")[number % 3] if number % 3 else "N/A",
        "taskCount": TASKS,
        "taskSucceeded": TASKS - failed,
        "taskFailed": failed,
        "nodes": f"n{number % 4}",
    }


def fill(client: redis.Redis, runs: int) -> None:
    """A history of runs that ended, a second apart, the last one a minute ago."""
    first = int(time.time() * 1000) - 60_000 - runs * 1000
    for start in range(0, runs, 1000):
        pipeline: Pipeline = client.pipeline(transaction=False)
        for number in range(start, min(runs, start + 1000)):
            began = first + number * 1000
            run = f"{began}-0"
            fields = opened(run, number, began) | ended(number, began, began + 500 + number % 977)
            pipeline.hset(KEYS.run(run), mapping=fields)
            pipeline.zadd(KEYS.runs, {run: run_score(run)})
            pipeline.zadd(KEYS.dag_runs(str(fields["dagName"])), {run: run_score(run)})
        pipeline.execute()


def life(number: int) -> Iterator[Change]:
    """One run from its acceptance to its end. Its id and times are those of when each step is asked for."""
    began = int(time.time() * 1000)
    run, names = f"{began}-{number}", [f"t{task}" for task in range(TASKS)]
    fields = opened(run, number, began)
    yield RunAccepted(run, str(fields["dagName"]), TASKS, fields["cacheEnabled"] == "true"), fields, {}
    yield TasksQueued(run, 1, names), {}, {}
    for task in names:
        node = f"n{number % 4}"
        yield TaskLaunched(run, task, 1, f"job-{task}"), {}, {}
        yield TaskPhase(run, task, 1, "Fetching", node), {}, {}
        yield TaskPhase(run, task, 1, "Running", node), {}, {}
        status = "FAILED" if number % 10 == 0 and task == names[-1] else "SUCCEEDED"
        counted = {"taskFailed" if status == "FAILED" else "taskSucceeded": 1}
        yield TaskEnded(run, task, 1, status, "N/A", 0, 0, node), {}, counted
    final = ended(number, began, int(time.time() * 1000))
    yield RunEnded(run, str(final["status"])), final, {}


def write(pipeline: Pipeline, change: Change) -> None:
    event, fields, counters = change
    record = KEYS.run(event.run)
    pipeline.xadd(KEYS.events, {"event": encode_event(event)}, maxlen=EVENTS_KEPT, approximate=True)
    if fields:
        pipeline.hset(record, mapping=fields)
    for name, count in counters.items():
        pipeline.hincrby(record, name, count)
    if isinstance(event, RunAccepted):
        pipeline.zadd(KEYS.runs, {event.run: run_score(event.run)})
        pipeline.zadd(KEYS.active, {event.run: run_score(event.run)})
        pipeline.zadd(KEYS.dag_runs(event.dag), {event.run: run_score(event.run)})
    elif isinstance(event, RunEnded):
        pipeline.zrem(KEYS.active, event.run)


def load(client: redis.Redis, per_second: int, seconds: float) -> float:
    """Write events at that rate, then let the runs in flight end; returns the rate that was reached, in events/s."""
    numbers = itertools.count(1)
    lives = [life(next(numbers)) for _ in range(IN_FLIGHT)]
    chance = random.Random(7)
    began, written, wanted = time.monotonic(), 0, int(per_second * seconds)
    while written < wanted:
        due = min(wanted, int((time.monotonic() - began + BATCH_SECONDS) * per_second)) - written
        pipeline: Pipeline = client.pipeline(transaction=True)
        for _ in range(due):
            place = chance.randrange(IN_FLIGHT)
            change = next(lives[place], None)
            if change is None:
                lives[place] = life(next(numbers))
                change = next(lives[place])
            write(pipeline, change)
        pipeline.execute()
        written += due
        time.sleep(max(0, began + written / per_second - time.monotonic() - BATCH_SECONDS / 2))
    reached = written / (time.monotonic() - began)
    pipeline = client.pipeline(transaction=True)
    for rest in lives:
        for change in rest:
            write(pipeline, change)
    pipeline.execute()
    return reached


def main() -> None:
    url, per_second, seconds = sys.argv[1:]
    client: redis.Redis = redis.Redis.from_url(url, **CLIENT_OPTIONS)
    print(load(client, int(per_second), float(seconds)))


if __name__ == "__main__":
    main()
