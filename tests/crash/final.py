"""The state that a run is left in, without what is a matter of time or of chance: two such states can be compared.

Rule: what is left out is named here, with the reason. Attempts, counters, digests, log lines, events, sums and stored
objects are all compared as they are. (An upload in parts that a dead collector had opened is no object; retention ends
it after a day.)
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import redis

from helios.keys import CONTROLS, SUBMISSIONS, Keys

WORK = ("ready", "checks", "launched", "cancelled", "finished", "settled")

TIMES_OF_A_RUN = ("startTime", "endTime", "durationMs", "settledAt", "cancelledAt", "cacheFetchMs", "cacheSavedMs")
TIMES_OF_A_TASK = ("queuedAt", "launchedAt", "endedAt", "earlierFetchMs", "earlierSavedMs")
NAMES = ("dagId", "dagName", "job")
"""Different in each run by their nature."""
SEEN_ON_THE_WAY = (
    *("phase", "pendingAt", "scheduledAt", "fetchingAt", "runningAt", "publishingAt", "report", "heard", "spec"),
)
"""What a collector happened to see of a pod while it went on, none of which anything is decided by; and the DAG's own
words, which the harness knows.
"""
TIMES_OF_AN_ATTEMPT = (
    *("fetchMs", "savedMs", "fetchElapsedMs", "cpuMs", "peakMemoryBytes"),
    *("fetchedAt", "startedAt", "finishedAt", "publishedAt"),
)

State = dict[str, Any]


def state_of(client: redis.Redis, store: Any, bucket: str, run: str, named: Mapping[str, str]) -> State:
    """All that is left of a run, by the name of each part. `named`: what to call texts that no two runs share."""
    keys = Keys(0)
    fields: dict[str, str] = client.hgetall(keys.run(run))
    names: list[str] = client.lrange(keys.task_names(run), 0, -1)
    found: State = {"run": _replaced(_without(fields, *TIMES_OF_A_RUN, *NAMES), named)}
    for name in TIMES_OF_A_RUN[:4]:
        found["run"][f"has {name}"] = name in fields
    for name in names:
        task: dict[str, str] = client.hgetall(keys.task(run, name))
        kept = _without(task, *TIMES_OF_A_TASK, *NAMES, *SEEN_ON_THE_WAY, "record", "memo", "waitsFor")
        # When earlier attempts were in which phase, for their traces; there may be one more of them.
        kept = {field: text for field, text in kept.items() if not field.startswith("was:")}
        found[f"task {name}"] = _replaced(kept, named)
        if "record" in task:
            found[f"record of {name}"] = _record(task["record"], named)
        for attempt in range(1, int(task.get("attempt", 0)) + 1):
            lines = [entry["line"] for _, entry in client.xrange(keys.log(run, name, attempt, "task"))]
            found[f"log of {name}, {attempt}"] = [_named(line, named) for line in lines]
    found["events"] = _events(client, keys, run, named)
    found["sums"] = _without(client.hgetall(keys.stats(fields.get("dagName", ""))), "fetchMs", "savedMs")
    found["objects"] = sorted(
        [_place(each.object_name, named), each.size, each.etag]
        for each in store.list_objects(bucket, prefix=f"runs/{run}/", recursive=True)
    )
    found["stored, active"] = [client.zscore(keys.runs, run) is not None, client.zscore(keys.active, run) is not None]
    return found


def left_over(client: redis.Redis) -> list[str]:
    """What is still under way in Redis: entries and pending deliveries."""
    keys = Keys(0)
    streams = [SUBMISSIONS, CONTROLS, *(getattr(keys, name) for name in WORK), keys.dead]
    pipeline: Any = client.pipeline(transaction=False)
    for stream in streams:
        pipeline.xlen(stream)
    lengths = dict(zip(streams, pipeline.execute(), strict=True))
    found = [f"{length} entries in {stream}" for stream, length in lengths.items() if length]
    if found:
        return found
    for stream in streams[:-1]:
        groups: Any = client.xinfo_groups(stream) if client.exists(stream) else []
        found += [f"{group['pending']} pending in {stream}" for group in groups if group["pending"]]
    return found


def after_repetition(wanted: State, found: State, task: str) -> list[str]:
    """Where the second state is another than the first, if one attempt of the task may have been lost and repeated.

    Its next attempt finds inputs in the cache that the lost one brought, and what that one had stored stays for
    retention; a success that was committed before its pod died stays, and the disagreement is counted.
    """
    one, other = (
        {**state, **{part: dict(state[part]) for part in ("run", f"task {task}")}} for state in (wanted, found)
    )
    mine, its = one[f"task {task}"], other[f"task {task}"]
    lost = int(its.get("attempt", 0)) - int(mine["attempt"])
    told = [] if lost in (0, 1) else [f"{task} came to attempt {its.get('attempt')}"]
    if int(mine["retriesLeft"]) - int(its["retriesLeft"]) not in (0, lost):
        told.append(f"{task} has {its['retriesLeft']} retries left after {lost} lost attempts")
    ends = [event for event in map(json.loads, found["events"]) if event["type"] == "TaskEnded"]
    good = sorted(event["task"] for event in ends if event["status"] == "SUCCEEDED")
    if good != sorted(set(good)) or len(ends) != len(good) + lost:
        told.append(f"{len(ends)} attempts ended, of which well: {good}")
    outputs = [output for part, record in found.items() if part.startswith("record") for output in record["outputs"]]
    stored = [[place, size] for place, size, _ in found["objects"]]
    told += [f"{each['key']} is not stored" for each in outputs if [each["key"], each["bytes"]] not in stored]
    lost_folder = f"runs/<run 0>/{task}/1/"
    told += [
        f"{place} is nobody's"
        for place, size in stored
        if not place.startswith(lost_folder) and place not in [each["key"] for each in outputs]
    ]
    told += [
        f"{name} is another"
        for name in (key for key in wanted if key.startswith("record"))
        if _contents(wanted[name]) != _contents(found.get(name, {}))
    ]
    for state in (one, other):
        for part in [
            part for part in state if part.startswith((f"log of {task},", "record", "events", "sums", "objects"))
        ]:
            del state[part]
        for name in (
            "attempt",
            "retriesLeft",
            "hitBytes",
            "missBytes",
            "earlierHitBytes",
            "earlierMissBytes",
            "cache",
            "earlierStoreBytes",
            "disruptions",
            "reportAttempt",
            "earlierPeerBytes",
        ):
            state[f"task {task}"].pop(name, None)
        for name in [name for name in state["run"] if name.startswith("cache") or name == "disagreements"]:
            del state["run"][name]
    return told + differences(one, other)


def _contents(record: State) -> list[Any]:
    return [[each["name"], each["bytes"], each["sha256"]] for each in record.get("outputs", ())]


def differences(wanted: State, found: State) -> list[str]:
    """Where the second state is another than the first."""
    told: list[str] = []
    for part in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(part), found.get(part)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            told += [
                f"{part}: {name} is {other.get(name)!r}, not {one.get(name)!r}"
                for name in sorted(one.keys() | other.keys())
                if one.get(name) != other.get(name)
            ]
        elif isinstance(one, list) and isinstance(other, list):
            lacking = [each for each in one if one.count(each) > other.count(each)]
            more = [each for each in other if other.count(each) > one.count(each)]
            told.append(f"{part}: lacks {lacking}, has {more} beside")
        else:
            told.append(f"{part}: {other!r}, not {one!r}")
    return told


def _without(fields: dict[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in fields.items() if name not in names}


def _named(text: str, named: Mapping[str, str]) -> str:
    for one, other in named.items():
        text = text.replace(one, other)
    return text


def _replaced(fields: dict[str, str], named: Mapping[str, str]) -> dict[str, str]:
    return {name: _named(text, named) for name, text in fields.items()}


def _record(text: str, named: Mapping[str, str]) -> State:
    record: State = _without(json.loads(_named(text, named)), *TIMES_OF_AN_ATTEMPT)
    record["inputs"] = [_without(each, "ms", "savedMs") for each in record.get("inputs", ())]
    record["outputs"] = [{**each, "key": _place(each["key"], {})} for each in record.get("outputs", ())]
    return record


def _place(key: str, named: Mapping[str, str]) -> str:
    """runs/<run>/<task>/<attempt>/<pod>/<name>, without which run and pod."""
    parts = _named(key, named).split("/")
    if len(parts) > 4:
        parts[4] = "<pod>.manifest.json" if parts[4].endswith(".manifest.json") else "<pod>"
    return "/".join(parts)


def _events(client: redis.Redis, keys: Keys, run: str, named: Mapping[str, str]) -> list[str]:
    """Each event of the run, but the phases of pods: what was seen on the way."""
    told: list[str] = []
    for _, fields in client.xrange(keys.events, min=run):
        event: State = json.loads(fields["event"])
        if event.get("run") != run or event["type"] == "TaskPhase":
            continue
        text = msgspec.json.encode(_without(event, "run", "job", "dag"), order="sorted").decode()
        told.append(_named(text, named))
    return sorted(told)
