"""The lines of docs/http.md and docs/triggers.md, run as they stand before a local mode with the HTTP API."""

import hashlib
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.embedded.home import Home
from tests.cli.command import Helios
from tests.redis_servers import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
DAG = """\
dagName: hello
tasks:
  - {name: greet, image: alpine, command: [sh, -c, "echo hello; echo hello > greeting.txt"], outputs: [greeting.txt]}
"""


class Site:
    """A shell with what the page tells to set."""

    def __init__(self, folder: Path, home: Path, port: int) -> None:
        self.folder = folder
        token = Home(home).http_token_file
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        self.environ = {
            **os.environ,
            "HELIOS_HOME": str(home),
            "HELIOS_HTTP": f"http://127.0.0.1:{port}/api/v1",
            "HELIOS_TOKEN": token.read_text().strip(),
        }

    def run(self, line: str, ends: int = 0) -> str:
        done = subprocess.run(
            ["sh", "-c", line], cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == ends, (line, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, home, port = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home") / "helios", free_port()
    helios = Helios(folder, {"HELIOS_HOME": str(home)})
    process = helios.start("up", "--http", str(port))
    told: list[str] = []
    threading.Thread(target=lambda: told.extend(process.stderr or ()), daemon=True).start()
    try:
        wait_until("helios up says that everything runs", lambda: any("Everything runs" in line for line in told), 90)
        (folder / "dag.yaml").write_text(DAG)
        yield Site(folder, home, port)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, told
        helios.end_started()


def lines() -> list[str]:
    """Every curl line of the page, in its order."""
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("curl ")
    ]


def test_every_curl_line_of_the_page_does_what_it_says(site: Site) -> None:
    submit, show, newest, metrics, logs, artifacts, fetch, cancel, status, events = lines()
    site.environ["RUN"] = json.loads(site.run(submit))["dagId"]
    wait_until("a submitter has come to it", lambda: json.loads(site.run(show))["status"] != "SUBMITTED")
    assert site.run(logs) == "hello\n"
    ended = wait_until("it has ended", lambda: (run := json.loads(site.run(show)))["endTime"] and run, 60)
    assert (ended["status"], ended["tasks"][0]["name"]) == ("SUCCEEDED", "greet")
    for line in (newest, metrics):
        assert [run["dagId"] for run in json.loads(site.run(line))["runs"]] == [site.environ["RUN"]]
    (output,) = json.loads(site.run(artifacts))["artifacts"]
    site.run(fetch)
    content = (site.folder / "greeting.txt").read_bytes()
    assert (content, hashlib.sha256(content).hexdigest()) == (b"hello\n", output["sha256"])
    assert json.loads(site.run(cancel))["status"] == "SUCCEEDED"

    def silent() -> list[str]:
        told = {each["service"]: each["replicas"] for each in json.loads(site.run(status))["services"]}
        return [service for service in ("submitter", "jobrunner", "collector", "api") if not told[service]]

    # Heartbeats that were read for the submission serve for two seconds, and the API's own first one may be later.
    wait_until("every service is told of", lambda: not silent())

    def told() -> list[str]:
        return [
            json.loads(line[6:])["type"] for line in site.run(events, ends=28).splitlines() if line.startswith("data: ")
        ]

    # The line ends by itself after three seconds, in which a busy machine may not have told all.
    seen = wait_until("all that happened is told", lambda: (found := told())[-1:] == ["RunEnded"] and found, 60)
    assert seen[0] == "RunAccepted"


def test_a_repeated_request_id_is_the_first_run_by_the_submitters_own_account(site: Site) -> None:
    again = lines()[0].replace("nightly-1", "twice")
    first = json.loads(site.run(again))["dagId"]
    site.environ["RUN"] = first
    wait_until("a submitter has come to it", lambda: json.loads(site.run(lines()[1]))["status"] != "SUBMITTED")
    assert json.loads(site.run(again)) | {"warnings": []} == {
        "dagId": first,
        "dagName": "hello",
        "taskCount": 1,
        "repeated": True,
        "warnings": [],
        "waits": "",
    }


TRIGGERS = PAGE.with_name("triggers.md")
TRIGGERED = """\
dagName: triggered
params: {order: "", day: "", ref: "", key: ""}
tasks:
  - {name: only, image: alpine, command: [sh, -c, "echo ${params.order}${params.day}${params.ref}${params.key}"]}
"""


def test_every_line_of_the_page_of_triggers_does_what_it_says(site: Site) -> None:
    """But for those of MinIO, which tests/services/test_http_triggers.py has."""
    folder = site.folder / "triggers"
    folder.mkdir()
    (folder / "dag.yaml").write_text(TRIGGERED)
    helios = Helios(folder, {"HELIOS_HOME": site.environ["HELIOS_HOME"]})
    blocks = re.findall(r"```sh\n(.*?)```", TRIGGERS.read_text(), re.DOTALL)
    commands = [shlex.split(line)[1:] for line in blocks[0].splitlines()]
    assert [words[1] for words in commands] == ["add", "add", "add", "list", "show", "pause", "resume", "remove"]
    for words in commands[:-1]:
        done = helios(*words)
        assert done.code == 0, (words, done)
    (call,) = (line for block in blocks for line in block.splitlines() if line.startswith("curl "))
    (added,) = (shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("redis-cli "))
    address = re.search(r"HELIOS_REDIS_URL='?([^'\n]+)", helios("env").out)
    assert address is not None
    with redis.Redis.from_url(address[1]) as client:
        client.execute_command(*added[1:])
    site.environ["RUN"] = json.loads(site.run(call))["events"][0]["dagId"]

    def seen() -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in helios("trigger", "list", "-o", "json").json()}

    wait_until(
        "both have ended", lambda: all(seen()[name]["lastStatus"] == "SUCCEEDED" for name in ("orders", "hook")), 60
    )
    assert {name: (each["runs"], each["refused"]) for name, each in seen().items()} == {
        "orders": (1, 0),
        "hook": (1, 0),
        "uploads": (0, 0),
    }
    assert helios("logs", str(seen()["orders"]["lastRun"]), "only").out == "172026-11-01\n"
    assert "${event.data.date}" in helios("trigger", "show", "orders").out
    assert helios(*commands[-1]).code == 0
    assert "orders" not in seen()


def test_what_is_no_trigger_is_refused_with_the_next_step(site: Site) -> None:
    helios = Helios(site.folder, {"HELIOS_HOME": site.environ["HELIOS_HOME"]})
    for words, said in (
        (("add", "x", "dag.yaml"), "--stream KEY or --webhook"),
        (("add", "x", "dag.yaml", "--stream", "elsewhere"), "may not read"),
        (("add", "x", "dag.yaml", "--webhook", "-p", "ref=x"), "no parameter 'ref'"),
        (("show", "x"), "no trigger"),
    ):
        refused = helios("trigger", *words)
        assert (refused.code, said in refused.err, "next:" in refused.err) == (2, True, True), refused


def test_a_token_that_the_command_makes_is_the_entrys(site: Site) -> None:
    from services.api.tokens import token_of, tokens_of

    done = Helios(site.folder, {"HELIOS_HOME": site.environ["HELIOS_HOME"]})("token", "ci", "--scope", "submit")
    token, entry = done.out.splitlines()
    known = token_of(f"Bearer {token}", tokens_of(entry))
    assert known is not None
    assert (known.name, known.scopes) == ("ci", frozenset({"submit"}))
