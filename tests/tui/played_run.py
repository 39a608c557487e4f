"""A run whose records have the same times whenever the test runs, in Redis as the services leave it."""

from typing import Any

import msgspec
import redis

from helios.dag import parse_dag
from helios.keys import Keys
from helios.records import AttemptRecord, InputRecord, OutputRecord
from helios.transitions import commit_one
from services.submitter.accept import open_calls
from tests.tui.stage import NOW_MS

RUN = f"{NOW_MS - 60_000}-0"
DAG = b"""
dagName: word-count
tasks:
  - name: split
    image: alpine:3.20
    command: [sh, -c, "split -n l/2 corpus.txt part-"]
    inputs: [{uri: "s3://corpora/moby.txt", as: corpus.txt}]
    outputs: [part-aa, part-ab]
  - name: count-aa
    image: alpine:3.20
    command: [wc, -w, part-aa]
    inputs: [{fromTask: split, name: part-aa}]
    outputs: [n]
    env: {LEVEL: "3", KEY: {secret: vault, key: api}}
  - name: count-ab
    image: alpine:3.20
    command: [wc, -w, part-ab]
    inputs: [{fromTask: split, name: part-ab}]
    outputs: [n]
  - name: join
    image: alpine:3.20
    command: [cat, a, b]
    inputs: [{fromTask: count-aa, name: n, as: a}, {fromTask: count-ab, name: n, as: b}]
"""


def play(client: redis.Redis, state: str) -> str:
    """The run with three of its tasks in the states of `running`, `failed` or `done`; returns its id."""
    keys = Keys(0)
    for call in open_calls(keys, RUN, parse_dag(DAG), None):
        commit_one(client, call)
    start = NOW_MS - 60_000
    _end(client, keys, "split", start, 20, inputs=[InputRecord("corpus.txt", 1_200_000, "never-here", "store", 3_900)])
    hit = [InputRecord("part-aa", 600_000, "warm", "cache", 3, 1_950)]
    run: dict[str, Any] = {"startTime": start, "nodes": "node-1", "taskSucceeded": 2, "cacheMissTasks": 1}
    _end(client, keys, "count-aa", start + 20_500, 10, inputs=hit)
    if state == "running":
        _set(client, keys, "count-ab", status="RUNNING", attempt=1, queuedAt=start + 20_500, launchedAt=start + 21_000)
        _set(
            client,
            keys,
            "count-ab",
            phase="Running",
            node="node-2",
            fetchingAt=start + 22_000,
            runningAt=start + 30_000,
        )
    elif state == "failed":
        reason = "exit code 3: wc: part-ab: [No such] file"
        _end(client, keys, "count-ab", start + 20_500, 12, status="FAILED", exitCode=3, reason=reason, settled="1")
        _set(client, keys, "join", status="UPSTREAM_FAILED", cause="count-ab", settled="1", endedAt=start + 33_000)
        run |= {
            "status": "FAILED",
            "endTime": start + 33_000,
            "taskFailed": 1,
            "taskUpstreamFailed": 1,
            "cacheHit": "Partial",
        }
    else:
        _end(
            client,
            keys,
            "count-ab",
            start + 20_500,
            15,
            inputs=[InputRecord("part-ab", 600_000, "cached", "cache", 2, 1_950)],
        )
        _end(
            client, keys, "join", start + 36_000, 5, inputs=[InputRecord("a", 9, "cached"), InputRecord("b", 9, "warm")]
        )
        run |= {"status": "SUCCEEDED", "endTime": start + 42_000, "taskSucceeded": 4, "cacheHit": "Partial"}
        run["cacheSavedMs"] = 3_900
    client.hset(keys.run(RUN), mapping={**run, "cacheHitBytes": 1_200_018, "cacheMissBytes": 1_200_000})
    return RUN


def _set(client: redis.Redis, keys: Keys, task: str, **fields: Any) -> None:
    client.hset(keys.task(RUN, task), mapping=fields)


def _end(
    client: redis.Redis,
    keys: Keys,
    task: str,
    queued: int,
    seconds: int,
    *,
    status: str = "SUCCEEDED",
    inputs: list[InputRecord] | None = None,
    settled: str = "0",
    **record: Any,
) -> None:
    """An attempt that was queued then: tenths of its time to be queued, to start, to fetch and so on."""
    tenth = seconds * 100
    missed = sum(each.bytes for each in inputs or () if each.cause == "never-here")
    hit = sum(each.bytes for each in inputs or ()) - missed
    cache = "N/A" if not inputs else "Miss" if missed else "Hit"
    outputs = [OutputRecord("n", 3, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")]
    made = AttemptRecord(
        **{"exitCode": 0, **record},
        node="node-1",
        cache=cache,
        cacheHitBytes=hit,
        cacheMissBytes=missed,
        fetchMs=sum(each.ms for each in inputs or ()),
        savedMs=sum(each.savedMs for each in inputs or ()),
        storeBytes=missed,
        inputs=inputs or [],
        outputs=outputs if status == "SUCCEEDED" else [],
        cpuMs=seconds * 400,
        peakMemoryBytes=48_000_000,
        fetchedAt=queued + 4 * tenth,
        startedAt=queued + 4 * tenth,
        finishedAt=queued + 9 * tenth,
        publishedAt=queued + 10 * tenth,
    )
    _set(client, keys, task, status=status, attempt=1, queuedAt=queued, launchedAt=queued + tenth, settled=settled)
    _set(client, keys, task, fetchingAt=queued + 2 * tenth, endedAt=queued + 10 * tenth, node="node-1", cache=cache)
    _set(client, keys, task, record=msgspec.json.encode(made), hitBytes=hit, missBytes=missed)
