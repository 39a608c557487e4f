"""The collector's endpoint goes away and comes back: the steps, as processes, wait for it and lose nothing."""

import json
import os
import socket
import subprocess
from typing import Any

import pytest

from tests.agent.conftest import serving
from tests.redis_servers import free_port


def hang_up(port: int, calls: int) -> None:
    """Take so many calls and break each off, which shows that the step keeps calling; then close the port."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(60)
        for _ in range(calls):
            connection, _ = listener.accept()
            connection.close()


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ends_well(process: subprocess.Popen[bytes]) -> None:
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed.decode()


@pytest.fixture
def port() -> int:
    return free_port()


def test_fetch_waits_for_an_endpoint_that_is_away_for_a_while(store: Any, endpoint: Any, node: Any, port: int) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    endpoint.port = port
    process = node.start("fetch")
    hang_up(port, 2)
    assert closed(port)
    assert process.poll() is None
    with serving(endpoint.handler(), port):
        ends_well(process)
    assert node.read("x") == b"x"


def test_publish_waits_with_its_report_and_has_left_its_message_by_then(
    store: Any, endpoint: Any, node: Any, port: int
) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"made")
    endpoint.port = port
    node.task_ended()
    process = node.start("publish")
    hang_up(port, 2)
    assert closed(port)
    endpoint.script["/v1/result"] = [503]
    with serving(endpoint.handler(), port):
        ends_well(process)
    assert store.objects["bucket/runs/r/t/0/pod/n"] == b"made"
    assert len(endpoint.reports) == 1
    assert json.loads((node.root / "message").read_bytes())["report"] == "committed"


def test_a_report_that_finds_the_port_closed_is_delivered_when_it_opens_again(
    store: Any, endpoint: Any, node: Any, port: int, wait_until: Any
) -> None:
    """The plan came while it was open, and the outputs are stored while it is closed."""
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"made")
    endpoint.port = port
    os.mkfifo(node.artifacts / "gate")
    wrapper = node.start("exec", "--", "sh", "-c", "cat < gate")
    keeps_nothing = type("Handler", (endpoint.handler(),), {"protocol_version": "HTTP/1.0"})
    with serving(keeps_nothing, port):
        process = node.start("publish")
        wait_until(lambda: "/v1/plan" in endpoint.asked, "publish has its plan")
    assert closed(port)
    (node.artifacts / "gate").write_bytes(b"go")
    wrapper.communicate(timeout=60)
    wait_until(lambda: (node.root / "message").exists(), "its message is there, ahead of the report")
    hang_up(port, 1)
    assert json.loads((node.root / "message").read_bytes())["report"] == "undelivered"
    with serving(endpoint.handler(), port):
        ends_well(process)
    assert store.objects["bucket/runs/r/t/0/pod/n"] == b"made"
    assert [report["exitCode"] for report in endpoint.reports] == [0]
