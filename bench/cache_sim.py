"""What would another size of the node's cache, or another way to evict, have hit?

    python -m bench.cache_sim [FILE …] [--gigabytes N,N,…] [--json FILE]

A FILE is a recording of `helios record`, whose runs are replayed as they were, each node by itself, or a workflow in
WfFormat 1.5; from all of those together days of work are made up (bench/cache_trace.py). Without a file it is the small
workflow in bench/data. Without sizes they are parts of what a cache would have to hold to never evict.

The simulation decides with the keeper's own code: `room_wanted`, `ranked` and `choose` of agent/evict.py, with its
watermarks, in-use rule and demand. The node has just the cache's size on its disk: what is needed goes when nothing
else is left. The ways to evict differ in what a blob is worth:

    lru             the longer unused, the less
    per byte        seconds per byte / idle time
    seconds         bytes x seconds per byte / idle time: `value` of agent/evict.py
    … + demand      the same, but what tasks of submitted runs still need is spared
    keeper          seconds + demand: agent/evict.py as it is
    clairvoyant     the later used again, the less (Belady): what nobody can know in advance. The best there is only
                    where files are of equal size and nothing is evicted before it has to be

Times of downloads are taken from the recording, else computed for a store that takes 20 ms and 1 Gbit/s.
"""

import argparse
import bisect
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from agent.evict import Limits, choose, ranked, room_wanted, value
from agent.settings import keep_settings
from bench.cache_trace import Job, Use, distinct_bytes, occasions, recorded_jobs
from bench.replay import DATA, Workflow, read_workflow
from bench.report import Metric, tell

Worth = Callable[[int, float, float], float]
"""Of a blob, from its bytes, what one of them took in seconds, and the seconds since it was used."""

PARTS = (0.1, 0.2, 0.4, 0.7)
STORE_SECONDS = 0.02
STORE_BYTES_PER_SECOND = 125e6
LESS_FROM_STORE = 0.20
"""Target: how many bytes less the keeper downloads than LRU, at equal size, in one of the traces at least."""


class Policy(msgspec.Struct, frozen=True):
    """`worth` is None for the one that knows the future."""

    worth: Worth | None
    knows_demand: bool


def _lru(_size: int, _seconds: float, idle: float) -> float:
    return 1 / max(idle, 1.0)


def _per_byte(_size: int, seconds: float, idle: float) -> float:
    return seconds / max(idle, 1.0)


POLICIES = {
    "lru": Policy(_lru, False),
    "seconds": Policy(value, False),
    "per byte": Policy(_per_byte, False),
    "lru + demand": Policy(_lru, True),
    "per byte + demand": Policy(_per_byte, True),
    "keeper": Policy(value, True),
    "clairvoyant": Policy(None, False),
}


class Outcome(msgspec.Struct):
    """What a cache did for the tasks; seconds are of downloads."""

    hit_bytes: int = 0
    miss_bytes: int = 0
    miss_seconds: float = 0.0
    evicted_bytes: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.hit_bytes + other.hit_bytes,
            self.miss_bytes + other.miss_bytes,
            self.miss_seconds + other.miss_seconds,
            self.evicted_bytes + other.evicted_bytes,
        )


class _Blob(msgspec.Struct):
    bytes: int
    seconds: float
    used_at: float


class Cache:
    """One node's cache of `size` bytes under a policy."""

    def __init__(self, size: int, policy: Policy, uses: dict[str, list[float]]) -> None:
        keeper = keep_settings({"HELIOS_CACHE_DIR": "/cache", "HELIOS_NODE": "node"})
        self.limits = Limits(size, keeper.high, keeper.low, 0)
        self.policy = policy
        self.blobs: dict[str, _Blob] = {}
        self.used = 0
        self.in_use: Counter[str] = Counter()
        self.demand: Counter[str] = Counter()
        self.uses = uses
        """When each key is read, in order, for the policy that knows it."""
        self.outcome = Outcome()

    def read(self, use: Use, now: float) -> None:
        """A task's fetch brings one input."""
        seconds = _seconds(use)
        if use.key in self.blobs:
            self.outcome.hit_bytes += use.bytes
            self.blobs[use.key].used_at = now
        else:
            self.outcome.miss_bytes += use.bytes
            self.outcome.miss_seconds += seconds
            self.put(use, now)
        self.in_use[use.key] += 1

    def put(self, use: Use, now: float) -> None:
        if use.key not in self.blobs:
            self.blobs[use.key] = _Blob(use.bytes, _seconds(use) / max(use.bytes, 1), now)
            self.used += use.bytes

    def release(self, use: Use, now: float) -> None:
        """The task is over, and its view gone."""
        self.in_use[use.key] -= 1
        if use.key in self.blobs:
            self.blobs[use.key].used_at = now

    def evict(self, now: float) -> None:
        room = room_wanted(self.limits, self.used, self.limits.limit_bytes - self.used, 0)
        if not room.wanted:
            return
        idle = [key for key in self.blobs if self.in_use[key] <= 0]
        values = array("d", (self._worth(key, now) for key in idle))
        sizes = [self.blobs[key].bytes for key in idle]
        for number in choose(ranked(values), sizes, room, lambda some: self._needed(idle, some)).victims:
            self.used -= sizes[number]
            self.outcome.evicted_bytes += sizes[number]
            del self.blobs[idle[number]]

    def _worth(self, key: str, now: float) -> float:
        blob = self.blobs[key]
        if self.policy.worth is not None:
            return self.policy.worth(blob.bytes, blob.seconds, now - blob.used_at)
        times = self.uses.get(key, [])
        coming = bisect.bisect_right(times, now)
        return 1 / max(times[coming] - now, 1e-3) if coming < len(times) else 0.0

    def _needed(self, keys: Sequence[str], some: Sequence[int]) -> set[int] | None:
        if not self.policy.knows_demand:
            return None
        return {number for number in some if self.demand[keys[number]] > 0}


def simulate(jobs: Sequence[Job], size: int, policy: Policy) -> Outcome:
    """All jobs of one node, in the order of their times. Outputs are put into the cache where they are made."""
    uses: dict[str, list[float]] = defaultdict(list)
    for job in sorted(jobs, key=lambda each: each.start):
        for use in job.inputs:
            uses[use.key].append(job.start)
    cache = Cache(size, policy, uses)
    for now, event, job in _events(jobs):
        match event:
            case "submitted":
                cache.demand.update(use.key for use in job.inputs)
            case "start":
                cache.demand.subtract(use.key for use in job.inputs)
                for use in job.inputs:
                    cache.read(use, now)
            case _:
                for use in job.inputs:
                    cache.release(use, now)
                for use in job.outputs:
                    cache.put(use, now)
        if event != "submitted":
            cache.evict(now)
    return cache.outcome


def _events(jobs: Sequence[Job]) -> Iterator[tuple[float, str, Job]]:
    """At the same instant what is over makes room for what begins."""
    found = [
        (at, rank, number)
        for number, job in enumerate(jobs)
        for rank, at in enumerate((job.submitted, job.end, job.start))
        if rank != 1 or job.end > job.start
    ]
    for at, rank, number in sorted(found):
        job = jobs[number]
        yield at, ("submitted", "end", "start")[rank], job
        if rank == 2 and job.end <= job.start:
            yield at, "end", job


def _seconds(use: Use) -> float:
    return use.seconds or STORE_SECONDS + use.bytes / STORE_BYTES_PER_SECOND


def by_node(jobs: Sequence[Job]) -> list[list[Job]]:
    found: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        found[job.node].append(job)
    return list(found.values())


def sizes_of(jobs: Sequence[Job], gigabytes: str) -> list[int]:
    if gigabytes:
        return [int(float(each) * 1e9) for each in gigabytes.split(",")]
    most = max(distinct_bytes(node) for node in by_node(jobs))
    return [math.ceil(most * part) for part in PARTS]


def compare(name: str, jobs: Sequence[Job], gigabytes: str) -> dict[str, Metric]:
    """Share of the input bytes that hit, for each size and policy; and what the keeper downloads less than LRU."""
    metrics: dict[str, Metric] = {}
    for size in sizes_of(jobs, gigabytes):
        found = {
            policy_name: sum((simulate(node, size, policy) for node in by_node(jobs)), Outcome())
            for policy_name, policy in POLICIES.items()
        }
        best = found["clairvoyant"].hit_bytes
        where = f"{name}, {size / 1e9:.3g} GB"
        for policy_name, outcome in found.items():
            whole = outcome.hit_bytes + outcome.miss_bytes
            metrics[f"{where}: {policy_name}"] = Metric(
                value=100 * outcome.hit_bytes / max(whole, 1),
                unit="% of bytes hit",
                floor=100 * best / max(whole, 1),
                ratio=outcome.hit_bytes / best if best else None,
            )
        lru, keeper = found["lru"], found["keeper"]
        if lru.miss_bytes and lru.evicted_bytes:
            metrics[f"{where}: bytes from the store less than with lru"] = Metric(
                value=100 * (1 - keeper.miss_bytes / lru.miss_bytes), unit="%"
            )
            metrics[f"{where}: seconds of downloads less than with lru"] = Metric(
                value=100 * (1 - keeper.miss_seconds / lru.miss_seconds), unit="%"
            )
    return metrics


def traces(files: Sequence[Path]) -> dict[str, list[Job]]:
    """The work in the files: each recording by itself, the workflows together."""
    found: dict[str, list[Job]] = {}
    workflows: list[Workflow] = []
    for file in files:
        text = file.read_bytes()
        if text[:2] == b"\x1f\x8b":
            found[file.name] = recorded_jobs(file)
        else:
            workflows.append(read_workflow(text))
    return found | (occasions(workflows) if workflows else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DATA])
    parser.add_argument("--gigabytes", default="", help="sizes of a node's cache, joined by commas")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    metrics: dict[str, Metric] = {}
    for name, jobs in traces(options.files).items():
        size = distinct_bytes(jobs) / 1e9
        print(f"{name}: {len(jobs)} tasks, {size:.3g} GB distinct")
        metrics |= compare(name, jobs, options.gigabytes)
    less = [each.value for name, each in metrics.items() if "bytes from the store less" in name]
    if less:
        metrics["bytes from the store less than with lru, at best"] = Metric(
            value=max(less), unit="%", target=f">= {100 * LESS_FROM_STORE:g}", met=max(less) >= 100 * LESS_FROM_STORE
        )
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
