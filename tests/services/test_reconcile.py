"""A message that Redis lost is sent again; one that is merely on its way is not."""

import pytest
import redis

from services.submitter.reconcile import Reconciler
from tests.stage import RUN, Stage


def looks(client: redis.Redis, times: int) -> list[int]:
    reconciler = Reconciler(client, partitions=1)
    return [reconciler.look() for _ in range(times)]


def test_a_healthy_run_is_left_alone(client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": [], "b": ["a"]})
    assert looks(client, 3) == [0, 0, 0]
    assert client.xlen(stage.keys.ready) == 1


@pytest.mark.parametrize("state", ["ready", "launched", "finished"])
def test_an_entry_that_is_missing_twice_is_sent_again(client: redis.Redis, state: str) -> None:
    """Whatever step the entry was for, the run goes on with it."""
    stage = Stage(client)
    stage.open({"a": [], "b": ["a"]})
    if state != "ready":
        stage.launch("a")
    if state == "finished":
        stage.end("a")
    stream = {"ready": stage.keys.ready, "launched": stage.keys.launched, "finished": stage.keys.finished}[state]
    before = client.xrange(stream)[0][1]
    client.delete(stream)
    assert looks(client, 3) == [0, 1, 0]
    assert client.xrange(stream)[0][1] == before


def test_a_run_whose_last_message_was_lost_is_settled_again(client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": []})
    stage.launch("a")
    stage.end("a")
    stage.settle("a")
    client.delete(stage.keys.settled)
    assert looks(client, 3) == [0, 1, 0]
    assert client.xrange(stage.keys.settled)[0][1] == {"run": RUN}


def test_what_is_sent_twice_changes_nothing(client: redis.Redis) -> None:
    """A repair of something that was not lost meets the fence."""
    stage = Stage(client)
    stage.open({"a": [], "b": ["a"]})
    client.xadd(stage.keys.ready, {"run": RUN, "task": "a", "attempt": "1"})
    stage.launch("a")
    assert stage.status("a") == "RUNNING"
    stage.launch("a")
    assert client.xlen(stage.keys.launched) == 1
