"""Every order of deliveries, repeats, crashes and cancels that Hypothesis can think of, against a plain model.

The model knows nothing of streams or scripts: it says which state a task is in after each message was handled. After
every step Redis must agree; once everything is delivered, every run must have ended and its streams must be empty.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helios import transitions
from helios.dag_graph import Graph
from helios.keys import PRIORITIES, Keys
from helios.records import ENDED
from helios.transitions import DISRUPTIONS_ALLOWED, Call, commit, commit_one, fail_task
from services.submitter.accept import open_calls
from services.submitter.reconcile import Reconciler
from tests.stage import Stage, counters, parsed

STARTED = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED")


@dataclass
class Model:
    """What the tasks of one run should look like."""

    graph: Graph
    retries: dict[str, int]
    status: dict[str, str]
    attempt: Counter[str] = field(default_factory=Counter[str])
    disrupted: dict[str, bool] = field(default_factory=dict[str, bool])
    disruptions: Counter[str] = field(default_factory=Counter[str])
    settled: set[str] = field(default_factory=set[str])
    commits: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    cancelled: bool = False
    on_exit: str | None = None
    told: str | None = None
    """What its onExit task was told of the others."""

    def queue(self, task: str) -> None:
        self.status[task] = "QUEUED"
        self.attempt[task] += 1

    def others(self) -> dict[str, str]:
        return {task: status for task, status in self.status.items() if task != self.on_exit}

    def others_have_ended(self) -> bool:
        return all(
            status in ("SUCCEEDED", "UPSTREAM_FAILED", "CANCELLED") or (status == "FAILED" and task in self.settled)
            for task, status in self.others().items()
        )

    def begun_exit(self) -> bool:
        return self.on_exit is not None and self.status[self.on_exit] != "WAITING"

    def at_the_end(self) -> None:
        """To be asked where a task's end may have been the last."""
        if self.on_exit is None or self.begun_exit() or not self.others_have_ended():
            return
        ends = set(self.others().values())
        if self.cancelled and "CANCELLED" in ends:
            self.told = "CANCELLED"
        else:
            self.told = "FAILED" if ends & {"FAILED", "UPSTREAM_FAILED"} else "SUCCEEDED"
        self.queue(self.on_exit)

    def outcome(self) -> str:
        ends = Counter(self.status.values())
        if self.told in ("FAILED", "CANCELLED"):
            return self.told
        if self.cancelled and ends["CANCELLED"]:
            return "CANCELLED"
        return "SUCCEEDED" if ends["SUCCEEDED"] == len(self.status) else "FAILED"

    def launch(self, task: str, attempt: int) -> None:
        if (self.status[task], self.attempt[task]) == ("QUEUED", attempt):
            self.status[task] = "RUNNING"

    def end(self, task: str, attempt: int, status: str, disrupted: bool) -> bool:
        if (self.status[task], self.attempt[task]) != ("RUNNING", attempt):
            return False
        self.status[task] = status
        self.disrupted[task] = disrupted
        self.commits[task, attempt] += 1
        return True

    def settle(self, task: str, attempt: int) -> str:
        status = self.status[task]
        if status not in ("SUCCEEDED", "FAILED") or self.attempt[task] != attempt or task in self.settled:
            return "stale"
        if status == "FAILED":
            free = self.disrupted[task] and self.disruptions[task] < DISRUPTIONS_ALLOWED
            stopped = self.cancelled and task != self.on_exit
            if stopped or (not free and self.retries[task] == 0):
                return "failed"
            if free:
                self.disruptions[task] += 1
            else:
                self.retries[task] -= 1
            self.queue(task)
            return "retried"
        self.settled.add(task)
        if not self.cancelled:
            for child in self.graph.children[task]:
                parents = self.graph.parents[child]
                if self.status[child] == "WAITING" and all(parent in self.settled for parent in parents):
                    self.queue(child)
        self.at_the_end()
        return "settled"

    def fail(self, task: str, chunk: list[str], last: bool) -> None:
        if self.status[task] != "FAILED" or task in self.settled:
            return
        for below in chunk:
            if self.status[below] == "WAITING":
                self.status[below] = "UPSTREAM_FAILED"
        if last:
            self.settled.add(task)
            if self.cancelled and task != self.on_exit:
                self.status[task] = "CANCELLED"
            self.at_the_end()

    def cancel(self, chunk: list[str], last: bool, exit_too: bool) -> None:
        if self.begun_exit() and not exit_too:
            return
        self.cancelled = True
        for task in chunk:
            if self.status[task] in ("WAITING", "QUEUED", "RUNNING") and (task != self.on_exit or exit_too):
                self.status[task] = "CANCELLED"
        if last:
            self.at_the_end()


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, list[str]]:
    """Up to five tasks, each below any of those before it."""
    count = draw(st.integers(1, 5))
    return {
        f"t{number}": sorted(draw(st.sets(st.sampled_from([f"t{other}" for other in range(number)]), max_size=3)))
        if number
        else []
        for number in range(count)
    }


class Transitions(RuleBasedStateMachine):
    """One run, from its acceptance to its end."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.connect())
        self.run_id = "1764027260123-0"
        self.known: dict[str, dict[str, dict[str, str]]] = {stream: {} for stream in self.stage.groups}
        self.kept_calls: list[Call] = []
        self.final: dict[str, str] | None = None

    def connect(self) -> redis.Redis:
        return fakeredis.FakeRedis(server=fakeredis.FakeServer(), version=(7,), decode_responses=True)

    @property
    def keys(self) -> Keys:
        return self.stage.keys

    def note_entries(self) -> None:
        for stream in self.stage.groups:
            self.stage.deliver(stream)
            self.known[stream].update(self.stage.entries(stream))

    @initialize(
        shape=tasks(),
        retries=st.lists(st.integers(0, 2), min_size=5, max_size=5),
        crashes=st.integers(0, 3),
        priorities=st.lists(st.sampled_from((*PRIORITIES, "normal")), min_size=5, max_size=5),
        window=st.sampled_from((None, 1, 2)),
        exit_retries=st.sampled_from((None, 0, 1)),
    )
    def accept(
        self,
        shape: dict[str, list[str]],
        retries: list[int],
        crashes: int,
        priorities: list[str],
        window: int | None,
        exit_retries: int | None,
    ) -> None:
        on_exit = None if exit_retries is None else "bye"
        names = [*shape, *([on_exit] if on_exit else [])]
        allowed = {**dict(zip(shape, retries, strict=False)), **({on_exit: exit_retries or 0} if on_exit else {})}
        given = dict(zip(names, reversed(priorities), strict=False))
        dag = parsed(shape, retries=allowed, priorities=given, on_exit=on_exit)
        self.window = window if window is not None and window < len(names) else None
        calls = open_calls(self.keys, self.run_id, dag, None, window=window)
        for call in (*calls[:crashes], *calls, *calls[-1:]):
            commit_one(self.stage.client, call)
        graph = dag.dag.success_graph()
        self.model = Model(graph, allowed, dict.fromkeys(names, "WAITING"), on_exit=on_exit)
        for root in graph.roots:
            if root != on_exit:
                self.model.queue(root)
        self.note_entries()

    def pick(self, data: st.DataObject, stream: str) -> tuple[str, dict[str, str]]:
        """Any entry there ever was: new, pending, or acknowledged long ago and delivered once more."""
        in_order = sorted(self.known[stream].items(), key=lambda each: [int(part) for part in each[0].split("-")])
        return data.draw(st.sampled_from(in_order))

    def seen(self, stream: str) -> bool:
        return bool(self.known[stream])

    @precondition(lambda self: any(map(self.seen, self.keys.ready_streams)))
    @rule(data=st.data())
    def launch(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from([each for each in self.keys.ready_streams if self.seen(each)]))
        self.do_launch(*self.pick(data, stream), stream)

    def do_launch(self, entry: str, fields: dict[str, str], stream: str) -> None:
        task, attempt = fields["task"], int(fields["attempt"])
        self.stage.launch(task, attempt, entry=entry, run=self.run_id, stream=stream)
        self.model.launch(task, attempt)
        self.note_entries()

    OUTCOMES = (("SUCCEEDED", False), ("FAILED", False), ("FAILED", True))

    @precondition(lambda self: self.seen(self.keys.launched))
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), early=st.booleans(), cache=st.sampled_from(["Hit", "N/A"]))
    def end(self, data: st.DataObject, outcome: tuple[str, bool], early: bool, cache: str) -> None:
        entry, fields = self.pick(data, self.keys.launched)
        self.do_end("" if early else entry, fields, outcome, cache)

    def do_end(self, entry: str, fields: dict[str, str], outcome: tuple[str, bool], cache: str = "Miss") -> None:
        task, attempt = fields["task"], int(fields["attempt"])
        status, disrupted = outcome
        applied = self.stage.end(
            task,
            attempt,
            status=status,
            disrupted=disrupted,
            entry=entry,
            cache=cache,
            hit=3,
            miss=4,
            run=self.run_id,
        )
        assert applied == int(self.model.end(task, attempt, status, disrupted))
        self.note_entries()

    @precondition(lambda self: self.seen(self.keys.finished))
    @rule(data=st.data(), chunks=st.integers(0, 4))
    def settle(self, data: st.DataObject, chunks: int) -> None:
        """A failure is settled by several calls; the process may die after any of them."""
        self.do_settle(*self.pick(data, self.keys.finished), chunks)

    def do_settle(self, entry: str, fields: dict[str, str], chunks: int = 100) -> None:
        task, attempt = fields["task"], int(fields["attempt"])
        result = self.stage.settle(task, attempt, entry=entry, run=self.run_id)
        expected = self.model.settle(task, attempt)
        assert (result == "failed") == (expected == "failed"), (result, expected)
        assert (result == "retried") == (expected == "retried"), (result, expected)
        if result == "failed":
            below = self.model.graph.descendants(task)
            calls = fail_task(self.keys, entry=entry, run=self.run_id, task=task, attempt=attempt, dependents=below)
            for number, call in enumerate(calls[:chunks]):
                commit_one(self.stage.client, call)
                chunk = below[number * 2 : number * 2 + 2]
                self.model.fail(task, chunk, number == len(calls) - 1)
        self.note_entries()

    @rule(chunks=st.integers(1, 4), mood=st.integers(0, 9), exit_too=st.booleans())
    def cancel(self, chunks: int, mood: int, exit_too: bool) -> None:
        """A chunk at a time; a process that dies after some of them leaves the control entry to be delivered again.

        Rarely, because little happens in a run once it is cancelled.
        """
        if mood == 7:
            self.do_cancel(chunks, exit_too)

    def do_cancel(self, chunks: int = 100, exit_too: bool = False) -> None:
        names = list(self.model.status)
        ended = self.stage.run(self.run_id)["status"] in ENDED
        calls = transitions.cancel_run(self.keys, run=self.run_id, tasks=names, on_exit=exit_too)
        results = commit(self.stage.client, calls[:chunks])
        if ended:
            assert set(results) == {0}
            return
        for number in range(len(calls[:chunks])):
            self.model.cancel(names[number * 2 : number * 2 + 2], number == len(calls) - 1, exit_too)
        self.cancel_unfinished = chunks < len(calls)
        self.note_entries()

    cancel_unfinished = False

    @precondition(lambda self: self.seen(self.keys.settled))
    @rule(data=st.data(), hold=st.booleans())
    def finalise(self, data: st.DataObject, hold: bool) -> None:
        """What was folded may be written later than it was read."""
        entry, _ = self.pick(data, self.keys.settled)
        call = self.stage.finalise_call(self.run_id, entry=entry)
        if hold:
            self.kept_calls.append(call)
        else:
            commit_one(self.stage.client, call)

    @rule(data=st.data(), mood=st.integers(0, 9))
    def lose(self, data: st.DataObject, mood: int) -> None:
        """A stream of ready entries, or what the run has in line, is gone; two looks of the submitter make it good."""
        if mood < 2:
            of_run = self.keys.offered if data.draw(st.booleans()) else self.keys.backlog
            lost = [of_run(self.run_id, priority) for priority in PRIORITIES]
            if mood == 0:
                # Emptied, not deleted: else a later entry might get the id of an earlier one, or not, by the clock.
                self.stage.client.xtrim(data.draw(st.sampled_from(self.keys.ready_streams)), maxlen=0)
            self.stage.client.delete(*lost)
            self.mend()

    @rule()
    def mend(self) -> None:
        reconciler = Reconciler(self.stage.client, 1)
        reconciler.look()
        reconciler.look()
        self.model.at_the_end()
        self.lost_nothing = False
        self.note_entries()

    lost_nothing = True
    window: int | None = None

    @precondition(lambda self: self.kept_calls)
    @rule()
    def write_what_was_folded(self) -> None:
        commit_one(self.stage.client, self.kept_calls.pop())

    @invariant()
    def redis_agrees_with_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        for task, status in self.model.status.items():
            found = self.stage.task(task, self.run_id)
            assert (found["status"], int(found["attempt"])) == (status, self.model.attempt[task]), task

    @invariant()
    def what_may_run_has_its_entry_or_waits_for_room_that_will_come(self) -> None:
        if not hasattr(self, "model") or self.cancel_unfinished:
            return
        for priority in PRIORITIES:
            entries = {
                (fields["task"], fields["attempt"])
                for stream in self.keys.ready_streams
                for _, fields in self.stage.entries(stream)
            }
            queued = {
                (task, str(self.model.attempt[task]))
                for task, status in self.model.status.items()
                if status == "QUEUED" and (self.stage.task(task, self.run_id).get("priority") or "normal") == priority
            }
            in_line = queued & entries
            backlog = set(self.stage.client.lrange(self.keys.backlog(self.run_id, priority), 0, -1))
            assert {task for task, _ in queued - in_line} <= backlog
            if self.window is None:
                assert not backlog
            elif self.lost_nothing:
                assert len(in_line) <= self.window
                assert queued == in_line or len(in_line) == self.window
            else:
                assert queued == in_line or in_line

    @invariant()
    def no_task_starts_before_all_its_parents_have_succeeded(self) -> None:
        if not hasattr(self, "model"):
            return
        for task in self.model.status:
            if self.stage.status(task, self.run_id) in STARTED:
                assert all(self.stage.status(up, self.run_id) == "SUCCEEDED" for up in self.model.graph.parents[task])

    @invariant()
    def what_comes_last_begins_when_all_others_have_ended_and_is_told_how(self) -> None:
        if not hasattr(self, "model") or self.model.on_exit is None:
            return
        run = self.stage.run(self.run_id)
        if self.stage.status(self.model.on_exit, self.run_id) in STARTED:
            assert self.model.others_have_ended()
        assert run.get("exitStatus") == self.model.told
        failed = {task for task, status in self.model.others().items() if status == "FAILED"}
        if self.model.told is not None:
            assert set(filter(None, run.get("failedTasks", "").split(","))) == failed

    @invariant()
    def no_attempt_is_committed_twice(self) -> None:
        if hasattr(self, "model"):
            assert all(count == 1 for count in self.model.commits.values())

    @invariant()
    def an_ended_run_never_changes(self) -> None:
        if not hasattr(self, "model"):
            return
        run = self.stage.run(self.run_id)
        if self.final is not None:
            assert run == self.final
        elif run["status"] in ENDED:
            self.final = run
            assert set(self.model.status.values()) <= {"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED"}

    def teardown(self) -> None:
        """Deliver all that is left; then the run has ended, its counters add up and nothing is pending."""
        if not hasattr(self, "model"):
            return
        if self.cancel_unfinished:
            self.do_cancel()
        for _ in range(200):
            self.note_entries()
            left = [(stream, entry) for stream in self.stage.groups for entry in self.stage.entries(stream)]
            if not left:
                break
            for stream, (entry, fields) in left:
                if stream in self.keys.ready_streams:
                    self.do_launch(entry, fields, stream)
                elif stream == self.keys.launched:
                    self.do_end(entry, fields, ("SUCCEEDED", False))
                elif stream == self.keys.finished:
                    self.do_settle(entry, fields)
                elif stream == self.keys.settled:
                    commit_one(self.stage.client, self.stage.finalise_call(self.run_id, entry=entry))
                else:
                    self.stage.client.xack(stream, self.stage.groups[stream], entry)
                    self.stage.client.xdel(stream, entry)
                self.redis_agrees_with_the_model()
        run = self.stage.run(self.run_id)
        assert run["status"] in ENDED, f"the run never ends: {run}"
        # A group keeps the id of an entry that was lost until somebody takes it over (tests/helios/test_streams.py).
        assert self.stage.pending() == 0 or not self.lost_nothing
        assert counters(run) == counters(self.stage.folded(self.run_id))
        statuses = Counter(self.model.status.values())
        assert (run["taskSucceeded"], run["taskCancelled"]) == (
            str(statuses["SUCCEEDED"]),
            str(statuses["CANCELLED"]),
        )
        assert sum(statuses.values()) == int(run["taskCount"])
        assert run["status"] == self.model.outcome()
        self.stage.client.close()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names in a call, so that small DAGs have the chunks of large ones."""
    monkeypatch.setattr(transitions, "NAMES_IN_A_CALL", 2)


BOUNDED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}


def test_any_order_of_messages_ends_well_on_the_imitation() -> None:
    run_state_machine_as_test(
        Transitions, settings=settings(max_examples=60, stateful_step_count=50, derandomize=True, **BOUNDED)
    )


def test_any_order_of_messages_ends_well_on_the_real_server(valkey: redis.Redis) -> None:
    class OnValkey(Transitions):
        def connect(self) -> redis.Redis:
            valkey.flushall()
            return valkey

    run_state_machine_as_test(
        OnValkey, settings=settings(max_examples=30, stateful_step_count=40, derandomize=True, **BOUNDED)
    )
