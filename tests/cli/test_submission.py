"""Sending: one lost reply is one run, and what cannot be known is said."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.connection import Link
from cli.failure import INTERRUPTED, CommandFailed
from cli.main import run
from cli.submission import await_verdict, cancel, read_dag, submit
from helios.dag_problem import LIMITS
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.messages import Submission, decode
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS, Entry
from services.submitter.accept import accept
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage, dag_text

DAG = dag_text({"a": ()})


class LossyProxy:
    """Hands commands to a server and keeps the reply to the first XADD to itself, as a broken network does."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.lost = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.server_port))
        with connection, server, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                server.sendall(request)
                reply = server.recv(65536)
                if b"XADD" in request and not self.lost:
                    self.lost = True
                    return
                connection.sendall(reply)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def lossy(shared_valkey: Valkey, valkey: redis.Redis) -> Iterator[Link]:
    proxy = LossyProxy(shared_valkey.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    with redis.Redis.from_url(url, **CLIENT_OPTIONS) as client:
        yield Link(client, Settings(redis_url=url))
    proxy.close()


def accept_all(client: redis.Redis) -> list[str]:
    return [
        accept(client, Entry(stream=SUBMISSIONS, id=entry, fields=fields), 1)
        for entry, fields in client.xrange(SUBMISSIONS)
    ]


def test_a_lost_reply_is_asked_for_again_where_a_request_id_makes_it_safe(lossy: Link, valkey: redis.Redis) -> None:
    entry = submit(lossy, DAG, use_cache=None, request_id="r1")
    entries = valkey.xrange(SUBMISSIONS)
    assert len(entries) == 2
    assert accept_all(valkey) == ["accepted", "alias"]
    verdict = await_verdict(lossy, entry, 5)
    assert (verdict.run, verdict.status, verdict.is_alias) == (entries[0][0], "RUNNING", True)


def test_without_a_request_id_a_lost_reply_is_never_repeated(lossy: Link, valkey: redis.Redis) -> None:
    with pytest.raises(CommandFailed, match="may have been submitted or not") as raised:
        submit(lossy, DAG, use_cache=None, request_id=None)
    assert raised.value.code == 3
    assert len(valkey.xrange(SUBMISSIONS)) == 1


def test_a_lost_reply_to_a_cancel_is_repeated(lossy: Link, valkey: redis.Redis) -> None:
    cancel(lossy, RUN)
    assert [fields for _, fields in valkey.xrange(CONTROLS)] == [{"run": RUN, "action": "cancel"}] * 2


def test_a_submission_carries_what_was_asked_for(link: Link, client: redis.Redis) -> None:
    submit(link, DAG, use_cache=False, request_id="r1", params={"date": "2026-11-01"})
    submit(link, DAG, use_cache=None, request_id=None, params={})
    first, second = (decode(fields, Submission) for _, fields in client.xrange(SUBMISSIONS))
    assert (first.dag.encode(), first.useCache, first.requestId) == (DAG, "false", "r1")
    assert (first.params, second.params) == ('{"date": "2026-11-01"}', None)
    assert (second.useCache, second.requestId) == (None, None)


def test_a_dag_that_is_no_text_reaches_the_submitter_unchanged(link: Link, client: redis.Redis) -> None:
    entry = submit(link, b"dagName: \xff", use_cache=None, request_id=None)
    assert accept_all(client) == ["rejected"]
    verdict = await_verdict(link, entry, 5)
    assert verdict.status == "REJECTED"
    assert "UTF-8" in " ".join(verdict.problems)


def test_nobody_to_accept_is_no_verdict(link: Link, client: redis.Redis) -> None:
    assert await_verdict(link, RUN, 0.01).status is None
    Stage(client).open({"a": ()})
    assert await_verdict(link, RUN, 0.01).status == "RUNNING"
    client.hset(Keys(0).run("5-0"), mapping={"dagId": "5-0", "aliasOf": RUN})
    assert await_verdict(link, "5-0", 0.01).run == RUN


def test_ctrl_c_right_after_the_acceptance_cancels_the_run(
    shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is no longer waited for, and not followed yet."""
    (tmp_path / "dag.json").write_bytes(DAG)
    monkeypatch.setenv("HELIOS_REDIS_URL", shared_valkey.url)
    monkeypatch.setattr("cli.watch.CANCEL_SECONDS", 0.0)

    def submit_and_accept(*given: Any, **named: Any) -> str:
        entry = submit(*given, **named)
        assert accept_all(valkey) == ["accepted"]
        return entry

    def interrupt(line: str) -> None:
        if line.startswith("run "):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("cli.commands.run.submit", submit_and_accept)
    monkeypatch.setattr("cli.commands.run.narrate", interrupt)
    assert run(["run", str(tmp_path / "dag.json")]) == INTERRUPTED
    ((entry, _),) = valkey.xrange(SUBMISSIONS)
    assert [fields for _, fields in valkey.xrange(CONTROLS)] == [{"run": entry, "action": "cancel"}]


def test_a_file_beyond_the_limit_is_not_sent(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("large") / "large.yaml"
    with file.open("wb") as opened:
        opened.truncate(LIMITS.max_payload_bytes + 1)
    with pytest.raises(CommandFailed, match="the limit of a DAG"):
        read_dag(str(file))
