"""The checker of a soak finds each kind of broken promise, and none where all were kept.

A history is made by a small model of Helios that does everything right; each test breaks it in one place.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from helios.events import AnyEvent, RunAccepted, RunEnded, TaskEnded, TaskLaunched
from tests.soak.checker import RULES, check, expected
from tests.soak.history import Cut, History, RunState
from tests.soak.ledger import (
    Account,
    Acknowledged,
    Brought,
    CancelWanted,
    Durable,
    Ended,
    Ledger,
    Line,
    NodeBegan,
    Seen,
    Started,
    Wanted,
    read,
)
from tests.soak.workload import ALWAYS, Behaviour, Planned, Task, all_tasks, command_of, plan, tasks_of

BEGIN_MS = 1_764_027_260_000

ACCOUNT = Account(
    cache="Partial",
    hitBytes=100,
    missBytes=20,
    fetchMs=7,
    savedMs=3,
    peerBytes=5,
    storeBytes=15,
    causes={"cached": (1, 100), "never-here": (1, 20)},
)


class World:
    """Does everything right, one step after the other, and writes the history down."""

    def __init__(self) -> None:
        self.ms = BEGIN_MS
        self.plans: list[Planned] = []
        self.lines: list[Line] = []
        self.runs: dict[str, RunState] = {}
        self.aliases: dict[str, str] = {}
        self.events: list[tuple[str, AnyEvent]] = []
        self.sums: dict[tuple[int, str], Counter[str]] = {}

    def now(self) -> int:
        self.ms += 10
        return self.ms

    def us(self) -> int:
        return self.now() * 1000

    def tell(self, event: AnyEvent) -> int:
        at = self.now()
        self.events.append((f"{at}-0", event))
        return at

    def send(self, plan: Planned, send: str) -> str:
        self.lines.append(Wanted(send, plan.number, plan.request, self.us()))
        run = f"{self.now()}-0"
        self.lines.append(Acknowledged(send, run, self.us()))
        return run

    def planned(self, dag: Iterable[Task], *, request: str | None = None, **more: Any) -> Planned:
        number = len(self.plans)
        text = msgspec.json.encode(
            {
                "dagName": "soak-test",
                "tasks": [
                    {
                        "name": task.name,
                        "command": command_of(msgspec.structs.replace(task.behaviour, number=number)),
                        "depends_on": list(task.parents),
                        "retries": {"count": task.retries},
                    }
                    for task in dag
                ],
            }
        ).decode()
        tasks = len(list(dag))
        fields = {"sends": (text,), "rejected": (False,), **more}
        self.plans.append(Planned(number=number, shape="test", tasks=tasks, request=request, **fields))
        return self.plans[-1]

    def run(self, *dag: Task, request: str | None = None) -> str:
        """A run from its submission to its end."""
        plan = self.planned(dag, request=request)
        run = self.send(plan, f"{plan.number}.0")
        tasks = tasks_of(msgspec.json.decode(plan.sends[0]))
        start = self.tell(RunAccepted(run, "soak-test", len(tasks), True))
        wanted = expected(tasks)
        fields = {task.name: self.task(run, task, wanted) for task in tasks}
        statuses = Counter(each["status"] for each in fields.values())
        status = "SUCCEEDED" if statuses["SUCCEEDED"] == len(tasks) else "FAILED"
        end = self.tell(RunEnded(run, status))
        counted = [name for name, each in fields.items() if each["status"] in ("SUCCEEDED", "FAILED")]
        attempts = sum(int(fields[name]["attempt"]) for name in counted)
        self.runs[run] = RunState(
            fields={
                "dagId": run,
                "dagName": "soak-test",
                "status": status,
                "cacheEnabled": "true",
                "cacheHit": "Partial",
                "startTime": str(start),
                "endTime": str(end),
                "durationMs": str(end - start),
                "taskCount": str(len(tasks)),
                "taskSucceeded": str(statuses["SUCCEEDED"]),
                "taskFailed": str(statuses["FAILED"]),
                "taskUpstreamFailed": str(statuses["UPSTREAM_FAILED"]),
                "taskCancelled": "0",
                "taskSkipped": "0",
                "cacheHitTasks": "0",
                "cachePartialTasks": str(len(counted)),
                "cacheMissTasks": "0",
                "cacheHitBytes": str(100 * attempts),
                "cacheMissBytes": str(20 * attempts),
                "cacheFetchMs": str(7 * attempts),
                "cacheSavedMs": str(3 * attempts),
                "cachePeerBytes": str(5 * attempts),
                "cacheStoreBytes": str(15 * attempts),
                "nodes": "n1",
            },
            tasks=fields,
            dag=tuple(tasks),
        )
        for whose in ("soak-test", ":node:n1"):
            self.sums.setdefault((0, whose), Counter()).update(
                {
                    "runs": 1,
                    "tasks": len(counted),
                    "hitBytes": 100 * attempts,
                    "missBytes": 20 * attempts,
                    "fetchMs": 7 * attempts,
                    "savedMs": 3 * attempts,
                    "peerBytes": 5 * attempts,
                    "storeBytes": 15 * attempts,
                    "hits": len(counted),
                    "misses": len(counted),
                    "inputs:cached": len(counted),
                    "inputs:never-here": len(counted),
                    "bytes:cached": 100 * len(counted),
                    "bytes:never-here": 20 * len(counted),
                }
            )
        return run

    def task(self, run: str, task: Task, wanted: dict[str, str]) -> dict[str, str]:
        if wanted[task.name] == "UPSTREAM_FAILED":
            return {"status": "UPSTREAM_FAILED", "attempt": "0", "retriesLeft": str(task.retries)}
        attempts = min(task.behaviour.failures, task.retries) + 1
        ended = 0
        for attempt in range(1, attempts + 1):
            ended = self.attempt(run, task.name, attempt, ok=attempt > task.behaviour.failures)
        return {
            "status": wanted[task.name],
            "attempt": str(attempts),
            "retriesLeft": str(task.retries - attempts + 1),
            "disrupted": "0",
            "node": "n1",
            "endedAt": str(ended),
        }

    def attempt(self, run: str, task: str, attempt: int, *, ok: bool) -> int:
        pod = f"pod-{task}-{attempt}"
        self.tell(TaskLaunched(run, task, attempt, f"job-{task}-{attempt}"))
        self.lines.append(Brought(run, task, attempt, pod, ACCOUNT, self.us()))
        self.lines.append(Started(run, task, attempt, pod, self.us()))
        self.lines.append(Ended(run, task, attempt, pod, ok, self.us()))
        return self.tell(TaskEnded(run, task, attempt, "SUCCEEDED" if ok else "FAILED", "Partial", 100, 20, "n1"))

    def history(self, **changes: Any) -> History:
        return History(
            plans=self.plans,
            lines=self.lines,
            runs=self.runs,
            aliases=self.aliases,
            events=self.events,
            sums=self.sums,
            **changes,
        )

    # How tests break it.

    def change(self, run: str, **fields: str) -> None:
        state = self.runs[run]
        self.runs[run] = msgspec.structs.replace(state, fields={**state.fields, **fields})

    def change_task(self, run: str, task: str, **fields: str) -> None:
        state = self.runs[run]
        changed = {**state.tasks, task: {**state.tasks[task], **fields}}
        self.runs[run] = msgspec.structs.replace(state, tasks=changed)

    def drop_lines(self, unwanted: Callable[[Line], bool]) -> None:
        self.lines = [line for line in self.lines if not unwanted(line)]

    def drop_events(self, unwanted: Callable[[AnyEvent], bool]) -> None:
        self.events = [(entry, event) for entry, event in self.events if not unwanted(event)]

    def repeat_event(self, kind: type) -> None:
        event = next(event for _, event in self.events if isinstance(event, kind))
        self.tell(event)


def task(name: str, *parents: str, retries: int = 0, failures: int = 0) -> Task:
    return Task(
        name=name, parents=parents, retries=retries, behaviour=Behaviour(0, 10, failures, inputs=2, how="report")
    )


def diamond() -> tuple[Task, ...]:
    return task("a"), task("b", "a", retries=2, failures=1), task("c", "a"), task("d", "b", "c")


def failing() -> tuple[Task, ...]:
    return task("e"), task("f", "e", retries=1, failures=ALWAYS), task("g", "f"), task("h", "g")


@pytest.fixture
def world() -> World:
    """Two runs, of which one failed as it should, and a request that was sent twice."""
    made = World()
    made.run(*diamond())
    made.run(*failing())
    run = made.run(task("only"), request="soak-2")
    made.aliases[made.send(made.plans[2], "2.0r1")] = run
    made.lines.append(Seen(2, run, made.us()))
    return made


def first(world: World) -> str:
    return next(iter(world.runs))


def second(world: World) -> str:
    return list(world.runs)[1]


def rules(history: History) -> set[str]:
    found = {each.rule for each in check(history).violations}
    assert found <= set(RULES)
    return found


def test_a_history_in_which_every_promise_was_kept_has_no_violation(world: World) -> None:
    verdict = check(world.history())
    assert list(verdict.violations) == []
    figures = verdict.figures
    assert (figures.runs, figures.tasks, figures.attempts, figures.starts) == (3, 9, 9, 9)
    assert (figures.aliases, figures.lost, figures.double_commits, figures.double_starts) == (1, 0, 0, 0)


# Each of these breaks one thing, and names what must be found. A finding may bring others with it.


def lose_a_run(world: World) -> None:
    del world.runs[first(world)]


def lose_what_was_confirmed(world: World) -> None:
    run = first(world)
    world.lines.append(Durable("0.0", run, "aof", 10, world.us()))
    del world.runs[run]


def lose_what_was_seen(world: World) -> None:
    del world.runs[list(world.runs)[2]]


def lose_an_alias(world: World) -> None:
    world.aliases.clear()


def open_a_request_twice(world: World) -> None:
    run = list(world.runs)[2]
    world.lines.append(Wanted("2.0r2", 2, "soak-2", world.us()))
    world.runs[f"{world.now()}-0"] = world.runs[run]


def open_a_run_that_nobody_sent(world: World) -> None:
    world.runs[f"{world.now()}-0"] = world.runs[first(world)]


def refuse_what_is_right(world: World) -> None:
    run = first(world)
    world.runs[run] = RunState(fields={"dagId": run, "status": "REJECTED", "problems": "no"})


def accept_what_is_wrong(world: World) -> None:
    world.plans[0] = msgspec.structs.replace(world.plans[0], rejected=(True,))


def leave_a_run(world: World) -> None:
    world.change(first(world), status="RUNNING")


def leave_a_task(world: World) -> None:
    world.change_task(first(world), "d", status="QUEUED")


def commit_twice(world: World) -> None:
    world.repeat_event(TaskEnded)


def launch_twice(world: World) -> None:
    world.repeat_event(TaskLaunched)


def commit_an_attempt_that_never_was(world: World) -> None:
    world.tell(TaskEnded(first(world), "a", 2, "SUCCEEDED", "Partial", 100, 20, "n1"))


def forget_a_commit(world: World) -> None:
    world.drop_events(lambda event: isinstance(event, TaskEnded) and event.task == "b" and event.attempt == 1)


def open_twice(world: World) -> None:
    world.repeat_event(RunAccepted)


def end_twice(world: World) -> None:
    world.repeat_event(RunEnded)


def start_a_child_early(world: World) -> None:
    child = next(line for line in world.lines if isinstance(line, Started) and line.task == "d")
    world.lines[world.lines.index(child)] = msgspec.structs.replace(child, at=BEGIN_MS * 1000)


def start_a_child_though_a_parent_failed(world: World) -> None:
    world.lines.append(Started(second(world), "g", 1, "pod-g", world.us()))


def start_a_child_of_a_parent_that_only_started(world: World) -> None:
    world.drop_lines(lambda line: isinstance(line, Ended) and line.task == "c")


def succeed_without_a_command(world: World) -> None:
    world.drop_lines(lambda line: isinstance(line, Started | Ended) and line.task == "d")


def fail_without_a_command(world: World) -> None:
    world.drop_lines(lambda line: isinstance(line, Ended) and line.task == "f")


def succeed_though_it_failed(world: World) -> None:
    world.change_task(second(world), "f", status="SUCCEEDED")


def fail_what_only_waited(world: World) -> None:
    world.change_task(first(world), "d", status="UPSTREAM_FAILED")


def cancel_what_nobody_cancelled(world: World) -> None:
    world.change_task(first(world), "d", status="CANCELLED")


def call_a_failed_run_well(world: World) -> None:
    world.change(second(world), status="SUCCEEDED")


def bury_a_run(world: World) -> None:
    world.change(second(world), reason="an entry was dead-lettered")


def use_up_no_retry(world: World) -> None:
    world.change_task(first(world), "b", retriesLeft="2")


def use_up_a_retry_for_a_disruption(world: World) -> None:
    ends = [line for line in world.lines if isinstance(line, Ended) and line.task == "b" and not line.ok]
    world.lines.remove(ends[0])


def give_up_with_retries_left(world: World) -> None:
    run = second(world)
    world.change_task(run, "f", retriesLeft="1", disruptions="1")


def claim_an_account_that_no_pod_made(world: World) -> None:
    world.drop_lines(lambda line: isinstance(line, Brought) and line.task == "d")


def change_an_account(world: World) -> None:
    place, (entry, event) = next(
        (place, each) for place, each in enumerate(world.events) if isinstance(each[1], TaskEnded)
    )
    assert isinstance(event, TaskEnded)
    world.events[place] = (entry, msgspec.structs.replace(event, cacheHitBytes=event.cacheHitBytes + 1))


def count_a_task_twice(world: World) -> None:
    world.change(first(world), taskSucceeded="5")


def count_bytes_twice(world: World) -> None:
    world.change(first(world), cacheHitBytes="600")


def forget_bytes_of_a_failed_attempt(world: World) -> None:
    world.change(first(world), cacheHitBytes="400")


def count_savings_twice(world: World) -> None:
    world.change(first(world), cacheSavedMs="30")


def name_a_wrong_node(world: World) -> None:
    world.change(first(world), nodes="n1,n2")


def call_a_miss_a_hit(world: World) -> None:
    world.change(first(world), cacheHit="Hit")


def add_a_run_to_its_dag_twice(world: World) -> None:
    world.sums[0, "soak-test"]["runs"] += 1


def forget_a_node(world: World) -> None:
    del world.sums[0, ":node:n1"]


def add_to_a_dag_that_never_ran(world: World) -> None:
    world.sums[0, "another"] = Counter(runs=1)


def stretch_a_run(world: World) -> None:
    world.change(first(world), durationMs="1")


def start_before_it_was_sent(world: World) -> None:
    run = first(world)
    start = str(BEGIN_MS - 1000)
    world.change(run, startTime=start, durationMs=str(int(world.runs[run].fields["endTime"]) - int(start)))


def end_a_task_after_its_run(world: World) -> None:
    world.change_task(first(world), "d", endedAt=str(BEGIN_MS * 2))


@pytest.mark.parametrize(
    ("breaks", "rule"),
    [
        (lose_a_run, "an accepted run is lost"),
        (lose_what_was_confirmed, "an accepted run is lost"),
        (lose_what_was_seen, "an accepted run is lost"),
        (lose_an_alias, "an accepted run is lost"),
        (open_a_request_twice, "a request has two runs"),
        (open_a_run_that_nobody_sent, "a run that nobody sent"),
        (refuse_what_is_right, "a submission was judged wrongly"),
        (accept_what_is_wrong, "a submission was judged wrongly"),
        (leave_a_run, "a run does not end"),
        (leave_a_task, "a run does not end"),
        (commit_twice, "an attempt was committed twice"),
        (launch_twice, "an attempt was committed twice"),
        (commit_an_attempt_that_never_was, "an attempt was committed twice"),
        (forget_a_commit, "an attempt's end is missing"),
        (open_twice, "a run was opened or ended twice"),
        (end_twice, "a run was opened or ended twice"),
        (start_a_child_early, "a child started before its parents ended well"),
        (start_a_child_though_a_parent_failed, "a child started before its parents ended well"),
        (start_a_child_of_a_parent_that_only_started, "a child started before its parents ended well"),
        (succeed_without_a_command, "a task's end has no cause in the ledger"),
        (fail_without_a_command, "a task's end has no cause in the ledger"),
        (succeed_though_it_failed, "a task has the wrong status"),
        (fail_what_only_waited, "a task has the wrong status"),
        (cancel_what_nobody_cancelled, "a task has the wrong status"),
        (call_a_failed_run_well, "a run has the wrong status"),
        (bury_a_run, "a run has the wrong status"),
        (use_up_no_retry, "retries were not counted right"),
        (use_up_a_retry_for_a_disruption, "retries were not counted right"),
        (give_up_with_retries_left, "retries were not counted right"),
        (claim_an_account_that_no_pod_made, "an account differs from the ledger"),
        (change_an_account, "an account differs from the ledger"),
        (count_a_task_twice, "a run's figures differ from the fold of its history"),
        (count_bytes_twice, "a run's figures differ from the fold of its history"),
        (forget_bytes_of_a_failed_attempt, "a run's figures differ from the fold of its history"),
        (count_savings_twice, "a run's figures differ from the fold of its history"),
        (name_a_wrong_node, "a run's figures differ from the fold of its history"),
        (call_a_miss_a_hit, "a run's figures differ from the fold of its history"),
        (add_a_run_to_its_dag_twice, "a sum differs from the fold of its runs"),
        (forget_a_node, "a sum differs from the fold of its runs"),
        (add_to_a_dag_that_never_ran, "a sum differs from the fold of its runs"),
        (stretch_a_run, "a time is wrong"),
        (start_before_it_was_sent, "a time is wrong"),
        (end_a_task_after_its_run, "a time is wrong"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_whatever_breaks_a_promise_is_found(world: World, breaks: Callable[[World], None], rule: str) -> None:
    breaks(world)
    assert rule in rules(world.history())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"left": {"Jobs": 1}}, "something is left"),
        ({"exits": {"collector-0": 1}}, "a process ended by itself"),
        ({"events_missing": 1}, "the feed is not whole"),
    ],
)
def test_what_is_left_at_the_end_is_found(world: World, changes: dict[str, Any], rule: str) -> None:
    assert rules(world.history(**changes)) == {rule}


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """So that none of them can be taken away, or made to find nothing, without a test that fails."""
    broken = {
        case[1]
        for test in (test_whatever_breaks_a_promise_is_found, test_what_is_left_at_the_end_is_found)
        for mark in test.pytestmark  # pyright: ignore
        for case in mark.args[1]
    }
    assert broken == set(RULES)


def test_what_a_power_cut_took_is_counted_and_no_violation(world: World) -> None:
    run = first(world)
    at = int(run.partition("-")[0]) * 1000
    lose_a_run(world)
    world.drop_events(lambda event: event.run == run)
    for whose in world.sums:
        world.sums[whose] = _only_of_the_others(world)
    verdict = check(world.history(cuts=[Cut(at - 500_000, at + 500_000)]))
    assert list(verdict.violations) == []
    assert (verdict.figures.taken, verdict.figures.taken_by_kill) == (1, 0)
    again = check(world.history(cuts=[Cut(at - 500_000, at + 500_000, "kill")]))
    assert (again.figures.taken, again.figures.taken_by_kill) == (1, 1)


def _only_of_the_others(world: World) -> Counter[str]:
    """The sums of the second and third run: three tasks that ended in four attempts, one of them twice."""
    tasks, attempts = 3, 4
    return Counter(
        {
            "runs": 2,
            "tasks": tasks,
            "hitBytes": 100 * attempts,
            "missBytes": 20 * attempts,
            "fetchMs": 7 * attempts,
            "savedMs": 3 * attempts,
            "peerBytes": 5 * attempts,
            "storeBytes": 15 * attempts,
            "hits": tasks,
            "misses": tasks,
            "inputs:cached": tasks,
            "inputs:never-here": tasks,
            "bytes:cached": 100 * tasks,
            "bytes:never-here": 20 * tasks,
        }
    )


def test_a_power_cut_at_another_time_excuses_nothing(world: World) -> None:
    lose_a_run(world)
    at = BEGIN_MS * 1000 + 60_000_000
    assert "an accepted run is lost" in rules(world.history(cuts=[Cut(at, at + 1_000_000)]))


def test_not_even_a_power_cut_may_take_what_waitaof_confirmed_or_the_client_saw(world: World) -> None:
    always = [Cut(0, BEGIN_MS * 2000)]
    lose_what_was_confirmed(world)
    assert "an accepted run is lost" in rules(world.history(cuts=always))
    other = World()
    run = other.run(task("only"), request="soak-0")
    other.lines.append(Seen(0, run, other.us()))
    del other.runs[run]
    assert "an accepted run is lost" in rules(other.history(cuts=always))


def test_what_nobody_has_taken_up_when_time_is_over_is_late_and_not_lost(world: World) -> None:
    run = first(world)
    lose_a_run(world)
    found = rules(world.history(waiting=frozenset([run])))
    assert "a run does not end" in found
    assert "an accepted run is lost" not in found


def test_a_submission_without_an_answer_may_be_there_or_not(world: World) -> None:
    run = first(world)
    world.drop_lines(lambda line: isinstance(line, Acknowledged) and line.run == run)
    verdict = check(world.history())
    assert list(verdict.violations) == []
    assert verdict.figures.unanswered == 1


def test_an_attempt_that_started_twice_is_counted_and_no_violation(world: World) -> None:
    """Commands may start more often than they are counted. How often is said, and how often Redis's end explains it."""
    run = first(world)
    start = next(line for line in world.lines if isinstance(line, Started) and line.task == "d")
    world.lines.append(msgspec.structs.replace(start, pod="another", at=start.at + 1000))
    verdict = check(world.history(cuts=[Cut(start.at + 100, start.at + 200)]))
    assert list(verdict.violations) == [], run
    assert (verdict.figures.double_starts, verdict.figures.double_starts_undone) == (1, 1)
    assert check(world.history()).figures.double_starts_undone == 0


def test_a_cancelled_run_may_leave_out_tasks_and_those_that_were_cancelled_count_for_nothing(world: World) -> None:
    run = first(world)
    world.lines.append(CancelWanted(0, run, world.us()))
    world.drop_lines(lambda line: isinstance(line, Ended) and line.task == "d" and line.run == run)
    world.drop_events(lambda event: isinstance(event, TaskEnded) and event.task == "d")
    world.change_task(run, "d", status="CANCELLED")
    changes = {"taskSucceeded": "3", "taskCancelled": "1", "cachePartialTasks": "3", "cacheHitBytes": "400"}
    changes |= {"cacheMissBytes": "80", "cacheFetchMs": "28", "cacheSavedMs": "12"}
    changes |= {"cachePeerBytes": "20", "cacheStoreBytes": "60", "status": "CANCELLED"}
    world.change(run, **changes)
    assert rules(world.history()) == {"a sum differs from the fold of its runs"}
    world.change(run, status="SUCCEEDED")
    assert "a run has the wrong status" in rules(world.history())


def test_a_disrupted_attempt_is_paid_for_by_nobody(world: World) -> None:
    """Its command's end was never seen, because its node was lost."""
    run = first(world)
    start = next(line for line in world.lines if isinstance(line, Ended) and line.task == "b" and not line.ok)
    world.lines.remove(start)
    world.lines.append(NodeBegan(world.us(), ["pod-b-1"]))
    world.change_task(run, "b", retriesLeft="2", disruptions="1")
    assert rules(world.history()) == set()
    assert check(world.history()).figures.disrupted == 1


def test_a_pod_that_left_no_trace_has_no_account(world: World) -> None:
    run = first(world)
    world.drop_lines(lambda line: isinstance(line, Ended) and line.task == "b" and not line.ok)
    world.change_task(run, "b", retriesLeft="2", disruptions="1")
    for place, (entry, event) in enumerate(world.events):
        if isinstance(event, TaskEnded) and (event.task, event.attempt) == ("b", 1):
            world.events[place] = (entry, TaskEnded(run, "b", 1, "FAILED", "Unknown", 0, 0, ""))
    wrong = rules(world.history())
    assert wrong == {
        "a run's figures differ from the fold of its history",
        "a sum differs from the fold of its runs",
    }, "the attempt's bytes, which nobody has told, are still counted"


def test_of_one_request_with_two_dags_either_may_be_first_and_the_other_is_refused() -> None:
    world = World()
    plan = world.planned([task("only")], request="soak-0")
    del world.plans[0]
    run = world.run(task("only"), request="soak-0")
    world.plans[0] = msgspec.structs.replace(world.plans[0], sends=(plan.sends[0], "other"), rejected=(False, True))
    other = world.send(world.plans[0], "0.1")
    world.runs[other] = RunState(fields={"dagId": other, "status": "REJECTED"})
    assert rules(world.history()) == set()
    del world.runs[other]
    world.aliases[other] = run
    assert rules(world.history()) == {"a submission was judged wrongly"}


def test_the_same_seed_plans_the_same_and_every_kind_is_in_it() -> None:
    plans = plan(7, 5000)
    assert plans == plan(7, 5000) != plan(8, 5000)
    assert abs(sum(each.tasks for each in plans) - 5000) < 400
    tasks = list(all_tasks(plans))
    assert {each.shape for each in plans} == {"single", "chain", "fan", "diamond", "layers", "flat", "bush"}
    assert any(each.durable for each in plans)
    assert any(each.cancel_after_ms is not None for each in plans)
    assert any(len(each.sends) > 1 and each.request is None for each in plans)
    assert any(len(each.sends) > 1 and each.request is not None and not any(each.rejected) for each in plans)
    assert any(any(each.rejected) and each.request is not None for each in plans)
    assert any(each.fails for each in tasks)
    assert any(0 < each.behaviour.failures <= each.retries for each in tasks)


def test_a_ledger_outlives_its_writer_and_a_line_that_was_cut_off(tmp_path: Any) -> None:
    file = tmp_path / "ledger"
    whole = [Wanted("0.0", 0, None, 1), Acknowledged("0.0", "1-0", 2)]
    Ledger(file).write(whole)
    with file.open("ab") as torn:
        torn.write(b'{"type":"Wan')
    Ledger(file).write([Seen(0, "1-0", 3)])
    assert read(file) == [*whole, Seen(0, "1-0", 3)]
