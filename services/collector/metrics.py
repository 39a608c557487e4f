"""A run's metrics as the fold of its tasks' records. Pure functions; the live counters must come to the same."""

from collections import Counter
from collections.abc import Mapping, Sequence

from helios.keys import node_counted
from helios.records import HIT_CAUSES, MISS_CAUSES, RUN_COUNTERS, TaskView


def run_cache(tasks: Sequence[TaskView], cache_enabled: bool) -> str:
    """Hit if every task with inputs hit, Miss if every one missed, N/A if none has inputs or the cache is off, Unknown
    if any task is, else Partial. Tasks that never got to fetch their inputs have no say."""
    if not cache_enabled:
        return "N/A"
    outcomes = {task.cache for task in tasks} - {"N/A"}
    if "Unknown" in outcomes:
        return "Unknown"
    if not outcomes:
        return "N/A"
    return outcomes.pop() if len(outcomes) == 1 else "Partial"


def run_status(tasks: Sequence[TaskView], run: Mapping[str, str]) -> str:
    """FAILED with a reason of its own or where a task failed; CANCELLED where a cancel found something left to stop.
    What its onExit task was told stays, however that one ends, unless all others succeeded.
    """
    if run.get("reason"):
        return "FAILED"
    told = run.get("exitStatus")
    if told in ("FAILED", "CANCELLED"):
        return told
    statuses = Counter(task.status for task in tasks)
    if run.get("cancelledAt") and statuses["CANCELLED"]:
        return "CANCELLED"
    return "SUCCEEDED" if statuses["SUCCEEDED"] == len(tasks) else "FAILED"


def fold(tasks: Sequence[TaskView], run: Mapping[str, str]) -> dict[str, str]:
    """The final fields of the run hash, from its tasks and from what it held so far."""
    statuses = Counter(task.status for task in tasks)
    counted = [task for task in tasks if task.status in ("SUCCEEDED", "FAILED")]
    outcomes = Counter(task.cache for task in counted)
    nodes = sorted({task.node for task in tasks if task.node})
    return {
        "status": run_status(tasks, run),
        "cacheHit": run_cache(counted, run.get("cacheEnabled") == "true"),
        "taskCount": str(len(tasks)),
        "taskSucceeded": str(statuses["SUCCEEDED"]),
        "taskFailed": str(statuses["FAILED"] + statuses["UNKNOWN"]),
        "taskUpstreamFailed": str(statuses["UPSTREAM_FAILED"]),
        "taskCancelled": str(statuses["CANCELLED"]),
        "taskSkipped": str(sum(task.skipped is not None for task in tasks)),
        "cacheHitTasks": str(outcomes["Hit"]),
        "cachePartialTasks": str(outcomes["Partial"]),
        "cacheMissTasks": str(outcomes["Miss"]),
        "cacheHitBytes": str(sum(task.cacheHitBytes for task in tasks)),
        "cacheMissBytes": str(sum(task.cacheMissBytes for task in tasks)),
        "cacheFetchMs": str(sum(task.fetchMs for task in tasks)),
        "cacheSavedMs": str(sum(task.savedMs for task in tasks)),
        "cachePeerBytes": str(sum(task.peerBytes for task in tasks)),
        "cacheStoreBytes": str(sum(task.storeBytes for task in tasks)),
        "nodes": ",".join(nodes),
    }


def sums(tasks: Sequence[TaskView], run: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """What the run adds to the sums of its DAG and of each of its nodes, by member of `Keys.counted`.

    A task counts for the node of its last attempt, with what all its attempts moved. Inputs by cause are those of the
    last attempts, and without those of which only a short account is left.
    """
    found: dict[str, dict[str, int]] = {}
    if dag := run.get("dagName"):
        found[dag] = _sum(tasks)
    for node in sorted({task.node for task in tasks if task.node}):
        found[node_counted(node)] = _sum([task for task in tasks if task.node == node])
    return found


def _sum(tasks: Sequence[TaskView]) -> dict[str, int]:
    counts: Counter[str] = Counter(runs=1)
    for task in tasks:
        counts["tasks"] += task.status in ("SUCCEEDED", "FAILED")
        counts["skipped"] += task.skipped is not None
        counts["hitBytes"] += task.cacheHitBytes
        counts["missBytes"] += task.cacheMissBytes
        counts["peerBytes"] += task.peerBytes
        counts["storeBytes"] += task.storeBytes
        counts["fetchMs"] += task.fetchMs
        counts["savedMs"] += task.savedMs
        for each in task.inputs:
            # The causes that are known, so that a forged one makes no field.
            cause = each.cause if each.cause in HIT_CAUSES or each.cause in MISS_CAUSES else "unknown"
            counts["hits" if cause in HIT_CAUSES else "misses"] += 1
            counts[f"inputs:{cause}"] += 1
            counts[f"bytes:{cause}"] += each.bytes
    return {name: number for name, number in counts.items() if number}


def disagreements(live: Mapping[str, str], final: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Counters whose live value differs from the fold; any is a defect of ours and worth a log line."""
    return {name: (live[name], final[name]) for name in RUN_COUNTERS if name in live and live[name] != final[name]}
