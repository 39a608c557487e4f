"""Where a pod is sent for an input that its node lacks, and what it may tell the collector."""

import re
import threading
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
import redis

from agent.grants import granted
from helios.dag import parse_dag
from helios.keys import NODES, flight, node_blobs, source_known
from helios.podwire import SourceKnown
from helios.transitions import commit_one
from services.collector import locate
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store
from services.submitter.accept import open_calls
from tests.services.pod_calls import KEY, SETTINGS, as_pod, tell
from tests.stage import RUN, Stage

DAG = b"""
dagName: d
tasks:
  - {name: up, image: i, command: [x], outputs: [made]}
  - name: a
    image: i
    command: [x]
    inputs: [{uri: "s3://bucket/in.csv", as: in.csv}, {fromTask: up, name: made}]
    outputs: [o]
  - {name: alone, image: i, command: [x]}
"""
MADE, CSV, OTHER = "ab" * 32, "cd" * 32, "ef" * 32
SOURCE = "127.0.0.1:9/bucket/in.csv"
OUTSIDE = {"name": "in.csv", "version": 'etag "1"', "bytes": 9}
INSIDE = {"name": "made", "bytes": 7, "sha256": MADE}


class Cluster:
    """A run whose task `a` is about to fetch: one input from outside, one from the task `up`."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)
        stage = self.stage = Stage(client)
        self.run_key = stage.keys.run(RUN)
        for call in open_calls(stage.keys, RUN, parse_dag(DAG), None):
            commit_one(client, call)
        stage.launch("up")
        report = {
            "run": RUN,
            "task": "up",
            "attempt": 1,
            "podUid": "pod-0",
            "exitCode": 0,
            "node": "n9",
            "outputs": [
                {
                    "name": "made",
                    "key": f"runs/{RUN}/up/1/pod-0/made",
                    "bytes": 7,
                    "sha256": MADE,
                    "warm": True,
                }
            ],
        }
        assert as_pod(self.endpoint, "/v1/result", "up", report)[1] == {"status": "committed"}
        stage.settle("up")

    def locate(self, *inputs: dict[str, Any], node: str = "n1", pod: str = "pod-1") -> list[dict[str, Any]]:
        status, answer = as_pod(self.endpoint, "/v1/locate", "a", {"node": node, "inputs": inputs}, node=node, pod=pod)
        assert status == "200 OK", answer
        return answer["inputs"]

    def brought(self, *inputs: dict[str, Any], node: str = "n1") -> None:
        asked = as_pod(self.endpoint, "/v1/brought", "a", {"node": node, "inputs": inputs}, node=node)
        assert asked == ("200 OK", {})

    def known(self) -> SourceKnown | None:
        text = self.client.get(source_known(SOURCE))
        return None if text is None else msgspec.json.decode(text, type=SourceKnown)


@pytest.fixture
def cluster(client: redis.Redis) -> Cluster:
    return Cluster(client)


def test_a_node_that_has_the_blob_is_named_with_a_url_that_its_keeper_takes(cluster: Cluster) -> None:
    tell(cluster.endpoint, "n1", {})
    tell(cluster.endpoint, "n2", {MADE: 7})
    (found,) = cluster.locate(INSIDE)
    assert (found["sha256"], found["wait"]) == (MADE, False)
    (peer,) = found["peers"]
    assert peer["node"] == "n2"
    place = urlsplit(peer["url"])
    assert (place.netloc, place.path) == ("n2:8415", f"/v1/blob/{MADE}")
    assert granted(KEY, "GET", {**dict(parse_qsl(place.query)), "digest": MADE}, time.time() + 590)


def test_only_the_tasks_that_made_what_is_asked_for_are_read(cluster: Cluster) -> None:
    """A task with a thousand inputs asks a thousand times."""
    cluster.client.set("spoiled", "x")
    cluster.client.rename("spoiled", cluster.stage.keys.task(RUN, "up"))
    assert cluster.locate(OUTSIDE) == [{"name": "in.csv", "sha256": None, "peers": [], "wait": False}]
    cluster.brought({**OUTSIDE, "sha256": CSV})
    asked = {"node": "n1", "inputs": [INSIDE]}
    assert as_pod(cluster.endpoint, "/v1/locate", "a", asked)[0].startswith("503")


def test_peers_are_a_few_and_not_always_the_same(cluster: Cluster) -> None:
    for number in range(2, 12):
        tell(cluster.endpoint, f"n{number}", {MADE: 7})
    answers = [{peer["node"] for peer in cluster.locate(INSIDE)[0]["peers"]} for _ in range(20)]
    assert {len(nodes) for nodes in answers} == {locate.PEERS_AT_MOST}
    assert len(set.union(*answers)) > locate.PEERS_AT_MOST


def test_nobody_is_sent_to_itself_to_a_silent_keeper_to_one_that_does_not_listen_or_to_other_bytes(
    cluster: Cluster,
) -> None:
    tell(cluster.endpoint, "n1", {MADE: 7})
    tell(cluster.endpoint, "n2", {MADE: 7})
    cluster.client.zadd(NODES, {"n2": (time.time() - 61) * 1000})
    tell(cluster.endpoint, "n3", {MADE: 7}, url="")
    tell(cluster.endpoint, "n4", {MADE: 8})
    assert cluster.locate(INSIDE) == [{"name": "made", "sha256": MADE, "peers": [], "wait": False}]


def test_an_object_from_outside_is_known_by_the_version_that_a_node_brought(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        tell(cluster.endpoint, node, {})
    assert cluster.locate(OUTSIDE)[0] == {"name": "in.csv", "sha256": None, "peers": [], "wait": False}
    cluster.brought({**OUTSIDE, "sha256": CSV})
    found = cluster.locate(OUTSIDE, node="n2")[0]
    assert (found["sha256"], [peer["node"] for peer in found["peers"]]) == (CSV, ["n1"])
    for changed in ({"version": 'etag "2"'}, {"bytes": 10}):
        assert cluster.locate({**OUTSIDE, **changed}, node="n2")[0]["sha256"] is None
    assert 0 < cluster.client.ttl(source_known(SOURCE)) <= locate.SOURCE_KEPT_SECONDS


def test_one_node_brings_it_and_the_others_wait_until_it_has(cluster: Cluster) -> None:
    for node in ("n1", "n2", "n3"):
        tell(cluster.endpoint, node, {})
    for asked in (OUTSIDE, INSIDE):
        assert not cluster.locate(asked, node="n1")[0]["wait"]
        assert cluster.locate(asked, node="n2")[0]["wait"]
        assert not cluster.locate(asked, node="n1", pod="pod-2")[0]["wait"], "a node's own pods settle it among them"
        cluster.brought({**asked, "sha256": CSV if asked is OUTSIDE else MADE}, node="n1")
        found = cluster.locate(asked, node="n2")[0]
        assert (found["wait"], [peer["node"] for peer in found["peers"]]) == (False, ["n1"])


def test_of_many_nodes_that_ask_at_once_exactly_one_gets_the_flight(valkey: redis.Redis) -> None:
    cluster = Cluster(valkey)
    nodes = [f"n{number}" for number in range(12)]
    for node in nodes:
        tell(cluster.endpoint, node, {})
    waits: list[bool] = []
    start = threading.Barrier(len(nodes))

    def ask(node: str) -> None:
        start.wait()
        waits.append(cluster.locate(OUTSIDE, node=node)[0]["wait"])

    threads = [threading.Thread(target=ask, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [False] + [True] * (len(nodes) - 1)


def test_the_flight_of_a_node_that_died_passes_on_and_that_of_one_that_asks_again_does_not(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        tell(cluster.endpoint, node, {})
    key = flight(f"content\n{MADE}")
    cluster.locate(INSIDE, node="n1")
    cluster.client.expire(key, 5)
    cluster.locate(INSIDE, node="n1")
    assert 5 < cluster.client.ttl(key) <= locate.FLIGHT_SECONDS
    cluster.client.pexpire(key, 1)
    while cluster.client.exists(key):
        pass
    assert not cluster.locate(INSIDE, node="n2")[0]["wait"]
    assert cluster.locate(INSIDE, node="n1")[0]["wait"]


def test_a_node_from_which_nobody_could_fetch_takes_no_flight_but_waits_for_others(cluster: Cluster) -> None:
    tell(cluster.endpoint, "n2", {})
    for _ in range(2):
        assert not cluster.locate(OUTSIDE, node="n1")[0]["wait"]
    assert not cluster.locate(OUTSIDE, node="n2")[0]["wait"]
    assert cluster.locate(OUTSIDE, node="n1")[0]["wait"]


def test_without_a_key_nobody_is_sent_to_a_node_nor_waits(client: redis.Redis) -> None:
    cluster = Cluster(client)
    tell(cluster.endpoint, "n2", {MADE: 7})
    cluster.endpoint.nodes.key = ""
    for node in ("n1", "n2"):
        assert cluster.locate(INSIDE, node=node) == [{"name": "made", "sha256": MADE, "peers": [], "wait": False}]


def test_what_a_task_does_not_declare_is_neither_found_nor_taken(cluster: Cluster) -> None:
    """Else whoever holds a token and knows a digest could read that blob from any node."""
    tell(cluster.endpoint, "n2", {OTHER: 7})
    for task, asked in (("a", {**INSIDE, "name": "other"}), ("alone", INSIDE)):
        for path in ("/v1/locate", "/v1/brought"):
            status, _ = as_pod(cluster.endpoint, path, task, {"node": "n1", "inputs": [asked]})
            assert status == "400 Bad Request"
    assert cluster.locate({**INSIDE, "sha256": OTHER})[0]["sha256"] == MADE


def test_an_output_brought_with_another_digest_than_its_record_has_is_passed_over(cluster: Cluster) -> None:
    cluster.brought({**INSIDE, "sha256": OTHER})
    assert cluster.client.hgetall(node_blobs("n1")) == {}
    cluster.brought(INSIDE)
    assert cluster.client.hgetall(node_blobs("n1")) == {MADE: "7"}


def test_of_one_version_two_digests_are_not_believed(cluster: Cluster) -> None:
    cluster.brought({**OUTSIDE, "sha256": OTHER}, node="n1")
    cluster.brought({**OUTSIDE, "sha256": CSV}, node="n2")
    assert cluster.known() is None
    cluster.brought({**OUTSIDE, "sha256": CSV}, node="n3")
    cluster.brought({**OUTSIDE, "version": 'etag "2"', "sha256": OTHER}, node="n3")
    known = cluster.known()
    assert known is not None
    assert (known.version, known.sha256) == ('etag "2"', OTHER)


def test_what_is_known_of_a_source_but_cannot_be_read_is_not_known(cluster: Cluster) -> None:
    cluster.client.set(source_known(SOURCE), "{")
    assert cluster.locate(OUTSIDE)[0]["sha256"] is None


@pytest.mark.parametrize(
    ("node", "inputs"),
    [("n 1", [OUTSIDE]), ("", [OUTSIDE]), ("n1", [OUTSIDE, OUTSIDE]), ("n1", [{**OUTSIDE, "version": "v" * 1025}])],
)
def test_what_makes_no_sense_is_refused(cluster: Cluster, node: str, inputs: list[dict[str, Any]]) -> None:
    for path in ("/v1/locate", "/v1/brought"):
        status, _ = as_pod(cluster.endpoint, path, "a", {"node": node, "inputs": inputs})
        assert status == "400 Bad Request"


def test_an_attempt_that_is_over_is_told_nothing(cluster: Cluster) -> None:
    for path in ("/v1/locate", "/v1/brought"):
        assert as_pod(cluster.endpoint, path, "up", {"node": "n1", "inputs": []})[0] == "410 Gone"


def test_warm_outputs_are_known_at_their_node_as_soon_as_the_attempt_ended(cluster: Cluster) -> None:
    """Whoever places the tasks that follow comes before the keeper's next report."""
    assert cluster.client.hgetall(node_blobs("n9")) == {MADE: "7"}


def test_a_plan_names_its_nodes_keeper_where_one_listens(cluster: Cluster) -> None:
    assert as_pod(cluster.endpoint, "/v1/plan", "a", b"")[1]["keeper"] is None
    tell(cluster.endpoint, "n1", {})
    url = as_pod(cluster.endpoint, "/v1/plan", "a", b"")[1]["keeper"]["putUrl"]
    assert re.match(r"http://n1:8415/v1/output\?run=", url)
    assert granted(KEY, "PUT", dict(parse_qsl(urlsplit(url).query)), time.time())
    assert as_pod(cluster.endpoint, "/v1/plan", "alone", b"")[1]["keeper"] is None, "it has no outputs"
    assert as_pod(cluster.endpoint, "/v1/plan", "a", b"", node="n 1")[1]["keeper"] is None
    cluster.client.zadd(NODES, {"n1": (time.time() - 61) * 1000})
    assert as_pod(cluster.endpoint, "/v1/plan", "a", b"")[1]["keeper"] is None


def test_a_plan_names_no_keeper_for_a_run_without_the_cache_and_sends_nobody_to_other_nodes(cluster: Cluster) -> None:
    tell(cluster.endpoint, "n1", {})
    assert as_pod(cluster.endpoint, "/v1/plan", "a", b"")[1]["locate"] is True
    cluster.client.hset(cluster.run_key, "cacheEnabled", "false")
    plan = as_pod(cluster.endpoint, "/v1/plan", "a", b"")[1]
    assert (plan["keeper"], plan["locate"]) == (None, False)


def test_a_plan_is_given_where_its_node_cannot_be_looked_up(cluster: Cluster) -> None:
    cluster.client.set(NODES, "no set")
    status, plan = as_pod(cluster.endpoint, "/v1/plan", "a", b"")
    assert (status, plan["keeper"]) == ("200 OK", None)


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ({}, CSV),
        ({"sha256": "CD" * 32}, None),
        ({"version": None}, None),
        ({"version": "v" * 2000}, None),
        ({"bytes": -1}, None),
        ({"name": "made"}, None),
    ],
)
def test_a_report_tells_what_an_external_input_contained(
    cluster: Cluster, told: dict[str, Any], known: str | None
) -> None:
    """Where no other node is, nobody asks for an input; planning with it is possible all the same."""
    cluster.stage.launch("a")
    fetched = {**OUTSIDE, "hit": True, "cause": "cached", "sha256": CSV, **told}
    manifest = {"ok": True, "hits": 2, "misses": 0, "hitBytes": 16, "missBytes": 0, "inputs": [fetched]}
    made = {"name": "o", "key": f"runs/{RUN}/a/1/pod-1/o", "bytes": 1, "sha256": OTHER}
    report = {"run": RUN, "task": "a", "attempt": 1, "podUid": "pod-1", "exitCode": 0}
    answer = as_pod(cluster.endpoint, "/v1/result", "a", {**report, "outputs": [made], "fetch": manifest})
    assert answer == ("200 OK", {"status": "committed"})
    found = cluster.known()
    assert (None if found is None else found.sha256) == known
