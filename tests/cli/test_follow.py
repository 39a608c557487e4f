"""Following a run: what is shown is what happened, however the feed is read."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from cli import follow
from cli.connection import Link
from cli.failure import CommandFailed
from cli.follow import Follower
from cli.plain_progress import PlainProgress, counts_text
from cli.run_progress import SETTLED, RunProgress, TaskProgress
from helios.events import TaskEnded, TaskLaunched, TaskPhase, TasksQueued
from helios.settings import Settings
from helios.transitions import commit_one, note_phase
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage, grow
from tests.waiting import wait_until


def read_all(follower: Follower) -> list[str]:
    """Task and status of each change, until there is no news."""
    told: list[str] = []
    while changed := follower.read(block_ms=1):
        told += [f"{task.name} {task.status}" for task in changed]
    return told


def phase(stage: Stage, task: str, name: str) -> None:
    event = TaskPhase(RUN, task, 1, name, "n1")
    commit_one(stage.client, note_phase(stage.keys, run=RUN, task=task, attempt=1, phase=name, node="n1", event=event))


def test_a_task_whose_pod_waits_for_a_place_is_queued(link: Link, client: redis.Redis) -> None:
    """A Job exists long before its pod can run when there are more tasks than slots."""
    stage = Stage(client)
    stage.open({"a": (), "b": ()})
    for task in "ab":
        stage.launch(task)
    phase(stage, "a", "Pending")
    phase(stage, "b", "Running")
    follower = Follower(link, RUN)
    assert read_all(follower) == ["a QUEUED", "b RUNNING"]
    assert follower.progress.counts == {"QUEUED": 1, "RUNNING": 1, "WAITING": 0}


def test_every_change_is_told_once(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",)})
    follower = Follower(link, RUN)
    assert read_all(follower) == ["a QUEUED"]
    stage.launch("a")
    assert read_all(follower) == ["a QUEUED"]
    phase(stage, "a", "Pending")
    assert read_all(follower) == []
    phase(stage, "a", "Fetching")
    assert read_all(follower) == ["a RUNNING"]
    stage.end("a")
    stage.settle("a")
    assert read_all(follower) == ["a SUCCEEDED", "b QUEUED"]
    stage.pass_through("b")
    stage.finalise()
    assert read_all(follower) == ["b SUCCEEDED"]
    assert follower.ended
    assert follower.status == "SUCCEEDED"


def test_tasks_that_a_run_gets_are_followed_however_they_became_known(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"work": (), "end": ("work",)})
    early, late = Follower(link, RUN), Follower(link, RUN)
    assert read_all(early) == read_all(late) == ["work QUEUED"]
    grow(stage, client, "work", "ab", ["work", "work-a", "work-b", "end"])
    assert read_all(early) == ["work-a QUEUED", "work-b QUEUED"]
    assert early.progress.counts == {"WAITING": 2, "QUEUED": 2}
    stage.launch("work-a")
    assert read_all(early) == ["work-a QUEUED"]
    client.delete(stage.keys.events)
    late._last = None
    assert read_all(late) == ["work-a QUEUED", "work-b QUEUED"]
    stage.end("work-a")
    assert read_all(early) == ["work-a SUCCEEDED"]
    assert read_all(late) == ["work-a SUCCEEDED"]


def test_a_snapshot_begins_where_the_run_is(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",), "c": ("b",)})
    stage.pass_through("a", cache="Hit", hit=5)
    follower = Follower(link, RUN)
    assert read_all(follower) == ["a SUCCEEDED", "b QUEUED"]
    assert follower.progress.tasks["a"].hit_bytes == 5
    assert follower.progress.counts == {"SUCCEEDED": 1, "QUEUED": 1, "WAITING": 1}


def test_a_failure_and_what_lies_below_are_told(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",)}, retries={"a": 1})
    follower = Follower(link, RUN)
    read_all(follower)
    for attempt in (1, 2):
        stage.launch("a", attempt)
        stage.end("a", attempt, status="FAILED")
        stage.settle("a", attempt)
    stage.fail("a", ["b"], attempt=2)
    stage.finalise()
    told = read_all(follower)
    assert told[-1] == "b UPSTREAM_FAILED" or told[-2:] == ["b UPSTREAM_FAILED", "a FAILED"]
    assert follower.progress.tasks["a"].attempt == 2
    assert follower.progress.tasks["b"].reason == "a failed"
    assert follower.status == "FAILED"


def test_a_cancelled_run_ends(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",)})
    follower = Follower(link, RUN)
    read_all(follower)
    stage.cancel(["a", "b"])
    stage.finalise()
    assert read_all(follower) == ["a CANCELLED", "b CANCELLED"]
    assert follower.status == "CANCELLED"


def test_other_runs_are_not_mixed_in(link: Link, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    stage.open({"a": ()}, run="7-0")
    follower = Follower(link, RUN)
    read_all(follower)
    stage.launch("a", run="7-0")
    assert read_all(follower) == []


def test_a_feed_that_lost_entries_is_made_good_by_a_snapshot(
    link: Link, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(client)
    stage.open({"a": (), "b": ()})
    follower = Follower(link, RUN)
    read_all(follower)
    stage.pass_through("a")
    stage.launch("b")
    client.xtrim(stage.keys.events, maxlen=1, approximate=False)
    monkeypatch.setattr(follow, "EVENTS_READ", 1)
    assert read_all(follower) == ["a SUCCEEDED", "b QUEUED"]


def test_a_lost_entry_of_the_feed_is_made_good_after_a_silence(
    link: Link, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transitions announce after the fact, so an announcement may be missing."""
    stage = Stage(client)
    stage.open({"a": ()})
    follower = Follower(link, RUN)
    read_all(follower)
    stage.launch("a")
    phase(stage, "a", "Running")
    client.delete(stage.keys.events)
    assert read_all(follower) == []
    monkeypatch.setattr(follow, "SILENCE_SECONDS", -1.0)
    follower.read(block_ms=1)
    assert read_all(follower) == ["a RUNNING"]


def test_how_the_tasks_ended_is_told_when_the_runs_end_is_seen_before_the_feed_is_read(
    link: Link, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's record is asked right after a read, and the run may end in between."""
    stage = Stage(client)
    stage.open({"a": ()})
    follower = Follower(link, RUN)
    read_all(follower)
    look = follower._events

    def ends_after_the_look(block_ms: int) -> list[TaskProgress]:
        changed = look(block_ms)
        stage.pass_through("a")
        stage.finalise()
        return changed

    monkeypatch.setattr(follower, "_events", ends_after_the_look)
    follower._check_at = 0.0
    assert [f"{task.name} {task.status}" for task in follower.read(block_ms=1)] == ["a SUCCEEDED"]
    assert follower.status == "SUCCEEDED"


def test_how_the_tasks_ended_is_told_when_the_run_ends_during_a_snapshot(
    link: Link, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    follower = Follower(link, RUN)
    check = follower._check

    def after_its_end() -> None:
        if stage.run()["status"] == "RUNNING":
            stage.pass_through("a")
            stage.finalise()
        check()

    monkeypatch.setattr(follower, "_check", after_its_end)
    told = list[str]()
    while not follower.ended:
        told += [f"{task.name} {task.status}" for task in follower.read(block_ms=1)]
    assert told[-1] == "a SUCCEEDED"


def test_a_run_that_was_deleted_is_not_waited_for(link: Link, client: redis.Redis) -> None:
    Stage(client).open({"a": ()})
    follower = Follower(link, RUN)
    read_all(follower)
    client.flushall()
    follower._check_at = 0.0
    with pytest.raises(CommandFailed, match="is gone"):
        follower.read(block_ms=1)


def test_following_goes_on_after_the_server_was_away(own_valkey: Valkey, capsys: pytest.CaptureFixture[str]) -> None:
    """What happened in between is found by a new snapshot."""
    client = own_valkey.client()
    stage = Stage(client)
    stage.open({"a": (), "b": ("a",)})
    follower = Follower(Link(own_valkey.client(), Settings(redis_url=own_valkey.url)), RUN)
    assert read_all(follower) == ["a QUEUED"]
    stage.pass_through("a")
    own_valkey.kill()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(follower.read, 1)
        # Back any sooner, the server would not be missed.
        wait_until("it says that the connection is lost", lambda: "lost" in capsys.readouterr().err)
        own_valkey.start()
        assert read.result(20) == []
    assert read_all(follower) == ["a SUCCEEDED", "b QUEUED"]


def test_a_task_only_moves_forward() -> None:
    progress = RunProgress(RUN, ["a"])
    ended = TaskEnded(RUN, "a", 1, "SUCCEEDED", "Hit", 5, 0, "n1")
    assert progress.apply(TasksQueued(RUN, 1, ["a"]), 1)
    assert progress.apply(ended, 5)
    for late in (TaskLaunched(RUN, "a", 1, "job"), TaskPhase(RUN, "a", 1, "Running", "n1"), ended):
        assert progress.apply(late, 9) == []
    assert progress.counts["SUCCEEDED"] == 1
    assert progress.tasks["a"].ended_at == 5
    assert progress.apply(TasksQueued(RUN, 2, ["a"]), 10)
    assert progress.tasks["a"].hit_bytes == 0


def test_an_unknown_task_in_the_feed_changes_nothing() -> None:
    progress = RunProgress(RUN, ["a"])
    assert progress.apply(TasksQueued(RUN, 1, ["b"]), 1) == []
    assert progress.load("a", ["RUNNING", "1", "Strange", "0", None, None, None, "3", None, None])
    assert progress.tasks["a"].began_at is None
    assert progress.tasks["a"].stage < SETTLED


def test_lines_of_progress_say_what_the_cache_did(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(RUN, ["a"])
    display = PlainProgress(progress)
    display.show(progress, progress.apply(TaskLaunched(RUN, "a", 1, "job"), 1_000))
    display.show(progress, progress.apply(TaskPhase(RUN, "a", 1, "Pending", "n1"), 1_100))
    display.show(progress, progress.apply(TaskPhase(RUN, "a", 1, "Running", "n1"), 9_000))
    display.show(progress, progress.apply(TaskEnded(RUN, "a", 1, "FAILED", "Miss", 0, 2_000, "n1", "code 3"), 10_500))
    assert capsys.readouterr().err.splitlines() == [
        "a  QUEUED",
        "a  RUNNING",
        "a  FAILED  Miss  2 KB downloaded  1.5 s  code 3",
    ]


def test_many_tasks_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"t{number}" for number in range(1_000)]
    progress = RunProgress(RUN, names)
    display = PlainProgress(progress)
    display.show(progress, progress.apply(TasksQueued(RUN, 1, names), 1))
    display.close()
    assert capsys.readouterr().err.splitlines() == ["0 of 1,000 tasks done: 1,000 queued"]
    assert counts_text(progress) == "0 of 1,000 tasks done: 1,000 queued"


def test_the_live_picture_draws_what_matters_first() -> None:
    from cli.live_progress import most_telling

    progress = RunProgress(RUN, ["waits", "runs", "failed"])
    progress.apply(TaskPhase(RUN, "runs", 1, "Running", "n1"), 1)
    progress.apply(TaskEnded(RUN, "failed", 1, "FAILED", "N/A", 0, 0, "n1"), 2)
    assert [task.name for task in most_telling(list(progress.tasks.values()), 2)] == ["runs", "failed"]
