"""A task whose `forEach` goes over an output of another: once that is there, its items become tasks of the run.

Rule: the run gets all of them at once or none, from the output as its maker stored it, whose digest is checked. A list
that cannot be used fails the task with a reason that says what to mend; a store that is away makes it wait.
"""

import hashlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import Dag, Task, grown, parents
from helios.dag_fan import Items
from helios.dag_params import ParamsUnreadable, read_list
from helios.dag_problem import DagInvalid
from helios.events import TaskEnded, TasksAdded, TasksQueued
from helios.keys import Keys, kept_priority
from helios.memo import Claim
from helios.records import AttemptRecord, OutputRecord, decode_attempt
from helios.streams import Entry
from helios.transitions import NAMES_IN_A_CALL, Call, NewTask, commit, commit_one, end_join, grow_run
from helios.worker import Waits
from services.collector.store import ObjectMissing, Store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = structlog.get_logger()

LIST_BYTES_AT_MOST = 4 * 1024**2
"""Of the file that holds the items; a DAG can have 10,000 tasks."""
VALUES_AT_MOST = 400_000
"""In a list, about: commas of its text, each of which may stand for an object."""
TIMES_ANEW = 20
"""A run may grow by several lists at once; each has to know what the others made."""

_dag_decoder = msgspec.json.Decoder(Dag)


class _Unusable(Exception):
    """No tasks can be made; the message says why, and what to do."""


class Grower:
    """Handles attempts of tasks that stand for others. Safe to use from any thread."""

    def __init__(self, client: redis.Redis, store: Store) -> None:
        self.client = client
        self.store = store
        self.lock = threading.Lock()
        """One list at a time: each may take as much memory as a DAG that is accepted."""

    def look(self, entry: Entry, keys: Keys, claim: Claim, task: Task) -> None:
        """Make the tasks that it stands for or, when those have ended, end it. Raises StoreRefused, ResponseError."""
        made: Any = self.client.hget(keys.task(claim.run, claim.task), "grown")
        if made is None:
            try:
                with self.lock:
                    waits = not self._grow(entry, keys, claim, task)
                if waits:
                    return
            except _Unusable as unusable:
                self._end(entry, keys, claim, "FAILED", str(unusable))
                return
        self._end(entry, keys, claim, "SUCCEEDED")

    def _grow(self, entry: Entry, keys: Keys, claim: Claim, task: Task) -> bool:
        """Whether the entry is still to be handled: there were no items."""
        items = self._items(keys, claim, task)
        for _ in range(TIMES_ANEW):
            # In this order: what has grown since it was counted is refused.
            counted: Any = self.client.hmget(keys.run(claim.run), "growths", "priority")
            growths, priority = counted
            stored: Any = self.client.get(keys.dag(claim.run))
            dag = _dag_decoder.decode(stored) if stored is not None else None
            if dag is None or dag.growth is None:
                raise _Unusable("the record of the run's DAG is gone, so what forEach makes is not known")
            try:
                found = grown(dag, claim.task, items)
            except DagInvalid as invalid:
                more = f" (and {len(invalid.problems) - 1} more)" if len(invalid.problems) > 1 else ""
                raise _Unusable(f"what forEach makes of its list is not valid: {invalid.problems[0]}{more}") from None
            *written, told = _calls(entry, keys, claim, dag, found, priority or "", growths or "0")
            # Not in one round trip: a server that has only the last script would run that first.
            for result in commit(self.client, written):
                if isinstance(result, ResponseError):
                    raise result
            if commit_one(self.client, told) != -1:
                made = len(found.tasks) - len(dag.tasks)
                log.info("tasks are made for the items of a list", count=made)
                return made == 0
        raise Waits("others of its run grow all the time")

    def _items(self, keys: Keys, claim: Claim, task: Task) -> Items:
        assert task.for_each is not None
        source = task.for_each
        text: Any = self.client.hget(keys.task(claim.run, source.from_task), "record")
        outputs: Sequence[OutputRecord] = decode_attempt(text).outputs if text else ()
        output = next((each for each in outputs if each.name == source.name), None)
        shown = f"the output {source.name!r} of task {source.from_task!r}"
        if output is None:
            raise _Unusable(f"{shown} is not recorded, so what forEach goes over is not known; run it again")
        if output.archive:
            raise _Unusable(f"{shown} is a folder; forEach needs a file that holds a JSON list")
        if output.bytes > LIST_BYTES_AT_MOST:
            raise _Unusable(
                f"{shown} has {output.bytes:,} bytes; a list that forEach goes over has at most "
                f"{LIST_BYTES_AT_MOST:,}: put what is large into files, and their names into the list"
            )
        content = self._content(output, shown)
        if content.count(b",") > VALUES_AT_MOST:
            raise _Unusable(
                f"{shown} has more than {VALUES_AT_MOST:,} values; a DAG has at most 10,000 tasks, so put what one "
                "task is to look at into a file"
            )
        try:
            return read_list(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise _Unusable(f"{shown} is not UTF-8: byte {error.start}") from None
        except ParamsUnreadable as error:
            raise _Unusable(f'{shown} {error}; forEach needs a JSON list, such as ["a", "b"]') from None

    def _content(self, output: OutputRecord, shown: str) -> bytes:
        try:
            content = self.store.read(output.key, LIST_BYTES_AT_MOST)
        except ObjectMissing:
            raise _Unusable(f"{shown} is not in the object store any more; run it again") from None
        if output.stored is not None:
            try:
                content = zstd.ZstdDecompressor().decompress(content, LIST_BYTES_AT_MOST + 1)
            except zstd.ZstdError:
                raise _Unusable(f"{shown} is damaged in the object store; run it again") from None
        if hashlib.sha256(content).hexdigest() != output.sha256:
            raise _Unusable(f"{shown} is not what the task stored; run it again")
        return content

    def _end(self, entry: Entry, keys: Keys, claim: Claim, status: str, reason: str | None = None) -> None:
        run, task, attempt = claim
        record = AttemptRecord(exitCode=0 if reason is None else None, reason=reason)
        call = end_join(
            keys,
            entry=entry.id,
            run=run,
            task=task,
            attempt=attempt,
            record=msgspec.json.encode(record),
            status=status,
            event=TaskEnded(run, task, attempt, status, "N/A", 0, 0, "", reason),
        )
        if commit_one(self.client, call) and reason is not None:
            log.warning("no tasks can be made for the items of a list", reason=reason)


def _calls(entry: Entry, keys: Keys, claim: Claim, before: Dag, after: Dag, priority: str, growths: str) -> list[Call]:
    """`priority`: the run's, as records keep it."""
    known = {task.name: task for task in before.tasks}
    new = {task.name for task in after.tasks} - known.keys()
    above = {task.name: [each for each in parents(task) if each in new] for task in after.tasks if task.name in new}
    children: dict[str, list[str]] = {name: [claim.task] for name in new}
    for name, of_task in above.items():
        for parent in of_task:
            children[parent].append(name)
    tasks = [
        NewTask(
            name=task.name,
            waiting=len(above[task.name]),
            retries=task.retries,
            children=children[task.name],
            spec=msgspec.json.encode(task),
            priority=kept_priority(task.priority or priority),
        )
        for task in after.tasks
        if task.name in new
    ]
    return grow_run(
        keys,
        entry=entry.id,
        run=claim.run,
        task=claim.task,
        attempt=claim.attempt,
        dag=msgspec.json.encode(after),
        names=[task.name for task in after.tasks],
        tasks=tasks,
        specs={
            task.name: msgspec.json.encode(task)
            for task in after.tasks
            if task.name in known and known[task.name] != task
        },
        growths=growths,
        events=[
            *(TasksAdded(claim.run, claim.task, each) for each in _chunks([task.name for task in tasks])),
            *(TasksQueued(claim.run, 1, each) for each in _chunks([task.name for task in tasks if not task.waiting])),
        ],
    )


def _chunks(names: list[str]) -> list[list[str]]:
    return [names[start : start + NAMES_IN_A_CALL] for start in range(0, len(names), NAMES_IN_A_CALL)]
