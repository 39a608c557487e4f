"""`helios why` on records in a real Redis: which earlier run it compares with, and what it prints."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from helios.dag import parse_dag
from helios.events import Producer
from helios.records import AttemptRecord, InputRecord, OutputRecord
from helios.transitions import commit_one
from services.submitter.accept import open_calls
from tests.cli.command import Helios
from tests.redis_servers import Valkey
from tests.stage import Stage

DAG = """
dagName: word-count
tasks:
  - {name: split, image: alpine, command: [SPLIT], inputs: [{uri: "s3://corpora/opticks.txt"}], outputs: [part]}
  - {name: count, image: alpine, command: [wc], inputs: [{fromTask: split, name: part}], outputs: [n]}
"""
FIRST, SECOND, THIRD = (f"{1764027260000 + number}-0" for number in range(3))
A, B = "a" * 64, "b" * 64
WHY = "no success with the same image, command, env and inputs is remembered"


class Runs:
    def __init__(self, client: redis.Redis) -> None:
        self.stage = Stage(client)

    def run(
        self,
        run: str,
        *,
        part: str = A,
        command: str = "split",
        cause: str = "cached",
        node: str = "n1",
        version: str = "1",
        detail: str = "",
        **count: Any,
    ) -> None:
        """A run of the DAG: the digest of split's output, and how its input was brought; `count` ends otherwise."""
        for call in open_calls(self.stage.keys, run, parse_dag(DAG.replace("SPLIT", command).encode()), None):
            commit_one(self.stage.client, call)
        source = InputRecord(
            "opticks.txt",
            500,
            cause,
            source="store",
            sha256=version * 64,
            version=f'etag "{version}"',
            detail=detail,
        )
        self._end(run, "split", node, [source], OutputRecord("part", 9, part, f"runs/{run}/split/1/p/part"))
        brought = InputRecord("part", 9, "never-here", source="store", sha256=part)
        self._end(run, "count", node, [brought], OutputRecord("n", 1, B, f"runs/{run}/count/1/p/n"), **count)
        self.stage.finalise(run)

    def _end(
        self,
        run: str,
        task: str,
        node: str,
        inputs: list[InputRecord],
        output: OutputRecord,
        *,
        status: str = "SUCCEEDED",
        reason: str | None = None,
    ) -> None:
        self.stage.launch(task, run=run)
        self.stage.end(task, run=run, node=node, status=status)
        record = AttemptRecord(exitCode=0, node=node, inputs=inputs, outputs=[output], reason=reason)
        self.stage.client.hset(self.stage.keys.task(run, task), "record", msgspec.json.encode(record))
        if status == "SUCCEEDED":
            self.stage.settle(task, run=run)
        else:
            self.stage.fail(task, run=run)


@pytest.fixture
def runs(valkey: redis.Redis) -> Runs:
    return Runs(valkey)


@pytest.fixture
def helios(shared_valkey: Valkey, tmp_path: Path) -> Helios:
    return Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})


def test_a_changed_command_above_is_named(runs: Runs, helios: Helios) -> None:
    runs.run(FIRST)
    runs.run(SECOND, part=B, command="other")
    done = helios("why", "@latest", "count")
    assert done.code == 0, done.err
    assert f"compared  with run {FIRST}, where it ran on n1" in done.out
    assert "not memoized" in done.out
    assert "miss  part = split/part" not in done.out
    assert f"n1 never had this content: it is not the one of run {FIRST}" in done.out
    assert "because split: its command changed" in done.out
    found = helios("why", SECOND, "split", "-o", "json").json()
    assert found["definition"] == ["its command changed"]
    assert found["inputs"] == [
        {
            "name": "opticks.txt",
            "origin": "s3://corpora/opticks.txt",
            "bytes": 500,
            "hit": True,
            "cause": "cached",
            "source": "store",
            "content": "same",
            "why": "it was in the cache of n1",
            "before": {"cause": "cached", "node": "n1", "version": 'etag "1"', "sha256": "1" * 64},
            "roots": [],
        }
    ]


def test_a_run_in_which_the_task_failed_is_passed_over(runs: Runs, helios: Helios) -> None:
    runs.run(FIRST, node="n2")
    runs.run(SECOND, status="FAILED")
    runs.run(THIRD)
    found = helios("why", THIRD, "count", "-o", "json").json()
    assert (found["comparedWith"], found["comparedNode"]) == (FIRST, "n2")
    assert found["inputs"][0]["why"] == (
        f"other node: run {FIRST} had the same content on n2, this ran on n1, which never had it"
    )
    chosen = helios("why", THIRD, "count", "--against", SECOND, "-o", "json").json()
    assert chosen["comparedWith"] == SECOND


def test_a_first_run_is_compared_with_nothing(runs: Runs, helios: Helios) -> None:
    runs.run(FIRST)
    done = helios("why", FIRST, "count", "--input", "part")
    assert done.code == 0, done.err
    assert "compared  with nothing" in done.out
    assert "n1 never had it, and no earlier run of this DAG" in done.out


def test_a_run_that_was_forgotten_is_not_taken_for_a_mistake(runs: Runs, helios: Helios) -> None:
    runs.stage.client.xadd(runs.stage.keys.forgotten, {"run": FIRST, "dag": "word-count"})
    runs.run(SECOND)
    for words in (("why", FIRST, "count"), ("show", FIRST), ("critical", FIRST), ("assert", FIRST)):
        done = helios(*words)
        assert done.code == 2
        assert f"run {FIRST} is no longer kept" in done.err


def test_what_is_not_there_is_explained(runs: Runs, helios: Helios) -> None:
    runs.run(FIRST)
    for words, said in (
        (("why", FIRST, "cuont"), "did you mean 'count'?"),
        (("why", FIRST, "count", "--input", "prat"), "did you mean 'part'?"),
        (("why", "1-1", "count"), "there is no run 1-1"),
    ):
        done = helios(*words)
        assert done.code == 2
        assert said in done.err


def test_a_success_that_was_skipped_is_compared_by_the_inputs_of_the_task_that_stood_for_it(
    runs: Runs, helios: Helios
) -> None:
    runs.run(FIRST, version="1")
    runs.run(SECOND)
    skipped = AttemptRecord(
        exitCode=0, outputs=[OutputRecord("part", 9, A, "runs/x/part")], skipped=Producer(FIRST, "split")
    )
    runs.stage.client.hset(runs.stage.keys.task(SECOND, "split"), "record", msgspec.json.encode(skipped))
    told = helios("why", SECOND, "split", "-o", "json").json()
    assert told["why"] == f"it did not run: the success of task split in run {FIRST} stands for it"
    assert told["inputs"][0]["why"] == "it was not brought, because the task was skipped"
    runs.run(THIRD, version="2", cause="changed", part=B)
    found = helios("why", THIRD, "split", "-o", "json").json()
    assert found["comparedWith"] == SECOND
    assert found["inputs"][0]["why"] == f"the source changed from ETag 1 (run {SECOND}) to ETag 2"
    (part,) = helios("why", THIRD, "count", "-o", "json").json()["inputs"]
    assert [(root["kind"], root["task"]) for root in part["roots"]] == [("source", "split")]


def test_what_an_input_had_to_make_room_for_is_named(runs: Runs, helios: Helios) -> None:
    """The keeper knows digests only; runs of any DAG that read or made that content know its name."""
    runs.run(FIRST, part=B)
    runs.run(SECOND, cause="evicted", detail=f"evicted 2026-11-28T14:02:11Z to make room for {B}")
    done = helios("why", SECOND, "split")
    assert done.code == 0, done.err
    assert f"evicted 2026-11-28T14:02:11Z to make room for output n of task count in run {SECOND} (bbbbbbbbbbbb…)" in (
        done.out
    )
    runs.run(THIRD, cause="evicted", detail=f"evicted 2026-11-28T14:02:11Z to make room for {'f' * 64}")
    (corpus,) = helios("why", THIRD, "split", "-o", "json").json()["inputs"]
    assert corpus["why"].endswith("to make room for a blob that no run which is kept names (ffffffffffff…)")


def test_a_task_that_failed_says_why(runs: Runs, helios: Helios) -> None:
    runs.run(FIRST, status="FAILED", reason="input 'part' could not be brought")
    assert "failed    input 'part' could not be brought" in helios("why", FIRST, "count").out
    assert helios("why", FIRST, "count", "-o", "json").json()["reason"] == "input 'part' could not be brought"
    assert helios("why", FIRST, "split", "-o", "json").json()["reason"] is None


def test_the_parts_of_a_key_that_differ_are_named(runs: Runs, helios: Helios) -> None:
    for run, parts, why in ((FIRST, {"image": "1", "command": "2"}, ""), (SECOND, {"image": "9", "command": "2"}, WHY)):
        runs.run(run)
        task = runs.stage.keys.task(run, "count")
        spec = msgspec.json.decode(runs.stage.client.hget(task, "spec") or "")
        dag = msgspec.json.decode(runs.stage.client.get(runs.stage.keys.dag(run)) or "")
        dag["tasks"][1] = {**spec, "memoize": {}}
        runs.stage.client.set(runs.stage.keys.dag(run), msgspec.json.encode(dag))
        runs.stage.client.hset(task, "memo", msgspec.json.encode({"key": run, "parts": parts, "why": why}))
    told = helios("why", SECOND, "count", "-o", "json").json()
    assert told["differingParts"] == ["image"]
    assert told["why"] == f"it ran because {WHY}; against run {FIRST} image differs"
