"""What only the wrapper of containers does: it is static, forwards every stop signal, and is a good first process.
tests/agent/test_wrapper.py holds what it shares with the local one.
"""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agent.wrappers import StaticWrapper, record, run


@pytest.fixture
def static(node: Any, static_binary: Path) -> StaticWrapper:
    return StaticWrapper(node, static_binary)


@pytest.fixture
def first(node: Any, static_binary: Path) -> StaticWrapper:
    """The wrapper as process 1 of a PID namespace, as in a container."""
    before = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("PID namespaces cannot be made here")
    return StaticWrapper(node, static_binary, before)


def test_it_needs_nothing_of_the_image(static_binary: Path) -> None:
    headers = subprocess.run(["readelf", "--program-headers", static_binary], capture_output=True, text=True).stdout
    assert "LOAD" in headers
    assert "INTERP" not in headers
    assert static_binary.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_any_stop_signal_that_an_image_may_name_is_forwarded(static: StaticWrapper, wait_until: Any, name: str) -> None:
    process = static.start("sh", "-c", f"trap 'exit 9' {name}; touch ready; while :; do sleep 0.02; done")
    wait_until(lambda: (static.node.artifacts / "ready").exists(), "the trap is set")
    process.send_signal(signal.Signals[f"SIG{name}"])
    process.communicate(timeout=20)
    assert process.returncode == 9


def test_the_command_sees_the_environment_as_the_container_has_it(
    static: StaticWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOS_RUN_ID", "17-0")
    assert run(static, "sh", "-c", "echo $HELIOS_RUN_ID") == (0, "17-0\n")


def test_a_record_that_cannot_be_written_does_not_change_the_exit_code(static: StaticWrapper) -> None:
    (static.node.control / "exit").mkdir()
    code, output = run(static, "sh", "-c", "exit 3")
    assert code == 3
    assert "record cannot be written" in output


def test_a_link_in_place_of_the_lock_is_not_followed(static: StaticWrapper, tmp_path: Path) -> None:
    (static.node.control / "lock").symlink_to(tmp_path / "elsewhere")
    assert run(static, "true")[0] == 125
    assert not (tmp_path / "elsewhere").exists()


def test_as_the_first_process_it_reaps_orphans(first: StaticWrapper) -> None:
    """Else a task that forks much would fill the container's process table with zombies."""
    orphans = "for _ in 1 2 3 4 5; do (sleep 0.05 &); done; sleep 0.5; grep -sh '^State:.Z' /proc/[0-9]*/status"
    assert run(first, "sh", "-c", f"{orphans}; true") == (0, "")


def test_as_the_first_process_it_ends_daemons_before_the_lock_is_free(first: StaticWrapper) -> None:
    """Outputs are read as soon as the lock is free, and the record is written just before; nobody may write then."""
    seen = f"until test -e {first.node.control}/exit; do :; done; : > seen"
    daemon = f"setsid sh -c ': > up; {seen}' >/dev/null 2>&1 &"
    code, _ = run(first, "sh", "-c", f"{daemon} until test -e up; do :; done; exit 4")
    assert code == 4
    found = record(first.node)
    assert found["exitCode"] == 4
    assert found["endedAt"] - found["startedAt"] < 4000, "it waited for the daemon instead of killing it"
    assert not (first.node.artifacts / "seen").exists()


def test_as_the_first_process_it_counts_the_work_of_orphans(first: StaticWrapper) -> None:
    spin = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"
    assert run(first, "sh", "-c", f"(({spin}; touch done) &); while ! test -e done; do sleep 0.02; done")[0] == 0
    assert record(first.node)["cpuMs"] >= 20
