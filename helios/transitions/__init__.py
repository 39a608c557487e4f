"""One Lua script for each transition of a run, a task or an attempt, and one typed function for each script.

The rule every script keeps: check the fence and the types of what it will write, emit to the streams, then flip the
state, then acknowledge. Scripts do not roll back, so an emit that comes first can at worst be repeated, and a repeated
message meets a fence. Events are the exception: they come last and their failure is ignored, because a broken feed must
not stop the work. A stale or repeated delivery acknowledges and changes nothing.

A function here builds a Call; `commit` sends many in one round trip.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError, ResponseError

from helios.events import EVENTS_KEPT, Event, encode_event
from helios.keys import (
    COLLECTOR_GROUP,
    JOBRUNNER_GROUP,
    SCHEDULES,
    SUBMITTER_GROUP,
    TRIGGERS,
    Keys,
    schedule_answer,
    schedule_dag,
    trigger_answer,
    trigger_dag,
)
from helios.keys import flight as flight_key
from helios.keys import schedule as schedule_key
from helios.keys import trigger as trigger_key
from helios.measures import TRANSITIONS
from helios.wire import send

DISRUPTIONS_ALLOWED = 5
"""So many times an attempt that was lost to its node is repeated without using up the user's retries."""

REQUEST_KEPT_SECONDS = 7 * 86_400

UNREADABLE_DAG = "(unreadable)"
"""The DAG name under which rejected submissions are listed: no DAG can have it."""

REJECTED_KEPT = 100
"""So many rejected submissions of a partition stay readable, however many come."""

ANSWER_KEPT_SECONDS = 86_400
"""For so long an answer about a schedule or a trigger can be read, and the entry that it answers does nothing again."""

SUMS_KEPT = 2_000
"""So many DAGs and nodes of a partition keep their sums; those whose last run ended longest ago go."""

UNSEEN_KEPT_SECONDS = 86_400
"""Records of tasks that a run was about to get, and never got, are gone after that."""

NAMES_IN_A_CALL = 1_000
"""Scripts that touch many tasks take them in chunks of this size, so that none holds the server up for long."""


class Script:
    """The source of one script and the digest that EVALSHA knows it by."""

    def __init__(self, name: str, *before: str) -> None:
        """`before`: what its functions are taken from."""
        self.name = name
        self.source = "".join(
            files("helios.transitions").joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*before, name)
        )
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self.applied, self.unchanged, self.failed = (name, "applied"), (name, "unchanged"), (name, "failed")


class Call(NamedTuple):
    """One script with its keys and arguments, ready to be sent."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Any, ...]


OPEN_TASKS = Script("open_tasks", "new_task")
OPEN_RUN = Script("open_run", "backlog")
REJECT_RUN = Script("reject_run")
CLAIM_REQUEST = Script("claim_request")
LAUNCH = Script("launch", "backlog")
CHECK = Script("check")
UNSKIP = Script("unskip", "backlog")
END_WITHOUT_JOB = Script("end_without_job", "backlog")
GROW_TASKS = Script("grow_tasks", "new_task")
GROW_RUN = Script("grow_run", "backlog")
NOTE_MEMO = Script("note_memo")
NOTE_WAIT = Script("note_wait", "backlog")
WARN_RUN = Script("warn_run")
MEMO_CLAIM = Script("memo_claim")
MEMO_RELEASE = Script("memo_release")
MEMO_KEEP = Script("memo_keep")
MEMO_FORGET = Script("memo_forget")
MEMO_RENEW = Script("memo_renew")
MEMO_QUARANTINE = Script("memo_quarantine")
END_ATTEMPT = Script("end_attempt")
KEEP_REPORT = Script("keep_report")
ADD_LINES = Script("add_lines")
NOTE_HEARD = Script("note_heard")
DROP_LOGS = Script("drop_logs")
HAND_BACK = Script("hand_back")
NOTE_PHASE = Script("note_phase")
SETTLE = Script("settle", "backlog", "run_end")
QUEUE_AGAIN = Script("queue_again", "backlog", "run_end")
FAIL_TASK = Script("fail_task", "backlog", "run_end")
CANCEL_RUN = Script("cancel_run", "backlog", "run_end")
FINALISE = Script("finalise", "backlog")
DEAD_LETTER = Script("dead_letter")
RENEW = Script("renew")
READ_READY = Script("read_ready")
TAKE = Script("take")
TAKE_FLIGHT = Script("take_flight")
TIDY_CONSUMERS = Script("tidy_consumers")
ABANDON_RUN = Script("abandon_run")
RETRY_LETTER = Script("retry_letter")
INGRESS_STATE = Script("ingress_state")
REOPEN_INGRESS = Script("reopen_ingress")
KEEP_NAMED = Script("keep_named")
SCHEDULE_CHANGE = Script("schedule_change")
SCHEDULE_CLAIM = Script("schedule_claim")
SCHEDULE_SENT = Script("schedule_sent")
TRIGGER_CHANGE = Script("trigger_change")
TRIGGER_SEEN = Script("trigger_seen")


def ingress_state(stream: str, *, group: str) -> Call:
    """Returns [entries ever added, entries that the group read or -1, length, pending, newest id, id delivered last],
    or None without stream or group. Changes nothing.
    """
    return Call(INGRESS_STATE, (stream,), (group,))


def reopen_ingress(stream: str, *, last: str) -> Call:
    """Returns 1 if the stream is gone now, because its newest id is `last` and all of it was handled."""
    return Call(REOPEN_INGRESS, (stream,), (last,))


def pipelined(client: redis.Redis) -> Any:
    """A pipeline that is no transaction; a command's error is a result only when `execute` is told so."""
    return client.pipeline(transaction=False)  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open


def commit(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    """Send the calls in one pipeline; one result for each, in order. A script's error is returned, not raised.

    Raises redis.ConnectionError or redis.TimeoutError when the outcome of some calls is unknown; repeating them all is
    safe, because of their fences.
    """
    if not calls:
        return []
    results = _sent(client, calls)
    TRANSITIONS.add_all([(_outcome(call, result), 1) for call, result in zip(calls, results, strict=True)])
    return results


def _sent(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    results = send(client, [("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args) for call in calls])
    missing = {call.script for call, result in zip(calls, results, strict=True) if isinstance(result, NoScriptError)}
    if not missing:
        return results
    for script in missing:
        client.script_load(script.source)
    again = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
    for index, result in zip(again, _sent(client, [calls[index] for index in again]), strict=True):
        results[index] = result
    return results


def _outcome(call: Call, result: Any) -> tuple[str, str]:
    """The labels that a call is counted by."""
    script = call.script
    if isinstance(result, ResponseError):
        return script.failed
    if script is LAUNCH:
        applied = result == ["QUEUED", str(call.args[4])]
    elif script is SETTLE:
        applied = result in ("settled", "retried")
    else:
        applied = bool(result)
    return script.applied if applied else script.unchanged


def commit_one(client: redis.Redis, call: Call) -> Any:
    """Send one call; raises redis.ResponseError when the script fails."""
    result = commit(client, [call])[0]
    if isinstance(result, ResponseError):
        raise result
    return result


class NewTask(NamedTuple):
    """A task's record before its run is open. `children` wait for it, it waits for `waiting` others."""

    name: str
    waiting: int
    retries: int
    children: Sequence[str]
    spec: bytes
    priority: str = ""
    """One of PRIORITIES; empty if it is normal."""


def open_tasks(keys: Keys, *, run: str, before: int, tasks: Sequence[NewTask]) -> Call:
    """`before` tasks were written by earlier calls. Returns 0 when these are too, or the run is open."""
    return Call(OPEN_TASKS, (keys.run(run), keys.task_names(run)), (keys.task_prefix(run), before, *_records(tasks)))


def _records(tasks: Sequence[NewTask]) -> list[Any]:
    args: list[Any] = []
    for task in tasks:
        args += (task.name, task.waiting, task.retries, "\n".join(task.children), task.spec, task.priority)
    return args


def open_run(
    keys: Keys,
    *,
    run: str,
    score: float,
    dag_name: str,
    dag: bytes,
    fields: dict[str, str],
    roots: Sequence[tuple[str, str]],
    event: Event,
    window: int | None = None,
) -> Call:
    """`roots`: name and priority of each. Of one priority `window` attempts stand in line at once; None: all that may
    run. Returns 0 when the run is open already.
    """
    flat = [text for pair in fields.items() for text in pair]
    return Call(
        OPEN_RUN,
        (
            keys.run(run),
            keys.ready,
            keys.events,
            keys.runs,
            keys.active,
            keys.dag_runs(dag_name),
            keys.dag(run),
            keys.offered(run),
            keys.backlog(run),
        ),
        (
            run,
            score,
            encode_event(event),
            EVENTS_KEPT,
            dag,
            len(fields),
            *flat,
            "" if window is None else window,
            *(part for root in roots for part in root),
        ),
    )


def reject_run(keys: Keys, *, run: str, score: float, fields: dict[str, str], event: Event) -> Call:
    """Returns 0 when a record of that run exists already."""
    flat = [text for pair in fields.items() for text in pair]
    return Call(
        REJECT_RUN,
        (keys.run(run), keys.events, keys.runs, keys.dag_runs(UNREADABLE_DAG)),
        (run, score, encode_event(event), EVENTS_KEPT, keys.prefix, REJECTED_KEPT, *flat),
    )


def claim_request(keys: Keys, *, request_id: str, run: str, digest: str) -> Call:
    """Returns [run, digest] of the submission that the request id stands for: this one's, if it is the first."""
    return Call(CLAIM_REQUEST, (keys.request(request_id),), (run, digest, REQUEST_KEPT_SECONDS))


def launch(
    keys: Keys,
    *,
    entry: str,
    run: str,
    task: str,
    attempt: int,
    job: str,
    event: Event,
    refused: str = "",
    stream: str | None = None,
) -> Call:
    """Returns [status, attempt] as found: the launch counts only if that is QUEUED and this attempt.

    `refused` says why there is no Job: the collector ends the attempt with that reason. `stream` is where the entry is,
    that of priority normal unless given.
    """
    return Call(
        LAUNCH,
        (
            keys.task(run, task),
            stream or keys.ready,
            keys.launched,
            keys.events,
            keys.run(run),
            keys.ready,
            keys.offered(run),
            keys.backlog(run),
        ),
        (
            JOBRUNNER_GROUP,
            entry,
            run,
            task,
            attempt,
            job,
            encode_event(event),
            EVENTS_KEPT,
            refused,
            keys.task_prefix(run),
        ),
    )


def check(keys: Keys, *, entry: str, run: str, task: str, attempt: int, stream: str | None = None) -> Call:
    """Returns 1 if the attempt now waits to be looked at, 0 when it does already, was, or is not QUEUED any more.
    `stream` as in `launch`.
    """
    return Call(
        CHECK,
        (keys.task(run, task), stream or keys.ready, keys.checks),
        (JOBRUNNER_GROUP, entry, run, task, attempt),
    )


def unskip(keys: Keys, *, entry: str, run: str, task: str, attempt: int, memo: bytes) -> Call:
    """Returns 1 if this call made the attempt ready again. `memo` is JSON of a MemoCheck (helios/memo.py)."""
    return Call(
        UNSKIP,
        (keys.task(run, task), keys.checks, keys.run(run), keys.ready, keys.offered(run)),
        (COLLECTOR_GROUP, entry, run, task, attempt, memo),
    )


def skip(
    keys: Keys, *, entry: str, run: str, task: str, attempt: int, record: bytes, memo: bytes, event: Event
) -> Call:
    """Returns 1 if this call ended the attempt: another task's success stands for it."""
    return _end_without_job(keys, entry, run, task, attempt, record, memo, event, "SUCCEEDED", "")


def end_join(
    keys: Keys, *, entry: str, run: str, task: str, attempt: int, record: bytes, status: str, event: Event
) -> Call:
    """Returns 1 if this call ended the attempt, which has nothing to run. SUCCEEDED: the tasks that it made have.
    FAILED: it cannot make them, and nobody has meanwhile.
    """
    made = "1" if status == "SUCCEEDED" else "0"
    return _end_without_job(keys, entry, run, task, attempt, record, b"", event, status, made)


def _end_without_job(
    keys: Keys,
    entry: str,
    run: str,
    task: str,
    attempt: int,
    record: bytes,
    memo: bytes,
    event: Event,
    status: str,
    made: str,
) -> Call:
    return Call(
        END_WITHOUT_JOB,
        (
            keys.task(run, task),
            keys.run(run),
            keys.checks,
            keys.finished,
            keys.events,
            keys.ready,
            keys.offered(run),
            keys.backlog(run),
        ),
        (
            COLLECTOR_GROUP,
            entry,
            run,
            task,
            attempt,
            record,
            memo,
            encode_event(event),
            EVENTS_KEPT,
            keys.task_prefix(run),
            status,
            made,
        ),
    )


def grow_run(
    keys: Keys,
    *,
    entry: str,
    run: str,
    task: str,
    attempt: int,
    dag: bytes,
    names: Sequence[str],
    tasks: Sequence[NewTask],
    specs: Mapping[str, bytes],
    events: Sequence[Event],
    growths: str,
) -> list[Call]:
    """The calls that give a run the tasks which `task` makes; only the last makes them visible. It returns 0 when they
    are made already, or the run gets no more, and -1 when the run has grown since its DAG was read, when its field
    `growths` was this (`0`: not there). With no tasks to wait for, the entry stays pending. `names`: of all tasks
    of the run. `specs`: those of tasks that it has already, where they are others now.
    """
    calls = [
        Call(
            GROW_TASKS,
            (keys.task(run, task), keys.run(run)),
            (
                attempt,
                keys.task_prefix(run),
                UNSEEN_KEPT_SECONDS,
                growths,
                *_records(tasks[start : start + NAMES_IN_A_CALL]),
            ),
        )
        for start in range(0, len(tasks), NAMES_IN_A_CALL)
    ]
    calls.append(
        Call(
            GROW_RUN,
            (
                *(keys.task(run, task), keys.run(run), keys.checks, keys.task_names(run), keys.dag(run)),
                *(keys.ready, keys.offered(run), keys.backlog(run), keys.events),
            ),
            (
                *(COLLECTOR_GROUP, entry, run, task, attempt, keys.task_prefix(run), EVENTS_KEPT),
                *(dag, len(events), len(tasks), len(specs), growths),
                *(encode_event(event) for event in events),
                *(part for each in tasks for part in (each.name, each.waiting, each.priority)),
                *(part for each in specs.items() for part in each),
                *names,
            ),
        )
    )
    return calls


def note_wait(keys: Keys, *, run: str, task: str, attempt: int, waits_for: str) -> Call:
    """Returns 1 if that is news of an attempt that is being looked at."""
    return Call(
        NOTE_WAIT,
        (keys.task(run, task), keys.run(run), keys.ready, keys.offered(run), keys.backlog(run)),
        (attempt, waits_for, run, task, keys.task_prefix(run)),
    )


def note_memo(keys: Keys, *, run: str, task: str, attempt: int, memo: bytes) -> Call:
    """Returns 0 when the task is at another attempt, or kept no more."""
    return Call(NOTE_MEMO, (keys.task(run, task),), (attempt, memo))


def warn_run(keys: Keys, *, run: str, warning: str) -> Call:
    """Returns 1 if the warning is new; `warning` is one line."""
    return Call(WARN_RUN, (keys.run(run),), (warning,))


def claim_memo(memo: str, *, claim: str, dead: str, known_at: str, kept_seconds: int) -> Call:
    """Returns the claim that holds now: this one, or another than `dead`. Empty when the success that is remembered is
    not the one that ended at `known_at` (empty: none): then it is to be looked at first.
    """
    return Call(MEMO_CLAIM, (memo,), (claim, dead, known_at, kept_seconds))


def release_memo(memo: str, *, claim: str) -> Call:
    """Returns 0 when the claim is not this one."""
    return Call(MEMO_RELEASE, (memo,), (claim,))


def keep_memo(
    memo: str,
    *,
    claim: str,
    kept_seconds: int,
    run: str,
    task: str,
    attempt: int,
    node: str,
    outputs: bytes,
    parts: bytes,
    ended_ms: int,
) -> Call:
    """Returns 1 if the success is remembered now, 0 if it was, or the key is quarantined."""
    return Call(MEMO_KEEP, (memo,), (claim, kept_seconds, run, task, attempt, node, outputs, parts, ended_ms))


def renew_memo(memo: str, *, run: str, task: str, attempt: int, kept_seconds: int) -> Call:
    """Returns 0 when another success, or none, is remembered."""
    return Call(MEMO_RENEW, (memo,), (run, task, attempt, kept_seconds))


def forget_memo(memo: str, *, run: str, task: str, attempt: int) -> Call:
    """Returns 0 when another success, or none, is remembered."""
    return Call(MEMO_FORGET, (memo,), (run, task, attempt))


def quarantine_memo(memo: str, *, reason: str, kept_seconds: int) -> Call:
    """Returns 1 if this call quarantined it."""
    return Call(MEMO_QUARANTINE, (memo,), (reason, kept_seconds))


def end_attempt(
    keys: Keys,
    *,
    entry: str,
    run: str,
    task: str,
    attempt: int,
    status: str,
    record: bytes,
    cache: str,
    hit_bytes: int,
    miss_bytes: int,
    node: str,
    disrupted: bool,
    event: Event,
    disagrees: bool = False,
    deletes_job: bool = False,
) -> Call:
    """Returns 1 if this call ended the attempt, 0 if it had ended before. An empty entry leaves the entry pending.

    `disagrees` is counted in the run, once for the entry: the pod's status says otherwise than the early success.
    `deletes_job`: its pod would not end by itself, so the jobrunner is told to delete its Job, as after a cancel.
    """
    return Call(
        END_ATTEMPT,
        (keys.task(run, task), keys.run(run), keys.launched, keys.finished, keys.events, keys.cancelled),
        (
            COLLECTOR_GROUP,
            entry,
            run,
            task,
            attempt,
            status,
            record,
            cache,
            hit_bytes,
            miss_bytes,
            node,
            int(disrupted),
            encode_event(event),
            EVENTS_KEPT,
            int(disagrees),
            int(deletes_job),
        ),
    )


def keep_report(keys: Keys, *, run: str, task: str, attempt: int, report: bytes) -> Call:
    """Returns 0 when the attempt is over."""
    return Call(KEEP_REPORT, (keys.task(run, task),), (attempt, report))


def add_lines(
    keys: Keys,
    *,
    run: str,
    task: str,
    attempt: int,
    step: str,
    before: int,
    lines: Sequence[str],
    moment_ms: int,
    bytes_kept: int,
    lines_kept: int,
    line_cost_bytes: int,
) -> Call:
    """Lines of a step's log, of which `before` were sent already. Returns 0 when the attempt has been over for more
    than `moment_ms`.
    """
    return Call(
        ADD_LINES,
        (keys.task(run, task), keys.log(run, task, attempt, step), keys.log_sizes),
        (run, attempt, before, moment_ms, bytes_kept, lines_kept, line_cost_bytes, *lines),
    )


def note_heard(keys: Keys, *, run: str, task: str, attempt: int) -> Call:
    """Returns 0 when the attempt is over."""
    return Call(NOTE_HEARD, (keys.task(run, task),), (attempt,))


def drop_logs(keys: Keys, *, run: str) -> Call:
    """Returns 0 when there is no such run; then only its size is forgotten."""
    return Call(DROP_LOGS, (keys.run(run), keys.log_sizes), (run, keys.prefix))


def note_phase(
    keys: Keys,
    *,
    run: str,
    task: str,
    attempt: int,
    phase: str,
    node: str,
    event: Event,
    scheduled_ms_ago: int | None = None,
) -> Call:
    """Returns 1 when the phase is news for the current attempt. An age, unlike a time, needs no common clock."""
    scheduled = "" if scheduled_ms_ago is None else scheduled_ms_ago
    return Call(
        NOTE_PHASE,
        (keys.task(run, task), keys.events),
        (attempt, phase, node, encode_event(event), EVENTS_KEPT, scheduled),
    )


def settle(keys: Keys, *, entry: str, run: str, task: str, attempt: int) -> Call:
    """Returns 'settled', 'retried', 'stale', or 'failed': then nothing was written and fail_task must follow."""
    return Call(
        SETTLE,
        (
            keys.task(run, task),
            keys.run(run),
            keys.finished,
            keys.ready,
            keys.settled,
            keys.events,
            keys.offered(run),
            keys.backlog(run),
        ),
        (SUBMITTER_GROUP, entry, run, task, attempt, keys.task_prefix(run), EVENTS_KEPT, DISRUPTIONS_ALLOWED),
    )


def queue_again(keys: Keys, *, run: str, lost: Sequence[tuple[str, str]] = ()) -> Call:
    """Repairs what of a run stands in line; `lost`: task and attempt of ready entries that are in no stream. Returns
    how many tasks were queued again.
    """
    return Call(
        QUEUE_AGAIN,
        (keys.run(run), keys.ready, keys.offered(run), keys.backlog(run)),
        (run, keys.task_prefix(run), *(part for each in lost for part in each)),
    )


def fail_task(keys: Keys, *, entry: str, run: str, task: str, attempt: int, dependents: Sequence[str]) -> list[Call]:
    """The calls that settle a failed task and everything below it; each returns 0 when it was settled before."""
    chunks = [dependents[i : i + NAMES_IN_A_CALL] for i in range(0, len(dependents), NAMES_IN_A_CALL)] or [()]
    return [
        Call(
            FAIL_TASK,
            (
                keys.task(run, task),
                keys.run(run),
                keys.finished,
                keys.settled,
                keys.events,
                keys.ready,
            ),
            (
                SUBMITTER_GROUP,
                entry,
                run,
                task,
                attempt,
                keys.task_prefix(run),
                EVENTS_KEPT,
                int(number == len(chunks) - 1),
                *chunk,
            ),
        )
        for number, chunk in enumerate(chunks)
    ]


def cancel_run(keys: Keys, *, run: str, tasks: Sequence[str], reason: str = "", on_exit: bool = False) -> list[Call]:
    """The calls that cancel a run, or fail it with the reason; each returns 0 when the run is not RUNNING, or only its
    onExit task is left. `on_exit`: that one is cancelled too. A reason lets it run, but for when it had begun.
    """
    chunks = [tasks[i : i + NAMES_IN_A_CALL] for i in range(0, len(tasks), NAMES_IN_A_CALL)] or [()]
    return [
        _cancel(keys, run, chunk, reason, on_exit, is_last=number == len(chunks) - 1)
        for number, chunk in enumerate(chunks)
    ]


def _cancel(keys: Keys, run: str, tasks: Sequence[str], reason: str, on_exit: bool, *, is_last: bool) -> Call:
    return Call(
        CANCEL_RUN,
        (
            *(keys.run(run), keys.cancelled, keys.settled, keys.events, keys.offered(run), keys.backlog(run)),
            keys.ready,
        ),
        (run, keys.task_prefix(run), EVENTS_KEPT, reason, int(is_last), int(on_exit), *tasks),
    )


def cancel_all(client: redis.Redis, keys: Keys, *, run: str, reason: str = "", on_exit: bool = False) -> None:
    """Cancel a run, or fail it, as `cancel_run` says, with all its tasks: once it is marked it gets no more. Raises
    redis.ResponseError.
    """
    commit_one(client, _cancel(keys, run, (), reason, on_exit, is_last=False))
    tasks: Any = client.lrange(keys.task_names(run), 0, -1)
    for result in commit(client, cancel_run(keys, run=run, tasks=tasks, reason=reason, on_exit=on_exit)):
        if isinstance(result, ResponseError):
            raise result


def abandon_run(keys: Keys, *, run: str, reason: str, event: Event) -> Call:
    """End a run that cannot be finalised: FAILED with the reason. Returns 0 when it is not RUNNING."""
    return Call(ABANDON_RUN, (keys.run(run), keys.active, keys.events), (run, reason, encode_event(event), EVENTS_KEPT))


def finalise(
    keys: Keys,
    *,
    entry: str,
    run: str,
    dag_name: str,
    fields: dict[str, str],
    sums: Mapping[str, Mapping[str, int]],
    runs_kept_per_dag: int,
    runs_kept_in_all: int,
    event: Event,
    traced: bool = False,
    notices: Sequence[int] = (),
) -> Call:
    """Returns 1 if this call ended the run. `sums`: by member of `keys.counted`, what this run adds to its counters.
    `traced`: its trace is to be sent. `notices`: which entries of its `notify` are to be told.
    """
    flat: list[str | int] = [text for pair in fields.items() for text in pair]
    for whose, counters in sums.items():
        flat += (whose, len(counters), *(part for pair in counters.items() for part in pair))
    return Call(
        FINALISE,
        (
            *(keys.run(run), keys.settled, keys.events, keys.runs, keys.active, keys.dag_runs(dag_name), keys.counted),
            keys.notices,
            *((keys.traced,) if traced else ()),
        ),
        (
            COLLECTOR_GROUP,
            entry,
            run,
            keys.prefix,
            runs_kept_per_dag,
            runs_kept_in_all,
            encode_event(event),
            EVENTS_KEPT,
            SUMS_KEPT,
            " ".join(map(str, notices)),
            len(fields),
            *flat,
        ),
    )


def dead_letter(
    dead: str, stream: str, *, group: str, entry: str, reason: str, deliveries: int, fields: dict[str, str]
) -> Call:
    """Moves one entry aside; `dead` must be in the entry's partition."""
    flat = [text for pair in fields.items() for text in pair]
    return Call(DEAD_LETTER, (dead, stream), (group, entry, reason, deliveries, *flat))


def retry_letter(dead: str, stream: str, *, run: str, letter: str) -> Call:
    """Puts a letter's entry back into its stream; `run` is the key of its run's hash, and all three share a partition.

    Returns 1, 0 when the letter is gone already, or -1 when the run does not go on, which leaves the letter.
    """
    return Call(RETRY_LETTER, (dead, stream, run), (letter,))


def read_ready(streams: Sequence[str], *, group: str, consumer: str, entries: int, shares: Sequence[int]) -> Call:
    """Returns [number of the stream, entry, fields and values] of at most so many new entries: of each stream its
    share, then what is left in the streams' order. The streams share a partition.
    """
    return Call(READ_READY, tuple(streams), (group, consumer, entries, *shares))


def take(stream: str, *, group: str, consumer: str, entry: str, lease_ms: int) -> Call:
    """Returns [deliveries, fields and values], or None when the entry is finished or in another's hands."""
    return Call(TAKE, (stream,), (group, consumer, entry, lease_ms))


def renew(stream: str, *, group: str, consumer: str, entries: Sequence[str]) -> Call:
    """Returns the entries that this consumer still owns, their idle time set back to zero."""
    return Call(RENEW, (stream,), (group, consumer, *entries))


def take_flight(key: str, *, node: str, pod: str, seconds: int) -> Call:
    """Returns 1 if the blob that `key` stands for is this node's to bring from the store, for so many seconds."""
    return Call(TAKE_FLIGHT, (flight_key(key),), (node, pod, seconds))


def hand_back(
    stream: str,
    *,
    group: str,
    consumer: str,
    heir: str,
    idle_ms: int,
    page: int,
    all_count: bool,
    counting: Sequence[str],
) -> Call:
    """Returns how many entries the consumer had in hand; they are now to be taken over, and it is off the list.

    The deliveries of those in `counting`, or of all, go on counting against them.
    """
    return Call(HAND_BACK, (stream,), (group, consumer, heir, idle_ms, page, int(all_count), *counting))


def tidy_consumers(stream: str, *, group: str, leaving: str = "", dead_after_ms: int) -> Call:
    """Returns how many consumers without pending entries were removed: the one that leaves, and the long dead."""
    return Call(TIDY_CONSUMERS, (stream,), (group, leaving, dead_after_ms))


def schedule_add(name: str, *, entry: str, first: int, at_most: int, dag: bytes, fields: Mapping[str, str]) -> Call:
    """Returns the entry's answer: `ok`, or why there is no such schedule now. `first`: its first time."""
    keys = schedule_key(name), schedule_dag(name), SCHEDULES, schedule_answer(entry)
    return _keep_named("schedule", keys, name, entry, first, at_most, dag, {"next": str(first), **fields})


def trigger_add(name: str, *, entry: str, at_most: int, dag: bytes, fields: Mapping[str, str]) -> Call:
    """Returns the entry's answer: `ok`, or why there is no such trigger now."""
    keys = trigger_key(name), trigger_dag(name), TRIGGERS, trigger_answer(entry)
    return _keep_named("trigger", keys, name, entry, int(entry.partition("-")[0]), at_most, dag, fields)


def _keep_named(
    kind: str,
    keys: tuple[str, ...],
    name: str,
    entry: str,
    score: int,
    at_most: int,
    dag: bytes,
    fields: Mapping[str, str],
) -> Call:
    flat = [text for pair in fields.items() for text in pair]
    return Call(KEEP_NAMED, keys, (kind, name, entry, score, at_most, ANSWER_KEPT_SECONDS, dag, *flat))


def trigger_change(name: str, *, entry: str, action: str) -> Call:
    """Returns the entry's answer. `action`: remove, pause or resume."""
    return Call(
        TRIGGER_CHANGE,
        (trigger_key(name), trigger_dag(name), TRIGGERS, trigger_answer(entry)),
        (name, action, ANSWER_KEPT_SECONDS),
    )


def trigger_seen(name: str, *, trigger: str, event: str, run: str = "", why: str = "", stream_entry: str = "") -> Call:
    """Returns 1 when the event is news of the trigger whose id is `trigger`."""
    return Call(TRIGGER_SEEN, (trigger_key(name),), (trigger, event, run, why, stream_entry))


def schedule_change(name: str, *, entry: str, action: str, first: int | str = "") -> Call:
    """Returns the entry's answer. `action`: remove, pause or resume; `first`: the first time from now on, for the last
    of these. It may be empty where there is no such schedule.
    """
    return Call(
        SCHEDULE_CHANGE,
        (schedule_key(name), schedule_dag(name), SCHEDULES, schedule_answer(entry)),
        (name, action, first, ANSWER_KEPT_SECONDS),
    )


def schedule_claim(
    name: str,
    *,
    schedule: str,
    expected: int,
    time: int | str,
    following: int | str,
    now: int,
    until: int,
    replaces: str = "",
    missed: int | str = "",
    missed_why: str = "",
) -> Call:
    """Returns 1 if `time` is the caller's to send until `until`: it was due as `expected` says, or its claimant has not
    finished it in time. `time` empty: nothing is to be sent. `following`: the first time after `now`; empty: none.
    """
    return Call(
        SCHEDULE_CLAIM,
        (schedule_key(name), SCHEDULES),
        (name, schedule, expected, time, following, now, until, replaces, missed, missed_why),
    )


def schedule_sent(name: str, *, schedule: str, time: int, run: str) -> Call:
    """Returns 1 if this call finished the time, whose submission is `run`."""
    return Call(SCHEDULE_SENT, (schedule_key(name), SCHEDULES), (name, schedule, time, run))
