"""The local node: each Job becomes a pod of processes with a true status, and nothing of a pod outlives it."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent
from cli.embedded.home import Home, prepare
from helios.localjobs import (
    EnvFromSecret,
    LocalJob,
    PodStatus,
    create_job,
    delete_job,
    log_file,
    pod_folder,
    read_status,
    release_pod,
    status_file,
)

TOKEN = "the-token-of-this-attempt"


class LocalNode:
    """A node in a home of its own, with a stand-in for fetch and publish."""

    def __init__(self, home: Home, until: Callable[..., Any]) -> None:
        prepare(home)
        self.home = home
        self.until = until
        self.slots = 8
        self.process: subprocess.Popen[bytes] | None = None
        self.agent = home.path.parent / "agent"
        self.agent.mkdir()
        text = Path(__file__).with_name("fake_agent.py").read_text()
        (self.agent / "__main__.py").write_text(text.replace("REAL_AGENT", os.path.dirname(agent.__file__)))

    def start(self) -> None:
        env = {
            **os.environ,
            "HELIOS_HOME": str(self.home.path),
            "HELIOS_LOCAL_DIR": str(self.home.node),
            "HELIOS_CACHE_DIR": str(self.home.cache),
            "HELIOS_LOCAL_SLOTS": str(self.slots),
            "HELIOS_NODE_NAME": "local",
            "HELIOS_AGENT_DIR": str(self.agent),
            "HELIOS_REDIS_URL": "redis://:valkey-password@127.0.0.1:1/0",
            "HELIOS_S3_SECRET_KEY": "store-password",
            "HELIOS_TOKEN_KEY": "token-password",
            "AWS_SECRET_ACCESS_KEY": "other-password",
            "LC_ALL": "C.UTF-8",
        }
        self.process = subprocess.Popen([sys.executable, "-m", "cli.embedded.node"], env=env)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def submit(self, name: str, command: list[str], *, fetch: str = "", publish: str = "", **fields: Any) -> None:
        settings = {
            "HELIOS_ENDPOINT": "http://127.0.0.1:1",
            "HELIOS_TOKEN": TOKEN,
            "HELIOS_RUN_ID": "1-0",
            "HELIOS_TASK_NAME": name,
            "HELIOS_ATTEMPT": "1",
            "HELIOS_CACHE_ENABLED": "true",
            "FAKE_FETCH": fetch,
            "FAKE_PUBLISH": publish,
        }
        job = LocalJob(job=name, run="1-0", task=name, attempt=1, command=command, agentEnv=settings, **fields)
        assert create_job(self.home.node, job)

    def status(self, name: str) -> PodStatus | None:
        return read_status(self.home.node, name)

    def final(self, name: str) -> PodStatus:
        return self.until(lambda: (found := self.status(name)) and found.final and found, f"{name} is over")

    def artifact(self, name: str, file: str) -> Path:
        return pod_folder(self.home.node, name) / "artifacts" / file

    def log(self, name: str, step: str) -> str:
        return log_file(self.home.node, name, step).read_text()


@pytest.fixture
def node(home: Home, until: Callable[..., Any], alive: Callable[..., Any]) -> Iterator[LocalNode]:
    made = LocalNode(home, until)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.terminate()
        made.process.wait(10)
    until(lambda: not alive(home.path), "nothing of the node is alive")


def pids_in(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()]


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_pod_runs_its_three_steps_and_its_task_sees_no_credential(node: LocalNode):
    """Succeeded with times and codes; the log of each step; the environment holds what was asked for, and no secret of
    Helios or of this machine's user."""
    (node.home.secrets / "db").mkdir()
    (node.home.secrets / "db" / "password").write_text("s3cret\n")
    node.start()
    node.submit(
        "good",
        [sys.executable, "-c", "import json, os; json.dump(dict(os.environ), open('env.json', 'w')); print('hello')"],
        env={"COLOUR": "blue", "HELIOS_CONTROL_DIR": "/nowhere"},
        secrets=[EnvFromSecret("DB_PASSWORD", "db", "password")],
    )
    status = node.final("good")
    assert (status.phase, status.reason, status.disrupted, status.node) == ("Succeeded", None, False, "local")
    assert list(status.steps) == ["fetch", "task", "publish"]
    for step in status.steps.values():
        assert step.exitCode == 0
        assert step.startedAt and step.endedAt and step.startedAt <= step.endedAt
    assert node.log("good", "task") == "hello\n"
    assert "Init container" in node.log("good", "fetch")
    seen = json.loads(node.artifact("good", "env.json").read_text())
    assert (seen["COLOUR"], seen["DB_PASSWORD"], seen["LC_ALL"]) == ("blue", "s3cret", "C.UTF-8")
    assert {name for name in seen if name.startswith("HELIOS_")} <= {
        "HELIOS_CACHE_ENABLED",
        "HELIOS_RUN_ID",
        "HELIOS_TASK_NAME",
        "HELIOS_ATTEMPT",
        "HELIOS_NODE",
    }
    assert not any("password" in value or TOKEN in value for value in seen.values())
    for verb in ("fetch", "publish"):
        agents = json.loads((pod_folder(node.home.node, "good") / "state" / f"{verb}.env.json").read_text())
        assert agents["HELIOS_TOKEN"] == TOKEN
        assert agents["HELIOS_POD_UID"] == status.uid
        assert not any("password" in value for value in agents.values())
    release_pod(node.home.node, "good")
    node.until(lambda: not pod_folder(node.home.node, "good").exists(), "the pod's folder is removed")
    node.until(lambda: not (node.home.cache / "views" / "good").exists(), "the pod's view is removed")


def test_each_way_to_fail_says_why(node: LocalNode):
    """fetch, the task's code, signal, timeout and missing program, publish, a missing secret, a broken Job file."""
    node.start()
    node.submit("bad-fetch", ["true"], fetch="fail")
    node.submit("bad-code", ["sh", "-c", "exit 7"])
    node.submit("bad-signal", ["sh", "-c", "kill -9 $$"])
    node.submit("bad-time", ["sleep", "60"], timeoutSeconds=1)
    node.submit("bad-program", ["no-such-program"])
    node.submit("bad-publish", ["true"], publish="fail")
    node.submit("bad-secret", ["true"], secrets=[EnvFromSecret("P", "db", "password")])
    node.submit("bad-secret-name", ["true"], secrets=[EnvFromSecret("P", "..", "run")])
    node.submit("bad-wrapper", ["sh", "-c", "kill -9 $PPID; sleep 60"])
    (node.home.node / "jobs" / "bad-file.json").write_text('{"job": 1}')
    expected = {
        "bad-fetch": "no such object",
        "bad-code": "it exited with code 7",
        "bad-signal": "it was ended by SIGKILL",
        "bad-time": "longer than its timeoutSeconds, 1",
        "bad-program": "command not found",
        "bad-publish": "output n was not written",
        "bad-secret": str(node.home.secrets / "db" / "password"),
        "bad-secret-name": "no usable name",
        "bad-wrapper": "its wrapper was killed by SIGKILL",
        "bad-file": "ValidationError",
    }
    for name, words in expected.items():
        status = node.final(name)
        assert status.phase == "Failed"
        assert words in (status.reason or ""), name
        assert not status.disrupted
    assert list(node.final("bad-fetch").steps) == ["fetch"]
    assert node.final("bad-signal").steps["task"].exitCode == 137
    assert node.process is not None and node.process.poll() is None


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
child = subprocess.Popen(["sleep", "600"])
open("pids", "w").write(f"{os.getpid()} {daemon.pid} {child.pid}")
os.rename("pids", "running")
if "leave" not in sys.argv:
    time.sleep(600)
"""


def test_a_deleted_job_leaves_no_process_and_its_pod_is_kept_until_released(node: LocalNode):
    """Not the task that ignores SIGTERM, nor what it started in a session of its own; nor what an ended task left."""
    node.slots = 2
    node.start()
    node.submit("running", [sys.executable, "-c", STUBBORN])
    node.submit("leaving", [sys.executable, "-c", STUBBORN, "leave"])
    node.submit("waiting", ["true"])
    node.until(lambda: node.artifact("running", "running").exists(), "the task runs")
    assert node.final("leaving").phase == "Succeeded"
    assert not any(exists(pid) for pid in pids_in(node.artifact("leaving", "running")))
    pids = pids_in(node.artifact("running", "running"))
    assert all(exists(pid) for pid in pids)
    delete_job(node.home.node, "running")
    status = node.final("running")
    assert (status.phase, status.reason, status.disrupted) == ("Failed", "its Job was deleted", False)
    assert not any(exists(pid) for pid in pids)
    assert pod_folder(node.home.node, "running").exists()
    release_pod(node.home.node, "running")
    node.until(lambda: not pod_folder(node.home.node, "running").exists(), "the pod's folder is removed")


def test_a_killed_node_takes_its_tasks_along_and_its_successor_reports_them(node: LocalNode):
    """What ran is Failed and disrupted, what waited runs now, what was over is left alone; a stopped node does the same
    with its own pods."""
    node.slots = 1
    node.start()
    node.submit("over", ["true"])
    over = node.final("over")
    node.submit("running", [sys.executable, "-c", STUBBORN])
    node.until(lambda: node.artifact("running", "running").exists(), "the task runs")
    pids = pids_in(node.artifact("running", "running"))
    node.submit("waiting", [sys.executable, "-c", STUBBORN])
    node.until(lambda: (found := node.status("waiting")) and found.phase == "Pending", "the second waits")
    (node.home.cache / "views" / "vanished").mkdir(parents=True)
    node.kill()
    node.until(lambda: not exists(pids[0]) and not exists(pids[2]), "the task died with the node")
    node.start()
    status = node.final("running")
    assert (status.phase, status.disrupted) == ("Failed", True)
    assert status.reason == "the local node stopped while the task ran"
    node.until(lambda: not exists(pids[1]), "what left the task's session is killed too")
    node.until(lambda: not (node.home.cache / "views" / "vanished").exists(), "a view without a pod is swept")
    node.until(lambda: node.artifact("waiting", "running").exists(), "what waited runs now")
    assert node.final("over") == over
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 0
    status = node.final("waiting")
    assert (status.phase, status.disrupted) == ("Failed", True)
    assert not any(exists(pid) for pid in pids_in(node.artifact("waiting", "running")))


def test_pods_run_in_the_order_of_their_jobs_and_no_more_than_there_are_slots(node: LocalNode):
    """With one slot, each starts after the one before has ended."""
    node.slots = 1
    for number in range(6):
        node.submit(f"p{number}", ["true"])
        os.utime(node.home.node / "jobs" / f"p{number}.json", ns=(0, (100 - number) * 1_000_000_000))
    node.start()
    statuses = [node.final(f"p{number}") for number in reversed(range(6))]
    for former, later in itertools.pairwise(statuses):
        assert former.steps["publish"].endedAt <= later.steps["fetch"].startedAt


def test_a_runaway_log_is_cut_with_a_line_that_says_so(tmp_path: Path, until: Callable[..., Any]):
    """The step goes on and is not blocked; the file stays within its bounds."""
    import queue

    from cli.embedded.step import Step

    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
    step = Step(
        "task",
        [sys.executable, "-c", "import sys\nfor _ in range(1000): sys.stdout.write('x' * 999 + chr(10))\nsys.exit(5)"],
        env={},
        cwd=tmp_path,
        log=tmp_path / "log",
        ends=ends,
        log_bytes=10_000,
    )
    assert ends.get(timeout=20) is step
    assert step.exit_code == 5
    written = (tmp_path / "log").read_bytes()
    assert len(written) < 10_100
    assert written.endswith(b"[HELIOS] the log is cut here, at 10000 bytes\n")


def test_an_idle_node_hardly_costs_anything(node: LocalNode, until: Callable[..., Any]):
    """Under two percent of one processor while nothing happens, measured over a second."""
    import time

    import psutil

    node.start()
    assert node.process is not None
    node.submit("one", ["true"])
    node.final("one")
    process = psutil.Process(node.process.pid)
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 2.2, "the busy time after a pod is over")
    before, began = process.cpu_times(), time.monotonic()
    until(lambda: time.monotonic() > began + 1.5, "a while")
    used = process.cpu_times()
    assert used.user + used.system - before.user - before.system <= 0.02 * (time.monotonic() - began) + 0.01
    assert status_file(node.home.node, "one").exists()
