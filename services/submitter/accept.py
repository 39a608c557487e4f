"""From an entry of `submissions` to an open run, or to a record of every problem that kept it from opening.

The entry's id is the run's id, so accepting twice opens one run. A client's `requestId` binds its repeats to the first.
"""

import re

import redis
from msgspec import ValidationError
from msgspec.json import encode

from helios.dag import Dag, DagInvalid, ParsedDag, parse_dag
from helios.dag_graph import Graph
from helios.dag_params import ParamsUnreadable, read_params
from helios.deadletter import has_raw_bytes
from helios.events import RunAccepted, RunRejected
from helios.keys import PRIORITIES, Keys, kept_priority, keys_of_run, partition_of, run_score
from helios.messages import Control, Submission, decode
from helios.notify import destination, is_allowed, not_allowed
from helios.records import RUN_COUNTERS
from helios.recovery import WARNING
from helios.streams import Entry
from helios.submitting import submission_digest
from helios.trace import parse_traceparent
from helios.transitions import (
    NAMES_IN_A_CALL,
    UNREADABLE_DAG,
    Call,
    NewTask,
    claim_request,
    commit_one,
    open_run,
    open_tasks,
    pipelined,
    reject_run,
)

ALIAS_KEPT_SECONDS = 7 * 86_400
REQUEST_ID_CHARACTERS = 256
STATED_NAME_WITHIN = 65_536
"""Characters at the start of a rejected text in which its DAG's name is looked for."""

_STATED_NAME = re.compile(
    r"""^[\s{,]*["']?dagName["']?\s*:\s*["']?([A-Za-z0-9][A-Za-z0-9._-]{0,127})["']?\s*(?:[,}#]|$)""", re.MULTILINE
)


class Refusal(Exception):
    """The submission cannot become a run; `problems` is what its sender reads."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems[:3]))
        self.problems = problems


def accept(
    client: redis.Redis,
    entry: Entry,
    partitions: int,
    window: int | None = None,
    notify_hosts: str | None = None,
) -> str:
    """Open the run of a submission; returns `accepted`, `rejected`, `alias` or `repeated`. Raises redis.RedisError.

    `window`: of the run and of one priority so many attempts stand in line at once. `notify_hosts`: where notices may
    go; the run is warned of those that may not. None: nothing is said of that.
    """
    keys = keys_of_run(entry.id, partitions)
    if client.exists(keys.run(entry.id)):
        return "repeated"
    try:
        submission = _submission(entry)
        text = submission.dag.encode("utf-8", "surrogateescape")
        use_cache = _switch("useCache", submission.useCache)
        memoize = _switch("memoize", submission.memoize)
        priority = _priority(submission.priority)
        params = _params(submission.params)
        first = _claim(client, entry.id, submission, text, partitions)
        if first != entry.id:
            _alias(client, keys, entry.id, first)
            return "alias"
        parsed = _parse(text, params)
    except Refusal as refusal:
        reject(client, entry.id, refusal.problems, partitions, stated_name(entry.fields.get("dag", "")))
        return "rejected"
    calls = open_calls(
        *(keys, entry.id, parsed, use_cache, memoize, priority, window),
        traceparent=submission.traceparent or None,
        notify_hosts=notify_hosts,
    )
    for call in calls:
        commit_one(client, call)
    return "accepted"


def recover(client: redis.Redis, message: Control, partitions: int, window: int | None = None) -> str:
    """Open a run under its old id, because Redis lost it; returns `recovered`, or `known` where it is there. Its tasks
    that had succeeded are found by the collector. Raises Refusal, redis.RedisError.
    """
    keys = keys_of_run(message.run, partitions)
    if client.exists(keys.run(message.run)):
        return "known"
    parsed = _parse(message.dag.encode("utf-8", "surrogateescape"), recorded=True)
    use_cache, memoize = _switch("useCache", message.useCache), _switch("memoize", message.memoize)
    for call in open_calls(keys, message.run, parsed, use_cache, memoize, window=window, recovered=True):
        commit_one(client, call)
    return "recovered"


def stated_name(text: str) -> str:
    """The name that a text gives its DAG, as far as one can tell without reading the whole; else UNREADABLE_DAG."""
    found = _STATED_NAME.search(text[:STATED_NAME_WITHIN])
    return found[1] if found else UNREADABLE_DAG


def reject(client: redis.Redis, run: str, problems: list[str], partitions: int, dag_name: str = UNREADABLE_DAG) -> None:
    """Leave a run with status REJECTED and one problem a line in `problems`."""
    fields = {
        **_unopened(run, dag_name, "REJECTED"),
        "problems": "\n".join(problem.replace("\n", " ") for problem in problems),
    }
    event = RunRejected(run, dag_name, len(problems))
    keys = keys_of_run(run, partitions)
    call = reject_run(keys, run=run, score=run_score(run), fields=fields, event=event)
    commit_one(client, call)


def withdraw(client: redis.Redis, run: str, dag_name: str, partitions: int) -> bool:
    """Leave a run with status CANCELLED for a submission that waits; whoever reads that later finds it done. False if
    the run is open by now.
    """
    fields = {**_unopened(run, dag_name, "CANCELLED"), "reason": "cancelled before it was accepted"}
    keys = keys_of_run(run, partitions)
    call = reject_run(keys, run=run, score=run_score(run), fields=fields, event=RunRejected(run, dag_name, 0))
    return commit_one(client, call) == 1


def _unopened(run: str, dag_name: str, status: str) -> dict[str, str]:
    return {
        "dagId": run,
        "dagName": dag_name,
        "status": status,
        "cacheEnabled": "false",
        "cacheHit": "N/A",
        **_zero_counts(0),
    }


def _submission(entry: Entry) -> Submission:
    try:
        submission = decode(entry.fields, Submission)
    except ValidationError as error:
        if "dag" not in entry.fields:
            raise Refusal(["the entry has no field 'dag'; it holds the DAG's YAML or JSON"]) from None
        raise Refusal([f"the submission is not understood: {error}"]) from None
    request = submission.requestId
    if request is not None and (not 0 < len(request) <= REQUEST_ID_CHARACTERS or has_raw_bytes(request)):
        raise Refusal([f"requestId must have 1 to {REQUEST_ID_CHARACTERS} characters of UTF-8"])
    return submission


def _switch(field: str, text: str | None) -> bool | None:
    match (text or "").strip().lower():
        case "":
            return None
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case other:
            raise Refusal([f"{field} is {other[:40]!r}, but it takes true or false"])


def _priority(text: str | None) -> str | None:
    word = (text or "").strip().lower()
    if word and word not in PRIORITIES:
        raise Refusal([f"priority is {word[:40]!r}, but it takes {', '.join(PRIORITIES[:-1])} or {PRIORITIES[-1]}"])
    return word or None


def _claim(client: redis.Redis, run: str, submission: Submission, text: bytes, partitions: int) -> str:
    """The run that the submission's request id stands for; the run itself when it has none or is the first."""
    if submission.requestId is None:
        return run
    keys = Keys(partition_of(submission.requestId, partitions))
    digest = submission_digest(
        {
            "dag": text,
            "useCache": submission.useCache,
            "memoize": submission.memoize,
            "priority": submission.priority,
            "params": submission.params,
        }
    )
    first, known = commit_one(client, claim_request(keys, request_id=submission.requestId, run=run, digest=digest))
    if known != digest:
        raise Refusal([f"requestId {submission.requestId!r} was used for another DAG by run {first}; send a new one"])
    return first


def _alias(client: redis.Redis, keys: Keys, alias: str, first: str) -> None:
    pipeline = pipelined(client)
    pipeline.hset(keys.run(alias), mapping={"dagId": alias, "aliasOf": first})
    pipeline.expire(keys.run(alias), ALIAS_KEPT_SECONDS)
    pipeline.execute()


def _params(text: str | None) -> dict[str, str]:
    try:
        return read_params(text)
    except ParamsUnreadable as error:
        raise Refusal([str(error)]) from None


def _parse(text: bytes, params: dict[str, str] | None = None, *, recorded: bool = False) -> ParsedDag:
    try:
        return parse_dag(text, params=params, recorded=recorded)
    except DagInvalid as invalid:
        raise Refusal([str(problem) for problem in invalid.problems]) from None


def new_tasks(dag: Dag, graph: Graph, priority: str = "normal") -> list[NewTask]:
    """The task records of a run that is about to open. `priority`: of those that do not say."""
    return [
        NewTask(
            name=task.name,
            # No success ever counts this one down: `run_end.lua` queues it.
            waiting=1 if task.name == dag.on_exit else len(graph.parents[task.name]),
            retries=task.retries,
            children=graph.children[task.name],
            spec=encode(task),
            priority=kept_priority(task.priority or priority),
        )
        for task in dag.tasks
    ]


def open_calls(
    keys: Keys,
    run: str,
    parsed: ParsedDag,
    use_cache: bool | None,
    memoize: bool | None = None,
    priority: str | None = None,
    window: int | None = None,
    *,
    recovered: bool = False,
    traceparent: str | None = None,
    notify_hosts: str | None = None,
) -> list[Call]:
    """The calls that open a run; only the last makes it visible. `memoize` False: none of its tasks is skipped.
    `priority`: instead of the DAG's. `window`: as in `accept`. `recovered`: tasks whose success is stored are skipped.
    `traceparent`: of whoever submitted; one that makes no sense is ignored with a warning. `notify_hosts`: as in
    `accept`.
    """
    dag = parsed.dag
    graph = dag.success_graph()
    priority = priority or dag.priority
    tasks = new_tasks(dag, graph, priority)
    enabled = dag.use_cache if use_cache is None else use_cache
    fields = {
        "dagId": run,
        "dagName": dag.dag_name,
        "status": "RUNNING",
        "cacheEnabled": "true" if enabled else "false",
        "cacheHit": "N/A",
        **_zero_counts(len(tasks)),
    }
    if memoize is False:
        fields["memoize"] = "false"
    if {priority, dag.priority} != {"normal"}:
        fields["priority"] = priority
    if dag.on_exit is not None:
        fields["onExit"] = dag.on_exit
    if dag.params:
        fields["params"] = encode(dag.params).decode()
    if dag.notify:
        fields["notify"] = encode(dag.notify).decode()
    warnings = [str(warning) for warning in parsed.warnings]
    if notify_hosts is not None:
        # Accepted all the same: the work is worth more than the word of it, and a DAG does not depend on who runs it.
        wanted = dict.fromkeys(destination(each.url)._replace(target="/") for each in dag.notify)
        warnings += [not_allowed(to) for to in wanted if not is_allowed(to, notify_hosts)]
    if recovered:
        fields["recovered"] = "true"
        warnings.append(WARNING)
    if traceparent is not None and parse_traceparent(traceparent) is not None:
        fields["traceparent"] = traceparent.strip()
    elif traceparent is not None:
        warnings.append("traceparent is none as W3C's trace context has it, and is ignored")
    if warnings:
        fields["warnings"] = "\n".join(warnings)
    calls = [
        open_tasks(keys, run=run, before=start, tasks=tasks[start : start + NAMES_IN_A_CALL])
        for start in range(0, len(tasks), NAMES_IN_A_CALL)
    ]
    calls.append(
        open_run(
            keys,
            run=run,
            score=run_score(run),
            dag_name=dag.dag_name,
            dag=encode(dag),
            fields=fields,
            roots=[(task.name, task.priority) for task in tasks if not task.waiting],
            # A run of no more tasks than that can never have too many in line, unless it gets more.
            window=window if window is not None and (len(tasks) > window or dag.growth is not None) else None,
            event=RunAccepted(run, dag.dag_name, len(tasks), enabled),
        )
    )
    return calls


def _zero_counts(tasks: int) -> dict[str, str]:
    counts = dict.fromkeys(RUN_COUNTERS, "0")
    return {"taskCount": str(tasks), **counts, "nodes": ""}
