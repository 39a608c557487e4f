"""Which blobs the tasks of active runs still need."""

from typing import Any

import msgspec
import pytest
import redis

from helios.dag import parse_dag
from helios.keys import source_known
from helios.podwire import SourceKnown
from helios.records import AttemptRecord, OutputRecord
from helios.transitions import commit, commit_one
from services.collector import demand
from services.collector.demand import Demand, Need
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store
from services.submitter.accept import open_calls
from tests.services.pod_calls import SETTINGS, as_keeper
from tests.stage import RUN, Stage

CSV, MADE, OTHER = "cd" * 32, "ab" * 32, "ef" * 32
LATER = "1764027260124-0"


def dag(*tasks: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode(
        {"dagName": "d", "tasks": [{"image": "i", "command": ["x"], **task} for task in tasks], **fields}
    )


def outside(key: str = "in.csv") -> dict[str, str]:
    return {"uri": f"s3://bucket/{key}", "as": key}


def made(task: str = "up") -> dict[str, str]:
    return {"fromTask": task, "name": "made"}


CHAIN = dag(
    {"name": "up", "inputs": [outside()], "outputs": ["made"]},
    {"name": "down", "inputs": [made(), outside()]},
    {"name": "beside", "inputs": [made()]},
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Runs:
    """Runs by hand, and what is demanded of them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.clock = Clock()
        store = Store(SETTINGS)
        self.demand = Demand(client, 1, "helios", store.source, self.clock)
        known = SourceKnown(version="etag 1", bytes=9, sha256=CSV)
        client.set(source_known("127.0.0.1:9/bucket/in.csv"), msgspec.json.encode(known))

    def open(self, text: bytes, run: str = RUN, *, use_cache: bool | None = None) -> None:
        for call in open_calls(self.stage.keys, run, parse_dag(text), use_cache):
            commit_one(self.client, call)

    def succeed(self, task: str, run: str = RUN) -> None:
        self.stage.launch(task, run=run)
        self.stage.end(task, run=run)
        output = OutputRecord("made", 7, MADE, f"runs/{run}/{task}/1/p/made")
        record = AttemptRecord(exitCode=0, outputs=[output])
        self.client.hset(self.stage.keys.task(run, task), "record", msgspec.json.encode(record))
        self.stage.settle(task, run=run)

    def needs(self) -> dict[str, tuple[int, int, int]]:
        """By digest the number of tasks that are queued, wait and run."""
        self.clock.now += 1000
        return {digest: (each.queued, each.waiting, each.running) for digest, each in self.demand.current().items()}


@pytest.fixture
def runs(client: redis.Redis) -> Runs:
    return Runs(client)


def test_a_blob_is_needed_until_the_last_task_that_takes_it_has_ended(runs: Runs) -> None:
    assert runs.needs() == {}
    runs.open(CHAIN)
    assert runs.needs() == {CSV: (1, 1, 0)}, "what up will make does not exist yet"
    runs.stage.launch("up")
    assert runs.needs() == {CSV: (0, 1, 1)}
    runs.stage.end("up")
    runs.client.hset(
        runs.stage.keys.task(RUN, "up"),
        "record",
        msgspec.json.encode(AttemptRecord(outputs=[OutputRecord("made", 7, MADE, "k")])),
    )
    runs.stage.settle("up")
    assert runs.needs() == {CSV: (1, 0, 0), MADE: (2, 0, 0)}
    runs.succeed("down")
    assert runs.needs() == {MADE: (1, 0, 0)}
    runs.succeed("beside")
    assert runs.needs() == {}


def test_a_need_says_where_its_bytes_are(runs: Runs) -> None:
    runs.open(CHAIN)
    runs.succeed("up")
    runs.clock.now += 1000
    needs = runs.demand.current()
    assert needs[CSV] == Need(CSV, 9, ("bucket", "in.csv"), queued=1)
    assert needs[MADE] == Need(MADE, 7, ("helios", f"runs/{RUN}/up/1/p/made"), queued=2)


def test_runs_add_up_and_those_without_the_cache_do_not_count(runs: Runs) -> None:
    runs.open(dag({"name": "a", "inputs": [outside()]}))
    runs.open(dag({"name": "b", "inputs": [outside()]}), LATER)
    runs.open(dag({"name": "c", "inputs": [outside()]}), "1764027260125-0", use_cache=False)
    assert runs.needs() == {CSV: (2, 0, 0)}


def test_what_a_source_holds_is_not_known_before_a_node_has_brought_it(runs: Runs) -> None:
    runs.open(dag({"name": "a", "inputs": [outside("new.csv")]}))
    assert runs.needs() == {}


def test_a_failed_task_and_what_stood_behind_it_need_nothing(runs: Runs) -> None:
    runs.open(CHAIN)
    runs.stage.launch("up")
    runs.stage.end("up", status="FAILED")
    runs.stage.fail("up", below=["down", "beside"])
    assert runs.needs() == {}


def test_a_look_is_kept_for_ten_times_what_it_cost(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    look = runs.demand._look  # pyright: ignore[reportPrivateUsage]

    def costly() -> dict[str, Need]:
        runs.clock.now += 2.0
        return look()

    monkeypatch.setattr(runs.demand, "_look", costly)
    assert runs.demand.needed([CSV]) == []
    runs.open(CHAIN)
    runs.clock.now += 19.9
    assert runs.demand.needed([CSV]) == []
    runs.clock.now += 0.2
    assert runs.demand.needed([OTHER, CSV]) == [CSV]


def test_of_very_much_work_the_oldest_counts(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "INPUTS_AT_MOST", 4)
    runs.open(CHAIN)
    runs.open(dag({"name": "a", "inputs": [outside()]}), LATER)
    assert runs.needs() == {CSV: (1, 1, 0)}


@pytest.mark.parametrize("broken", ["dag", "task", "record", "source"])
def test_a_record_that_cannot_be_read_takes_only_itself_away(runs: Runs, broken: str) -> None:
    runs.open(CHAIN)
    runs.open(dag({"name": "a", "inputs": [outside()]}), LATER)
    runs.succeed("up")
    keys = runs.stage.keys
    if broken == "dag":
        runs.client.set(keys.dag(RUN), "{")
        assert runs.needs() == {CSV: (1, 0, 0)}
    elif broken == "task":
        runs.client.delete(keys.task(RUN, "down"))
        runs.client.set(keys.task(RUN, "down"), "no hash")
        assert runs.needs() == {CSV: (1, 0, 0), MADE: (1, 0, 0)}
    elif broken == "record":
        runs.client.hset(keys.task(RUN, "up"), "record", "{")
        assert runs.needs() == {CSV: (2, 0, 0)}
    else:
        runs.client.set(source_known("127.0.0.1:9/bucket/in.csv"), "{")
        assert runs.needs() == {MADE: (2, 0, 0)}


def test_a_keeper_is_told_which_of_its_candidates_are_needed(runs: Runs) -> None:
    runs.open(CHAIN)
    endpoint = PodEndpoint(runs.client, Store(SETTINGS), SETTINGS)
    asked = {"node": "n1", "candidates": [OTHER, CSV]}
    assert as_keeper(endpoint, "/v1/demand", "n1", asked) == ("200 OK", {"needed": [CSV]})


def test_a_look_at_ten_thousand_tasks_is_read_in_parts(valkey: redis.Redis) -> None:
    runs = Runs(valkey)
    tasks = [{"name": f"t{number}", "inputs": [made(), outside(), outside(f"{number}.csv")]} for number in range(9_999)]
    dag_text = dag({"name": "up", "inputs": [outside()], "outputs": ["made"]}, *tasks)
    commit(valkey, open_calls(runs.stage.keys, RUN, parse_dag(dag_text), None))
    runs.succeed("up")
    assert runs.needs() == {CSV: (9_999, 0, 0), MADE: (9_999, 0, 0)}
