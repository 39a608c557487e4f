"""Unique secrets are planted wherever local mode has one, then everything that anybody can see is searched for them."""

import asyncio
import json
import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import redis
from textual.pilot import Pilot

from cli.connection import Link
from cli.embedded.home import Home, Passwords, write_private
from cli.embedded.lease import running_stack
from helios.settings import settings_from
from helios.streams import CLIENT_OPTIONS
from tests.cli.command import Helios
from tests.security.commands import piped
from tests.tui.pictures import WIDE, screen_text
from tests.tui.stage import until
from tests.waiting import wait_until
from tui.app import HeliosApp
from tui.preferences import Preferences
from tui.session import Options, Session
from tui.source.feed import Feed

pytestmark = pytest.mark.timeout(240)

SIGNED = re.compile(r"X-Amz-Signature=[0-9a-f]{8}|[?&]grant=[0-9a-f]{8}")
"""A URL of the store or of a keeper that still opens what it is for."""
TOKEN = re.compile(r"\bW[A-Za-z0-9_-]{40,}\.[0-9a-f]{64}\b")
"""An attempt's: JSON of an array in base64, a point, and its HMAC."""

GOOD = """\
dagName: good
tasks:
  - name: make
    image: alpine:3.20
    command: [sh, -c, "env | grep -v '^KEY=' | sort; test -n \\"$KEY\\"; touch {folder}/here; \
until test -e {folder}/go; do sleep 0.05; done; head -c 300000 /dev/zero > big.txt; mkdir many; cp corpus.txt many/"]
    env: {{KEY: {{secret: vault, key: api}}, PLAIN: value}}
    inputs: [{{uri: "s3://corpora/corpus.txt"}}]
    outputs: [big.txt, many]
  - name: use
    image: alpine:3.20
    command: [wc, -c, big.txt]
    inputs: [{{fromTask: make, name: big.txt}}]
    memoize: true
"""
BAD = """\
dagName: bad
tasks:
  - {name: exits, image: i, command: [sh, -c, "echo went wrong >&2; exit 3"], env: {KEY: {secret: vault, key: api}}}
  - {name: no-output, image: i, command: ["true"], outputs: [missing.txt]}
  - {name: no-object, image: i, command: ["true"], inputs: [{uri: "s3://corpora/not-there"}]}
  - {name: no-bucket, image: i, command: ["true"], inputs: [{uri: "s3://no-such-bucket/object"}]}
  - {name: no-secret, image: i, command: ["true"], env: {KEY: {secret: vault, key: not-there}}}
  - {name: no-program, image: i, command: [/no/such/program]}
  - {name: a-link, image: i, command: [ln, -s, /etc/passwd, out], outputs: [out]}
"""


class Planted(NamedTuple):
    """What must not be seen, by its name, and the files below the home that may hold it."""

    valkey: str
    s3_secret_key: str
    token_key: str
    env_secret: str
    outer: str

    @classmethod
    def new(cls) -> "Planted":
        return cls(*(f"planted-{name}-{secrets.token_hex(12)}" for name in cls._fields))


MAY_HOLD = {
    "valkey": {"run/passwords.json", "run/valkey.conf"},
    "s3_secret_key": {"run/passwords.json", "s3/identities.json"},
    "token_key": {"run/passwords.json"},
    "env_secret": {"secrets/vault/api"},
    "outer": set[str](),
}


class Watcher:
    """Reads what is below a folder again and again: much is there for moments only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, str] = {}
        self.modes: dict[str, int] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.stop.wait(0.02):
            self.look()

    def look(self) -> None:
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(parent, name)
                try:
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode) and status.st_size < 200_000:
                        text = Path(path).read_text(encoding="utf-8", errors="replace")
                        key = os.path.relpath(path, self.folder)
                        self.modes[key] = stat.S_IMODE(status.st_mode)
                        if text not in self.seen.get(key, ""):
                            self.seen[key] = self.seen.get(key, "") + text
                except OSError:
                    continue


class Scene(NamedTuple):
    """Local mode after some runs, and all that was said meanwhile."""

    helios: Helios
    home: Path
    planted: Planted
    told: dict[str, str]
    """What commands, processes and files had in them, by where it was."""
    watcher: Watcher
    processes: dict[str, str]
    """Command lines."""
    environs: dict[str, dict[str, str]]
    """Of the task while it ran."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home") / "helios"
    planted = Planted.new()
    (home / "run").mkdir(parents=True, mode=0o700)
    made = Passwords(planted.valkey, "planted-name-of-a-key", planted.s3_secret_key, planted.token_key)
    write_private(
        home / "run" / "passwords.json", json.dumps({n: getattr(made, n) for n in made.__struct_fields__}).encode()
    )
    (home / "secrets" / "vault").mkdir(parents=True, mode=0o700)
    write_private(home / "secrets" / "vault" / "api", planted.env_secret.encode())
    variables = {"HELIOS_HOME": str(home), "HELIOS_LOG_LEVEL": "debug", "AWS_SECRET_ACCESS_KEY": planted.outer}
    helios = Helios(folder, variables)
    up = helios.start("up")
    said: list[str] = []
    readers = [threading.Thread(target=lambda s=s: said.extend(s), daemon=True) for s in (up.stdout, up.stderr)]
    for reader in readers:
        reader.start()
    watcher = Watcher(home / "node")
    told: dict[str, str] = {}
    try:
        wait_until("helios up says that everything runs", lambda: any("Everything runs" in line for line in said), 60)
        watcher.thread.start()
        processes, environs = _work(helios, folder, told)
        stack = running_stack(Home(home))
        assert stack is not None
        told |= _dashboard(stack.environ, folder)
    finally:
        watcher.stop.set()
        watcher.thread.join()
        up.send_signal(signal.SIGTERM)
        up.wait(60)
        helios.end_started()
    told["helios up"] = "".join(said)
    yield Scene(helios, home, planted, told, watcher, processes, environs)


def _work(helios: Helios, folder: Path, told: dict[str, str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Runs that succeed and fail in many ways, and every command that looks at them."""

    def call(*words: str) -> str:
        _, out, err = piped(words, folder, {"HELIOS_HOME": helios.environ["HELIOS_HOME"]})
        told[" ".join(words)] = out + err
        return out

    (folder / "corpus.txt").write_text("Call me Ishmael.\n" * 100)
    call("put", "corpus.txt", "s3://corpora/corpus.txt", "--make-bucket")
    good = call("submit", helios.dag("good", GOOD.format(folder=folder))).strip()
    wait_until("the task runs", (folder / "here").exists, 60)
    processes, environs = _processes()
    (folder / "go").touch()
    call("run", helios.dag("bad", BAD))
    bad = json.loads(call("runs", "-o", "json"))[0]["dagId"]
    wait_until("the first run ended", lambda: "SUCCEEDED" in call("show", good), 60)
    call("run", "good.yaml")
    call("submit", helios.dag("rejected", "dagName: x\ntasks: []\n"))
    for run, task in ((good, "make"), (good, "use"), *((bad, each) for each in ("exits", "no-object", "no-secret"))):
        for form in ((), ("-o", "json")):
            call("why", run, task, *form)
        for step in ("task", "fetch", "publish"):
            call("logs", run, task, "--step", step)
    for form in ((), ("-o", "json")):
        for words in (
            ("show", good),
            ("show", bad),
            ("critical", good),
            ("artifacts", good),
            ("runs",),
            ("plan", "good.yaml"),
        ):
            call(*words, *form)
        call("cache", "stats", *form)
        call("doctor", *form)
    call("artifacts", good, "--to", "fetched")
    call("gc", "--dry-run")
    call("version", "--services")
    call("record", "runs.helios")
    told["the recording"] = (folder / "runs.helios").read_bytes().decode("latin-1")
    call("show", "no-such-run")
    assert "no-object" in told[f"show {bad}"] and "FAILED" in told[f"show {bad}"]
    return processes, environs


def _processes() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Of this machine: what everybody on it may read, and the environment of the task and its children."""
    lines: dict[str, str] = {}
    environs: dict[str, dict[str, str]] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            lines[str(process.pid)] = " ".join(words)
            if words[:1] == ["sh"] and "corpus.txt many" in lines[str(process.pid)]:
                environs[str(process.pid)] = process.environ()
        except psutil.Error:
            continue
    return lines, environs


def _dashboard(environ: dict[str, str], folder: Path) -> dict[str, str]:
    """Each screen's text, with the settings that `helios tui` has."""
    settings = settings_from(environ)
    screens: dict[str, str] = {}

    async def steps(app: HeliosApp, pilot: Pilot[Any]) -> None:
        await until(pilot, "runs are listed", lambda: "good" in screen_text(app))
        for keys in (
            ("enter",),
            ("enter",),
            ("escape",),
            ("l",),
            ("escape",),
            ("down",),
            ("enter",),
            ("H",),
            ("f3",),
            ("f1",),
        ):
            await pilot.press(*keys)
            for _ in range(4):
                await pilot.pause(0.05)
            screens[f"screen {len(screens)} after {keys}"] = screen_text(app)

    async def run() -> None:
        with redis.Redis.from_url(settings.redis_url, **CLIENT_OPTIONS) as client:
            link = Link(client, settings)
            app = HeliosApp(Session(link, Feed(link), Options()), Preferences(), state=folder)
            async with app.run_test(size=WIDE) as pilot:
                await steps(app, pilot)

    asyncio.run(run())
    assert len(set(screens.values())) > 4
    return screens


def found_in(text: str, planted: Planted) -> list[str]:
    secret = [name for name, value in planted._asdict().items() if value in text]
    return [*secret, *(kind for kind, what in (("signed URL", SIGNED), ("token", TOKEN)) if what.search(text))]


def test_no_command_no_screen_and_no_log_shows_a_secret(scene: Scene) -> None:
    """Those of every service at debug level are among the files, below run/logs."""
    texts = {**scene.told, **{str(log): log.read_text(errors="replace") for log in (scene.home / "run/logs").iterdir()}}
    assert len(texts) > 60
    assert any("collector" in where for where in texts)
    assert {where: found for where, text in texts.items() if (found := found_in(text, scene.planted))} == {}


def test_no_process_has_a_secret_among_its_arguments(scene: Scene) -> None:
    """Everybody on the machine may read them."""
    assert any("valkey-server" in line for line in scene.processes.values())
    assert any("weed" in line for line in scene.processes.values())
    assert {line: found for line in scene.processes.values() if (found := found_in(line, scene.planted))} == {}


def test_a_task_is_given_its_own_secrets_and_no_others(scene: Scene) -> None:
    assert scene.environs
    for environ in scene.environs.values():
        assert environ["KEY"] == scene.planted.env_secret
        text = json.dumps({name: value for name, value in environ.items() if name != "KEY"})
        assert found_in(text, scene.planted) == []
        assert "HELIOS_TOKEN" not in environ
        assert "AWS_SECRET_ACCESS_KEY" not in environ


def test_what_is_there_for_moments_holds_no_secret_but_the_job_its_attempts_token(scene: Scene) -> None:
    """Statuses, logs and termination messages of pods, and what their steps tell each other."""
    seen = scene.watcher.seen
    assert any(name.endswith(".message") for name in seen)
    assert any(name.startswith("jobs/") for name in seen)
    found = {name: what for name, text in seen.items() if (what := found_in(text, scene.planted))}
    assert {name for name, what in found.items() if what != ["token"]} == set()
    assert {name for name in found if not name.startswith("jobs/")} == set()
    assert found, "the search would not see a token if there was one"
    assert {scene.watcher.modes[name] for name in found} == {0o600}


def test_on_the_disk_each_secret_is_where_it_belongs_and_for_its_owner_alone(scene: Scene) -> None:
    """Redis's append-only file is among what is searched: all records, events and entries of these runs."""
    assert stat.S_IMODE(scene.home.stat().st_mode) == 0o700
    held: dict[str, set[str]] = {name: set() for name in MAY_HOLD}
    searched = 0
    for path in scene.home.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        searched += 1
        name, content = str(path.relative_to(scene.home)), path.read_bytes().decode("latin-1")
        for secret in found_in(content, scene.planted):
            held.setdefault(secret, set()).add(name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, name
    assert any(path.name.endswith(".aof") for path in (scene.home / "valkey").rglob("*"))
    assert searched > 10
    assert held == MAY_HOLD
