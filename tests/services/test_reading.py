"""Which ready attempts the jobrunner takes next: the most urgent first, and something of every class that waits."""

from collections import Counter

import pytest
import redis

from helios.keys import PRIORITIES, all_partitions
from helios.settings import Settings
from services.jobrunner.reading import TURN, ReadyInbox, shares
from tests.stage import RUN, Stage


def inbox(client: redis.Redis, batch: int, partitions: int = 1) -> ReadyInbox:
    return ReadyInbox(client, Settings(replica="here", batch_entries=batch), all_partitions(partitions))


def fill(client: redis.Redis, stage: Stage, priority: str, count: int) -> None:
    for number in range(count):
        client.xadd(stage.keys.ready_of(priority), {"run": RUN, "task": f"{priority}{number}", "attempt": "1"})


def taken(reader: ReadyInbox, turns: int) -> Counter[str]:
    found = [entry for _ in range(turns) for entry in reader.read(1)]
    return Counter(entry.fields["task"].rstrip("0123456789") for entry in found)


@pytest.mark.parametrize("batch", [1, 3, 16, 40])
def test_of_what_all_want_each_class_has_its_share_however_few_places_there_are_at_a_time(
    valkey: redis.Redis, batch: int
) -> None:
    stage = Stage(valkey)
    for priority in PRIORITIES:
        fill(valkey, stage, priority, 600)
    found = taken(inbox(valkey, batch), 480 // batch)
    assert found == {"high": 360, "normal": 90, "low": 30}


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({"normal": 100}, {"normal": 32}),
        ({"low": 100}, {"low": 32}),
        ({"normal": 100, "low": 100}, {"normal": 30, "low": 2}),
        ({"high": 100, "low": 100}, {"high": 30, "low": 2}),
        ({"high": 5, "normal": 100, "low": 1}, {"high": 5, "normal": 26, "low": 1}),
    ],
)
def test_what_a_class_has_no_use_for_goes_to_the_most_urgent_that_has(
    valkey: redis.Redis, waiting: dict[str, int], expected: dict[str, int]
) -> None:
    stage = Stage(valkey)
    for priority, count in waiting.items():
        fill(valkey, stage, priority, count)
    assert taken(inbox(valkey, 16), 2) == expected


def test_the_most_urgent_of_a_batch_come_first_and_each_is_of_its_own_stream(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    for priority in ("low", "normal", "high"):
        fill(valkey, stage, priority, 2)
    entries = inbox(valkey, 16).read(1)
    assert [entry.fields["task"] for entry in entries] == ["high0", "high1", "normal0", "normal1", "low0", "low1"]
    assert [entry.stream for entry in entries] == [each for each in stage.keys.ready_streams for _ in range(2)]


def test_what_comes_while_nothing_is_there_is_taken_at_once(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    reader = inbox(valkey, 16)
    assert reader.read(1) == []
    fill(valkey, stage, "low", 1)
    assert [entry.fields["task"] for entry in reader.read(5_000)] == ["low0"]


def test_groups_that_were_deleted_are_made_anew_and_what_waits_is_read(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    reader = inbox(valkey, 16)
    reader.read(1)
    for stream in stage.keys.ready_streams:
        valkey.delete(stream)
    fill(valkey, stage, "high", 1)
    found = [entry.fields["task"] for _ in range(3) for entry in reader.read(1)]
    assert found == ["high0"]


def test_every_partition_is_read(valkey: redis.Redis) -> None:
    stages = [Stage(valkey, number) for number in range(2)]
    for stage in stages:
        fill(valkey, stage, "low", 3)
    assert taken(inbox(valkey, 4, partitions=2), 2) == {"low": 6}


@pytest.mark.parametrize("places", [1, 2, 5, 16, 17, 100])
def test_shares_come_to_the_places_and_go_on_where_the_last_turn_ended(places: int) -> None:
    given = Counter[str]()
    first = 0
    for _ in range(16):
        of_turn = shares(first, places)
        assert sum(of_turn) == places
        given.update(dict(zip(PRIORITIES, of_turn, strict=True)))
        first = (first + places) % len(TURN)
    assert given == {priority: TURN.count(priority) * places for priority in PRIORITIES}
