"""`forEach` over an earlier task's output, through all services: a real Valkey and a real S3; only pods are made up."""

import json
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from backports import zstd

from helios.dag import Dag, parse_dag
from helios.dag_written import written
from helios.localjobs import StepStatus
from helios.messages import Control
from helios.records import OutputRecord, Stored, decode_attempt, read_tasks
from helios.recovery import OBJECT_BYTES, StoredRun, run_key
from helios.streams import Entry
from helios.transitions import UNSEEN_KEPT_SECONDS, Call, cancel_all, commit, commit_one, unskip
from helios.worker import Later
from services.collector import grow
from services.collector.metrics import disagreements, fold
from services.collector.recovery import Recorder
from services.collector.skip import Skipper
from services.collector.store import Store
from services.jobrunner.jobs import job_name
from services.submitter.accept import open_calls, recover
from services.submitter.reconcile import Reconciler
from tests.real_s3 import RealS3
from tests.redis_servers import free_port
from tests.services.test_memo import BUCKET, KEYS, Town


def document(**work: Any) -> dict[str, Any]:
    one: dict[str, Any] = {"image": "tool:1", "command": ["make"]}
    return {
        "dagName": "d",
        "tasks": [
            {"name": "list", "outputs": ["parts.json"], **one},
            {
                "name": "work",
                "forEach": {"fromTask": "list", "name": "parts.json"},
                "args": ["${item}"],
                "outputs": ["o"],
                **one,
                **work,
            },
            {"name": "merge", "inputs": [{"fromTask": "work", "name": "o", "as": "parts"}], "outputs": ["all"], **one},
        ],
    }


@pytest.fixture
def town(valkey: redis.Redis, real_s3: RealS3) -> Iterator[Town]:
    made = Town(valkey, real_s3.endpoint)
    yield made
    made.skipper.close()


def listed(town: Town, content: bytes | list[Any] | None = None, **work: Any) -> str:
    """A run whose list is there."""
    run = town.submit(document(**work))
    assert town.is_running(run, "list")
    assert not town.task(run, "work-a")
    town.finish(
        run, "list", outputs={"parts.json": content if isinstance(content, bytes) else json.dumps(content).encode()}
    )
    return run


def fails(town: Town, run: str, task: str, attempt: int = 1) -> None:
    steps = {"task": StepStatus(startedAt=1, endedAt=2, exitCode=1)}
    town.pods.over(job_name(run, task, attempt), "Failed", steps=steps)
    town.pump()  # the collector sees it in its turn, which comes last
    town.pump()


def names(town: Town, run: str) -> list[str]:
    found: Any = town.client.lrange(KEYS.task_names(run), 0, -1)
    return found


def stored_dag(town: Town, run: str) -> Dag:
    text: Any = town.client.get(KEYS.dag(run))
    return msgspec.json.decode(text, type=Dag)


def events(town: Town, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(fields["event"]) for _, fields in town.client.xrange(KEYS.events)]
    return [each for each in found if each["type"] == kind]


def assert_consistent(town: Town, run: str) -> None:
    """The live counters, the tasks' records and the DAG say the same."""
    tasks = read_tasks(town.client, KEYS, run, names(town, run))
    fields = town.run(run)
    assert disagreements(fields, fold(tasks, fields)) == {}
    assert names(town, run) == [task.name for task in stored_dag(town, run).tasks]
    assert int(fields["taskCount"]) == len(tasks)
    assert Reconciler(town.client, 1).look() == 0


def test_a_run_gets_a_task_for_each_item_and_goes_on_when_all_have_ended(town: Town) -> None:
    run = listed(town, ["a", "b"])
    assert names(town, run) == ["list", "work", "work-a", "work-b", "merge"]
    assert town.is_running(run, "work-a")
    assert town.is_running(run, "work-b")
    assert (town.status(run, "work"), town.status(run, "merge")) == ("WAITING", "WAITING")
    assert json.loads(town.task(run, "work-a")["spec"])["args"] == ["a"]
    assert events(town, "TasksAdded") == [
        {"type": "TasksAdded", "run": run, "by": "work", "tasks": ["work-a", "work-b"]}
    ]
    town.finish(run, "work-a", outputs={"o": b"1"})
    assert town.status(run, "merge") == "WAITING"
    town.finish(run, "work-b", outputs={"o": b"2"})
    assert town.status(run, "work") == "SUCCEEDED"
    assert town.is_running(run, "merge")
    spec = json.loads(town.task(run, "merge")["spec"])
    assert [(each["fromTask"], each["as"]) for each in spec["inputs"]] == [
        ("work-a", "parts/a"),
        ("work-b", "parts/b"),
    ]
    town.finish(run, "merge", outputs={"all": b"12"}, fetched={"parts/a": "1", "parts/b": "2"})
    assert town.run(run)["status"] == "SUCCEEDED"
    assert town.run(run)["taskSucceeded"] == "5"
    assert_consistent(town, run)
    assert "work" not in " ".join(town.jobs.created).split(), "the task that stands for others has no Job"
    assert len(town.jobs.created) == 4


def test_with_no_items_the_run_goes_on_at_once(town: Town) -> None:
    run = listed(town, [])
    assert town.status(run, "work") == "SUCCEEDED"
    assert town.is_running(run, "merge")
    assert json.loads(town.task(run, "merge")["spec"]).get("inputs") is None
    town.finish(run, "merge", outputs={"all": b""})
    assert town.run(run)["status"] == "SUCCEEDED"
    assert events(town, "TasksAdded") == []
    assert_consistent(town, run)


def test_an_instance_that_fails_fails_what_waits_for_all(town: Town) -> None:
    run = listed(town, ["a", "b"], retries={"count": 1})
    for attempt in (1, 2):
        fails(town, run, "work-a", attempt)
    assert town.status(run, "work-a") == "FAILED"
    assert (town.status(run, "work"), town.status(run, "merge")) == ("UPSTREAM_FAILED", "UPSTREAM_FAILED")
    assert town.run(run)["status"] == "RUNNING"
    town.finish(run, "work-b", outputs={"o": b"2"})
    assert town.run(run)["status"] == "FAILED"
    assert_consistent(town, run)


def test_a_failure_is_followed_through_a_graph_that_was_read_before_the_run_grew(town: Town) -> None:
    run = town.submit(
        {**document(), "tasks": [*document()["tasks"], {"name": "alone", "image": "i", "command": ["c"]}]}
    )
    fails(town, run, "alone")
    assert run in town.settler.graphs
    town.finish(run, "list", outputs={"parts.json": b'["a"]'})
    fails(town, run, "work-a")
    assert [town.status(run, each) for each in ("work-a", "work", "merge")] == [
        "FAILED",
        "UPSTREAM_FAILED",
        "UPSTREAM_FAILED",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", None),
        (b"{", "is not a JSON list"),
        (b'{"a": 1}', "is JSON, but not a list"),
        (b'[["a"]]', "is a list, but its item 0 is neither text nor a number nor a boolean"),
        (b"\xff", "is not UTF-8: byte 0"),
        (b'["a", "a"]', "item 1 makes the task 'work-a', as item 0 is"),
        (json.dumps(list(range(10_001))).encode(), "its list has 10,001 items; the limit is 10,000"),
        (b" " * (grow.LIST_BYTES_AT_MOST + 1), "has 4,194,305 bytes; a list that forEach goes over has at most"),
    ],
)
def test_a_list_that_cannot_be_used_fails_its_task_in_words(town: Town, content: bytes, reason: str | None) -> None:
    run = listed(town, content)
    if reason is None:
        assert town.status(run, "work") == "SUCCEEDED"
        return
    assert town.status(run, "work") == "FAILED"
    assert reason in (decode_attempt(town.task(run, "work")["record"]).reason or "")
    assert town.status(run, "merge") == "UPSTREAM_FAILED"
    assert town.run(run)["status"] == "FAILED"
    assert town.run(run)["taskFailed"] == "1"
    assert_consistent(town, run)


def replaced(town: Town, run: str, output: OutputRecord) -> None:
    """The record of the list's output, changed before it is read."""
    record = decode_attempt(town.task(run, "list")["record"])
    changed = msgspec.structs.replace(record, outputs=[output])
    town.client.hset(KEYS.task(run, "list"), "record", msgspec.json.encode(changed))


@contextmanager
def nobody_looks(town: Town) -> Iterator[None]:
    """The collector's loop that looks at what gets no Job yet takes its entries, and comes no further with them."""
    with pytest.MonkeyPatch.context() as asleep:
        asleep.setattr(town.skipper, "handle", lambda _: ())
        yield


def before_it_is_read(town: Town, content: bytes) -> tuple[str, OutputRecord]:
    """A run whose list is stored, while nobody has looked at it."""
    run = town.submit(document())
    with nobody_looks(town):
        town.finish(run, "list", outputs={"parts.json": content})
    town.checks.history_unread = True
    (output,) = decode_attempt(town.task(run, "list")["record"]).outputs
    return run, output


def test_a_list_that_lies_compressed_is_unpacked(town: Town) -> None:
    content = json.dumps([f"item-{number}" for number in range(100)]).encode()
    run, output = before_it_is_read(town, content)
    packed = zstd.compress(content)
    town.store.write(output.key, packed)
    replaced(town, run, msgspec.structs.replace(output, stored=Stored(codec="zstd", bytes=len(packed))))
    town.pump()
    assert town.run(run)["taskCount"] == "103"


def test_a_list_that_unpacks_to_more_than_it_says_costs_no_memory(town: Town) -> None:
    run, output = before_it_is_read(town, b"[]")
    packed = zstd.compress(b" " * 200_000_000)
    town.store.write(output.key, packed)
    replaced(town, run, msgspec.structs.replace(output, stored=Stored(codec="zstd", bytes=len(packed))))
    tracemalloc.start()
    try:
        town.pump()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 1024**2
    assert "is not what the task stored" in (decode_attempt(town.task(run, "work")["record"]).reason or "")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("content", "is not what the task stored"),
        ("object", "is not in the object store any more"),
        ("packed", "is damaged in the object store"),
        ("folder", "is a folder"),
        ("record", "is not recorded"),
    ],
)
def test_what_became_of_the_list_since_it_was_stored_is_noticed(town: Town, damage: str, reason: str) -> None:
    run, output = before_it_is_read(town, b'["a"]')
    match damage:
        case "content":
            town.store.write(output.key, b'["b"]')
        case "object":
            town.store.client.remove_object(BUCKET, output.key)
        case "packed":
            replaced(town, run, msgspec.structs.replace(output, stored=Stored(codec="zstd", bytes=5)))
        case "folder":
            replaced(town, run, msgspec.structs.replace(output, archive=True))
        case _:
            replaced(town, run, msgspec.structs.replace(output, name="other"))
    town.pump()
    assert town.status(run, "work") == "FAILED"
    assert reason in (decode_attempt(town.task(run, "work")["record"]).reason or "")
    assert town.run(run)["status"] == "FAILED"


def test_a_store_that_is_away_makes_it_wait(town: Town) -> None:
    run, _ = before_it_is_read(town, b'["a"]')
    there = town.skipper.grower.store
    settings = msgspec.structs.replace(town.settings, s3_endpoint=f"http://127.0.0.1:{free_port()}")
    town.skipper.grower.store = Store(settings)
    (failure,) = town.pump()
    assert isinstance(failure.error, Later)
    assert "the object store does not answer" in str(failure.error)
    assert town.status(run, "work") == "QUEUED"
    town.skipper.grower.store = there
    town.look_again()
    assert town.is_running(run, "work-a")


def test_who_died_on_the_way_left_nothing_that_is_seen_and_the_next_does_it_all(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = before_it_is_read(town, b'["a", "b"]')
    with monkeypatch.context() as broken:
        broken.setattr(grow, "commit_one", lambda client, call: 0)
        town.pump()
    assert names(town, run) == ["list", "work", "merge"]
    ttl: Any = town.client.ttl(KEYS.task(run, "work-a"))
    assert 0 < ttl <= UNSEEN_KEPT_SECONDS
    town.look_again()
    assert town.is_running(run, "work-a")
    assert town.client.ttl(KEYS.task(run, "work-a")) == -1
    assert_consistent(town, run)


def test_two_that_look_at_once_make_each_task_once(town: Town) -> None:
    run, _ = before_it_is_read(town, json.dumps(list(range(300))).encode())
    entries = town.checks.read(1)
    other = Skipper(town.client, town.store, town.settings)
    both = [threading.Thread(target=each.handle, args=(entries,)) for each in (town.skipper, other)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    other.close()
    assert town.run(run)["taskCount"] == "303"
    assert town.client.xlen(KEYS.ready) == 300
    assert town.client.xlen(KEYS.checks) == 0
    town.pump()
    assert len(town.jobs.created) == 301
    assert_consistent(town, run)


def test_a_collector_that_slept_makes_nothing_when_the_tasks_have_ended_meanwhile(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that stands for them is looked at again then, in the same attempt."""
    run, _ = before_it_is_read(town, b'["a"]')
    slept: list[Call] = []
    with monkeypatch.context() as asleep:
        asleep.setattr(grow, "commit", lambda _, calls: slept.extend(calls) or [])
        asleep.setattr(grow, "commit_one", lambda _, call: slept.append(call) or 0)
        town.pump()
    town.look_again()
    with nobody_looks(town):
        town.finish(run, "work-a", outputs={"o": b"1"})
    assert (town.status(run, "work"), town.task(run, "work")["checking"]) == ("QUEUED", "1")
    assert commit(town.client, slept) == [0, 0]
    assert town.status(run, "work-a") == "SUCCEEDED"
    town.look_again()
    assert town.status(run, "work") == "SUCCEEDED"
    assert town.run(run)["taskCount"] == "4"


def test_a_message_that_comes_again_changes_nothing(town: Town) -> None:
    run = listed(town, ["a"])
    for stream in (KEYS.checks, KEYS.ready):
        town.client.xadd(stream, {"run": run, "task": "work", "attempt": "1"})
    town.pump()
    assert town.status(run, "work") == "WAITING"
    assert town.run(run)["taskCount"] == "4"
    town.finish(run, "work-a", outputs={"o": b"1"})
    assert town.status(run, "work") == "SUCCEEDED"
    town.client.xadd(KEYS.checks, {"run": run, "task": "work", "attempt": "1"})
    town.pump()
    assert town.run(run)["taskSucceeded"] == "3"


@pytest.mark.parametrize("reason", ["", "it is broken"])
def test_a_run_that_is_cancelled_gets_no_more_tasks(town: Town, reason: str) -> None:
    """Whatever of both comes first: the tasks that it has then are all cancelled."""
    run, _ = before_it_is_read(town, b'["a"]')
    cancel_all(town.client, KEYS, run=run, reason=reason)
    town.pump()
    assert names(town, run) == ["list", "work", "merge"]
    assert (town.run(run)["status"], town.run(run)["taskCancelled"]) == ("FAILED" if reason else "CANCELLED", "2")
    assert town.client.xlen(KEYS.checks) == 0
    grew = listed(town, ["a"])
    cancel_all(town.client, KEYS, run=grew, reason=reason)
    town.pump()
    assert [town.status(grew, each) for each in ("work", "work-a", "merge")] == ["CANCELLED"] * 3
    assert town.run(grew)["status"] == ("FAILED" if reason else "CANCELLED")


def test_a_cancel_that_was_marked_and_not_carried_out_lets_the_run_grow_no_more(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = before_it_is_read(town, b'["a"]')
    reads = town.client.lrange

    def grown_meanwhile(*args: Any) -> Any:
        found = reads(*args)
        monkeypatch.undo()
        town.pump()
        return found

    monkeypatch.setattr(town.client, "lrange", grown_meanwhile)
    cancel_all(town.client, KEYS, run=run)
    town.pump()
    assert names(town, run) == ["list", "work", "merge"]
    assert town.run(run)["status"] == "CANCELLED"


def test_new_tasks_take_their_turns_like_others(town: Town) -> None:
    """At most `window` of one run and priority stand in line, whatever the run's size was when it began."""
    run = "1764027269123-0"
    for call in open_calls(KEYS, run, parse_dag(json.dumps(document(priority="high")).encode()), None, window=5):
        commit_one(town.client, call)
    town.pump()
    town.finish(run, "list", outputs={"parts.json": json.dumps(list(range(20))).encode()})
    assert town.client.xlen(KEYS.ready_of("high")) == 5
    assert town.client.llen(KEYS.backlog(run, "high")) == 15
    assert town.task(run, "work-0")["priority"] == "high"


def test_a_run_with_a_priority_of_its_own_gives_it_to_the_new_tasks(town: Town) -> None:
    run = "1764027269123-0"
    for call in open_calls(KEYS, run, parse_dag(json.dumps(document()).encode()), None, priority="low"):
        commit_one(town.client, call)
    low = town.inbox("jobrunner", KEYS.ready_of("low"))
    town.runner.launch(low.read(1))
    town.pump()
    town.finish(run, "list", outputs={"parts.json": b'["a"]'})
    town.runner.launch(low.read(1))
    town.pump()
    town.runner.launch(low.read(1))
    town.pump()
    assert town.task(run, "work-a")["priority"] == "low"
    assert town.is_running(run, "work-a")


def test_instances_that_are_memoized_are_skipped_in_the_next_run(town: Town) -> None:
    first = listed(town, ["a", "b"], memoize=True)
    for each in "ab":
        town.finish(first, f"work-{each}", outputs={"o": each.encode()})
    second = listed(town, ["b", "c"], memoize=True)
    assert town.status(second, "work-b") == "SUCCEEDED"
    assert town.is_running(second, "work-c")
    assert town.run(second)["taskSkipped"] == "1"
    town.finish(second, "work-c", outputs={"o": b"c"})
    assert town.is_running(second, "merge")
    assert town.run(second)["taskSkipped"] == "1", "the task that stands for others is not counted as skipped"


def test_tasks_of_one_list_start_in_their_order(town: Town) -> None:
    one = document(args=["x"], depends_on=["work-${item.after}"])
    one["tasks"].append({"name": "work-0", "image": "i", "command": ["c"]})
    run = town.submit(one)
    town.finish(run, "list", outputs={"parts.json": b'[{"key": "1", "after": "0"}, {"key": "2", "after": "1"}]'})
    assert not town.task(run, "work-1"), "whatever an item may name is waited for"
    town.finish(run, "work-0", outputs={})
    assert [town.status(run, f"work-{key}") for key in "12"] == ["RUNNING", "WAITING"]
    town.finish(run, "work-1", outputs={"o": b"1"})
    assert town.is_running(run, "work-2")
    assert town.status(run, "work") == "WAITING"
    town.finish(run, "work-2", outputs={"o": b"2"})
    assert town.status(run, "work") == "SUCCEEDED"


def two_fans() -> dict[str, Any]:
    one = document()
    fan = {"name": "fan", "image": "i", "command": ["c"], "forEach": {"fromTask": "list", "name": "parts.json"}}
    one["tasks"].insert(2, {**fan, "outputs": ["m"]})
    one["tasks"][-1]["inputs"].append({"fromTask": "fan", "name": "m"})
    return one


def test_lists_that_are_there_at_the_same_moment_lose_nothing_of_each_other(town: Town) -> None:
    """Each reads the DAG, and writes it with its own tasks: whoever comes second has to know of the first."""
    for _ in range(4):
        run = town.submit(two_fans())
        with nobody_looks(town):
            town.finish(run, "list", outputs={"parts.json": b'["a", "b"]'})
        town.checks.history_unread = True
        entries: list[Entry] = []
        while len(entries) < 2:
            entries += town.checks.read(1)
        other = Skipper(town.client, town.store, town.settings)
        both = [
            threading.Thread(target=skipper.handle, args=([entry],))
            for skipper, entry in zip((town.skipper, other), entries, strict=True)
        ]
        for each in both:
            each.start()
        for each in both:
            each.join()
        other.close()
        assert names(town, run) == ["list", "work", "work-a", "work-b", "fan", "fan-a", "fan-b", "merge"]
        spec = json.loads(town.task(run, "merge")["spec"])
        assert [each["fromTask"] for each in spec["inputs"]] == ["work-a", "work-b", "fan-a", "fan-b"]
        town.pump()
        assert_consistent(town, run)
        cancel_all(town.client, KEYS, run=run)
        assert {town.status(run, each) for each in names(town, run)[1:]} == {"CANCELLED"}
        town.pump()


def test_a_list_that_one_collector_cannot_use_does_not_undo_what_another_made_of_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = before_it_is_read(town, b'["a"]')
    slept: list[Call] = []
    with monkeypatch.context() as asleep:
        asleep.setattr(grow, "read_list", lambda _: json.loads("["))
        asleep.setattr(grow, "ParamsUnreadable", ValueError)
        asleep.setattr(grow, "commit_one", lambda _, call: slept.append(call))
        town.pump()
    assert len(slept) == 1
    town.look_again()
    with nobody_looks(town):
        town.finish(run, "work-a", outputs={"o": b"1"})
    assert town.task(run, "work")["checking"] == "1"
    assert commit_one(town.client, slept[0]) == 0
    town.look_again()
    assert town.status(run, "work") == "SUCCEEDED"


def test_a_list_of_more_values_than_any_dag_needs_is_not_even_read(town: Town) -> None:
    run, _ = before_it_is_read(town, b"[" + b",".join([b"{}"] * 1_200_000) + b"]")
    tracemalloc.start()
    try:
        town.pump()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 1024**2
    assert "has more than 400,000 values" in (decode_attempt(town.task(run, "work")["record"]).reason or "")


def test_an_older_collector_that_gives_it_back_has_it_refused(town: Town) -> None:
    run, _ = before_it_is_read(town, b'["a"]')
    (entry,) = town.checks.read(1)
    commit_one(town.client, unskip(KEYS, entry=entry.id, run=run, task="work", attempt=1, memo=b"{}"))
    town.pump()
    town.pump()
    assert town.status(run, "work") == "FAILED"
    assert "it has no container" in (decode_attempt(town.task(run, "work")["record"]).reason or "")
    assert town.jobs.created == [job_name(run, "list", 1)]


def test_two_lists_one_after_the_other(town: Town) -> None:
    one = document()
    one["tasks"].insert(
        2,
        {
            "name": "fit",
            "forEach": {"fromTask": "list", "name": "parts.json"},
            "image": "i",
            "command": ["c"],
            "inputs": [{"fromTask": "work-${item}", "name": "o"}],
            "outputs": ["m"],
        },
    )
    one["tasks"][-1]["inputs"].append({"fromTask": "fit", "name": "m"})
    run = town.submit(one)
    town.finish(run, "list", outputs={"parts.json": b'["a", "b"]'})
    for each in "ab":
        town.finish(run, f"work-{each}", outputs={"o": b"1"})
    assert town.is_running(run, "fit-b")
    for each in "ab":
        town.finish(run, f"fit-{each}", outputs={"m": b"2"}, fetched={"o": "1"})
    assert town.is_running(run, "merge")
    assert len(json.loads(town.task(run, "merge")["spec"])["inputs"]) == 4
    town.finish(run, "merge", outputs={"all": b""}, fetched={})
    assert town.run(run)["status"] == "SUCCEEDED"
    assert_consistent(town, run)


def test_on_exit_comes_after_the_tasks_that_were_added(town: Town) -> None:
    run = town.submit({**document(), "onExit": {"name": "bye", "image": "i", "command": ["c"]}})
    town.finish(run, "list", outputs={"parts.json": b'["a"]'})
    town.finish(run, "work-a", outputs={"o": b"1"})
    assert names(town, run)[-1] == "bye"
    town.finish(run, "merge", outputs={"all": b""}, fetched={"parts/a": "1"})
    assert town.is_running(run, "bye")
    town.finish(run, "bye", outputs={})
    assert town.run(run)["status"] == "SUCCEEDED"
    assert_consistent(town, run)


def test_what_is_kept_of_a_run_that_has_grown_starts_it_again_from_the_list(town: Town) -> None:
    run = listed(town, ["a"])
    text: Any = town.client.get(KEYS.dag(run))
    again = parse_dag(written(text.encode()), recorded=True)
    assert [task.name for task in again.dag.tasks] == ["list", "work", "merge"]


def test_a_run_that_is_rebuilt_grows_again_and_does_nothing_twice(town: Town) -> None:
    run = listed(town, ["a", "b"])
    town.finish(run, "work-a", outputs={"o": b"1"})
    recorder = Recorder(town.client, town.store, town.settings)
    recorder.look()
    stored = msgspec.json.decode(town.store.read(run_key(run), OBJECT_BYTES), type=StoredRun)
    town.client.flushall()
    before = len(town.jobs.created)
    assert recover(town.client, Control(run=run, action="recover", dag=stored.dag), 1) == "recovered"
    town.pump()  # finds that the consumer groups are gone, and makes them
    town.pump()
    assert [town.status(run, each) for each in ("list", "work-a", "work-b")] == ["SUCCEEDED", "SUCCEEDED", "RUNNING"]
    assert town.jobs.created[before:] == [], "the Job that is there is taken over"
    town.finish(run, "work-b", outputs={"o": b"2"})
    assert town.is_running(run, "merge")
    assert_consistent(town, run)


def test_ten_thousand_tasks_are_made(town: Town) -> None:
    run, _ = before_it_is_read(town, json.dumps([str(number) for number in range(9_990)]).encode())
    assert not town.skipper.handle(town.checks.read(1))
    assert town.run(run)["taskCount"] == "9993"
    assert town.client.xlen(KEYS.ready) == 9_990
    assert names(town, run)[-1] == "merge"
