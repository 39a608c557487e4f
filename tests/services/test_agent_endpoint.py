"""What a node's agent tells the endpoint of an attempt whose volume it serves: lines, signs of life, final failures."""

from typing import Any

import pytest
import redis

from helios.podwire import FetchedInput, FetchManifest
from helios.records import decode_attempt
from helios.transitions import commit_one, drop_logs
from services.collector.loglines import LINE_BYTES, LINES_KEPT, WATCHED_BYTES
from services.collector.step_lines import LATE_LINES_MS
from tests.services.test_endpoint import Caller, good, report, token
from tests.stage import RUN


@pytest.fixture
def caller(client: redis.Redis) -> Caller:
    """An attempt of the task `a` that runs."""
    found = Caller(client)
    found.make_input()
    found.stage.launch("a")
    return found


def send(caller: Caller, after: int, *lines: str, step: str = "fetch", attempt: int = 1) -> str:
    status, answer = caller.post("/v1/lines", {"step": step, "after": after, "lines": list(lines)}, token("a", attempt))
    assert answer == {} or status != "200 OK"
    return status


def kept(caller: Caller, step: str = "fetch", attempt: int = 1) -> list[tuple[str, str]]:
    stream = caller.stage.keys.log(RUN, "a", attempt, step)
    return [(entry, fields["line"]) for entry, fields in caller.stage.entries(stream)]


def log_size(caller: Caller) -> float:
    return caller.stage.client.zscore(caller.stage.keys.log_sizes, RUN) or 0


def heard(caller: Caller) -> str | None:
    return caller.stage.task("a").get("heard")


# Lines.


def test_lines_are_kept_in_order_where_those_go_that_are_read_from_pods(caller: Caller) -> None:
    assert send(caller, 0, "one", "two") == "200 OK"
    assert send(caller, 2, "three") == "200 OK"
    assert send(caller, 0, "stored", step="publish") == "200 OK"
    assert kept(caller) == [("1-0", "one"), ("2-0", "two"), ("3-0", "three")]
    assert kept(caller, "publish") == [("1-0", "stored")]
    assert log_size(caller) == sum(len(line) + 32 for line in ("one", "two", "three", "stored"))


def test_lines_that_are_sent_again_or_overlap_add_nothing_twice(caller: Caller) -> None:
    """The answer was lost, or `after` goes back: what came already is passed over, what is new is taken."""
    for after, lines in ((0, ("one", "two")), (0, ("one", "two")), (1, ("two", "three")), (0, ("one",))):
        assert send(caller, after, *lines) == "200 OK"
    assert [line for _, line in kept(caller)] == ["one", "two", "three"]
    assert log_size(caller) == len("onetwothree") + 3 * 32


def test_a_gap_loses_only_the_lines_that_were_not_sent(caller: Caller) -> None:
    send(caller, 0, "one")
    assert send(caller, 7, "eight") == "200 OK"
    assert kept(caller) == [("1-0", "one"), ("8-0", "eight")]


def test_a_huge_line_is_cut_and_one_with_line_ends_stays_one(caller: Caller) -> None:
    assert send(caller, 0, "x" * 2_000_000, "a\nb\r\nc", "é" * LINE_BYTES) == "200 OK"
    huge, broken, wide = (line for _, line in kept(caller))
    assert huge.startswith("x" * LINE_BYTES)
    assert huge.endswith("bytes cut")
    assert len(huge) < LINE_BYTES + 100
    assert broken == "a b c"
    assert len(wide.encode()) < LINE_BYTES + 100


def test_of_a_log_only_the_newest_mebibyte_is_kept(caller: Caller) -> None:
    after = 0
    for _ in range(4):
        assert send(caller, after, *("x" * 4_000 for _ in range(100))) == "200 OK"
        after += 100
    lines = kept(caller)
    assert lines[-1][0] == "400-0"
    size = sum(len(line) + 32 for _, line in lines)
    assert WATCHED_BYTES - 5_000 < size <= WATCHED_BYTES
    assert log_size(caller) == size


def test_of_many_short_lines_the_newest_are_kept(caller: Caller) -> None:
    for after in range(0, LINES_KEPT + 2_000, 1_000):
        assert send(caller, after, *("x" for _ in range(1_000))) == "200 OK"
    lines = kept(caller)
    assert (len(lines), lines[-1][0]) == (LINES_KEPT, "7000-0")
    assert log_size(caller) == LINES_KEPT * 33


def test_a_log_that_had_to_make_room_goes_on(caller: Caller) -> None:
    send(caller, 0, "one")
    commit_one(caller.stage.client, drop_logs(caller.stage.keys, run=RUN))
    assert send(caller, 1, "two") == "200 OK"
    assert kept(caller) == [("2-0", "two")]
    assert log_size(caller) == 35


@pytest.mark.parametrize(
    "body",
    [
        {"step": "task", "after": 0, "lines": ["x"]},
        {"step": "fetch:x", "after": 0, "lines": ["x"]},
        {"step": "fetch", "after": -1, "lines": ["x"]},
        {"step": "fetch", "after": 2**60, "lines": ["x"]},
        {"step": "fetch", "after": "0", "lines": ["x"]},
        {"step": "fetch", "after": 0, "lines": "x"},
        {"step": "fetch", "after": 0, "lines": [1]},
        {"step": "fetch", "after": 0, "lines": ["x"] * 1_001},
        {"step": "fetch", "lines": ["x"]},
        b'{"step": "fetch", "after": 0, "lines": ["\xff"]}',
    ],
)
def test_lines_that_are_none_are_a_bad_request_and_leave_nothing(caller: Caller, body: object) -> None:
    assert caller.post("/v1/lines", body)[0] == "400 Bad Request"
    assert (kept(caller), log_size(caller), heard(caller)) == ([], 0, None)


@pytest.mark.parametrize("path", ["/v1/lines", "/v1/at-work"])
@pytest.mark.parametrize("bearer", [token(key="other"), token(seconds=-1), "", "x"])
def test_without_the_attempts_token_nothing_is_taken(caller: Caller, path: str, bearer: str) -> None:
    body = {"step": "fetch", "after": 0, "lines": ["x"]}
    assert caller.post(path, body, bearer)[0] == "401 Unauthorized"
    assert (kept(caller), heard(caller)) == ([], None)


def test_a_token_opens_only_its_own_attempts_log(caller: Caller) -> None:
    for other in (2, 7):
        assert send(caller, 0, "x", attempt=other) == "410 Gone"
        assert kept(caller, attempt=other) == []


def test_the_last_lines_may_come_a_moment_after_the_attempt_has_ended(caller: Caller) -> None:
    caller.post("/v1/result", good())
    assert send(caller, 0, "the last", step="publish") == "200 OK"
    assert heard(caller) is None
    ended = int(caller.stage.task("a")["endedAt"]) - LATE_LINES_MS - 1
    caller.stage.client.hset(caller.stage.keys.task(RUN, "a"), "endedAt", ended)
    assert send(caller, 1, "too late", step="publish") == "410 Gone"
    assert kept(caller, "publish") == [("1-0", "the last")]


def test_so_may_those_of_an_attempt_that_is_being_repeated(caller: Caller) -> None:
    """A fetch that failed has said why just before, and its task may be queued again at once."""
    caller.stage.end("a", status="FAILED", disrupted=True)
    caller.stage.settle("a")
    assert caller.stage.task("a")["attempt"] == "2"
    assert send(caller, 0, "[HELIOS] Error: why") == "200 OK"
    assert send(caller, 0, "its own", attempt=2) == "200 OK"
    queued = int(caller.stage.task("a")["queuedAt"]) - LATE_LINES_MS - 1
    caller.stage.client.hset(caller.stage.keys.task(RUN, "a"), "queuedAt", queued)
    assert send(caller, 1, "too late") == "410 Gone"
    assert (kept(caller), kept(caller, attempt=2)) == ([("1-0", "[HELIOS] Error: why")], [("1-0", "its own")])


def test_of_a_run_that_was_deleted_no_log_is_begun(caller: Caller) -> None:
    caller.stage.client.delete(caller.stage.keys.task(RUN, "a"))
    assert send(caller, 0, "x") == "410 Gone"
    assert kept(caller) == []


# Signs of life.


def test_an_agent_at_work_is_heard_of_by_its_words_and_by_its_lines(caller: Caller) -> None:
    assert caller.post("/v1/at-work", {}) == ("200 OK", {})
    attempt, _, moment = (heard(caller) or "").partition(":")
    assert (attempt, float(moment) > 0) == ("1", True)
    caller.stage.client.hdel(caller.stage.keys.task(RUN, "a"), "heard")
    send(caller, 0, "x")
    assert (heard(caller) or "").startswith("1:")


def test_of_an_attempt_that_is_over_no_agent_is_heard_of(caller: Caller) -> None:
    caller.post("/v1/result", good())
    assert caller.post("/v1/at-work", {})[0] == "410 Gone"
    assert caller.post("/v1/at-work", {}, token("a", 2))[0] == "410 Gone"
    assert heard(caller) is None


# Final failures.

NOT_FETCHED = FetchManifest(
    ok=False,
    hits=1,
    misses=0,
    hitBytes=7,
    missBytes=0,
    inputs=[FetchedInput(name="made", bytes=7, hit=True, cause="cached")],
    error="input 'in.csv': the object store has no such object",
    endedAt=1_764_027_261_000,
)


def final(**fields: Any) -> Any:
    values: dict[str, Any] = {"form": "csi", "final": True, "exitCode": None, "fetch": NOT_FETCHED, **fields}
    return report(**values)


def test_a_final_failure_ends_the_attempt_at_once_and_has_its_job_deleted(caller: Caller) -> None:
    """Its pod would wait for its volume for ever. That needs nobody who sees pods, whichever replica is told."""
    assert caller.post("/v1/result", final()) == ("200 OK", {"status": "committed"})
    task = caller.stage.task("a")
    record = decode_attempt(task["record"])
    assert (task["status"], task["disrupted"], task["cache"]) == ("FAILED", "0", "Partial")
    assert (record.reason, record.cacheHitBytes) == (NOT_FETCHED.error, 7)
    assert (record.fetchedAt, record.outputs) == (NOT_FETCHED.endedAt, [])
    ((_, fields),) = caller.stage.entries(caller.stage.keys.cancelled)
    assert fields == {"run": RUN, "task": "a", "attempt": "1", "job": "job-a-1"}
    assert caller.stage.emitted(caller.stage.keys.launched)[-1] == ("a", "1"), "its pod is still to be wrapped up"
    assert not caller.endpoint.kept.waiting
    assert caller.post("/v1/result", final())[1] == {"status": "stale"}
    assert caller.stage.client.xlen(caller.stage.keys.cancelled) == 1


def test_a_final_failure_says_itself_why_and_whether_it_counts(caller: Caller) -> None:
    words = "its folder holds more than 1000 bytes (HELIOS_VOLUME_BYTES)"
    caller.post("/v1/result", final(reason=words, disrupted=True))
    task = caller.stage.task("a")
    assert (decode_attempt(task["record"]).reason, task["disrupted"]) == (words, "1")


def test_a_final_failure_without_any_words_has_a_reason_all_the_same(caller: Caller) -> None:
    caller.post("/v1/result", final(fetch=None))
    task = caller.stage.task("a")
    assert (task["status"], task["cache"]) == ("FAILED", "Unknown")
    assert decode_attempt(task["record"]).reason


def test_other_failures_wait_for_the_pods_status_in_either_form(caller: Caller) -> None:
    for other in (final(final=False, exitCode=1), report(final=True, exitCode=1)):
        assert caller.post("/v1/result", other)[1] == {"status": "recorded"}
    assert caller.stage.status("a") == "RUNNING"
    assert caller.stage.client.xlen(caller.stage.keys.cancelled) == 0
    assert caller.endpoint.kept.waiting


def test_a_success_is_one_whatever_else_its_report_says(caller: Caller) -> None:
    made = good()
    body = {name: getattr(made, name) for name in made.__struct_fields__} | {"form": "csi", "final": True}
    assert caller.post("/v1/result", body)[1] == {"status": "committed"}
    assert caller.stage.status("a") == "SUCCEEDED"
    assert caller.stage.client.xlen(caller.stage.keys.cancelled) == 0


def test_a_final_failure_before_the_launch_is_recorded_is_to_be_sent_again(client: redis.Redis) -> None:
    caller = Caller(client)
    caller.make_input()
    assert caller.post("/v1/result", final())[0] == "425 Too Early"
    assert caller.stage.status("a") == "QUEUED"
