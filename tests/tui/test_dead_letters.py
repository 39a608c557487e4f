"""Dead letters are retried once, by what helps, or discarded."""

import threading
from typing import Any

import pytest
import redis

from cli.connection import Link
from cli.dead_letters import discard, read_letters, retry
from cli.failure import CommandFailed
from cli.letters import Letter, remedy
from helios.dag import parse_dag
from helios.deadletter import LETTER_CHARACTERS
from helios.keys import CONTROLS, SUBMISSIONS, keys_of_run
from helios.settings import Settings
from helios.transitions import commit_one, retry_letter
from tests.stage import RUN, Stage
from tests.tui.letters import bury_entry


@pytest.fixture
def stage(valkey: redis.Redis) -> Stage:
    return Stage(valkey, keys_of_run(RUN, Settings().partitions).partition)


@pytest.fixture
def link(valkey: redis.Redis) -> Link:
    return Link(valkey, Settings())


def only_letter(link: Link) -> Letter:
    (letter,), in_all = read_letters(link)
    assert in_all == 1
    return letter


def buried(stage: Stage, **fields: str) -> None:
    """A letter whose run goes on."""
    bury_entry(stage.client, stage.keys, stage.keys.ready, {"run": RUN, "task": "a", "attempt": "1", **fields})


def test_the_entry_of_a_run_that_goes_on_is_put_back_as_it_was(link: Link, stage: Stage) -> None:
    stage.open({"a": ()})
    stage.client.xtrim(stage.keys.ready, maxlen=0)
    buried(stage)
    assert remedy(only_letter(link))[0] == "again"
    assert "put back" in retry(link, only_letter(link))
    assert [fields for _, fields in stage.entries(stage.keys.ready)] == [{"run": RUN, "task": "a", "attempt": "1"}]
    assert stage.entries(stage.keys.dead) == []


def test_of_two_retries_at_once_one_adds_the_entry(link: Link, stage: Stage) -> None:
    stage.open({"a": ()})
    stage.client.xtrim(stage.keys.ready, maxlen=0)
    buried(stage)
    letter = only_letter(link)
    call = retry_letter(letter.dead, letter.stream, run=stage.keys.run(RUN), letter=letter.id)
    together = threading.Barrier(2)
    results: list[Any] = []

    def once() -> None:
        together.wait()
        results.append(commit_one(stage.client, call))

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]
    assert len(stage.entries(stage.keys.ready)) == 1
    with pytest.raises(CommandFailed, match="gone"):
        retry(link, letter)


def test_a_run_that_ended_gets_no_entry_back_but_its_dag_is_submitted_again(link: Link, stage: Stage) -> None:
    dag = stage.open({"a": (), "b": ("a",)})
    buried(stage)
    stage.client.hset(stage.keys.run(RUN), "status", "FAILED")
    letter = only_letter(link)
    assert (
        commit_one(stage.client, retry_letter(letter.dead, letter.stream, run=stage.keys.run(RUN), letter=letter.id))
        == -1
    )
    way, words = remedy(letter)
    assert (way, "has ended (FAILED)" in words) == ("rerun", True)
    retry(link, letter)
    ((_, fields),) = stage.entries(SUBMISSIONS)
    assert parse_dag(fields["dag"].encode()).dag == dag.dag
    assert fields["requestId"] == f"letter-p{stage.keys.partition}-{letter.id}"
    assert stage.entries(stage.keys.dead) == []


def test_a_letter_that_may_be_cut_is_not_put_back(link: Link, stage: Stage) -> None:
    stage.open({"a": ()})
    buried(stage, refused="x" * LETTER_CHARACTERS)
    with pytest.raises(CommandFailed, match="only the beginning"):
        retry(link, only_letter(link))
    assert len(stage.entries(stage.keys.dead)) == 1


def test_a_submission_is_sent_again_with_a_request_id_of_the_letters_own(link: Link, stage: Stage) -> None:
    bury_entry(stage.client, stage.keys, SUBMISSIONS, {"dag": "x"})
    letter = only_letter(link)
    retry(link, letter)
    ((_, fields),) = stage.entries(SUBMISSIONS)
    assert fields == {"dag": "x", "requestId": f"letter-p{stage.keys.partition}-{letter.id}"}
    assert stage.entries(stage.keys.dead) == []


def test_a_submission_keeps_the_request_id_it_had_and_a_control_is_sent_as_it_was(link: Link, stage: Stage) -> None:
    bury_entry(stage.client, stage.keys, SUBMISSIONS, {"dag": "x", "requestId": "mine"})
    retry(link, only_letter(link))
    assert stage.entries(SUBMISSIONS)[0][1]["requestId"] == "mine"
    bury_entry(stage.client, stage.keys, CONTROLS, {"run": RUN, "action": "cancel"})
    retry(link, only_letter(link))
    assert stage.entries(CONTROLS)[0][1] == {"run": RUN, "action": "cancel"}


def test_a_letter_of_a_run_that_is_gone_can_only_be_discarded(link: Link, stage: Stage) -> None:
    buried(stage)
    letter = only_letter(link)
    with pytest.raises(CommandFailed, match="not kept"):
        retry(link, letter)
    assert discard(link, letter) == "discarded"
    assert discard(link, letter) == "it was gone already"
    assert read_letters(link) == ([], 0)
