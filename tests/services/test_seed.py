"""What a node that joins should bring first."""

from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from services.collector import seed
from services.collector.demand import Need
from services.collector.endpoint import PodEndpoint
from services.collector.seed import rank, within
from services.collector.store import Store
from tests.services.pod_calls import SETTINGS, as_keeper, tell
from tests.services.test_demand import CHAIN, CSV, MADE, Runs, dag, outside
from tests.stage import RUN


def need(digest: str, size: int = 1, **counts: int) -> Need:
    return Need(digest, size, ("bucket", digest), **counts)


def ranked(*needs: Need) -> str:
    return "".join(each.sha256 for each in rank(needs))


def test_ready_work_comes_first_then_the_most_wanted_then_the_smallest() -> None:
    assert ranked(need("a", waiting=9), need("b", queued=1), need("c", queued=2, size=5), need("d", queued=2)) == "dcba"
    assert ranked(need("a", running=9), need("b", waiting=1)) == "b", "running tasks have their inputs"


def test_a_blob_that_does_not_fit_leaves_its_room_to_the_next() -> None:
    chosen = within([need("a", 6), need("b", 5), need("c", 4), need("d", 1)], 10)
    assert [each.sha256 for each in chosen] == ["a", "c"]


def test_of_very_many_blobs_a_node_is_told_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "BLOBS_AT_MOST", 2)
    assert len(within([need(name) for name in "abc"], 10)) == 2


def seeds(endpoint: PodEndpoint, node: str, budget: int) -> list[dict[str, Any]]:
    status, answer = as_keeper(endpoint, "/v1/seed", node, {"node": node, "budgetBytes": budget})
    assert status == "200 OK"
    return answer["blobs"]


def test_a_node_is_told_what_it_lacks_with_a_signed_url_and_nodes_that_have_it(client: redis.Redis) -> None:
    runs = Runs(client)
    endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)
    runs.open(CHAIN)
    runs.succeed("up")
    tell(endpoint, "n2", {MADE: 7})
    tell(endpoint, "n3", {CSV: 9})
    first, second = seeds(endpoint, "n1", 100)
    assert (first["sha256"], first["bytes"], second["sha256"], second["bytes"]) == (MADE, 7, CSV, 9)
    place = urlsplit(first["url"])
    assert (place.netloc, place.path) == ("127.0.0.1:9", f"/helios/runs/{RUN}/up/1/p/made")
    assert "X-Amz-Signature" in place.query
    assert [[peer["node"] for peer in each["peers"]] for each in (first, second)] == [["n2"], ["n3"]]
    assert [each["sha256"] for each in seeds(endpoint, "n1", 8)] == [MADE]
    assert [each["sha256"] for each in seeds(endpoint, "n2", 100)] == [CSV]


def test_without_queued_work_there_is_nothing_to_bring(client: redis.Redis) -> None:
    assert seeds(PodEndpoint(client, Store(SETTINGS), SETTINGS), "n1", 100) == []


def test_an_object_that_cannot_be_signed_for_is_left_out(client: redis.Redis) -> None:
    runs = Runs(client)
    runs.open(dag({"name": "a", "inputs": [outside()]}))
    endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)
    endpoint.keepers.demand.needs = {"x": Need("x", 1, ("NO BUCKET", "k"), queued=1)}
    endpoint.keepers.demand.good_until = float("inf")
    assert seeds(endpoint, "n1", 100) == []


def test_a_node_must_have_a_name(client: redis.Redis) -> None:
    endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)
    assert as_keeper(endpoint, "/v1/seed", "n 1", {"node": "n 1", "budgetBytes": 1})[0] == "400 Bad Request"
