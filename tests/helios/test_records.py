"""What Redis keeps, as readers see it: whatever a record holds, reading it raises nothing."""

from typing import Any

import msgspec
import pytest
import redis

from helios.events import AnyEvent, RunAccepted, TaskEnded, TasksQueued, decode_event, encode_event
from helios.keys import Keys, all_partitions, keys_of_run, partition_of, run_score
from helios.messages import Finished, Ready, decode
from helios.records import TASK_FIELDS, AttemptRecord, OutputRecord, read_tasks, run_numbers, task_view
from helios.settings import SettingInvalid, settings_from
from tests.stage import RUN, Stage


def view(**fields: str | None) -> Any:
    return task_view("t", [fields.get(name) for name in TASK_FIELDS])


def test_a_task_that_waits_has_no_times() -> None:
    seen = view(status="QUEUED", attempt="2", launchedAt="5", endedAt="6", record="{}")
    assert (seen.status, seen.attempt, seen.startTime, seen.endTime) == ("QUEUED", 2, None, None)


def test_an_ended_task_shows_its_record() -> None:
    record = AttemptRecord(exitCode=3, node="n", cache="Hit", outputs=[OutputRecord("o", 1, "x")], cpuMs=7)
    seen = view(status="FAILED", attempt="1", endedAt="6", record=msgspec.json.encode(record).decode())
    assert (seen.exitCode, seen.node, seen.cache, seen.cpuMs, seen.endTime) == (3, "n", "Hit", 7, 6)


def test_an_upstream_failure_names_its_cause() -> None:
    assert view(status="UPSTREAM_FAILED", cause="a").reason == "upstream task 'a' failed"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "FAILED", "record": "{broken"},
        {"status": "FAILED", "record": '{"exitCode": "x"}'},
        {"status": "SUCCEEDED", "attempt": "many", "endedAt": "soon", "launchedAt": "-", "queuedAt": "\udcff"},
        {"status": "no such", "attempt": "-1"},
    ],
)
def test_a_damaged_record_is_shown_and_raises_nothing(fields: dict[str, str]) -> None:
    assert view(**fields).name == "t"


def test_a_key_of_the_wrong_type_is_an_unknown_task(client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": [], "b": []})
    client.set(stage.keys.task(RUN, "a"), "oops")
    seen = read_tasks(client, stage.keys, RUN, ["a", "b", "nobody"])
    assert [each.status for each in seen] == ["UNKNOWN", "QUEUED", "UNKNOWN"]
    assert "WRONGTYPE" in (seen[0].reason or "")


def test_a_run_shows_numbers_as_numbers() -> None:
    shown = run_numbers({"taskCount": "3", "cacheEnabled": "true", "problems": "a\nb", "dagName": "7"})
    assert shown == {"taskCount": 3, "cacheEnabled": True, "problems": ["a", "b"], "dagName": "7"}


@pytest.mark.parametrize(
    "event",
    [
        RunAccepted("1-0", "d", 3, True),
        TasksQueued("1-0", 1, ["a", "b"]),
        TaskEnded("1-0", "a", 1, "FAILED", "Miss", 1, 2, "n", 'a "reason"\n'),
    ],
)
def test_an_event_reads_as_it_was_written(event: AnyEvent) -> None:
    assert decode_event(encode_event(event)) == event


def test_a_message_with_new_fields_is_still_understood() -> None:
    """Messages evolve by adding fields; an older reader ignores them."""
    assert decode({"run": "r", "task": "t", "attempt": "2", "later": "x"}, Finished) == Finished("r", "t", 2)


@pytest.mark.parametrize("attempt", ["", "one", "1.5", "NaN"])
def test_a_message_with_a_bad_number_names_the_field(attempt: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="attempt"):
        decode({"run": "r", "task": "t", "attempt": attempt}, Ready)


def test_every_key_of_a_partition_is_in_one_slot() -> None:
    """The first hash tag decides, whatever a name holds."""
    keys = Keys(3)
    made = [
        *keys.ready_streams,
        keys.offered("r", "high"),
        keys.backlog("{p0}", "low"),
        keys.run("r"),
        keys.task("r", "{x}"),
        keys.request("{p0}"),
        keys.dag_runs("d"),
        keys.log("r", "t", 1, "task"),
    ]
    assert all(key.startswith("helios:{p3}:") for key in made)
    assert [each.partition for each in all_partitions(3)] == [0, 1, 2]


def test_a_runs_partition_is_the_same_for_every_process() -> None:
    assert [partition_of(run, 4) for run in ("1764027260123-0", "1764027260123-1", "", "\udcff")] == [2, 0, 0, 0]
    assert keys_of_run("1764027260123-0", 4).partition == 2


def test_runs_sort_by_their_ids() -> None:
    assert run_score("5-2") < run_score("5-10") < run_score("6-0")
    assert run_score(f"{2**64 - 1}-{2**64 - 1}") > run_score("1764027260123-0")


@pytest.mark.parametrize(
    "environment",
    [
        {"HELIOS_PARTITIONS": "two"},
        {"HELIOS_PARTITIONS": "0"},
        {"HELIOS_LEASE_SECONDS": "-1"},
        {"HELIOS_LEASE_SECONDS": "nan"},
    ],
)
def test_a_bad_setting_is_refused_by_its_name(environment: dict[str, str]) -> None:
    with pytest.raises(SettingInvalid, match=next(iter(environment))):
        settings_from(environment)


def test_an_empty_setting_is_the_default() -> None:
    assert settings_from({"HELIOS_PARTITIONS": "", "HELIOS_REPLICA": "me"}).replica == "me"
