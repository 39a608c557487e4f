"""All logs together: what makes room for what, when they take more than their share of Redis."""

import redis

from helios.keys import Keys
from helios.settings import Settings
from services.collector.logroom import make_room
from tests.stage import Stage

MIB = 1024**2
SETTINGS = Settings(log_bytes=10 * MIB)
KEYS = Keys(0)


def run_id(number: int) -> str:
    return f"{1764027260123 + number}-0"


def with_logs(client: redis.Redis, stage: Stage, number: int, mebibytes: int, *, ended: bool = True) -> None:
    run = run_id(number)
    stage.open({"a": []}, run=run)
    stage.launch("a", run=run)
    if ended:
        client.zrem(KEYS.active, run)
    for step in ("fetch", "task", "publish"):
        client.xadd(KEYS.log(run, "a", 1, step), {"line": "x"})
    client.zincrby(KEYS.log_sizes, mebibytes * MIB, run)


def logs_of(client: redis.Redis, number: int) -> int:
    return sum(client.exists(KEYS.log(run_id(number), "a", 1, step)) for step in ("fetch", "task", "publish"))


def test_the_oldest_runs_lose_their_logs_and_say_so(client: redis.Redis) -> None:
    stage = Stage(client)
    for number in range(6):
        with_logs(client, stage, number, 2)
    make_room(client, SETTINGS)
    assert [logs_of(client, number) for number in range(6)] == [0, 0, 3, 3, 3, 3]
    assert [client.hget(KEYS.run(run_id(number)), "logsDropped") for number in range(3)] == ["1", "1", None]
    assert client.zcard(KEYS.log_sizes) == 4
    make_room(client, SETTINGS)
    assert logs_of(client, 2) == 3


def test_a_run_that_goes_on_keeps_its_logs_while_others_have_some(client: redis.Redis) -> None:
    stage = Stage(client)
    with_logs(client, stage, 0, 5, ended=False)
    with_logs(client, stage, 1, 4)
    with_logs(client, stage, 2, 2)
    make_room(client, SETTINGS)
    assert [logs_of(client, number) for number in range(3)] == [3, 0, 3]
    with_logs(client, stage, 3, 20, ended=False)
    make_room(client, SETTINGS)
    assert [logs_of(client, number) for number in range(4)] == [0, 0, 0, 0]


def test_a_run_that_was_deleted_is_forgotten_and_not_made_anew(client: redis.Redis) -> None:
    client.zincrby(KEYS.log_sizes, 20 * MIB, run_id(0))
    make_room(client, SETTINGS)
    assert client.keys("*") == []
