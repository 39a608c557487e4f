"""The HTTP API as a process of its own, before a real Valkey, and a plain client of it."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.redis_servers import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
TOKENS = {"both": "b" * 43, "reader": "r" * 43, "sender": "s" * 43}
SCOPES = {"both": "read+submit", "reader": "read", "sender": "submit"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """One replica."""

    def __init__(self, redis_url: str, **settings: object) -> None:
        self.port = free_port()
        entries = [f"{n}:{SCOPES[n]}:{hashlib.sha256(t.encode()).hexdigest()}" for n, t in TOKENS.items()]
        environ = {
            **os.environ,
            "HELIOS_REDIS_URL": redis_url,
            "HELIOS_HTTP_BIND": f"127.0.0.1:{self.port}",
            "HELIOS_HTTP_TOKENS": " ".join(entries),
            "HELIOS_S3_ACCESS_KEY": "key",
            "HELIOS_S3_SECRET_KEY": "secret",
            **{f"HELIOS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.api"], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True
        )
        wait_until("the API is ready", self._is_ready, 60)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        try:
            return self.ask("GET", "/readyz", token=None).status == 200
        except OSError:
            return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: str | None = "both",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        connection = self.connect()
        login = {"Authorization": f"Bearer {TOKENS.get(token, token)}"} if token is not None else {}
        try:
            connection.request(method, path, body, {**login, **(headers or {})})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def open(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """An answer that is read piece by piece."""
        connection = self.connect()
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKENS['both']}", **(headers or {})})
        return connection.getresponse()

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@contextmanager
def serving(redis_url: str, **settings: object) -> Iterator[Api]:
    api = Api(redis_url, **settings)
    try:
        yield api
    finally:
        if api.process.poll() is None:
            api.stop()


def events_of(answer: http.client.HTTPResponse, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next events with their ids; what has no data is passed over."""
    found: list[tuple[str, dict[str, Any]]] = []
    place = ""
    while len(found) < count:
        line = answer.readline().decode().rstrip("\n")
        assert line or not answer.isclosed()
        if line.startswith("id: "):
            place = line[4:]
        elif line.startswith("data: "):
            found.append((place, json.loads(line[6:])))
    return found
