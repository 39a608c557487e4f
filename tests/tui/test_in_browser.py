"""The served dashboard: in a real Chromium, and against what a page of another site would try."""

import http.client
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from playwright.sync_api import sync_playwright

from tests.cli.command import Helios
from tests.redis_servers import Valkey, free_port
from tests.stage import Stage
from tests.tui.programs import program
from tests.waiting import wait_until

QUIT = "q"
DAG_NAME = "seen-in-browser"
PAGE_MS = 60_000

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Served:
    """`helios tui --serve` over the test's Valkey, and where it listens."""

    def __init__(self, helios: Helios) -> None:
        self.port = free_port()
        self.helios = helios
        self.process = helios.start("tui", "--serve", f"127.0.0.1:{self.port}")
        wait_until("the dashboard is served", self._listens, 60)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def status(self, path: str, headers: dict[str, str]) -> int:
        """What the server answers to a request with these headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def served(shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path) -> Iterator[Served]:
    Stage(valkey).open({"first": (), "second": ("first",)}, name=DAG_NAME)
    helios = Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url, "HOME": str(tmp_path)})
    yield Served(helios)
    helios.end_started()


def children(process: "subprocess.Popen[str]") -> set[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return {int(pid) for pid in listed.stdout.split()}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_browser_shows_the_runs_and_takes_keys(served: Served, tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.set_default_timeout(PAGE_MS)
        frames: list[bytes] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(as_bytes(frame))))

        def shown(text: bytes) -> bool:
            page.wait_for_timeout(1)  # lets the browser's messages in
            return text in b"".join(frames)

        page.goto(f"http://{served.place}/")
        assert page.title() == "Helios"
        wait_until("the run is shown", lambda: shown(DAG_NAME.encode()), 60)
        page.wait_for_selector("body.-first-byte", state="attached")
        page.screenshot(path=tmp_path / "runs.png")
        (session,) = children(served.process)
        page.click(".textual-terminal")
        page.keyboard.press(QUIT)
        wait_until("the key has ended the session", lambda: not is_there(session), 30)

        page.reload()
        (session,) = wait_until("another session begins", lambda: children(served.process), 60)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 0
        wait_until("the session has ended with the server", lambda: not is_there(session))
        browser.close()


def as_bytes(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


def test_a_page_of_another_site_gets_nothing(served: Served) -> None:
    own = {"Host": served.place, "Origin": f"http://{served.place}"}
    assert served.status("/", {"Host": served.place}) == 200
    assert served.status("/", {"Host": f"localhost:{served.port}"}) == 200
    assert served.status("/", {"Host": f"evil.example:{served.port}"}) == 403
    assert served.status("/", {"Host": served.place, "Origin": "http://evil.example"}) == 403
    assert served.status("/ws", {**own, **UPGRADE, "Origin": "http://evil.example"}) == 403
    assert served.status("/ws", {**UPGRADE, "Host": served.place}) == 403
    assert served.status("/ws", {**own, **UPGRADE}) == 101


def test_other_machines_are_not_served_unless_told(served: Served) -> None:
    done = served.helios("tui", "--serve", "0.0.0.0:8415")
    assert done.code == 2
    assert "no login" in done.err
    assert "--serve-anywhere" in done.err


def test_a_port_in_use_is_said(served: Served) -> None:
    done = served.helios("tui", "--serve", served.place)
    assert done.code == 2
    assert f"port {served.port} is in use" in done.err
