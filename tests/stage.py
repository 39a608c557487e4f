"""A run taken through its transitions by hand, one call at a time: what the services do, without their loops."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis

from helios.dag import ParsedDag, parse_dag
from helios.events import AnyEvent, RunEnded, TaskEnded, TaskLaunched, TasksAdded, TasksQueued, decode_event
from helios.keys import COLLECTOR_GROUP, JOBRUNNER_GROUP, SUBMITTER_GROUP, Keys
from helios.records import RUN_COUNTERS, AttemptRecord, read_tasks
from helios.transitions import (
    Call,
    NewTask,
    cancel_run,
    check,
    commit,
    commit_one,
    end_attempt,
    fail_task,
    finalise,
    grow_run,
    launch,
    settle,
)
from services.collector.metrics import fold, sums
from services.submitter.accept import open_calls

RUN = "1764027260123-0"

Tasks = Mapping[str, Sequence[str]]
"""Task names with the names of their parents."""


def grow(stage: "Stage", client: redis.Redis, task: str, items: Sequence[str], names: Sequence[str]) -> list[Any]:
    """What a collector does when the list of `task`, which is in line, is there; `names` are the run's from then on."""
    entry = stage.entry_of(stage.keys.ready, task)
    commit_one(stage.client, check(stage.keys, entry=entry, run=RUN, task=task, attempt=1))
    made = [f"{task}-{item}" for item in items]
    calls = grow_run(
        stage.keys,
        entry=stage.entry_of(stage.keys.checks, task),
        run=RUN,
        task=task,
        attempt=1,
        dag=dag_text(dict.fromkeys(names, ())),
        names=names,
        tasks=[NewTask(name, 0, 0, (task,), b"{}") for name in made],
        specs={},
        growths="0",
        events=[TasksAdded(RUN, task, made), TasksQueued(RUN, 1, made)],
    )
    return [commit_one(client, call) for call in calls]


def dag_text(
    tasks: Tasks,
    *,
    name: str = "trial",
    retries: Mapping[str, int] | None = None,
    priorities: Mapping[str, str] | None = None,
    on_exit: str | None = None,
) -> bytes:
    """`on_exit`: the name of its onExit task."""

    # What earlier versions know no field for is there only where it is given.
    def document(task: str) -> dict[str, Any]:
        return {
            "name": task,
            "image": "alpine:3.20",
            "command": ["true"],
            "retries": {"count": (retries or {}).get(task, 0)},
            **({"priority": priorities[task]} if priorities and task in priorities else {}),
        }

    return msgspec.json.encode(
        {
            "dagName": name,
            "tasks": [{**document(task), "depends_on": list(parents)} for task, parents in tasks.items()],
            **({"onExit": document(on_exit)} if on_exit is not None else {}),
        }
    )


def parsed(tasks: Tasks, **options: Any) -> ParsedDag:
    return parse_dag(dag_text(tasks, **options))


class Stage:
    """The state of one partition, and each transition as one call."""

    def __init__(self, client: redis.Redis, partition: int = 0) -> None:
        self.client = client
        self.keys = Keys(partition)
        self.groups = {
            **dict.fromkeys(self.keys.ready_streams, JOBRUNNER_GROUP),
            self.keys.cancelled: JOBRUNNER_GROUP,
            self.keys.checks: COLLECTOR_GROUP,
            self.keys.launched: COLLECTOR_GROUP,
            self.keys.settled: COLLECTOR_GROUP,
            self.keys.finished: SUBMITTER_GROUP,
        }
        for stream, group in self.groups.items():
            client.xgroup_create(stream, group, id="0", mkstream=True)

    def open(self, tasks: Tasks, *, run: str = RUN, window: int | None = None, **options: Any) -> ParsedDag:
        dag = parsed(tasks, **options)
        for call in open_calls(self.keys, run, dag, None, window=window):
            commit_one(self.client, call)
        return dag

    # What is there.

    def status(self, task: str, run: str = RUN) -> str:
        return self.task(task, run)["status"]

    def task(self, task: str, run: str = RUN) -> dict[str, str]:
        return self.client.hgetall(self.keys.task(run, task))

    def run(self, run: str = RUN) -> dict[str, str]:
        return self.client.hgetall(self.keys.run(run))

    def entries(self, stream: str) -> list[tuple[str, dict[str, str]]]:
        return self.client.xrange(stream)

    def emitted(self, stream: str) -> list[tuple[str, str]]:
        """Task and attempt of each entry."""
        return [(fields["task"], fields["attempt"]) for _, fields in self.entries(stream)]

    def events(self) -> list[AnyEvent]:
        return [decode_event(fields["event"]) for _, fields in self.entries(self.keys.events)]

    def deliver(self, stream: str) -> list[tuple[str, dict[str, str]]]:
        """New entries, now pending."""
        found = self.client.xreadgroup(self.groups[stream], "hand", {stream: ">"}, count=100_000)
        return found[0][1] if found else []

    def pending(self) -> int:
        return sum(self.client.xpending(stream, group)["pending"] for stream, group in self.groups.items())

    def left(self) -> int:
        return sum(self.client.xlen(stream) for stream in self.groups)

    def entry_of(self, stream: str, task: str, attempt: int = 1, run: str = RUN) -> str:
        self.deliver(stream)
        wanted = (run, task, str(attempt))
        found = [i for i, f in self.entries(stream) if (f["run"], f["task"], f["attempt"]) == wanted]
        return found[0] if found else "1-1"

    # What may happen.

    def launch_call(
        self, task: str, attempt: int = 1, *, entry: str | None = None, run: str = RUN, stream: str | None = None
    ) -> Call:
        job = f"job-{task}-{attempt}"
        stream = stream or self.keys.ready_of(self.task(task, run).get("priority"))
        entry = entry or self.entry_of(stream, task, attempt, run)
        event = TaskLaunched(run, task, attempt, job)
        return launch(self.keys, entry=entry, run=run, task=task, attempt=attempt, job=job, event=event, stream=stream)

    def end_call(
        self,
        task: str,
        attempt: int = 1,
        *,
        status: str = "SUCCEEDED",
        entry: str | None = None,
        cache: str = "N/A",
        hit: int = 0,
        miss: int = 0,
        node: str = "n1",
        disrupted: bool = False,
        run: str = RUN,
        **more: Any,
    ) -> Call:
        """`more`: fields of the record."""
        record = AttemptRecord(exitCode=0, node=node, cache=cache, cacheHitBytes=hit, cacheMissBytes=miss, **more)
        return end_attempt(
            self.keys,
            entry=self.entry_of(self.keys.launched, task, attempt, run) if entry is None else entry,
            run=run,
            task=task,
            attempt=attempt,
            status=status,
            record=msgspec.json.encode(record),
            cache=cache,
            hit_bytes=hit,
            miss_bytes=miss,
            node=node,
            disrupted=disrupted,
            event=TaskEnded(run, task, attempt, status, cache, hit, miss, node),
        )

    def settle_call(self, task: str, attempt: int = 1, *, entry: str | None = None, run: str = RUN) -> Call:
        entry = entry or self.entry_of(self.keys.finished, task, attempt, run)
        return settle(self.keys, entry=entry, run=run, task=task, attempt=attempt)

    def launch(self, task: str, attempt: int = 1, **options: Any) -> Any:
        return commit_one(self.client, self.launch_call(task, attempt, **options))

    def end(self, task: str, attempt: int = 1, **options: Any) -> Any:
        return commit_one(self.client, self.end_call(task, attempt, **options))

    def settle(self, task: str, attempt: int = 1, **options: Any) -> Any:
        return commit_one(self.client, self.settle_call(task, attempt, **options))

    def fail(self, task: str, below: Sequence[str] = (), attempt: int = 1, run: str = RUN) -> list[Any]:
        entry = self.entry_of(self.keys.finished, task, attempt, run)
        return commit(
            self.client,
            fail_task(self.keys, entry=entry, run=run, task=task, attempt=attempt, dependents=below),
        )

    def pass_through(self, task: str, **options: Any) -> None:
        """The task's first attempt, from ready to settled."""
        self.launch(task)
        self.end(task, **options)
        self.settle(task)

    def cancel(self, tasks: Sequence[str], *, run: str = RUN, **options: Any) -> list[Any]:
        return commit(self.client, cancel_run(self.keys, run=run, tasks=tasks, **options))

    def folded(self, run: str = RUN) -> dict[str, str]:
        names = self.client.lrange(self.keys.task_names(run), 0, -1)
        return fold(read_tasks(self.client, self.keys, run, names), self.run(run))

    def finalise_call(self, run: str = RUN, *, entry: str | None = None, kept: int = 100, in_all: int = 10_000) -> Call:
        self.deliver(self.keys.settled)
        found = [i for i, fields in self.entries(self.keys.settled) if fields["run"] == run]
        final = self.folded(run)
        tasks = read_tasks(self.client, self.keys, run, self.client.lrange(self.keys.task_names(run), 0, -1))
        return finalise(
            self.keys,
            entry=entry or (found[0] if found else "1-1"),
            run=run,
            dag_name=self.run(run).get("dagName", ""),
            fields=final,
            sums=sums(tasks, self.run(run)),
            runs_kept_per_dag=kept,
            runs_kept_in_all=in_all,
            event=RunEnded(run, final["status"]),
        )

    def finalise(self, run: str = RUN, **options: Any) -> Any:
        return commit_one(self.client, self.finalise_call(run, **options))


def counters(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: fields[name] for name in RUN_COUNTERS}
