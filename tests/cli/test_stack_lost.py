"""Commands whose embedded stack is killed or stopped under them."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from cli.embedded.home import Home
from cli.embedded.lease import running_stack, stop_stack
from cli.embedded.stack import Stack
from tests.cli.command import Helios
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

ONCE_LOST = """\
dagName: once-lost
tasks:
  - name: slow
    image: alpine
    command: [sh, -c, "if test -e {folder}/seen; then echo again; else touch {folder}/seen; sleep 600; fi"]
"""

SHORT = """\
dagName: short
tasks:
  - name: wait
    image: alpine
    command: [sh, -c, "touch {folder}/seen; until test -e {folder}/go; do sleep 0.05; done"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Helios]:
    """The command in a home of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    helios = Helios(folder, {"HELIOS_HOME": str(tmp_path / "home"), "HELIOS_LINGER_SECONDS": "0"})
    yield helios
    helios.end_started()
    stop_stack(Home(tmp_path / "home"))


def stack_of(helios: Helios) -> Stack:
    found = running_stack(Home(Path(helios.environ["HELIOS_HOME"])))
    assert found is not None
    return found


def hear(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the narration up to the words."""
    assert process.stderr is not None
    stderr = process.stderr
    wait_until(f"it says {words!r}", lambda: words in stderr.readline(), 60)


def test_a_run_survives_the_death_of_its_supervisor(own: Helios) -> None:
    """The stack is started again, the attempt that was lost with it is repeated, and the run ends as if nothing was."""
    process = own.start("run", own.dag("once-lost", ONCE_LOST.format(folder=own.folder)), "-o", "json")
    wait_until("the task has started", (own.folder / "seen").exists, 60)
    supervisor = stack_of(own).supervisor_pid
    psutil.Process(supervisor).send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert '"SUCCEEDED"' in out
    assert "is lost" in err


def test_a_run_and_who_reads_its_log_find_the_stack_again_at_other_ports(own: Helios) -> None:
    process = own.start("run", own.dag("once-lost", ONCE_LOST.format(folder=own.folder)), "-o", "json")
    wait_until("the task has started", (own.folder / "seen").exists, 60)
    reader = own.start("logs", "@latest", "slow", "--follow")
    stack = stack_of(own)
    with redis.Redis.from_url(stack.redis_url) as client:
        # Its lease alone would not do: a reader that is only starting has nothing to go on with.
        wait_until("the log is followed", lambda: client.keys("*:watched"), 60)
    for each in (process, reader):
        each.send_signal(signal.SIGSTOP)
    psutil.Process(stack.supervisor_pid).send_signal(signal.SIGKILL)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until("the port of Valkey is taken", lambda: took(thief, stack.redis_port), 30)
        for each in (process, reader):
            each.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert '"SUCCEEDED"' in out
        printed, err = reader.communicate(timeout=30)
        assert reader.returncode == 0, err
        assert printed == "again\n"


def took(thief: socket.socket, port: int) -> bool:
    try:
        thief.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_one_signal_lets_commands_that_use_the_stack_finish_and_a_second_stops_everything(own: Helios) -> None:
    up = own.start("up", "--replicas", "2")
    hear(up, "Everything runs")
    stack = stack_of(own)
    assert {"submitter", "submitter-2", "jobrunner-2", "collector-2"} <= stack.components.keys()
    family = psutil.Process(stack.supervisor_pid).children(recursive=True)
    run = own.start("run", own.dag("once-lost", ONCE_LOST.format(folder=own.folder)))
    wait_until("the task has started", (own.folder / "seen").exists, 60)
    up.send_signal(signal.SIGTERM)
    hear(up, "Ctrl-C again")
    assert run.poll() is None
    assert up.poll() is None
    assert psutil.pid_exists(stack.supervisor_pid)
    up.send_signal(signal.SIGTERM)
    _, said = up.communicate(timeout=60)
    assert up.returncode == 0, said
    assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    _, err = run.communicate(timeout=60)
    assert run.returncode == 3, err
    assert "was stopped" in err
    assert running_stack(Home(Path(own.environ["HELIOS_HOME"]))) is None


def test_up_ends_by_itself_once_the_commands_that_use_the_stack_have_ended(own: Helios) -> None:
    up = own.start("up")
    hear(up, "Everything runs")
    run = own.start("run", own.dag("short", SHORT.format(folder=own.folder)))
    wait_until("the task has started", (own.folder / "seen").exists, 60)
    up.send_signal(signal.SIGINT)
    hear(up, "Ctrl-C again")
    (own.folder / "go").touch()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    up.communicate(timeout=60)
    assert up.returncode == 0
