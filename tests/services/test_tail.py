"""From a pod's log files to the run's log streams: every line once, at its offset, and never too much of it."""

from pathlib import Path

import pytest
import redis

from helios.keys import Keys
from helios.localjobs import (
    MESSAGE_BYTES,
    LocalJob,
    PodStatus,
    create_job,
    list_pods,
    log_file,
    message_file,
    status_file,
    write_status,
)
from helios.messages import Launched
from helios.settings import Settings
from helios.transitions import commit_one
from services.collector.__main__ import sweep
from services.collector.loglines import LINE_BYTES, LINES_KEPT, PAGES_AT_ONCE, TAIL_BYTES, WATCHED_BYTES
from services.collector.pods import JobOf, LocalPods
from services.collector.tail import LogTail
from tests.stage import RUN, Stage

KEYS = Keys(0)
LAUNCHED = Launched("1-0", "a", 1, "job")


class Log:
    def __init__(self, client: redis.Redis, folder: Path) -> None:
        self.client = client
        self.pods = LocalPods(folder)
        self.folder = folder
        self.tail = LogTail(KEYS, LAUNCHED)
        log_file(folder, "job", "task").parent.mkdir(parents=True)

    def write(self, step: str, text: bytes) -> None:
        with log_file(self.folder, "job", step).open("ab") as file:
            file.write(text)

    def copy(self, *, watched: bool = True, final: bool = False, tail: LogTail | None = None) -> None:
        (tail or self.tail).copy(self.client, self.pods, watched=watched, final=final)

    def lines(self, step: str = "task") -> list[tuple[str, str]]:
        return [(entry, fields["line"]) for entry, fields in self.client.xrange(KEYS.log("1-0", "a", 1, step))]


@pytest.fixture
def log(client: redis.Redis, tmp_path: Path) -> Log:
    return Log(client, tmp_path)


def test_a_lines_id_is_the_offset_at_which_it_starts(log: Log) -> None:
    log.write("task", b"one\ntwo\r\n\nfour")
    log.copy()
    assert log.lines() == [("1-0", "one"), ("5-0", "two"), ("10-0", "")]
    log.write("task", b" and more\n")
    log.copy()
    assert log.lines()[3:] == [("11-0", "four and more")]


def test_copying_again_from_the_start_adds_nothing_twice(log: Log) -> None:
    """Another collector takes over and knows no offset."""
    log.write("task", b"one\ntwo\n")
    log.copy()
    log.write("task", b"three\n")
    log.copy(tail=LogTail(KEYS, LAUNCHED))
    assert [line for _, line in log.lines()] == ["one", "two", "three"]


def test_what_nobody_watches_waits_until_the_end_but_fetch(log: Log) -> None:
    for step in ("fetch", "task", "publish"):
        log.write(step, b"line\n")
    log.copy(watched=False)
    assert [len(log.lines(step)) for step in ("fetch", "task", "publish")] == [1, 0, 0]
    log.copy(watched=False, final=True)
    assert [len(log.lines(step)) for step in ("fetch", "task", "publish")] == [1, 1, 1]


def test_a_last_line_without_an_end_is_copied_at_the_end(log: Log) -> None:
    log.write("task", b"unfinished")
    log.copy()
    assert log.lines() == []
    log.copy(final=True)
    assert log.lines() == [("1-0", "unfinished")]


def test_of_a_huge_log_nobody_watched_the_end_is_kept_and_the_loss_is_said(log: Log) -> None:
    log.write("task", b"x" * 999 + b"\n")
    log.write("task", (b"y" * 999 + b"\n") * 2_000)
    log.copy(final=True)
    lines = [line for _, line in log.lines()]
    kept = sum(len(line) + 1 for line in lines[1:])
    assert TAIL_BYTES - 1_000 <= kept <= TAIL_BYTES
    assert lines[0] == f"[HELIOS] {2_001_000 - kept} bytes of this log are not kept"
    assert set(lines[1:]) == {"y" * 999}


def test_of_many_short_lines_nobody_watched_the_last_are_kept_and_the_loss_is_said(log: Log) -> None:
    """No more is written than the stream keeps, however short the lines are."""
    log.write("task", b"\n" * TAIL_BYTES)
    log.copy(final=True)
    lines = log.lines()
    assert len(lines) == LINES_KEPT
    assert lines[0] == ("1-0", f"[HELIOS] {TAIL_BYTES - LINES_KEPT + 1} bytes of this log are not kept")
    assert lines[-1] == (f"{TAIL_BYTES}-0", "")


def test_of_a_burst_that_is_watched_nothing_is_skipped(log: Log) -> None:
    log.write("task", b"start\n")
    log.copy()
    log.write("task", b"".join(b"%08d %s\n" % (number, b"z" * 990) for number in range(4_000)))
    read: dict[str, str] = {}
    while len(read) <= 4_000:
        before = len(read)
        log.copy()
        read.update(log.lines())
        assert len(read) > before, "whoever reads along has every page before it is trimmed"
    assert [line[:8] for line in read.values()][1:] == [f"{number:08}" for number in range(4_000)]


def test_of_a_burst_at_the_end_of_what_was_watched_the_last_is_kept(log: Log) -> None:
    log.write("task", b"start\n")
    log.copy()
    log.write("task", b"".join(b"%08d %s\n" % (number, b"z" * 990) for number in range(4_000)) + b"no end")
    log.copy(final=True)
    lines = [line for _, line in log.lines()]
    first = int(lines[0][:8])
    assert [line[:8] for line in lines[:-1]] == [f"{number:08}" for number in range(first, 4_000)]
    assert lines[-1] == "no end"
    kept = sum(map(len, lines))
    assert 0.9 * WATCHED_BYTES < kept < 1.1 * WATCHED_BYTES, "the last of it, within what one log may take"


def test_what_is_more_than_a_burst_is_skipped_and_the_loss_is_said(log: Log) -> None:
    log.copy()
    with log_file(log.folder, "job", "task").open("wb") as file:
        file.truncate((PAGES_AT_ONCE + 1) * TAIL_BYTES)
        file.seek(0, 2)
        file.write(b"\nlast\n")
    log.copy()
    lines = [line for _, line in log.lines()]
    assert "bytes of this log are not kept" in lines[0]
    assert lines[-1] == "last"


def test_who_begins_to_watch_a_long_log_gets_its_end(log: Log) -> None:
    log.write("task", (b"y" * 999 + b"\n") * 2_000)
    log.copy(watched=False)
    log.copy(watched=True)
    lines = [line for _, line in log.lines()]
    assert "bytes of this log are not kept" in lines[0]
    assert len(lines) > 250


def test_a_log_that_is_watched_for_long_keeps_within_its_bytes_and_the_run_knows_them(log: Log) -> None:
    """However long its lines are; with a few thousand of them it would fill Redis."""
    log.copy()
    for _ in range(40):
        log.write("task", (b"y" * 4_000 + b"\n") * 60)
        log.copy()
    kept = sum(len(line) for _, line in log.lines())
    assert 0.9 * WATCHED_BYTES < kept < 1.1 * WATCHED_BYTES
    keys = Keys(0)
    (size,) = [size for _, size in log.client.zrange(keys.log_sizes, 0, -1, withscores=True)]
    assert kept < size < 1.1 * WATCHED_BYTES


def test_what_cannot_be_read_as_text_takes_no_more_room(log: Log) -> None:
    """Each such byte becomes three."""
    log.write("task", (b"\xff" * 999 + b"\n") * 250)
    log.copy(final=True)
    lines = [line for _, line in log.lines()]
    assert lines[0] == "[HELIOS] lines before this are not kept"
    assert sum(len(line.encode()) for line in lines) < 1.05 * TAIL_BYTES


def test_a_cut_line_says_how_much_of_it_is_missing(log: Log) -> None:
    log.write("task", b"x" * (LINE_BYTES + 1_500) + b"\n" + b"x" * LINE_BYTES + b"\n")
    log.copy()
    cut, whole = (line for _, line in log.lines())
    assert cut == "x" * LINE_BYTES + " … 1,500 bytes cut"
    assert whole == "x" * LINE_BYTES


def test_one_endless_line_is_cut_and_the_next_is_whole(log: Log) -> None:
    log.write("task", b"x" * (LINE_BYTES * 3))
    log.copy()
    log.write("task", b"\nnext\n")
    log.copy()
    lines = [line for _, line in log.lines()]
    assert max(map(len, lines)) <= LINE_BYTES + 30
    assert lines[-1] == "next"


def test_an_endless_line_longer_than_the_tail_loses_none_of_what_follows(log: Log) -> None:
    log.write("task", b"x" * (TAIL_BYTES + 10))
    log.copy()
    log.write("task", b"y")
    log.write("task", b"\nnext\n")
    log.copy(final=True)
    lines = [line for _, line in log.lines()]
    assert lines[0] == f"[HELIOS] {TAIL_BYTES + 10} bytes of this log are not kept"
    assert lines[1:] == ["y", "next"]


def test_bytes_that_are_no_text_are_shown_as_such(log: Log) -> None:
    log.write("task", b"\xff\xfe\x00 caf\xc3\xa9\n")
    log.copy()
    assert log.lines() == [("1-0", "\ufffd\ufffd\x00 café")]


def test_a_log_of_a_pod_that_is_gone_is_empty(client: redis.Redis, tmp_path: Path) -> None:
    pods = LocalPods(tmp_path)
    LogTail(KEYS, LAUNCHED).copy(client, pods, watched=True, final=True)
    assert client.keys("*") == []


def test_a_message_that_is_missing_oversized_or_no_text_is_none(log: Log) -> None:
    assert log.pods.message("job", "fetch") is None
    for text, expected in ((b"ok", "ok"), (b"x" * (MESSAGE_BYTES + 1), None), (b"\xff", None)):
        message_file(log.folder, "job", "fetch").write_bytes(text)
        assert log.pods.message("job", "fetch") == expected


@pytest.mark.parametrize("text", [b"", b"{", b"null", b'{"job": 1}', b"\xff"])
def test_a_status_file_that_is_unreadable_fails_its_pod_and_no_other(log: Log, text: bytes) -> None:
    """A task of local mode can reach its pod's folder; traps that are no files are in test_pods.py."""
    status_file(log.folder, "job").write_bytes(text)
    create_job(log.folder, LocalJob(job="other", run="1-0", task="b", attempt=1, command=["x"]))
    found = log.pods.statuses(["job", "other", "gone"])
    status = found["job"]
    assert status is not None
    assert (status.phase, status.final, status.disrupted) == ("Failed", True, False)
    assert "unreadable" in (status.reason or "")
    assert found["other"] is None
    assert "gone" not in found
    assert log.pods.unreleased() == ["job"]


def test_a_sweep_releases_what_was_wrapped_up_and_nothing_that_is_still_to_be(log: Log) -> None:
    """Also not a pod that was over before its launch was recorded, which happens while the sweep looks."""
    stage = Stage(log.client)
    stage.open({"a": [], "b": [], "c": []})
    for task in "abc":
        create_job(log.folder, LocalJob(job=f"job-{task}-1", run=RUN, task=task, attempt=1, command=["x"]))
        write_status(log.folder, PodStatus(job=f"job-{task}-1", uid="u", node="n", phase="Succeeded"))
    stage.launch("a")
    stage.end("a")
    launching = stage.launch_call("b")
    find = log.pods.attempt_of

    def launched_meanwhile(name: str) -> JobOf | None:
        if name == "job-b-1":
            commit_one(log.client, launching)
        return find(name)

    log.pods.attempt_of = launched_meanwhile  # type: ignore[method-assign]
    sweep(log.pods, log.client, Settings())
    left = set(list_pods(log.folder)) - {"job"}
    assert left == {"job-b-1", "job-c-1"}
