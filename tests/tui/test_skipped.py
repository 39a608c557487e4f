"""A task that was skipped looks it, from a snapshot as from the feed, and its card names whose success it is."""

import msgspec
import redis

from helios.events import Producer, TaskEnded, TasksQueued
from helios.records import AttemptRecord
from helios.transitions import check, commit_one, skip
from tests.stage import RUN, Stage
from tui.glyphs import SKIPPED, TASK_MARKS, task_mark
from tui.model.card import card_lines
from tui.model.task_listing import passes
from tui.model.tasks import Board
from tui.source.board import open_board

PRODUCER = Producer("1764027260000-0", "made")
ENDED = TaskEnded(RUN, "a", 1, "SUCCEEDED", "N/A", 0, 0, "", None, PRODUCER)


def assert_looks_skipped(board: Board) -> None:
    row = board.rows["a"]
    assert (row.status, row.skipped) == ("SUCCEEDED", PRODUCER)
    lines = {line.label: line.text for line in card_lines(row, None, 0)}
    assert lines["status"].startswith("↷ skipped")
    assert lines["skipped"] == "it did not run: these are the outputs of run 1764027260000-0 task made"
    assert passes(row, "status:skipped") and passes(row, "status:succeeded")


def test_a_skipped_task_names_whose_success_it_is(client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    entry = stage.entry_of(stage.keys.ready, "a")
    commit_one(client, check(stage.keys, entry=entry, run=RUN, task="a", attempt=1))
    assert open_board(client, stage.keys, RUN).rows["a"].status == "QUEUED"
    record = msgspec.json.encode(AttemptRecord(exitCode=0, skipped=PRODUCER))
    entry = stage.entry_of(stage.keys.checks, "a")
    call = skip(stage.keys, entry=entry, run=RUN, task="a", attempt=1, record=record, memo=b"{}", event=ENDED)
    assert commit_one(client, call) == 1
    assert_looks_skipped(open_board(client, stage.keys, RUN))
    folded = Board(RUN, [("a", ())])
    folded.apply(TasksQueued(RUN, 1, ["a"]), "1-0")
    folded.apply(ENDED, "2-0")
    assert_looks_skipped(folded)


def test_only_a_success_is_a_skip() -> None:
    assert task_mark("SUCCEEDED", skipped=True) is SKIPPED
    assert task_mark("SUCCEEDED", skipped=False) is TASK_MARKS["SUCCEEDED"]
    assert task_mark("FAILED", skipped=True) is TASK_MARKS["FAILED"]
