"""`helios cache stats`: what the cache did over all runs, in words and as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from cli.cache_stats import CacheStats, NodeCache, Sums, stats_lines, stats_object
from cli.commands.cache import read_stats
from cli.connection import Link
from helios.keys import NODES, Keys, node_cache
from helios.podwire import NodeState
from helios.records import InputRecord
from helios.settings import Settings
from tests.cli.command import Helios
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage

NEXT = "1764027260124-0"
HIT = InputRecord("x", 3_000_000, "cached", source="cache", ms=2, savedMs=252_000)
MISS = InputRecord("y", 1_000_000, "never-here", source="peer", ms=900)
OFF = InputRecord("z", 5_000_000, "disabled", source="store", ms=4_000)


MOVED = {"hit": 3_000_000, "miss": 1_000_000, "savedMs": 252_000, "fetchMs": 902, "peerBytes": 1_000_000}


def counted(stage: Stage, run: str = RUN, *, dag: str = "trial", node: str = "n1", **account: Any) -> None:
    """A run of one task; unless told otherwise an input of it hit, and another came from another node."""
    account = account or {"cache": "Partial", "inputs": [HIT, MISS], **MOVED}
    stage.open({"a": ()}, run=run, name=dag)
    stage.launch("a", run=run)
    stage.end("a", run=run, node=node, **account)
    stage.settle("a", run=run)
    stage.finalise(run)


def told(client: redis.Redis, node: str, **numbers: int) -> None:
    """What a node's keeper told of its cache."""
    client.zadd(NODES, {node: 1})
    client.hset(node_cache(node), mapping={"node": node, "url": "", "epoch": "e", **numbers})


@pytest.fixture
def command(shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path) -> Iterator[Helios]:
    valkey.ping()
    helios = Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})
    yield helios
    helios.end_started()


def test_it_says_what_was_saved_by_dag_by_node_and_why_inputs_missed(command: Helios, valkey: redis.Redis) -> None:
    counted(Stage(valkey))
    limits = {"limitBytes": 50_000_000_000, "freeBytes": 9_000_000_000, "evictedBytes": 2_000_000, "corruptBlobs": 1}
    told(valkey, "n1", blobs=7, bytes=12_000_000_000, seededBytes=4_000, seedWastedBytes=1_000, **limits)
    done = command("cache", "stats")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[:3] == [
        "counted 1 run, 1 task",
        "saved 4 m 12 s of downloading; 902 ms spent on inputs",
        "hit 75 % of the bytes: 3 MB from the cache, 1 MB missed (1 MB from other nodes)",
    ]
    assert "trial 1 1 75 % 3 MB 1 MB 0 B 902 ms 4 m 12 s" in lines
    assert "n1 1 1 75 % 3 MB 1 MB 0 B 902 ms 4 m 12 s" in lines
    assert "n1 7 12 GB 50 GB 9 GB 2 MB 1 4 KB 1 KB" in lines
    assert "never-here 1 1 MB" in lines


def test_before_any_run_has_ended_it_says_so(command: Helios) -> None:
    done = command("cache", "stats")
    assert (done.code, done.out) == (0, "")
    assert "nothing has been counted yet" in done.err
    nothing = command("cache", "stats", "-o", "json").json()
    assert (nothing["total"]["runs"], nothing["total"]["hitRatio"], nothing["dags"], nothing["nodes"]) == (
        0,
        None,
        [],
        [],
    )


def test_json_has_every_figure(command: Helios, valkey: redis.Redis) -> None:
    counted(Stage(valkey))
    told(valkey, "n1", bytes=12, at=5)
    told(valkey, "n2", bytes=34)
    found = command("cache", "stats", "-o", "json").json()
    assert found["total"] == {
        "runs": 1,
        "tasks": 1,
        "skipped": 0,
        "hits": 1,
        "misses": 1,
        "hitBytes": 3_000_000,
        "missBytes": 1_000_000,
        "peerBytes": 1_000_000,
        "storeBytes": 0,
        "fetchMs": 902,
        "savedMs": 252_000,
        "hitRatio": 0.75,
        "causes": {"cached": {"inputs": 1, "bytes": 3_000_000}, "never-here": {"inputs": 1, "bytes": 1_000_000}},
    }
    assert found["dags"] == [{"dagName": "trial", **found["total"]}]
    first, second = found["nodes"]
    cache = first.pop("cache")
    assert first == {"node": "n1", **found["total"]}
    assert (cache["bytes"], cache["limitBytes"], cache["at"]) == (12, 0, 5)
    assert (second["node"], second["runs"], second["cache"]["bytes"]) == ("n2", 0, 34)


def test_runs_of_all_partitions_add_up(client: redis.Redis) -> None:
    for number in range(3):
        counted(Stage(client, number), f"176402726012{number}-0", node=f"n{number % 2}")
    stats = read_stats(Link(client, Settings(partitions=3)))
    assert (stats.total.runs, stats.total.hitBytes, stats.total.causes["cached"].inputs) == (3, 9_000_000, 3)
    assert {node: sums.runs for node, sums in stats.nodes.items()} == {"n0": 2, "n1": 1}


def test_one_dag_or_one_node_alone(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    counted(stage)
    counted(stage, NEXT, dag="other", node="n2")
    told(client, "n2", bytes=5)
    by_dag = read_stats(link, dag="other")
    assert (by_dag.total.runs, list(by_dag.dags), by_dag.nodes, by_dag.caches) == (1, ["other"], {}, {})
    by_node = read_stats(link, node="n2")
    assert (by_node.total.runs, by_node.dags, list(by_node.nodes), list(by_node.caches)) == (1, {}, ["n2"], ["n2"])


def test_a_name_that_nothing_is_known_of_is_an_error_with_the_nearest(command: Helios, valkey: redis.Redis) -> None:
    counted(Stage(valkey))
    done = command("cache", "stats", "--dag", "trail")
    assert (done.code, "'trial'" in done.err) == (2, True)
    assert command("cache", "stats", "--node", "moon").code == 2
    assert command("cache", "stats", "--dag", "a", "--node", "b").code == 2
    assert command("cache", "clear").code == 2


def test_what_was_moved_with_the_cache_off_is_no_miss_of_it(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    counted(stage)
    counted(stage, NEXT, miss=5_000_000, storeBytes=5_000_000, inputs=[OFF])
    total = read_stats(link).total
    assert (total.missBytes, total.causes["disabled"].bytes, total.hit_ratio) == (6_000_000, 5_000_000, 0.75)


def test_damaged_sums_are_left_out(link: Link, client: redis.Redis) -> None:
    counted(Stage(client))
    keys = Keys(0)
    client.hset(keys.stats("trial"), mapping={"hitBytes": "many", "what": "1", "inputs:": "4"})
    client.zadd(keys.counted, {"broken": 1, "gone": 1})
    client.set(keys.stats("broken"), "oops")
    total = read_stats(link).total
    assert (total.runs, total.hitBytes, total.missBytes) == (1, 0, 1_000_000)
    client.delete(keys.counted)
    client.set(keys.counted, "oops")
    assert read_stats(link).total == Sums()


def test_a_long_list_is_cut_in_the_table_and_whole_in_json() -> None:
    dags = {f"d{number}": Sums(runs=1, hitBytes=number) for number in range(60)}
    stats = CacheStats(Sums(runs=60), dags, {}, {})
    lines = stats_lines(stats, 0)
    assert "… and 10 more, with -o json" in lines
    assert any(line.startswith("d59 ") for line in lines)
    assert not any(line.startswith("d0 ") for line in lines)
    assert len(stats_object(stats)["dags"]) == 60


def test_a_short_account_leaves_open_where_bytes_came_from() -> None:
    lines = stats_lines(CacheStats(Sums(runs=1, missBytes=9_000, storeBytes=1_000), {}, {}, {}), 0)
    assert lines[-1].endswith("9 KB missed (1 KB from the store, 8 KB from either)")


def test_skipped_tasks_are_counted_where_there_are_any() -> None:
    sums = Sums(runs=2, tasks=5, skipped=3)
    lines = stats_lines(CacheStats(sums, {"d": sums}, {}, {}), 0)
    assert lines[0] == "counted  2 runs, 5 tasks, 3 of them skipped"
    assert lines[5].split()[:4] == ["d", "2", "5", "3"]


def test_a_cache_without_a_limit_says_so() -> None:
    caches = {"n1": NodeCache(NodeState(blobs=1, bytes=2_000), None)}
    head, row = stats_lines(CacheStats(Sums(), {}, {}, caches), 0)
    assert row.split()[:5] == ["n1", "1", "2", "KB", "none"]
    assert "TOLD" not in head


def test_the_json_is_one_object(link: Link, client: redis.Redis) -> None:
    counted(Stage(client))
    whole: Any = json.loads(msgspec.json.encode(stats_object(read_stats(link))))
    assert set(whole) == {"total", "dags", "nodes"}
