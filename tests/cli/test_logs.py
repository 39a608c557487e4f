"""Reading logs: whole, from the end, and to their end."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from cli.commands.logs import follow_log, print_log
from cli.connection import Link
from cli.task_logs import LogFollower, last_lines
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store
from tests.services.pod_calls import SETTINGS, as_pod
from tests.stage import RUN, Stage


def log(stage: Stage, task: str, *lines: str, attempt: int = 1) -> None:
    for line in lines:
        stage.client.xadd(stage.keys.log(RUN, task, attempt, "task"), {"line": line})


def test_the_whole_log_or_its_end_is_printed(
    link: Link, client: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.task_logs.LINES_READ", 2)
    stage = Stage(client)
    stage.open({"a": ()})
    log(stage, "a", "one", "two", "three")
    print_log(link, RUN, "a", 1, "task", None)
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    print_log(link, RUN, "a", 1, "task", 2)
    assert capsys.readouterr().out == "two\nthree\n"
    print_log(link, RUN, "a", 1, "task", 0)
    assert capsys.readouterr().out == ""
    assert last_lines(link, RUN, "a", 1, "task", 1) == ["three"]


def test_an_empty_log_is_explained(link: Link, client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(client)
    stage.open({"a": ()})
    print_log(link, RUN, "a", 1, "task", None)
    assert "QUEUED" in capsys.readouterr().err
    stage.pass_through("a")
    print_log(link, RUN, "a", 1, "task", None)
    assert "nothing was printed" in capsys.readouterr().err


def test_a_log_is_complete_once_its_job_is_wrapped_up(link: Link, client: redis.Redis) -> None:
    """A report ends the task before the last lines are copied; they come with the Job's end."""
    stage = Stage(client)
    stage.open({"a": ()})
    follower = LogFollower(link, RUN, "a", 1, "task", "0-0")
    assert not follower.is_complete()
    stage.launch("a")
    stage.end("a", entry="")
    assert not follower.is_complete()
    stage.end("a")
    assert follower.is_complete()


def test_the_rest_of_an_ended_tasks_log_is_waited_for(link: Link, client: redis.Redis) -> None:
    """On Kubernetes it comes with the pod's end, a second after the task's."""
    stage = Stage(client)
    stage.open({"a": ()})
    stage.launch("a")
    follower = LogFollower(link, RUN, "a", 1, "task", "0-0")
    assert not follower.wait_for_the_rest(), "it still runs: nobody knows for how long"
    stage.end("a", entry="")
    assert not follower.wait_for_the_rest(0.05)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(follower.wait_for_the_rest, 20)
        stage.end("a")
        assert waiting.result(20)


def test_following_tells_the_collector_and_goes_through_retries(
    link: Link, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(client)
    stage.open({"a": ()}, retries={"a": 1})
    stage.launch("a")
    follower = LogFollower(link, RUN, "a", 1, "task", "0-0")
    follower.read(lambda line: None, 1)
    assert 0 < client.ttl(stage.keys.watched(RUN)) <= 10  # pyright: ignore[reportOperatorIssue]
    log(stage, "a", "first")
    stage.end("a", status="FAILED")
    stage.settle("a")
    log(stage, "a", "second", attempt=2)
    stage.launch("a", 2)
    stage.end("a", 2)
    stage.settle("a", 2)
    assert follow_log(link, RUN, "a", 1, "task", None, stay_through_retries=True) == 0
    said = capsys.readouterr()
    assert said.out == "first\nsecond\n"
    assert "attempt 2" in said.err
    assert follow_log(link, RUN, "a", 1, "task", None, stay_through_retries=False) == 0
    assert capsys.readouterr().out == "first\n"


def test_what_a_nodes_agent_sends_of_a_step_is_followed_like_any_log(
    link: Link, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where fetch and publish are no containers."""
    stage = Stage(client)
    stage.open({"a": ()})
    stage.launch("a")
    endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)

    def send(after: int, *lines: str) -> None:
        body = {"step": "fetch", "after": after, "lines": list(lines)}
        assert as_pod(endpoint, "/v1/lines", "a", body)[0] == "200 OK"

    send(0, "one", "two")
    follower, read = LogFollower(link, RUN, "a", 1, "fetch", "0-0"), list[str]()
    follower.read(read.append, 1)
    assert read == ["one", "two"]
    send(1, "two", "three")
    follower.read(read.append, 1)
    assert read == ["one", "two", "three"]
    stage.end("a", entry="")
    send(3, "the last")
    stage.end("a")
    assert follower.is_complete()
    follower.read_rest(read.append)
    assert read[3:] == ["the last"]
    print_log(link, RUN, "a", 1, "fetch", 2)
    assert capsys.readouterr().out == "three\nthe last\n"
