"""Skipping: an attempt is looked at once, and then either ended or ready again, whatever comes in between."""

from typing import Any

import msgspec
import pytest
import redis

from helios.events import Producer, TaskEnded
from helios.keys import memo
from helios.records import AttemptRecord, read_tasks
from helios.transitions import (
    Call,
    check,
    claim_memo,
    commit_one,
    forget_memo,
    keep_memo,
    note_wait,
    quarantine_memo,
    release_memo,
    renew_memo,
    skip,
    unskip,
    warn_run,
)
from tests.stage import RUN, Stage, counters

KEY = memo("0" * 64)
PRODUCER = Producer("1-0", "a")


class Look:
    """One run of a task and its child; the task is looked at."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.keys = self.stage.keys
        self.stage.open({"a": (), "b": ("a",)})

    def check(self, attempt: int = 1) -> Any:
        entry = self.stage.entry_of(self.keys.ready, "a", attempt)
        return commit_one(self.client, check(self.keys, entry=entry, run=RUN, task="a", attempt=attempt))

    def unskip(self, attempt: int = 1) -> Any:
        entry = self.stage.entry_of(self.keys.checks, "a", attempt)
        return commit_one(self.client, unskip(self.keys, entry=entry, run=RUN, task="a", attempt=attempt, memo=b"{}"))

    def skip_call(self, attempt: int = 1) -> Call:
        return skip(
            self.keys,
            entry=self.stage.entry_of(self.keys.checks, "a", attempt),
            run=RUN,
            task="a",
            attempt=attempt,
            record=msgspec.json.encode(AttemptRecord(exitCode=0, skipped=PRODUCER)),
            memo=b"{}",
            event=TaskEnded(RUN, "a", attempt, "SUCCEEDED", "N/A", 0, 0, "", None, PRODUCER),
        )

    def skip(self, attempt: int = 1) -> Any:
        return commit_one(self.client, self.skip_call(attempt))


@pytest.fixture
def look(client: redis.Redis) -> Look:
    return Look(client)


def test_a_skipped_task_has_succeeded_and_its_children_follow(look: Look) -> None:
    assert look.check() == 1
    assert (look.stage.status("a"), look.client.xlen(look.keys.ready)) == ("QUEUED", 0)
    assert look.skip() == 1
    assert look.stage.settle("a") == "settled"
    assert look.stage.emitted(look.keys.ready) == [("b", "1")]
    look.stage.pass_through("b")
    look.stage.finalise()
    fields = look.stage.run()
    assert (fields["status"], fields["taskSucceeded"], fields["taskSkipped"]) == ("SUCCEEDED", "2", "1")
    (view,) = read_tasks(look.client, look.keys, RUN, ["a"])
    assert (view.skipped, view.startTime) == (PRODUCER, view.endTime)
    assert look.stage.left() == look.stage.pending() == 0


def test_a_task_that_is_not_skipped_is_ready_once_more_and_looked_at_no_more(look: Look) -> None:
    look.check()
    assert look.unskip() == 1
    assert look.stage.emitted(look.keys.ready) == [("a", "1")]
    assert look.check() == 0
    assert look.stage.left() == 0


def test_a_look_that_comes_twice_or_too_late_changes_nothing(look: Look) -> None:
    """Above all it takes no Job that exists for one that does not."""
    look.check()
    assert look.check() == 0
    look.unskip()
    assert (look.unskip(), look.skip()) == (0, 0)
    look.stage.launch("a")
    look.client.xadd(look.keys.checks, {"run": RUN, "task": "a", "attempt": "1"})
    assert (look.unskip(), look.skip()) == (0, 0)
    assert look.stage.status("a") == "RUNNING"
    assert counters(look.stage.run())["taskSkipped"] == "0"


def test_a_cancel_while_it_is_looked_at_wins(look: Look) -> None:
    look.check()
    look.stage.cancel(["a", "b"])
    assert (look.skip(), look.stage.status("a")) == (0, "CANCELLED")
    assert counters(look.stage.run()) | {"taskCancelled": "2", "taskSkipped": "0"} == counters(look.stage.run())
    assert look.client.xlen(look.keys.checks) == 0


def test_the_next_attempt_is_looked_at_again(look: Look) -> None:
    look.check()
    look.unskip()
    look.stage.launch("a")
    look.stage.end("a", status="FAILED", disrupted=True)
    assert look.stage.settle("a") == "retried"
    assert look.check(2) == 1
    assert look.skip(2) == 1
    task = look.stage.task("a")
    assert int(task["launchedAt"]) == int(task["endedAt"]) >= int(task["queuedAt"])


def test_whom_it_waits_for_is_shown_while_it_waits(look: Look) -> None:
    call = note_wait(look.keys, run=RUN, task="a", attempt=1, waits_for="run 1-0 task a")
    assert commit_one(look.client, call) == 0
    look.check()
    assert [commit_one(look.client, call) for _ in range(2)] == [1, 0]
    (view,) = read_tasks(look.client, look.keys, RUN, ["a"])
    assert view.reason == "waits for run 1-0 task a, which does the same work"
    look.unskip()
    (view,) = read_tasks(look.client, look.keys, RUN, ["a"])
    assert view.reason is None


def test_a_broken_stream_leaves_nothing_half_done(look: Look) -> None:
    look.check()
    look.client.delete(look.keys.finished)
    look.client.set(look.keys.finished, "broken")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        look.skip()
    assert look.stage.status("a") == "QUEUED"
    assert counters(look.stage.run())["taskSkipped"] == "0"
    assert look.client.xlen(look.keys.checks) == 1


def test_a_warning_is_added_once_and_only_to_a_run_that_is_kept(look: Look) -> None:
    for words, news in (("one", 1), ("two", 1), ("one", 0)):
        assert commit_one(look.client, warn_run(look.keys, run=RUN, warning=words)) == news
    assert look.stage.run()["warnings"] == "one\ntwo"
    assert commit_one(look.client, warn_run(look.keys, run="9-9", warning="x")) == 0
    assert not look.client.exists(look.keys.run("9-9"))


def claim(client: redis.Redis, name: str, *, dead: str = "", known_at: str = "") -> str:
    found: str = commit_one(client, claim_memo(KEY, claim=name, dead=dead, known_at=known_at, kept_seconds=60))
    return found


def keep(client: redis.Redis, name: str, run: str = "1-0") -> int:
    call = keep_memo(
        KEY,
        claim=name,
        kept_seconds=60,
        run=run,
        task="a",
        attempt=1,
        node="n",
        outputs=b"[]",
        parts=b"{}",
        ended_ms=5,
    )
    found: int = commit_one(client, call)
    return found


def test_one_claim_holds_until_it_is_given_back_or_known_to_be_dead(client: redis.Redis) -> None:
    assert [claim(client, "one"), claim(client, "one"), claim(client, "two")] == ["one", "one", "one"]
    assert claim(client, "two", dead="one") == "two"
    assert claim(client, "three", dead="one") == "two"
    assert commit_one(client, release_memo(KEY, claim="one")) == 0
    assert commit_one(client, release_memo(KEY, claim="two")) == 1
    assert claim(client, "three") == "three"
    assert 0 < client.ttl(KEY) <= 60


def test_a_success_that_is_news_is_looked_at_before_it_is_run_again(client: redis.Redis) -> None:
    claim(client, "one")
    assert [keep(client, "one"), keep(client, "one")] == [1, 0]
    assert client.hget(KEY, "claim") is None
    assert claim(client, "two") == ""
    assert claim(client, "two", known_at="5") == "two"
    assert keep(client, "another's", "2-0") == 1
    assert client.hget(KEY, "claim") == "two"


def test_only_the_success_that_was_looked_at_is_remembered_for_longer(client: redis.Redis) -> None:
    keep(client, "one")
    client.expire(KEY, 5)
    assert commit_one(client, renew_memo(KEY, run="9-9", task="a", attempt=1, kept_seconds=600)) == 0
    assert client.ttl(KEY) <= 5
    assert commit_one(client, renew_memo(KEY, run="1-0", task="a", attempt=1, kept_seconds=600)) == 1
    assert client.ttl(KEY) > 500
    client.delete(KEY)
    assert commit_one(client, renew_memo(KEY, run="1-0", task="a", attempt=1, kept_seconds=600)) == 0
    assert client.exists(KEY) == 0


def test_only_the_success_that_was_looked_at_is_forgotten_and_a_quarantine_never(client: redis.Redis) -> None:
    keep(client, "one")
    assert commit_one(client, forget_memo(KEY, run="9-9", task="a", attempt=1)) == 0
    assert commit_one(client, forget_memo(KEY, run="1-0", task="a", attempt=1)) == 1
    assert client.hgetall(KEY) == {}
    keep(client, "one")
    assert [commit_one(client, quarantine_memo(KEY, reason="r", kept_seconds=60)) for _ in range(2)] == [1, 0]
    assert commit_one(client, forget_memo(KEY, run="1-0", task="a", attempt=1)) == 0
    assert keep(client, "two", "2-0") == 0
    assert (client.hget(KEY, "state"), client.hget(KEY, "run")) == ("quarantined", "1-0")
