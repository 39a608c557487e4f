"""One run's tasks: folding the feed from any snapshot on gives the same tasks, and their stages in order."""

from itertools import pairwise
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helios.events import RunEnded, TaskEnded, TaskLaunched, TaskPhase, TasksQueued
from helios.records import InputRecord, TaskView
from helios.transitions import commit_one, note_phase
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage
from tests.tui.test_runs_fold import DAGS, Play, Step
from tui.model.card import card_lines
from tui.model.tasks import ENDED, Board, Span, TaskRow, causes, spans
from tui.source.board import open_board, read_rows

PHASES = ("Pending", "Fetching", "Running", "Publishing")

steps = st.lists(
    st.tuples(
        st.sampled_from(["launch", "phase", "end", "fail", "settle", "settle-failed", "cancel"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=40,
)


class PhasedPlay(Play):
    """With pods that move on."""

    def take(self, step: Step) -> None:
        what, number, phase = step
        if what != "phase":
            super().take(step)
            return
        run, task = self.tasks[number]
        record = self.stage.task(task, run)
        if record.get("phase") and PHASES.index(record["phase"]) >= phase:
            return  # a pod only moves forward
        attempt = int(record.get("attempt") or 1)
        event = TaskPhase(run, task, attempt, PHASES[phase], "n1")
        commit_one(
            self.client,
            note_phase(
                self.stage.keys, run=run, task=task, attempt=attempt, phase=PHASES[phase], node="n1", event=event
            ),
        )

    def board(self) -> Board:
        return open_board(self.client, self.stage.keys, RUN)


def essence(row: TaskRow) -> dict[str, Any]:
    """What must be the same however it came about. A settled failure looks like an unsettled one in the record."""
    return {
        "status": row.status,
        "attempt": row.attempt,
        "stage": min(row.stage, ENDED),
        "node": row.node if row.ended else "",
        "times": (row.queued_at, row.launched_at, row.ended_at),
        "phases": () if row.ended else (row.fetching_at, row.running_at, row.publishing_at),
        "spans": [] if row.ended else spans(row, 2**45),
        "cache": row.cache,
        "bytes": (row.hit_bytes, row.miss_bytes) if row.ended else (),
        "phase": row.phase,
    }


RETRY_IS_QUEUED = [("launch", 0, 0), ("phase", 0, 1), ("phase", 0, 2), ("fail", 0, 0), ("settle", 0, 0)]


@settings(max_examples=60, deadline=None)
@given(steps=steps, data=st.data())
def test_folding_from_any_snapshot_on_gives_the_same_tasks_as_the_records(
    shared_valkey: Valkey, steps: list[Step], data: st.DataObject
) -> None:
    play = PhasedPlay(shared_valkey.client())
    boards, places = snapshots(play, steps)
    number = data.draw(st.integers(0, len(boards) - 1), label="snapshot")
    start = data.draw(st.integers(0, places[number]), label="from")
    truth = {name: essence(row) for name, row in boards[-1].rows.items()}
    assert moved_on(play, boards[number], start) == truth


@settings(deadline=None, max_examples=1)
@example(steps=[*RETRY_IS_QUEUED])
@example(steps=[*RETRY_IS_QUEUED, ("cancel", 0, 0)])
@example(steps=[*RETRY_IS_QUEUED, ("launch", 0, 0), ("cancel", 0, 0)])
@given(steps=steps)
def test_what_an_earlier_attempt_left_in_the_record_is_not_the_next_ones(
    shared_valkey: Valkey, steps: list[Step]
) -> None:
    play = PhasedPlay(shared_valkey.client())
    boards, places = snapshots(play, steps)
    truth = {name: essence(row) for name, row in boards[-1].rows.items()}
    for board, start in zip(boards, places, strict=True):
        assert moved_on(play, board, start) == truth


def snapshots(play: PhasedPlay, steps: list[Step]) -> tuple[list[Board], list[int]]:
    """The board before the first step and after each, with how many events there were by then."""
    boards, places = [play.board()], [len(play.feed())]
    for step in steps:
        play.take(step)
        boards.append(play.board())
        places.append(len(play.feed()))
    return boards, places


def moved_on(play: PhasedPlay, board: Board, start: int) -> dict[str, Any]:
    """The board after all events from `start` on; what is marked as unread is read in the end, as the feed does."""
    for entry, event in play.feed()[start:]:
        board.apply(event, entry)
    for row in read_rows(play.client, play.stage.keys, RUN, list(board.unread)):
        board.load(*row)
    return {name: essence(row) for name, row in board.rows.items()}


def test_a_retry_that_is_queued_shows_as_queued_though_the_board_is_opened_late(valkey: redis.Redis) -> None:
    play = PhasedPlay(valkey)
    for step in RETRY_IS_QUEUED:
        play.take(step)
    row = play.board().rows["a"]
    assert (row.status, row.attempt) == ("QUEUED", 2)
    assert [span.stage for span in spans(row, (row.queued_at or 0) + 10)] == ["queued"]


def test_what_a_run_that_ended_left_open_is_read() -> None:
    board = Board("1-0", [("a", ()), ("b", ())])
    board.apply(TaskEnded("1-0", "a", 1, "SUCCEEDED", "N/A", 0, 0, "n1"), "3-0")
    board.unread.clear()
    board.apply(RunEnded("1-0", "FAILED"), "4-0")
    assert board.unread == {"b"}


def test_the_tasks_are_in_the_order_of_the_dag_with_their_parents(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open(DAGS[RUN])
    board = open_board(valkey, stage.keys, RUN)
    assert [(row.name, row.parents) for row in board.rows.values()] == [("a", ()), ("b", ("a",)), ("c", ("a",))]
    assert board.take_changed() == {"a", "b", "c"}


def test_a_run_that_is_not_kept_has_no_tasks(valkey: redis.Redis) -> None:
    assert open_board(valkey, Stage(valkey).keys, "1-0").rows == {}


def test_a_snapshot_in_mid_run_knows_when_each_phase_began(valkey: redis.Redis) -> None:
    play = PhasedPlay(valkey)
    play.take(("launch", 0, 0))
    play.take(("phase", 0, 1))
    play.take(("phase", 0, 2))
    row = play.board().rows["a"]
    assert (row.status, row.phase) == ("RUNNING", "Running")
    assert row.launched_at is not None
    assert row.fetching_at is not None
    assert row.running_at is not None
    assert row.launched_at <= row.fetching_at <= row.running_at
    assert row.publishing_at is None


def test_the_phases_of_an_earlier_attempt_are_forgotten(valkey: redis.Redis) -> None:
    play = PhasedPlay(valkey)
    for step in (
        ("launch", 0, 0),
        ("phase", 0, 1),
        ("phase", 0, 2),
        ("fail", 0, 0),
        ("settle", 0, 0),
        ("launch", 0, 0),
    ):
        play.take(step)
    row = play.board().rows["a"]
    assert (row.attempt, row.status, row.phase) == (2, "RUNNING", "")
    assert (row.fetching_at, row.running_at) == (None, None)


def row_with(**times: Any) -> TaskRow:
    return TaskRow("a", **times)


def test_the_stages_follow_each_other_without_gaps_up_to_now() -> None:
    row = row_with(status="RUNNING", queued_at=10, launched_at=20, fetching_at=30, running_at=50)
    assert spans(row, 80) == [
        Span("queued", 10, 20),
        Span("starting", 20, 30),
        Span("fetching", 30, 50),
        Span("running", 50, 80),
    ]


def test_a_stage_that_was_not_seen_belongs_to_the_one_before() -> None:
    row = row_with(status="SUCCEEDED", queued_at=10, launched_at=20, publishing_at=60, ended_at=70)
    assert spans(row, 999) == [Span("queued", 10, 20), Span("starting", 20, 60), Span("publishing", 60, 70)]


def test_a_task_that_waits_has_no_stage() -> None:
    assert spans(row_with(), 80) == []


@given(
    times=st.fixed_dictionaries(
        {
            name: st.none() | st.integers(0, 1_000)
            for name in ("launched_at", "fetching_at", "running_at", "publishing_at", "ended_at")
        }
    ),
    queued=st.integers(0, 1_000),
    now=st.integers(0, 1_000),
    status=st.sampled_from(["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]),
)
def test_stages_never_overlap_whatever_the_clocks_say(
    times: dict[str, int | None], queued: int, now: int, status: str
) -> None:
    found = spans(row_with(status=status, queued_at=queued, **times), now)
    assert found[0].begin == queued
    assert all(each.begin <= each.end for each in found)
    assert all(before.end == after.begin for before, after in pairwise(found))


def ended_view(**fields: Any) -> TaskView:
    return TaskView(
        name="a", status="SUCCEEDED", attempt=1, queuedTime=1_000, startTime=2_000, endTime=9_000, node="n1", **fields
    )


def test_the_nodes_clock_is_believed_within_the_attempt_only() -> None:
    near, far = Board("1-0", [("a", ())]), Board("1-0", [("a", ())])
    near.load(ended_view(startedAt=3_000, finishedAt=8_000), "", (2_500, 4_000, None))
    far.load(ended_view(startedAt=93_000, finishedAt=98_000), "", (2_500, 4_000, None))
    assert near.rows["a"].running_at == 3_000
    assert far.rows["a"].running_at == 4_000


def test_causes_are_those_of_the_misses() -> None:
    row = row_with(view=ended_view(inputs=[InputRecord("x", 5, "never-here"), InputRecord("y", 6, "cached")]))
    assert causes(row) == [("x", "never-here", 5)]
    assert causes(row_with()) == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (InputRecord("x", 5, "cached", "cache", 2, 4_100), "this node had it, saved 4.1 s"),
        (InputRecord("x", 5, "cached"), "this node had it"),
        (InputRecord("x", 5, "evicted", "store", 1_300), "made room for others, from the store in 1.3 s"),
        (
            InputRecord(
                "x", 5, "evicted", "store", 1_300, detail=f"evicted 2026-11-28T14:02:11Z to make room for {'a' * 64}"
            ),
            "evicted: evicted 2026-11-28T14:02:11Z to make room for aaaaaaaaaaaa…, from the store in 1.3 s",
        ),
        (
            InputRecord("x", 5, "changed", "peer", 20, detail="was etag A\x1b[2J"),
            "than before, was etag A�[2J, from another node in 20 ms",
        ),
        (InputRecord("x", 5, "never-here"), "this node had not seen it"),
    ],
)
def test_a_card_says_where_an_input_came_from_and_what_that_took_or_saved(told: InputRecord, words: str) -> None:
    """As far as it is known: of an account from the log there is a cause and no more."""
    row = row_with(status="SUCCEEDED", view=ended_view(inputs=[told], savedMs=told.savedMs))
    lines = list(card_lines(row, None, 0))
    assert any(line.text.endswith(words) for line in lines)
    assert any(line.text.endswith("saved 4.1 s") for line in lines if line.label == "cache") == bool(told.savedMs)


def test_a_retry_begins_anew_and_keeps_the_last_record() -> None:
    board = Board("1-0", [("a", ())])
    for at, event in (
        ("1-0", TasksQueued("1-0", 1, ["a"])),
        ("2-0", TaskLaunched("1-0", "a", 1, "j")),
        ("3-0", TaskEnded("1-0", "a", 1, "FAILED", "Miss", 0, 9, "n1", "exit code 3")),
        ("4-0", TasksQueued("1-0", 2, ["a"])),
    ):
        board.apply(event, at)
    row = board.rows["a"]
    assert (row.status, row.attempt, row.queued_at, row.ended_at, row.reason) == ("QUEUED", 2, 4, None, "")


def test_events_of_other_runs_change_nothing() -> None:
    board = Board("1-0", [("a", ())])
    board.take_changed()
    board.apply(TasksQueued("2-0", 1, ["a"]), "1-0")
    assert board.take_changed() == set()


def test_a_record_has_what_only_it_says(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": []})
    stage.launch("a")
    stage.end("a", hit=5)
    board = open_board(valkey, stage.keys, RUN)
    view = board.rows["a"].view
    assert view is not None
    assert (view.exitCode, view.cacheHitBytes) == (0, 5)


def test_a_root_is_queued_when_its_run_is_opened(valkey: redis.Redis) -> None:
    stage = Stage(valkey)
    stage.open({"a": [], "b": ["a"]})
    stage.launch("a")
    board = open_board(valkey, stage.keys, RUN)
    row = board.rows["a"]
    assert row.queued_at == int(stage.run()["startTime"])
    assert [span.stage for span in spans(row, (row.launched_at or 0) + 50)][-1] == "starting"
    assert board.rows["b"].queued_at is None


def test_a_task_of_which_only_the_launch_is_known_has_stages_from_there() -> None:
    assert spans(row_with(status="RUNNING", launched_at=20), 80) == [Span("starting", 20, 80)]
