"""Submissions wait while too many runs are open or Redis is nearly full; what is open, and every cancel, goes on."""

from typing import Any

import pytest
import redis

from cli.submission import why_waiting
from helios.heartbeat import Heartbeat
from helios.keys import CONTROLS, SUBMISSIONS, SUBMITTER_GROUP
from helios.settings import Settings
from helios.streams import Inbox
from services.submitter.admission import Admission
from services.submitter.ingress import STREAMS, Ingress
from tests.stage import Stage, dag_text


class Setting:
    """A submitter's way in, turned by hand."""

    def __init__(self, client: redis.Redis, **settings: Any) -> None:
        self.client = client
        self.stage = Stage(client)
        self.settings = Settings(replica="here", **settings)
        self.inbox = Inbox(
            client, group=SUBMITTER_GROUP, consumer="here", streams=STREAMS, batch_entries=4, lease_seconds=15
        )
        self.heartbeat = Heartbeat(client, "submitter", "here")
        self.admission = Admission(client, self.inbox, self.settings, self.heartbeat)
        self.ingress = Ingress(client, self.inbox, 1, self.settings.ready_per_run, self.admission)

    def submit(self, **fields: str) -> str:
        run: Any = self.client.xadd(SUBMISSIONS, {"dag": dag_text({"a": []}), **fields})
        return run

    def turn(self) -> None:
        self.admission.turn()
        self.heartbeat.beat()
        for failure in self.ingress.handle(self.inbox.read(1)):
            raise failure.error

    def statuses(self, runs: list[str]) -> list[str | None]:
        return [self.client.hget(self.stage.keys.run(run), "status") for run in runs]

    def end(self, run: str) -> None:
        self.stage.cancel(["a"], run=run)
        self.stage.finalise(run)


def test_above_the_limit_submissions_wait_in_order_and_each_end_lets_others_in(client: redis.Redis) -> None:
    setting = Setting(client, runs_active=4)
    runs = [setting.submit() for _ in range(12)]
    for _ in range(5):
        setting.turn()
    assert setting.statuses(runs) == ["RUNNING"] * 4 + [None] * 8
    assert client.xlen(SUBMISSIONS) == 8
    assert client.xpending(SUBMISSIONS, SUBMITTER_GROUP)["pending"] == 0, "nobody has what waits in hand"
    setting.end(runs[0])
    setting.turn()
    setting.turn()
    assert setting.statuses(runs)[1:8] == ["RUNNING"] * 7, "a read takes a few at a time"
    for run in runs[1:8]:
        setting.end(run)
    for _ in range(3):
        setting.turn()
    assert setting.statuses(runs) == ["CANCELLED"] * 8 + ["RUNNING"] * 4
    assert client.xlen(SUBMISSIONS) == 0


def test_a_cancel_passes_while_submissions_wait(client: redis.Redis) -> None:
    setting = Setting(client, runs_active=1)
    runs = [setting.submit() for _ in range(6)]
    setting.turn()
    for run in (runs[0], runs[5]):
        client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    setting.turn()
    setting.turn()
    assert setting.stage.run(runs[0])["cancelledAt"]
    withdrawn = setting.stage.run(runs[5])
    assert (withdrawn["status"], withdrawn["dagName"]) == ("CANCELLED", "trial")
    assert withdrawn["reason"] == "cancelled before it was accepted"
    assert client.xlen(CONTROLS) == 0


def test_a_submission_that_was_withdrawn_opens_no_run_when_its_turn_comes(client: redis.Redis) -> None:
    setting = Setting(client, runs_active=4)
    runs = [setting.submit() for _ in range(5)]
    setting.turn()
    setting.turn()
    client.xadd(CONTROLS, {"run": runs[4], "action": "cancel"})
    setting.turn()
    setting.end(runs[0])
    setting.turn()
    setting.turn()
    assert setting.statuses(runs)[4] == "CANCELLED"
    assert client.lrange(setting.stage.keys.task_names(runs[4]), 0, -1) == []
    assert client.xlen(SUBMISSIONS) == 0


def test_people_are_told_why_submissions_wait_and_when_no_longer(client: redis.Redis) -> None:
    class Link:
        def __init__(self) -> None:
            self.client = client

    link: Any = Link()
    setting = Setting(client, runs_active=1)
    assert why_waiting(link) == ""
    runs = [setting.submit() for _ in range(6)]
    setting.turn()
    setting.turn()
    assert why_waiting(link) == "2 submissions wait for room: 4 runs are open, and HELIOS_RUNS_ACTIVE is 1"
    for run in runs[:4]:
        setting.end(run)
    setting.turn()
    assert why_waiting(link) == ""


@pytest.mark.parametrize("open_runs", [0, 1])
def test_a_full_redis_opens_another_run_only_if_none_is_open(valkey: redis.Redis, open_runs: int) -> None:
    """What is open could not end without memory; and without an open run nothing would ever make room."""
    setting = Setting(valkey, redis_full_percent=50)
    if open_runs:
        setting.stage.open({"a": []})
    valkey.config_set("maxmemory", int(valkey.info("memory")["used_memory"] * 1.5))
    try:
        run = setting.submit()
        setting.turn()
        assert setting.statuses([run]) == [None if open_runs else "RUNNING"]
        assert ("Redis's memory is" in setting.admission.reason) == bool(open_runs)
    finally:
        valkey.config_set("maxmemory", 0)
    if open_runs:
        setting.admission.memory = (0.0, 0)
        setting.turn()
        assert setting.statuses([run]) == ["RUNNING"]


def test_a_priority_that_is_none_is_refused_and_one_overrides_the_dags(client: redis.Redis) -> None:
    setting = Setting(client)
    runs = [setting.submit(priority=each) for each in ("urgent", "high", "")]
    setting.turn()
    assert setting.statuses(runs) == ["REJECTED", "RUNNING", "RUNNING"]
    assert setting.stage.run(runs[0])["problems"] == "priority is 'urgent', but it takes high, normal or low"
    assert setting.stage.run(runs[1])["priority"] == "high"
    assert [setting.stage.client.xlen(stream) for stream in setting.stage.keys.ready_streams] == [1, 1, 0]
