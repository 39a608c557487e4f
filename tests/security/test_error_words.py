"""What goes wrong is told without the credentials it went wrong with."""

import asyncio
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from kubernetes.client import Configuration
from rich.console import Console

from cli.connection import Link, place_of
from helios.settings import SECRETS, Settings
from services.jobrunner.jobs import JobRefused, job_name, wanted_job
from services.jobrunner.kubernetes import Api, KubernetesLauncher
from tests.cli.command import ROOT
from tests.security.commands import piped
from tests.services.job_server import SETTINGS, ApiServer, status
from tests.stage import RUN, parsed
from tests.tui.stage import session_of, until
from tui.app import HeliosApp
from tui.preferences import Preferences

UNREADABLE = (
    "redis://user:sek/ret@127.0.0.1:1/0",
    "redis://user:sek#ret@127.0.0.1:1/0",
    "redis://user:sek?ret@127.0.0.1:1/0",
    "redis://user:sek[ret]@127.0.0.1:1/0",
    "redis://user:sek\u2100ret@127.0.0.1:1/0",
    "redis://user:sekret:ret@[127.0.0.1]:1/0",
    "user:sekret@127.0.0.1",
)
"""Passwords that were not escaped, as every second generator makes them, and an address without its scheme."""
PARTS = ("sek", "ret@", "\u2100")


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_redis_url_that_cannot_be_read_is_not_quoted_by_a_command(url: str, tmp_path: Path) -> None:
    for words in (("runs",), ("doctor",)):
        code, out, err = piped(words, tmp_path, {"HELIOS_REDIS_URL": url})
        told = out + err
        assert code != 0
        assert "HELIOS_REDIS_URL" in told
        assert [part for part in PARTS if part in told] == []


def test_a_redis_url_that_cannot_be_read_is_not_quoted_by_a_service(tmp_path: Path) -> None:
    for url, service in zip(UNREADABLE, ("submitter", "jobrunner", "collector"), strict=False):
        environ = {"HELIOS_REDIS_URL": url, "HELIOS_TOKEN_KEY": "k", "HELIOS_LOCAL_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", f"services.{service}"],
            env={**os.environ, **environ},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert "HELIOS_REDIS_URL" in done.stderr
        assert [part for part in PARTS if part in done.stderr] == [], service
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_redis_url_that_cannot_be_read_is_not_quoted_by_a_probe(url: str) -> None:
    """Its words become an event of the pod, which more people may read than its environment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "k8s/base/heartbeat.py"), "ready", "submitter"],
        env={"HELIOS_REDIS_URL": url, "HELIOS_REPLICA": "r"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert [part for part in PARTS if part in done.stdout + done.stderr] == []
    assert "Traceback" not in done.stderr


def test_an_address_is_shown_without_user_and_password() -> None:
    for url in ("redis://user:sekret@host:1/0", "rediss://user:sekret@host:1/0", *UNREADABLE[:-1]):
        shown = place_of(url)
        assert [part for part in (*PARTS, "user") if part in shown] == [], url


def test_settings_show_no_secret_wherever_they_are_printed() -> None:
    planted = {name: f"sekret-{name}" for name in SECRETS}
    settings = Settings(**planted)  # pyright: ignore[reportArgumentType]
    told = io.StringIO()
    Console(file=told, width=10_000).print(settings, [settings], {"settings": settings})
    for text in (repr(settings), str([settings]), told.getvalue()):
        assert "s3_region='us-east-1'" in text
        assert "sekret" not in text
    assert {name for name in Settings.__struct_fields__ if name.endswith(("_key", "_url"))} - SECRETS == {
        "s3_access_key",  # a name
        "pod_endpoint_url",
    }


def test_a_dashboard_that_fails_does_not_print_what_its_variables_held(
    valkey: redis.Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(link: Link) -> None:
        settings = link.settings
        password = settings.s3_secret_key  # noqa: F841 -- a variable of the frame that fails
        raise RuntimeError(f"no place for {settings.s3_bucket}")

    async def run() -> None:
        app = HeliosApp(session_of(valkey), Preferences(), state=tmp_path)
        with pytest.raises(RuntimeError):
            async with app.run_test() as pilot:
                await until(pilot, "it runs", lambda: app.session.feed.connection.state == "live")
                app.call_later(fails, Link(valkey, Settings(s3_secret_key="planted")))
                await until(pilot, "it failed", lambda: app._exit_renderables)

    asyncio.run(run())
    told = capsys.readouterr().err
    assert "no place for helios" in told
    assert "in fails" in told
    assert told.count("planted") == 0, told


def test_an_api_server_that_quotes_the_job_does_not_give_its_token_away() -> None:
    """As an admission webhook may, or a validation that shows the value it refuses."""
    server = ApiServer()
    import threading

    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    configuration = Configuration()
    configuration.host = server.url
    launcher = KubernetesLauncher(Api(configuration, connections=2, timeout_seconds=5), SETTINGS, lambda: 0)
    job: Any = wanted_job(
        job_name(RUN, "a", 1),
        parsed({"a": []}).dag.tasks[0],
        run=RUN,
        attempt=1,
        cache_enabled=True,
        settings=SETTINGS,
        now_seconds=0,
    )
    token = job.agent_env["HELIOS_TOKEN"]
    server.answers = [status(422, "Invalid", f'Job is invalid: env: Invalid value: "HELIOS_TOKEN={token}": too long')]
    with pytest.raises(JobRefused) as refused:
        launcher.create(job)
    server.shutdown()
    server.server_close()
    assert "too long" in str(refused.value)
    assert token not in str(refused.value)
    assert token.partition(".")[2] not in str(refused.value)
