"""What keepers tell the collector of their nodes' caches, over the endpoint."""

from typing import Any

import pytest
import redis

from helios.grants import keeper_token
from helios.keys import NODES, node_blobs, node_cache
from helios.settings import Settings
from services.collector import nodes
from services.collector.endpoint import PodEndpoint
from services.collector.nodes import CHANGES_AT_MOST, KEPT_SECONDS
from services.collector.store import Store
from tests.services.pod_calls import KEY, SETTINGS, as_keeper, call, tell

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
TAKEN = ("200 OK", {"resync": False})
RESYNC = ("200 OK", {"resync": True})


def endpoint_of(client: redis.Redis, settings: Settings = SETTINGS) -> PodEndpoint:
    return PodEndpoint(client, Store(settings), settings)


@pytest.fixture
def endpoint(client: redis.Redis) -> PodEndpoint:
    return endpoint_of(client)


def report(seq: int, **fields: Any) -> dict[str, Any]:
    return {"node": "n1", "url": "http://10.0.0.7:8415", "epoch": "e1", "seq": seq, **fields}


def test_a_node_is_known_by_what_its_keeper_told_first_and_then_changed(
    client: redis.Redis, endpoint: PodEndpoint
) -> None:
    state = {"blobs": 2, "bytes": 12, "freeBytes": 900, "limitBytes": 1000, "evictedBlobs": 4}
    first = report(1, full=True, added=[[A, 5], [B, 7]], state=state)
    assert as_keeper(endpoint, "/v1/node", "n1", first) == TAKEN
    assert client.hgetall(node_blobs("n1")) == {A: "5", B: "7"}
    told = client.hgetall(node_cache("n1"))
    assert {name: told[name] for name in ("node", "url", "blobs", "bytes", "freeBytes", "evictedBlobs")} == {
        "node": "n1",
        "url": "http://10.0.0.7:8415",
        "blobs": "2",
        "bytes": "12",
        "freeBytes": "900",
        "evictedBlobs": "4",
    }
    assert client.zscore(NODES, "n1") == float(told["at"])
    assert as_keeper(endpoint, "/v1/node", "n1", report(2, added=[[C, 9]], removed=[A])) == TAKEN
    assert client.hgetall(node_blobs("n1")) == {B: "7", C: "9"}
    assert client.hget(node_cache("n1"), "bytes") == "12"
    for key in (node_cache("n1"), node_blobs("n1")):
        assert 0 < client.ttl(key) <= KEPT_SECONDS


def test_a_report_whose_answer_was_lost_is_taken_again_and_changes_nothing_more(
    client: redis.Redis, endpoint: PodEndpoint
) -> None:
    as_keeper(endpoint, "/v1/node", "n1", report(1, full=True, added=[[A, 5]]))
    for _ in range(2):
        assert as_keeper(endpoint, "/v1/node", "n1", report(2, added=[[B, 7]], removed=[A])) == TAKEN
        assert client.hgetall(node_blobs("n1")) == {B: "7"}


@pytest.mark.parametrize("fields", [{"seq": 4}, {"seq": 1}, {"epoch": "e2"}], ids=["a gap", "late", "another life"])
def test_after_a_gap_everything_is_asked_for_and_nothing_taken(
    client: redis.Redis, endpoint: PodEndpoint, fields: dict[str, Any]
) -> None:
    as_keeper(endpoint, "/v1/node", "n1", report(1, full=True, added=[[A, 5]]))
    as_keeper(endpoint, "/v1/node", "n1", report(2))
    assert as_keeper(endpoint, "/v1/node", "n1", {**report(0, added=[[B, 7]]), **fields}) == RESYNC
    assert client.hgetall(node_blobs("n1")) == {A: "5"}


def test_a_node_that_redis_has_forgotten_is_asked_for_everything(endpoint: PodEndpoint) -> None:
    assert as_keeper(endpoint, "/v1/node", "n1", report(7, added=[[A, 5]])) == RESYNC


def test_what_is_told_in_full_replaces_what_was_known(client: redis.Redis, endpoint: PodEndpoint) -> None:
    as_keeper(endpoint, "/v1/node", "n1", report(1, full=True, added=[[A, 5], [B, 7]]))
    assert as_keeper(endpoint, "/v1/node", "n1", {**report(1, full=True, added=[[C, 9]]), "epoch": "e2"}) == TAKEN
    assert as_keeper(endpoint, "/v1/node", "n1", {**report(2, added=[[A, 5]]), "epoch": "e2"}) == TAKEN
    assert client.hgetall(node_blobs("n1")) == {C: "9", A: "5"}


def test_of_more_blobs_than_are_a_nodes_share_the_first_are_kept(client: redis.Redis) -> None:
    """However many nodes and blobs there are, they do not fill Redis."""
    endpoint = endpoint_of(client)
    endpoint.nodes.blobs_in_all = 4
    many = [[f"{number:064x}", 100 - number] for number in range(6)]
    assert as_keeper(endpoint, "/v1/node", "n1", report(1, full=True, added=many)) == TAKEN
    assert sorted(map(int, client.hvals(node_blobs("n1")))) == [97, 98, 99, 100]
    assert as_keeper(endpoint, "/v1/node", "n1", report(2, added=[[A, 5]], removed=[many[0][0]])) == TAKEN
    assert sorted(map(int, client.hvals(node_blobs("n1")))) == [5, 97, 98, 99]
    tell(endpoint, "n2", {B: 1, C: 1, A: 1})
    assert client.hlen(node_blobs("n2")) == 2
    assert as_keeper(endpoint, "/v1/node", "n1", report(3)) == RESYNC


def test_a_node_that_was_not_heard_of_for_a_day_is_off_the_list(client: redis.Redis, endpoint: PodEndpoint) -> None:
    tell(endpoint, "n1", {})
    client.zadd(NODES, {"old": 1.0})
    tell(endpoint, "n2", {})
    assert client.zrange(NODES, 0, -1) == ["n1", "n2"]


def test_of_nodes_there_is_a_limit(endpoint: PodEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "NODES_AT_MOST", 1)
    tell(endpoint, "n1", {})
    tell(endpoint, "n1", {A: 1})
    status, answer = as_keeper(endpoint, "/v1/node", "n2", {**report(1, full=True), "node": "n2"})
    assert status == "400 Bad Request"
    assert "nodes already" in answer["error"]


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://10.0.0.7"},
        {"url": "https://evil/v1:80"},
        {"url": "http://a b:1"},
        {"epoch": ""},
        {"epoch": "e" * 65},
        {"added": [["short", 1]]},
        {"added": [[A, -1]]},
        {"removed": [A] * (CHANGES_AT_MOST + 1)},
        {"seq": -1},
    ],
)
def test_a_report_that_makes_no_sense_is_refused(
    client: redis.Redis, endpoint: PodEndpoint, fields: dict[str, Any]
) -> None:
    status, _ = as_keeper(endpoint, "/v1/node", "n1", {**report(1, full=True), **fields})
    assert status == "400 Bad Request"
    assert client.zcard(NODES) == 0


@pytest.mark.parametrize("path", ["/v1/node", "/v1/demand", "/v1/seed"])
def test_only_a_nodes_own_keeper_may_call(client: redis.Redis, endpoint: PodEndpoint, path: str) -> None:
    body = report(1, full=True)
    for token in ("forged", keeper_token(KEY, "n2"), keeper_token("", "n1")):
        assert as_keeper(endpoint, path, "n1", body, token=token)[0] == "401 Unauthorized"
    assert call(endpoint, "POST", path, body, keeper_token(KEY, "n1"))[0] == "401 Unauthorized"
    assert client.zcard(NODES) == 0


def test_without_a_key_there_are_no_keepers(client: redis.Redis) -> None:
    endpoint = endpoint_of(client, Settings(token_key="k"))
    status, _ = as_keeper(endpoint, "/v1/node", "n1", report(1, full=True), token=keeper_token("", "n1"))
    assert status == "401 Unauthorized"


def test_a_keeper_speaks_for_its_own_node_only(client: redis.Redis, endpoint: PodEndpoint) -> None:
    assert as_keeper(endpoint, "/v1/node", "n2", report(1, full=True))[0] == "400 Bad Request"
    assert client.zcard(NODES) == 0
