"""What services serve to Prometheus, asked of real processes on a real Valkey while they work."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from helios.keys import NODES, SUBMISSIONS, Keys, node_cache, without_partition
from helios.measures import MEASURES, Count, Shared, Spread
from helios.settings import settings_from
from services.collector.shared_figures import SharedFigures
from tests.services.served import COMMANDS, Served, run_dag, serving
from tests.stage import dag_text
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


def test_each_service_counts_its_own_transitions_and_what_it_ended(served: Served) -> None:
    """Every transition of a run is counted once, by whoever made it, and its attempts' time by stage."""
    before = {service: served.samples(service) for service in COMMANDS}

    def grown(service: str, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return served.samples(service).get(key, 0) - before[service].get(key, 0)

    def becomes(count: float, service: str, name: str, **labels: str) -> None:
        """A process counts after Redis has done what it counts, so the run may have ended before."""
        wait_until(f"{service} has counted {name} {labels}", lambda: grown(service, name, **labels) == count)

    run_dag(served, dag_text({"a": [], "b": ["a"], "c": ["a"]}, name="counted"))
    transitions = "helios_transitions_total"
    becomes(1, "submitter", transitions, transition="open_run", outcome="applied")
    becomes(3, "jobrunner", transitions, transition="launch", outcome="applied")
    becomes(3, "collector", transitions, transition="end_attempt", outcome="applied")
    becomes(3, "submitter", transitions, transition="settle", outcome="applied")
    becomes(1, "collector", "helios_runs_ended_total", status="SUCCEEDED", cache="N/A")
    becomes(3, "collector", "helios_attempts_ended_total", outcome="succeeded")
    becomes(3, "collector", "helios_stage_seconds_count", stage="queue")
    becomes(3, "collector", "helios_stage_seconds_count", stage="run")
    becomes(1, "collector", "helios_run_seconds_count", status="SUCCEEDED")
    becomes(1, "submitter", "helios_entries_total", stream="submissions")
    becomes(3, "jobrunner", "helios_entries_total", stream="tasks:ready")


def test_no_series_says_of_which_run_task_or_dag_it_is(served: Served) -> None:
    """However many names users make up, the series stay the same ones."""
    run = run_dag(served, dag_text({"unheard-of-task": []}, name="unheard-of-dag"))
    first = {service: served.samples(service).keys() for service in COMMANDS}
    run_dag(served, dag_text({"another-task": []}, name="another-dag"))
    for service in COMMANDS:
        text = served.text(service)
        for secret in (run, "unheard-of", "another-"):
            assert secret not in text
        assert served.samples(service).keys() == first[service]


def test_the_collector_serves_what_redis_says_of_all(served: Served) -> None:
    client = served.server.client()
    client.hset(node_cache("n1"), mapping={"bytes": "7", "evictedBytes": "70", "corruptBlobs": "1"})
    client.zadd(NODES, {"n1": client.time()[0] * 1000})
    # Last, since streams are read first: a look that has seen it has seen the node, too.
    client.xadd(Keys(0).dead, {"reason": "a test's"})
    wait_until("the dead letter is seen", lambda: served.value("collector", "helios_cluster_dead_letters") == 1)
    found = served.samples("collector")
    for service in COMMANDS:
        assert found["helios_cluster_replicas", frozenset({("service", service)})] == 1
    node = frozenset({("node", "n1")})
    assert found["helios_cluster_node_cache_bytes", node] == 7
    assert found["helios_cluster_node_cache_evicted_bytes_total", node] == 70
    assert found["helios_cluster_nodes", frozenset()] == 1
    assert found["helios_cluster_redis_up", frozenset()] == 1
    lag = {labels for name, labels in found if name == "helios_cluster_stream_lag"}
    assert frozenset({("stream", "submissions"), ("group", "submitter")}) in lag
    assert frozenset({("stream", "jobs:launched"), ("group", "collector")}) in lag
    client.unlink(Keys(0).dead)
    for service in ("submitter", "jobrunner"):
        assert not any(name.startswith("helios_cluster_") for name, _ in served.samples(service))


def test_lag_and_pending_are_of_entries_unread_and_in_hand(served: Served) -> None:
    """By a stream of another partition's name that nobody reads here: the figures are the streams' own."""
    client = served.server.client()
    keys = Keys(5)
    for number in range(5):
        client.xadd(keys.finished, {"n": str(number)})
    client.xgroup_create(keys.finished, "submitter", id="0")
    client.xreadgroup("submitter", "x", {keys.finished: ">"}, count=2)
    figures = SharedFigures(client, settings_from({"HELIOS_PARTITIONS": "6"}))
    figures.look()
    found = {
        (sample.name, sample.labels.get("stream")): sample.value
        for family in figures.collect()
        for sample in family.samples
    }
    assert found["helios_cluster_stream_lag", "tasks:finished"] == 3
    assert found["helios_cluster_stream_pending", "tasks:finished"] == 2
    assert 0 <= found["helios_cluster_stream_oldest_pending_seconds", "tasks:finished"] < 60
    client.unlink(keys.finished)


def test_redis_is_read_for_nobody_before_somebody_scrapes(served: Served) -> None:
    """What is shared takes a scan of all keys, and a Redis that was not asked is not called down."""
    figures = SharedFigures(served.server.client(), settings_from({}))
    figures.look_if_asked()
    assert list(figures.collect()) == []
    figures.rendered("text", lambda _: b"")
    figures.look_if_asked()
    assert figures.up
    assert len(list(figures.collect())) > 5


def test_nothing_but_the_metrics_is_served(served: Served) -> None:
    for path, method, code in (("/", "GET", 404), ("/v1/plan", "GET", 404), ("/metrics", "POST", 405)):
        request = urllib.request.Request(f"http://127.0.0.1:{served.ports['collector']}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        assert refused.value.code == code


def test_openmetrics_is_spoken_to_whoever_asks_for_it(served: Served) -> None:
    assert served.text("collector", "application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


def test_every_name_is_one_that_prometheus_likes() -> None:
    names = [measure.name for measure in MEASURES]
    assert len(names) == len(set(names))
    for measure in MEASURES:
        assert measure.name.startswith("helios_")
        assert measure.name.endswith("_total") == (measure.kind == "counter"), measure.name
        assert measure.name.startswith("helios_cluster_") == isinstance(measure, Shared)
        assert measure.help.endswith("."), measure.name
        assert not {"run", "task", "dag", "attempt", "job", "image"} & set(measure.labels), measure.name


def test_a_count_keeps_the_series_that_were_counted_last() -> None:
    count = Count("helios_tested_total", "A test's.", ("node",), at_most=2)
    MEASURES.remove(count)
    for node in ("a", "b", "a", "c"):
        count.add((node,))
    assert count.read() == {("a",): 2, ("c",): 1}


def test_a_spread_counts_each_value_at_its_bound() -> None:
    spread = Spread("helios_tested_seconds", "A test's.", (), (1, 2))
    MEASURES.remove(spread)
    for value in (0.5, 1, 1.5, 3):
        spread.observe((), value)
    assert spread.read() == {(): ([2, 1, 1], 6)}


def test_a_streams_name_is_the_same_in_every_partition() -> None:
    assert without_partition(Keys(3).ready_of("high")) == "tasks:ready:high"
    assert without_partition(SUBMISSIONS) == "submissions"
