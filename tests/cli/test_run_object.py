"""The shape of `-o json`, which scripts rely on, and how runs are found."""

from typing import Any

import msgspec
import pytest
import redis

from cli.connection import Link
from cli.failure import CommandFailed
from cli.lookup import check_task, find_run, newest_runs
from cli.run_object import read_run, read_runs, read_views, whole_object
from cli.run_text import metrics_lines, task_lines
from helios.keys import SUBMISSIONS, Keys
from helios.records import AttemptRecord, InputRecord, OutputRecord, TaskView
from helios.run_object import task_object
from services.submitter.accept import reject
from tests.stage import RUN, Stage

GOLDEN = {
    "dagId": RUN,
    "dagName": "trial",
    "status": "SUCCEEDED",
    "cacheEnabled": True,
    "memoize": True,
    "params": {},
    "cacheHit": "Miss",
    "taskCount": 1,
    "taskSucceeded": 1,
    "taskFailed": 0,
    "taskUpstreamFailed": 0,
    "taskCancelled": 0,
    "taskSkipped": 0,
    "cacheHitTasks": 0,
    "cachePartialTasks": 0,
    "cacheMissTasks": 1,
    "cacheHitBytes": 0,
    "cacheMissBytes": 7,
    "cacheFetchMs": 40,
    "cacheSavedMs": 0,
    "cachePeerBytes": 0,
    "cacheStoreBytes": 7,
    "nodes": "n1",
    "reason": None,
    "problems": [],
    "warnings": [],
    "tasks": [
        {
            "name": "a",
            "status": "SUCCEEDED",
            "attempt": 1,
            "node": "n1",
            "cache": "Miss",
            "cacheHitBytes": 0,
            "cacheMissBytes": 7,
            "fetchMs": 40,
            "savedMs": 0,
            "peerBytes": 0,
            "storeBytes": 7,
            "inputs": [
                {
                    "name": "in",
                    "bytes": 7,
                    "cause": "never-here",
                    "source": "store",
                    "ms": 40,
                    "savedMs": 0,
                    "sha256": "1" * 64,
                    "version": 'etag "A"',
                    "detail": None,
                }
            ],
            "exitCode": 0,
            "reason": None,
            "skipped": None,
            "outputs": [{"name": "out", "bytes": 3, "sha256": "0" * 64}],
        }
    ],
}
RUN_TIMES = ("startTime", "endTime", "durationMs")


def finished(client: redis.Redis) -> Stage:
    stage = Stage(client)
    stage.open({"a": ()})
    stage.pass_through("a", cache="Miss", miss=7)
    record = AttemptRecord(
        exitCode=0,
        node="n1",
        cache="Miss",
        cacheMissBytes=7,
        fetchMs=40,
        storeBytes=7,
        inputs=[InputRecord("in", 7, "never-here", "store", 40, 0, "1" * 64, 'etag "A"')],
        outputs=[OutputRecord("out", 3, "0" * 64, "runs/x/out")],
    )
    client.hset(stage.keys.task(RUN, "a"), "record", msgspec.json.encode(record))
    stage.finalise()
    return stage


def shown(link: Link, run: str = RUN) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(whole_object(read_run(link, run), read_views(link, run)))
    )
    return found


def test_a_finished_run_has_the_documented_shape(link: Link, client: redis.Redis) -> None:
    finished(client)
    run = shown(link)
    times = [run.pop(name) for name in RUN_TIMES]
    assert times[1] - times[0] == times[2] >= 0
    task_times = [run["tasks"][0].pop(name) for name in ("startTime", "endTime")]
    assert all(isinstance(each, int) for each in task_times)
    assert run == GOLDEN


def test_what_is_not_known_yet_is_null(link: Link, client: redis.Redis) -> None:
    Stage(client).open({"a": ()})
    run = shown(link)
    assert (run["status"], run["endTime"], run["durationMs"], run["reason"]) == ("RUNNING", None, None, None)
    assert (run["cacheFetchMs"], run["cacheSavedMs"], run["cachePeerBytes"], run["cacheStoreBytes"]) == (None,) * 4
    task = run["tasks"][0]
    assert (task["status"], task["startTime"], task["endTime"], task["exitCode"]) == ("QUEUED", None, None, None)


def test_of_an_input_that_only_a_log_tells_of_source_and_times_are_null() -> None:
    view = TaskView(name="a", status="SUCCEEDED", inputs=[InputRecord("in", 7, "cached")])
    (shown,) = task_object(view)["inputs"]
    unknown = dict.fromkeys(("source", "ms", "savedMs", "sha256", "version", "detail"))
    assert shown == {"name": "in", "bytes": 7, "cause": "cached", **unknown}


def test_a_run_says_what_the_cache_saved_and_what_came_from_other_nodes(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    stage.pass_through("a", cache="Partial", hit=600, miss=9_000, savedMs=252_000, peerBytes=2_000, storeBytes=7_000)
    stage.finalise()
    line = next(line for line in metrics_lines(read_run(link, RUN)) if line.startswith("cache"))
    assert "600 B from the cache, 9 KB downloaded (2 KB of them from other nodes); saved 4 m 12 s of download" in line


def test_a_run_shows_its_parameters_and_no_value_moves_the_cursor(link: Link, client: redis.Redis) -> None:
    Stage(client).open({"a": ()})
    params = {"date": "2026-11-01", "odd": "\x1b[2J" + "x" * 300}
    client.hset(Keys(0).run(RUN), "params", msgspec.json.encode(params))
    assert shown(link)["params"] == params
    lines = [line for line in metrics_lines(read_run(link, RUN)) if "date=" in line or "odd=" in line]
    assert lines[0] == "params   date=2026-11-01"
    assert lines[1].startswith("         odd=\\x1b[2Jxxx")
    assert len(lines[1]) < 150
    client.hset(Keys(0).run(RUN), "params", "{")
    assert shown(link)["params"] == {}


def test_a_rejected_run_lists_its_problems(link: Link, client: redis.Redis) -> None:
    reject(client, RUN, ["line 1: this", "line 2: that"], 1)
    run = shown(link)
    assert (run["status"], run["problems"], run["tasks"]) == ("REJECTED", ["line 1: this", "line 2: that"], [])
    assert any("REJECTED" in line for line in metrics_lines(run))


def test_latest_is_the_newest_of_all_partitions(client: redis.Redis) -> None:
    from helios.settings import Settings

    link = Link(client, Settings(partitions=3))
    with pytest.raises(CommandFailed, match="no run yet"):
        find_run(link, "@latest")
    for run in ("1764027260123-0", "1764027260123-11", "1764027260123-2", "1764027260124-0"):
        reject(client, run, ["no"], 3)
    assert find_run(link, "@latest") == "1764027260124-0"
    assert newest_runs(link, 3) == ["1764027260124-0", "1764027260123-11", "1764027260123-2"]
    assert [run["dagId"] for run in read_runs(link, newest_runs(link, 2))] == ["1764027260124-0", "1764027260123-11"]


def test_an_alias_stands_for_its_first_run(link: Link, client: redis.Redis) -> None:
    Stage(client).open({"a": ()})
    client.hset(Keys(0).run("5-0"), mapping={"dagId": "5-0", "aliasOf": RUN})
    assert find_run(link, "5-0") == RUN


def test_a_run_that_is_not_there_is_an_error_with_a_hint(link: Link, client: redis.Redis) -> None:
    Stage(client).open({"a": ()})
    for named, hint in (("5-0", "helios runs"), (RUN[:-1] + "1", RUN), ("last", "helios runs")):
        with pytest.raises(CommandFailed) as raised:
            find_run(link, named)
        assert hint in raised.value.hint
        assert raised.value.code == 2


def test_a_run_that_waits_for_a_submitter_is_not_called_unknown(link: Link, client: redis.Redis) -> None:
    entry = str(client.xadd(SUBMISSIONS, {"dag": "x"}))
    with pytest.raises(CommandFailed, match="not accepted yet"):
        find_run(link, entry)


def test_a_task_that_is_not_there_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(CommandFailed) as raised:
        check_task(["split", "count"], RUN, "splt")
    assert "'split'" in raised.value.hint


def test_long_runs_list_what_went_wrong_first(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": (), "c": ()})
    stage.pass_through("a")
    stage.launch("c")
    stage.end("c", status="FAILED")
    stage.settle("c")
    stage.fail("c")
    lines = task_lines(read_views(link, RUN), limit=2)
    assert "FAILED" in lines[2] or "FAILED" in lines[1]
    assert lines[-1] == "… and 1 more task"


def test_the_time_of_a_task_is_that_of_its_command_and_a_long_wait_is_shown_beside_it() -> None:
    view = TaskView(
        name="a",
        status="SUCCEEDED",
        queuedTime=1_000,
        startTime=1_100,
        endTime=31_000,
        startedAt=29_000,
        finishedAt=30_500,
    )
    head, row = task_lines([view])
    assert head.split() == ["TASK", "STATUS", "CACHE", "WAIT", "TIME"]
    assert row.endswith("28.0 s  1.5 s")
    assert "WAIT" not in task_lines([msgspec.structs.replace(view, startedAt=1_200)])[0]
    unknown = task_lines([msgspec.structs.replace(view, startedAt=None)])
    assert unknown[1].endswith("29.9 s")
    assert (task_object(view)["startTime"], task_object(view)["endTime"]) == (1_100, 31_000)


def test_a_view_has_the_times_of_its_attempts_record(link: Link, client: redis.Redis) -> None:
    stage = finished(client)
    record = AttemptRecord(fetchedAt=3, startedAt=4, finishedAt=9, publishedAt=11)
    client.hset(stage.keys.task(RUN, "a"), "record", msgspec.json.encode(record))
    (view,) = read_views(link, RUN)
    assert (view.fetchedAt, view.startedAt, view.finishedAt, view.publishedAt) == (3, 4, 9, 11)
