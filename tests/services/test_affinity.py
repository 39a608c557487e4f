"""Where a Job would rather run: with its inputs' bytes, but never all of them on one node."""

import hashlib
import json
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from helios.dag import Task, parse_dag
from helios.keys import NODES, node_blobs, node_cache, source_known
from helios.records import AttemptRecord, OutputRecord
from helios.settings import Settings
from helios.streams import Entry
from services.jobrunner.affinity import (
    FAIR_SHARES,
    FEW_PODS,
    MADE_SECONDS,
    NODES_NAMED,
    NODES_SECONDS,
    POD_BYTES,
    UNCOUNTED_SECONDS,
    WORTH_BYTES,
    Affinity,
    largest,
    place,
    preferences,
)
from services.jobrunner.jobs import Preference, WantedJob, job_name, wanted_job
from services.jobrunner.launch import JobRunner
from services.jobrunner.manifest import job_manifest, spec_hash
from tests.services.test_jobrunner import Launcher
from tests.stage import RUN, Stage

MIB = 1024**2
BIG = 64 * MIB
SETTINGS = Settings(token_key="k", agent_image="a", s3_endpoint="http://store:9000")


def named(found: Any) -> list[str]:
    return [each.node for each in found]


def test_the_node_with_most_of_the_bytes_is_preferred_most() -> None:
    inputs = {"x": 600 * MIB, "y": 400 * MIB}
    holds = {"n1": {"y"}, "n2": {"x"}, "n3": set[str]()}
    assert preferences(inputs, holds, dict.fromkeys(holds, 0)) == (Preference("n2", 100), Preference("n1", 67))


@pytest.mark.parametrize(
    ("inputs", "holds"),
    [
        ({"x": WORTH_BYTES - 1}, {"n1": {"x"}, "n2": set[str]()}),
        ({"x": BIG}, {"n1": {"x"}, "n2": {"x"}}),
        ({"x": BIG}, {"n1": set[str](), "n2": set[str]()}),
        ({"x": BIG}, {"n1": {"x"}}),
        ({"x": BIG, "y": WORTH_BYTES - 1}, {"n1": {"x"}, "n2": {"x", "y"}}),
        ({}, {"n1": {"x"}, "n2": set[str]()}),
    ],
    ids=["too small", "everywhere", "nowhere", "one node", "all but the same", "no inputs"],
)
def test_nothing_is_preferred_where_it_would_save_nothing(inputs: dict[str, int], holds: dict[str, set[str]]) -> None:
    assert preferences(inputs, holds, dict.fromkeys(holds, 0)) == ()


def test_each_pod_more_than_elsewhere_is_weighed_against_the_bytes() -> None:
    """Large inputs draw a task to a busy node that small ones would not."""
    holds, loads = {"n1": {"x"}, "n2": set[str]()}, {"n1": 3.0, "n2": 0.0}
    assert preferences({"x": 3 * POD_BYTES}, holds, loads) == ()
    assert named(preferences({"x": 3 * POD_BYTES + WORTH_BYTES}, holds, loads)) == ["n1"]


def test_a_busy_node_gives_way_to_another_that_holds_the_same() -> None:
    holds = {"n1": {"x"}, "n2": {"x"}, "n3": set[str]()}
    assert named(preferences({"x": BIG}, holds, {"n1": 2, "n2": 1, "n3": 0})) == ["n2", "n1"]


def test_a_job_names_only_the_best_of_many_nodes() -> None:
    holds = {f"n{n}": {"x"} for n in range(20)} | {"poor": set[str]()}
    assert len(preferences({"x": BIG}, holds, dict.fromkeys(holds, 0))) == NODES_NAMED


def test_three_consumers_of_one_artifact_all_prefer_its_producers_node() -> None:
    placed = place([{"x": BIG}] * 3, {"n1": {"x"}, "n2": set[str]()}, {"n1": 0, "n2": 0})
    assert [named(each) for each in placed] == [["n1"]] * 3


@pytest.mark.parametrize("size", [2 * MIB, BIG, 100_000 * MIB])
@pytest.mark.parametrize("nodes", [2, 20])
def test_a_thousand_tasks_do_not_pile_onto_the_node_with_their_input(nodes: int, size: int) -> None:
    loads = {f"n{n}": 0.0 for n in range(nodes)}
    placed = place([{"x": size}] * 1000, {"n0": {"x"}}, loads)
    preferring = sum(bool(each) for each in placed)
    assert FEW_PODS / 2 <= preferring <= FAIR_SHARES * 1000 / nodes
    assert loads["n0"] <= FAIR_SHARES * 1000 / nodes
    others = [load for node, load in loads.items() if node != "n0"]
    assert max(others) - min(others) <= 1


NAMES = st.sampled_from([f"n{n}" for n in range(6)])
DIGESTS = st.sampled_from("abcdef")


@given(
    tasks=st.lists(st.dictionaries(DIGESTS, st.integers(0, 200 * MIB), max_size=4), max_size=60),
    holds=st.dictionaries(NAMES, st.sets(DIGESTS), max_size=6),
    before=st.dictionaries(NAMES, st.integers(0, 30).map(float), min_size=2),
)
def test_no_node_is_preferred_beyond_its_share_and_a_half(
    tasks: list[dict[str, int]], holds: dict[str, set[str]], before: dict[str, float]
) -> None:
    """Whatever lies where: a node that got preferences has at most half as many pods again as the average, or few."""
    loads = dict(before)
    placed = place(tasks, holds, loads)
    assert sum(loads.values()) == sum(before.values()) + len(tasks)
    for count in Counter(each[0].node for each in placed if each).values():
        assert count <= max(FEW_PODS, FAIR_SHARES * sum(loads.values()) / len(loads))
    for preferred in placed:
        assert all(1 <= each.weight <= 100 for each in preferred)
        assert set(named(preferred)) <= loads.keys()


def test_where_too_many_blobs_are_wanted_the_largest_are_looked_for() -> None:
    assert largest([{"a": 5, "b": 9}, {"c": 7, "a": 5}], 2) == ["b", "c"]
    assert sorted(largest([{"a": 5}, {"b": 9}], 2)) == ["a", "b"]


DAG = """
dagName: d
tasks:
  - {name: make, image: i, command: [x], outputs: [big, small]}
  - name: use
    image: i
    command: [x]
    inputs: [{fromTask: make, name: big}, {uri: "s3://corpora/moby.txt"}]
  - {name: other, image: i, command: [x], inputs: [{fromTask: make, name: small}]}
  - {name: alone, image: i, command: [x]}
  - name: held
    image: i
    command: [x]
    inputs: [{fromTask: make, name: big}]
    nodeSelector: {kubernetes.io/hostname: n2}
"""


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def job_of(task: str, *, cache_enabled: bool = True) -> WantedJob:
    tasks: dict[str, Task] = {each.name: each for each in parse_dag(DAG.encode()).dag.tasks}
    return wanted_job(
        job_name(RUN, task, 1),
        tasks[task],
        run=RUN,
        attempt=1,
        cache_enabled=cache_enabled,
        settings=SETTINGS,
        now_seconds=1.0,
    )


class Setting:
    """Two nodes in Redis; n1 has what `make` made."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.now = 100.0
        self.affinity = Affinity(client, SETTINGS, lambda: self.now)
        self.heard("n1")
        self.heard("n2")
        outputs = [OutputRecord("big", BIG, digest("big")), OutputRecord("small", 5, digest("small"))]
        record = msgspec.json.encode(AttemptRecord(outputs=outputs)).decode()
        client.hset(self.stage.keys.task(RUN, "make"), "record", record)
        self.holds("n1", big=BIG, small=5)

    def heard(self, node: str, seconds_ago: float = 0) -> None:
        self.client.zadd(NODES, {node: int((time.time() - seconds_ago) * 1000)})

    def holds(self, node: str, **blobs: int) -> None:
        self.client.hset(node_blobs(node), mapping={digest(name): size for name, size in blobs.items()})

    def pods(self, node: str, count: int) -> None:
        self.client.hset(node_cache(node), "pods", count)

    def preferred(self, *tasks: str, **options: Any) -> list[list[str]]:
        return [named(job.prefers) for job in self.affinity.preferring([job_of(task, **options) for task in tasks])]


@pytest.fixture
def setting(client: redis.Redis) -> Setting:
    return Setting(client)


def test_a_job_prefers_the_node_with_its_producers_output(setting: Setting) -> None:
    assert setting.preferred("alone", "use", "other", "held") == [[], ["n1"], [], []]


def test_an_external_input_counts_by_its_newest_known_version(setting: Setting) -> None:
    setting.holds("n2", moby=2 * BIG)
    known = {"version": "etag A", "bytes": 2 * BIG, "sha256": digest("moby"), "at": 1}
    setting.client.set(source_known("store:9000/corpora/moby.txt"), json.dumps(known))
    assert setting.preferred("use") == [["n2"]]


def test_an_output_counts_as_held_by_the_node_that_made_it_before_its_keeper_has_said_so(setting: Setting) -> None:
    """A child is ready some milliseconds after its parent; the inventory may come seconds later."""
    setting.client.delete(node_blobs("n1"))
    made = OutputRecord("big", BIG, digest("big"))
    for seconds_ago, preferred in ((1, ["n2"]), (MADE_SECONDS + 5, list[str]())):
        published = int((time.time() - seconds_ago) * 1000)
        record = AttemptRecord(outputs=[made], node="n2", publishedAt=published)
        setting.client.hset(setting.stage.keys.task(RUN, "make"), "record", msgspec.json.encode(record))
        assert setting.preferred("use") == [preferred]


def test_without_the_cache_it_does_not_matter_where_a_job_runs(setting: Setting) -> None:
    assert setting.preferred("use", cache_enabled=False) == [[]]


def test_a_node_that_was_not_heard_of_lately_is_not_preferred(setting: Setting) -> None:
    setting.heard("n3")
    setting.heard("n1", seconds_ago=70)
    assert setting.preferred("use") == [[]]
    setting.heard("n1")
    setting.now += NODES_SECONDS
    assert setting.preferred("use") == [["n1"]]


def test_the_pods_on_a_node_count_against_it(setting: Setting) -> None:
    setting.pods("n1", 10)
    assert setting.preferred("use") == [[]]
    setting.pods("n2", 10)
    assert setting.preferred("use") == [["n1"]]


def test_jobs_of_the_last_moments_count_though_their_pods_were_not_counted_yet(setting: Setting) -> None:
    """n1 gets a few before n2 has any, then its share and a half at most: batches do not start anew."""
    assert [len(setting.preferred("use")[0]) for _ in range(7)] == [1, 1, 1, 1, 0, 0, 1]
    setting.now += UNCOUNTED_SECONDS + 1
    assert setting.preferred("use") == [["n1"]]


def test_whatever_redis_will_not_tell_gives_no_preference(setting: Setting) -> None:
    setting.client.delete(node_blobs("n1"))
    setting.client.set(node_blobs("n1"), "no hash")
    setting.client.hset(setting.stage.keys.task(RUN, "make"), "record", "{broken")
    setting.client.set(source_known("store:9000/corpora/moby.txt"), "{")
    assert setting.preferred("use") == [[]]
    setting.client.delete(NODES)
    setting.client.set(NODES, "no set")
    setting.now += NODES_SECONDS
    assert setting.preferred("use") == [[]]


def test_the_job_that_is_created_carries_the_preference(setting: Setting) -> None:
    launcher = Launcher()
    runner = JobRunner(setting.client, launcher, SETTINGS, affinity=setting.affinity)
    keys = setting.stage.keys
    setting.stage.open({"make": [], "use": ["make"]})
    runner.launch(ready(setting.stage))
    record = AttemptRecord(outputs=[OutputRecord("big", BIG, digest("big"))])
    setting.client.hset(keys.task(RUN, "use"), "spec", msgspec.json.encode(job_of("use").task))
    setting.stage.end("make")
    setting.client.hset(keys.task(RUN, "make"), "record", msgspec.json.encode(record))
    setting.stage.settle("make")
    runner.launch(ready(setting.stage))
    assert [named(job.prefers) for job in launcher.jobs.values()] == [[], ["n1"]]


def ready(stage: Stage) -> list[Entry]:
    return [
        Entry(stream=stage.keys.ready, id=entry, fields=fields) for entry, fields in stage.deliver(stage.keys.ready)
    ]


def test_the_same_attempt_has_the_same_hash_wherever_it_would_rather_run() -> None:
    """Else a Job that another jobrunner made would not be adopted."""
    job = job_of("use")
    preferring = job._replace(prefers=(Preference("n1", 100),))
    assert spec_hash(preferring) == spec_hash(job)
    assert job_manifest(preferring, SETTINGS) != job_manifest(job, SETTINGS)
