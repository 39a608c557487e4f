"""The submitter's handler of finished attempts: batches of any mixture, one bad entry at no other's cost."""

import msgspec
import pytest
import redis
from redis.exceptions import ResponseError

from helios.streams import Entry
from services.submitter.settle import GRAPHS_KEPT, Settler
from tests.stage import RUN, Stage


class Setting:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.settler = Settler(client, partitions=1)

    def finish(self, task: str, status: str = "SUCCEEDED", run: str = RUN) -> None:
        self.stage.launch(task, run=run)
        self.stage.end(task, status=status, run=run)

    def finished(self) -> list[Entry]:
        stream = self.stage.keys.finished
        self.stage.deliver(stream)
        return [Entry(stream=stream, id=entry, fields=fields) for entry, fields in self.stage.entries(stream)]


@pytest.fixture
def setting(client: redis.Redis) -> Setting:
    return Setting(client)


def test_a_batch_of_successes_and_failures_is_settled_in_one_go(setting: Setting) -> None:
    setting.stage.open(
        {"a": [], "b": [], "c": [], "under-a": ["a"], "under-b": ["b"], "deep": ["under-b", "under-a"]},
        retries={"c": 1},
    )
    setting.finish("a")
    setting.finish("b", "FAILED")
    setting.finish("c", "FAILED")
    entries = setting.finished()
    assert setting.settler.handle(entries) == []
    assert [setting.stage.status(task) for task in ("a", "b", "c", "under-a", "under-b", "deep")] == [
        "SUCCEEDED",
        "FAILED",
        "QUEUED",
        "QUEUED",
        "UPSTREAM_FAILED",
        "UPSTREAM_FAILED",
    ]
    assert setting.client.xlen(setting.stage.keys.finished) == 0
    assert setting.settler.handle(entries) == [], "and once more, to no effect"
    assert setting.stage.run()["taskUpstreamFailed"] == "2"


def test_one_bad_entry_keeps_no_other_from_being_settled(setting: Setting) -> None:
    setting.stage.open({"a": [], "b": [], "c": []})
    for task in "abc":
        setting.finish(task)
    setting.client.delete(setting.stage.keys.task(RUN, "b"))
    setting.client.set(setting.stage.keys.task(RUN, "b"), "of the wrong type")
    setting.client.xadd(setting.stage.keys.finished, {"run": RUN, "task": "a"})
    failures = setting.settler.handle(setting.finished())
    assert {type(failure.error) for failure in failures} == {ResponseError, msgspec.ValidationError}
    assert [fields["task"] for _, fields in setting.stage.entries(setting.stage.keys.finished)] == ["b", "a"]


def test_a_failed_task_whose_dag_is_damaged_is_an_error_of_that_entry(setting: Setting) -> None:
    setting.stage.open({"a": []})
    setting.finish("a", "FAILED")
    setting.client.delete(setting.stage.keys.dag(RUN))
    setting.client.rpush(setting.stage.keys.dag(RUN), "of the wrong type")
    assert [str(failure.error)[:9] for failure in setting.settler.handle(setting.finished())] == ["WRONGTYPE"]


def test_the_graphs_of_few_runs_are_kept(setting: Setting) -> None:
    for number in range(GRAPHS_KEPT + 3):
        run = f"{1764027260000 + number}-0"
        setting.stage.open({"a": [], "b": ["a"]}, run=run)
        setting.finish("a", "FAILED", run)
    assert setting.settler.handle(setting.finished()) == []
    assert len(setting.settler.graphs) == GRAPHS_KEPT
