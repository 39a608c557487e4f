"""A run's metrics as the fold of its tasks' records. Pure functions; the live counters must come to the same."""

from collections import Counter
from collections.abc import Mapping, Sequence

from helios.records import RUN_COUNTERS, TaskView


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
    """FAILED with a reason of its own or where a task failed; CANCELLED where a cancel found something left to stop."""
    if run.get("reason"):
        return "FAILED"
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
        "nodes": ",".join(nodes),
    }


def disagreements(live: Mapping[str, str], final: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Counters whose live value differs from the fold; any is a defect of ours and worth a log line."""
    return {name: (live[name], final[name]) for name in RUN_COUNTERS if name in live and live[name] != final[name]}
