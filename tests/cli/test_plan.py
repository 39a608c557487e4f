"""`helios plan` against a real Redis and a real S3, with two nodes' inventories; and the whole way in local mode: plan,
run with a forecast, why, assert, gc.
"""

import hashlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from cli.embedded.home import Home
from cli.embedded.lease import running_stack
from helios.keys import NODES, Keys, memo, node_blobs, source_known
from helios.memo import memo_key
from helios.podwire import SourceKnown
from helios.records import OutputRecord
from helios.streams import CLIENT_OPTIONS
from tests.cli.command import Helios
from tests.real_s3 import RealS3
from tests.redis_servers import Valkey
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

DAG = """
dagName: planned
tasks:
  - name: split
    image: alpine@sha256:{image}
    command: [split]
    inputs: [{{uri: "s3://{bucket}/big"}}, {{uri: "s3://{bucket}/small"}}]
    outputs: [part]
    memoize: true
  - {{name: count, image: alpine, command: [wc], inputs: [{{fromTask: split, name: part}}], outputs: [n]}}
"""
BIG, SMALL = b"b" * 5000, b"s" * 300
PART = "c" * 64
IMAGE = "1" * 64


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Cluster:
    def __init__(self, helios: Helios, client: redis.Redis, s3: RealS3, bucket: str) -> None:
        self.helios, self.client, self.store, self.bucket = helios, client, s3.client, bucket
        self.place = s3.endpoint
        self.store.make_bucket(bucket)
        self.put("big", BIG)
        self.put("small", SMALL)
        self.file = helios.dag("planned", DAG.format(bucket=bucket, image=IMAGE))

    def put(self, key: str, content: bytes) -> None:
        found: Any = self.store.put_object(self.bucket, key, io.BytesIO(content), len(content))
        known = SourceKnown(version=f'etag "{found.etag}"', bytes=len(content), sha256=digest(content))
        self.client.set(source_known(f"{self.place}/{self.bucket}/{key}"), msgspec.json.encode(known))

    def node(self, name: str, *blobs: tuple[str, int], seconds_ago: float = 0) -> None:
        self.client.zadd(NODES, {name: (time.time() - seconds_ago) * 1000})
        self.client.hset(node_blobs(name), mapping=dict(blobs))

    def plan(self, *words: str) -> Any:
        done = self.helios("plan", self.file, "-o", "json", *words)
        assert done.code == 0, done.err
        return done.json()


@pytest.fixture
def cluster(valkey: redis.Redis, shared_valkey: Valkey, real_s3: RealS3, tmp_path: Path) -> Cluster:
    variables = {
        "HELIOS_REDIS_URL": shared_valkey.url,
        "HELIOS_S3_ENDPOINT": f"http://{real_s3.endpoint}",
        "HELIOS_S3_ACCESS_KEY": "helios",
        "HELIOS_S3_SECRET_KEY": "helios-secret",
    }
    bucket = f"plan-{digest(str(tmp_path).encode())[:12]}"
    return Cluster(Helios(tmp_path, variables), valkey, real_s3, bucket)


def inputs_of(plan: Any, task: str) -> dict[str, tuple[Any, ...]]:
    (found,) = [each for each in plan["tasks"] if each["name"] == task]
    return {each["name"]: (each["nodes"], each["from"], each["bytes"]) for each in found["inputs"]}


def test_each_input_is_found_on_the_nodes_that_have_it(cluster: Cluster) -> None:
    cluster.node("n1", (digest(SMALL), len(SMALL)))
    cluster.node("n2", (digest(BIG), len(BIG)))
    cluster.node("gone", (digest(BIG), len(BIG)), seconds_ago=3600)
    plan = cluster.plan()
    assert plan["nodes"] == ["n1", "n2"]
    assert inputs_of(plan, "split") == {"big": (["n2"], "cache", 5000), "small": (["n1"], "peer", 300)}
    assert (plan["cacheBytes"], plan["peerBytes"], plan["storeBytes"]) == (5000, 300, 0)
    assert cluster.plan("--no-cache")["storeBytes"] == 5300


def test_a_source_that_was_replaced_is_on_no_node(cluster: Cluster) -> None:
    cluster.node("n1", (digest(SMALL), len(SMALL)), (digest(BIG), len(BIG)))
    other = b"other" * 100
    cluster.store.put_object(cluster.bucket, "big", io.BytesIO(other), len(other))
    assert inputs_of(cluster.plan(), "split")["big"] == ([], "store", 500)


def test_a_remembered_success_is_found_by_its_key(cluster: Cluster) -> None:
    from helios.dag import parse_dag

    task = parse_dag((cluster.helios.folder / cluster.file).read_bytes()).dag.tasks[0]
    key = memo_key(task, f"sha256:{IMAGE}", {"big": digest(BIG), "small": digest(SMALL)})
    remembered = {"state": "good", "run": "1-0", "task": "split", "at": "1", "attempt": "1"}
    outputs = msgspec.json.encode([OutputRecord("part", 77, PART, "runs/1-0/split/1/p/part")])
    cluster.client.hset(memo(key), mapping={**remembered, "outputs": outputs})
    cluster.node("n1", (PART, 77))
    plan = cluster.plan()
    assert plan["skipped"] == 1
    assert plan["tasks"][0]["skipped"] == {"run": "1-0", "task": "split"}
    assert inputs_of(plan, "count") == {"part": (["n1"], "cache", 77)}
    assert cluster.plan("--no-memoize")["skipped"] == 0


def test_an_input_that_is_not_there_is_exit_code_1(cluster: Cluster) -> None:
    cluster.store.remove_object(cluster.bucket, "small")
    done = cluster.helios("plan", cluster.file)
    assert done.code == 1
    assert f"s3://{cluster.bucket}/small is not there: the run would fail" in done.out


def test_a_store_that_may_not_be_asked_leaves_the_rest_of_the_plan(cluster: Cluster) -> None:
    cluster.helios.environ["HELIOS_S3_SECRET_KEY"] = "wrong"
    done = cluster.helios("plan", cluster.file)
    assert done.code == 0
    assert "the object store does not show" in done.out
    assert "2 tasks" in done.out


# Local mode.

LOCAL = """
dagName: local
tasks:
  - name: split
    image: a
    command: [sh, -c, "head -c 90000 corpus > part # WORD"]
    inputs: [{uri: "s3://corpora/corpus"}]
    outputs: [part]
  - name: count
    image: a
    command: [sh, -c, "wc -c < part > n"]
    inputs: [{fromTask: split, name: part}]
    outputs: [n]
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helios]:
    """The command, with `helios up` running; two runs of a DAG are kept."""
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home") / "helios"
    helios = Helios(folder, {"HELIOS_HOME": str(home), "HELIOS_RUNS_KEPT_PER_DAG": "3"})
    process = helios.start("up")
    told: list[str] = []
    threading.Thread(target=lambda: told.extend(process.stderr or ()), daemon=True).start()
    try:
        wait_until("helios up says that everything runs", lambda: any("Everything runs" in line for line in told), 60)
        yield helios
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        helios.end_started()


def test_the_whole_way_in_local_mode(up: Helios) -> None:
    """Each step goes by what the one before has left: nothing here is made by hand."""
    (up.folder / "corpus").write_bytes(b"x" * 100_000)
    assert up("put", "corpus", "s3://corpora/corpus").code == 0
    file = up.dag("local", LOCAL)
    first = up("plan", file, "-o", "json").json()
    assert (first["storeBytes"], first["durationMs"], first["unsizedInputs"]) == (100_000, None, 1)

    done = up("run", file, "--plan", "-o", "json").json()
    assert done["status"] == "SUCCEEDED"
    assert done["score"]["fetchedBytes"] == {"expected": 100_000, "actual": 100_000}
    second = up("plan", file, "-o", "json").json()
    assert (second["cacheBytes"], second["storeBytes"], second["comparedWith"]) == (190_000, 0, [done["dagId"]])
    assert second["durationMs"] > 0

    again = up("run", file, "--plan")
    assert again.code == 0, again.err
    assert "190 KB from the cache, 0 B from the store" in again.err
    (row,) = [line.split() for line in again.out.splitlines() if line.startswith("from the cache")]
    assert row[3:] == ["190", "KB", "190", "KB", "nothing"]
    assert up("assert", "@latest", "--hit-bytes", "1", "--max-miss-bytes", "0", "--max-duration", "5m").code == 0

    (up.folder / "corpus").write_bytes(b"y" * 100_000)
    assert up("put", "corpus", "s3://corpora/corpus").code == 0
    changed = up.dag("changed", LOCAL.replace("WORD", "other word"))
    assert up("run", changed).code == 0
    told = up("why", "@latest", "count", "-o", "json").json()
    (part,) = told["inputs"]
    assert part["content"] == "changed"
    assert {(root["kind"], root["task"]) for root in part["roots"]} == {("definition", "split"), ("source", "split")}
    (source,) = up("why", "@latest", "split", "-o", "json").json()["inputs"]
    assert source["cause"] == "changed"
    assert source["why"].startswith("the source changed from ETag ")
    assert up("assert", "@latest", "--hit-bytes", "1").code == 1


def test_what_a_run_has_just_brought_is_in_the_next_plan(up: Helios) -> None:
    """Also before the keeper has told of it: its rounds are seconds apart."""
    assert up("run", up.dag("first", 'dagName: first\ntasks: [{name: a, image: i, command: ["true"]}]')).code == 0
    wait_until("the keeper has spoken", lambda: "CACHE OF" in up("cache", "stats").out, 30)
    (up.folder / "new").write_bytes(b"n" * 50_000)
    assert up("put", "new", "s3://corpora/new").code == 0
    file = up.dag(
        "new", 'dagName: new\ntasks: [{name: a, image: i, command: ["true"], inputs: [{uri: "s3://corpora/new"}]}]'
    )
    assert up("plan", file, "-o", "json").json()["storeBytes"] == 50_000
    assert up("run", file).code == 0
    plan = up("plan", file, "-o", "json").json()
    assert (plan["cacheBytes"], plan["storeBytes"]) == (50_000, 0)
    assert plan["tasks"][0]["inputs"][0]["nodes"] == ["local"]


def test_forgotten_runs_of_local_mode_go_and_the_disk_gets_its_space_back(up: Helios) -> None:
    text = """
dagName: bulky
tasks: [{name: a, image: a, command: [sh, -c, "head -c 3000000 /dev/urandom > out"], outputs: [out]}]
"""
    file = up.dag("bulky", text)
    runs = [up("run", file, "-o", "json").json()["dagId"] for _ in range(5)]
    volumes = Path(up.environ["HELIOS_HOME"]) / "s3" / "volumes"

    def used() -> int:
        return sum(each.stat().st_size for each in volumes.rglob("*") if each.is_file())

    before = used()
    assert "left: 2 objects, 6 MB younger than 24h" in up("gc", "--dry-run").err
    done = up("gc", "--older-than", "0s", "-o", "json")
    assert done.code == 0, done.err
    assert [each for each in done.json()["dags"] if each["dag"] == "bulky"] == [
        {"dag": "bulky", "runs": 2, "objects": 2, "bytes": 6_000_000}
    ]
    assert used() <= before - 5_000_000
    assert up("gc", "--older-than", "0s").err == "nothing to delete\n"
    kept = up("artifacts", runs[-1], "a", "--to", "kept")
    assert kept.code == 0, kept.err
    stack = running_stack(Home(Path(up.environ["HELIOS_HOME"])))
    assert stack is not None
    with redis.Redis.from_url(stack.redis_url, **CLIENT_OPTIONS) as client:
        assert client.zrange(Keys(0).dag_runs("bulky"), 0, -1) == runs[2:]
