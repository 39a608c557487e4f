"""The feed's thread over a real Valkey, which is killed, trimmed and started again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import redis

from cli.connection import Link
from helios.events import RunEnded, TaskLaunched, encode_event
from helios.keys import Keys
from helios.settings import Settings
from helios.transitions import commit_one
from services.submitter.accept import open_calls
from tests.redis_servers import Valkey, commands_sent
from tests.stage import RUN, Stage, grow, parsed
from tests.waiting import wait_until
from tui.source.feed import ENTRIES_READ, Feed


@contextmanager
def following(
    client: redis.Redis,
    *,
    look_again_seconds: float = 30.0,
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    **settings: int,
) -> Iterator[Feed]:
    link = Link(client, msgspec.structs.replace(Settings(), **settings))
    feed = Feed(link, clock=clock, look_again_seconds=look_again_seconds)
    feed.start()
    try:
        yield feed
    finally:
        feed.stop()


def wait_live(feed: Feed) -> None:
    wait_until("the feed is live", lambda: feed.connection.state == "live")


def status(feed: Feed, run: str = RUN) -> str:
    with feed.lock:
        row = feed.runs.rows.get(run)
        return row.status if row is not None else ""


def test_what_was_there_is_shown_and_what_comes_is_followed(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": [], "b": ["a"]})
    with following(valkey) as feed:
        wait_live(feed)
        assert status(feed) == "RUNNING"
        stage.pass_through("a", cache="Hit", hit=5)
        wait_until("the success counts", lambda: feed.runs.rows[RUN].succeeded == 1)
        stage.pass_through("b", cache="Miss", miss=7)
        stage.finalise()
        wait_until("it ended", lambda: status(feed) == "SUCCEEDED")
        wait_until("its record is read", lambda: feed.runs.rows[RUN].hit_bytes == 5)
        assert feed.runs.rows[RUN].miss_bytes == 7
        assert feed.runs.rows[RUN].cache_hit == "Partial"
        assert str(feed.runs.rows[RUN].duration_ms(0)) == stage.run()["durationMs"]


def test_the_tasks_of_the_run_that_is_watched_are_followed(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": [], "b": ["a"]})
    with following(valkey) as feed:
        feed.watch(RUN)
        board = wait_until("the tasks are there", lambda: feed.board)
        stage.launch("a")
        wait_until("it runs", lambda: board.rows["a"].status == "RUNNING")
        stage.end("a", hit=5)
        view = wait_until("its record is read", lambda: board.rows["a"].view)
        assert view.cacheHitBytes == 5
        feed.watch("7-0")
        wait_until("another run's tasks are there", lambda: feed.board is not None and feed.board.run == "7-0")
        feed.watch(None)
        assert feed.board is None


def test_tasks_that_the_watched_run_gets_are_shown(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"work": [], "end": ["work"]})
    with following(valkey) as feed:
        feed.watch(RUN)
        wait_until("the tasks are there", lambda: feed.board)
        grow(stage, valkey, "work", "ab", ["work", "work-a", "work-b", "end"])
        wait_until(
            "all four are there in the order of the DAG",
            lambda: feed.board is not None and list(feed.board.rows) == ["work", "work-a", "work-b", "end"],
        )
        assert feed.board is not None
        assert feed.board.rows["work"].status == "WAITING"
        wait_until("the run counts them", lambda: feed.runs.rows[RUN].tasks == 4)
        stage.launch("work-b")
        wait_until("one runs", lambda: feed.board is not None and feed.board.rows["work-b"].status == "RUNNING")


def test_runs_of_all_partitions_are_shown(valkey: redis.Redis) -> None:
    runs = [f"176402726{number:04}-0" for number in range(20)]
    stages = {run: Link(valkey, Settings(partitions=3)).keys(run).partition for run in runs}
    assert len(set(stages.values())) == 3
    with following(valkey, partitions=3) as feed:
        wait_live(feed)
        for run, partition in stages.items():
            for call in open_calls(Keys(partition), run, parsed({"a": []}), None):
                commit_one(valkey, call)
        wait_until("all are shown", lambda: set(feed.runs.rows) == set(runs))


def test_a_server_that_is_killed_and_started_again_is_found(own_valkey: Valkey) -> None:
    client = own_valkey.client()
    stage = Stage(client)
    stage.open({"a": []})
    with following(client) as feed:
        wait_live(feed)
        own_valkey.kill()
        wait_until("it is lost", lambda: feed.connection.state == "lost")
        lost = feed.connection
        assert "cannot be reached" in lost.trouble
        assert lost.retry_at_ms > lost.since_ms
        assert status(feed) == "RUNNING"
        own_valkey.start()
        stage.pass_through("a")
        stage.finalise()
        feed.reconnect_now()
        wait_live(feed)
        wait_until("it ended", lambda: status(feed) == "SUCCEEDED")


def test_a_server_that_is_not_there_yet_is_waited_for(own_valkey: Valkey) -> None:
    client = own_valkey.client()
    own_valkey.kill()
    with following(client) as feed:
        wait_until("it is lost", lambda: feed.connection.state == "lost")
        own_valkey.start()
        feed.reconnect_now()
        wait_live(feed)


def test_a_feed_that_lost_entries_meanwhile_is_made_up_for_by_a_snapshot(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    with following(valkey) as feed:
        wait_live(feed)
        noise = encode_event(TaskLaunched("9-0", "a", 1, "job"))
        with feed.lock:  # what holds the lock keeps the thread from reading on
            pipeline = valkey.pipeline()
            for _ in range(3 * ENTRIES_READ):
                pipeline.xadd(stage.keys.events, {"event": noise})
            pipeline.execute()
            stage.pass_through("a")
            stage.finalise()
            pipeline = valkey.pipeline()
            pipeline.xtrim(stage.keys.events, 0, approximate=False)
            for _ in range(2 * ENTRIES_READ):
                pipeline.xadd(stage.keys.events, {"event": noise})
            pipeline.execute()
        wait_until("it ended all the same", lambda: status(feed) == "SUCCEEDED")


def test_a_run_that_is_kept_no_longer_goes(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    stage.pass_through("a")
    stage.finalise()
    with following(valkey) as feed:
        wait_live(feed)
        assert status(feed) == "SUCCEEDED"
        second = "1764027260999-0"
        stage.open({"a": []}, run=second)
        for step in (stage.launch, stage.end, stage.settle):
            step("a", run=second)
        stage.finalise(second, in_all=1)
        wait_until("the first is gone", lambda: set(feed.runs.rows) == {second})


def test_what_is_no_event_is_passed_over(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    with following(valkey) as feed:
        wait_live(feed)
        valkey.xadd(stage.keys.events, {"event": "nonsense"})
        valkey.xadd(stage.keys.events, {"other": "x"})
        valkey.execute_command("XADD", stage.keys.events, "*", "event", b"\xff\xfe")
        stage.open({"a": []})
        wait_until("the run is shown", lambda: status(feed) == "RUNNING")
        assert feed.connection.state == "live"


def test_a_damaged_record_keeps_nobody_from_the_others(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    damaged = "1764027260999-0"
    valkey.zadd(stage.keys.runs, {damaged: 1.0})
    valkey.set(stage.keys.run(damaged), "no hash")
    with following(valkey) as feed:
        wait_live(feed)
        assert set(feed.runs.rows) == {RUN}


def test_a_damaged_feed_is_told_and_tried_again(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    valkey.set(stage.keys.events, "no stream")
    with following(valkey) as feed:
        wait_until("it is told", lambda: feed.connection.state == "lost")
        assert "WRONGTYPE" in feed.connection.trouble
        valkey.delete(stage.keys.events)
        feed.reconnect_now()
        wait_live(feed)


def test_a_feed_that_stays_damaged_is_not_asked_again_and_again(valkey: redis.Redis) -> None:
    """Each failure waits longer than the one before, and it is lost since the first. The clock stands still, so that
    only the waits count.
    """
    stage = Stage(valkey)
    valkey.set(stage.keys.events, "no stream")
    with following(valkey, clock=lambda: 1_000) as feed:
        waits: dict[int, int] = {}

        def waited_longer() -> bool:
            now = feed.connection
            if now.state == "lost":
                waits[now.retry_at_ms] = now.since_ms
            return len(waits) == 3

        wait_until("it failed three times", waited_longer)
        times = sorted(waits)
        assert len(set(waits.values())) == 1
        assert times[2] - times[1] > times[1] - times[0]


def test_what_is_no_run_id_keeps_nobody_from_the_runs(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    valkey.zadd(stage.keys.runs, {"nonsense": 1.0, "": 2.0})
    with following(valkey) as feed:
        wait_live(feed)
        assert set(feed.runs.rows) == {RUN}


def test_runs_do_not_vanish_because_their_index_is_damaged(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    with following(valkey) as feed:
        wait_live(feed)
        valkey.set(stage.keys.runs, "no sorted set")
        valkey.xadd(stage.keys.events, {"event": encode_event(RunEnded(RUN, "SUCCEEDED"))})
        wait_until("it is told", lambda: "WRONGTYPE" in feed.connection.trouble)
        assert RUN in feed.runs.rows


def test_a_server_that_came_back_with_less_is_believed(own_valkey: Valkey) -> None:
    """With `everysec` a power cut takes the last second of what was told."""
    client = own_valkey.client()
    stage = Stage(client)
    stage.open({"a": [], "b": ["a"]})
    before, events = client.dump(stage.keys.run(RUN)), client.dump(stage.keys.events)
    with following(client) as feed:
        wait_live(feed)
        stage.pass_through("a")
        wait_until("the success counts", lambda: feed.runs.rows[RUN].succeeded == 1)
        own_valkey.kill()
        wait_until("it is lost", lambda: feed.connection.state == "lost")
        own_valkey.start()
        pipeline = client.pipeline()
        pipeline.restore(stage.keys.run(RUN), 0, before, replace=True)
        pipeline.restore(stage.keys.events, 0, events, replace=True)
        pipeline.execute()
        feed.reconnect_now()
        wait_until("the success is gone", lambda: feed.runs.rows[RUN].succeeded == 0)


def test_tasks_whose_end_the_feed_did_not_tell_are_looked_at_again(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    with following(valkey, look_again_seconds=0.3) as feed:
        feed.watch(RUN)
        board = wait_until("the tasks are there", lambda: feed.board)
        with feed.lock:  # what holds the lock keeps the thread from folding
            valkey.rename(stage.keys.events, "elsewhere")
            valkey.set(stage.keys.events, "takes no event")
            stage.pass_through("a")
            stage.finalise()
            valkey.rename("elsewhere", stage.keys.events)
        wait_until("the task ended", lambda: feed.board is not None and feed.board.rows["a"].status == "SUCCEEDED")
        wait_until("the run ended", lambda: feed.board is not None and feed.board.ended_at is not None)
        assert board.run == RUN


def test_the_servers_clock_is_what_durations_are_measured_by(valkey: redis.Redis) -> None:
    feed = Feed(Link(valkey, Settings()), clock=lambda: 1_000)
    feed.start()
    wait_live(feed)
    feed.stop()
    seconds, _ = valkey.time()
    assert abs(feed.now_ms() - int(seconds) * 1000) < 60_000


def test_it_stops_at_once_and_leaves_no_thread(valkey: redis.Redis) -> None:
    with following(valkey) as feed:
        wait_live(feed)
    wait_until("its thread is over", lambda: not any(each.name == "feed" for each in threading.enumerate()))


def test_many_runs_take_few_round_trips(valkey: redis.Redis) -> None:
    keys = Keys(0)
    pipeline = valkey.pipeline()
    for number in range(1, 2_001):
        run = f"{number}-0"
        pipeline.zadd(keys.runs, {run: number})
        pipeline.hset(keys.run(run), mapping={"status": "SUCCEEDED", "startTime": number, "endTime": number + 5})
    pipeline.execute()
    before = commands_sent(valkey, "exec")
    with following(valkey) as feed:
        wait_live(feed)
        assert len(feed.runs.rows) == 2_000
    assert commands_sent(valkey, "exec") - before <= 4
