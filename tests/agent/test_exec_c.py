"""What only the wrapper of containers does: it is static, forwards every stop signal, and is a good first process.
tests/agent/test_wrapper.py holds what it shares with the local one.
"""

import fcntl
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agent.wrappers import StaticWrapper, has_open, record, run


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


@pytest.fixture
def view(tmp_path: Path) -> Path:
    folder = tmp_path / "view"
    folder.mkdir()
    return folder


def is_held(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def until_gone(file: str) -> tuple[str, ...]:
    return ("sh", "-c", f"touch ready; while ! test -e {file}; do sleep 0.02; done")


@pytest.mark.parametrize("timeout", [None, "30"])
def test_the_view_is_held_from_before_the_start_to_the_end(
    static: StaticWrapper, view: Path, wait_until: Any, timeout: str | None
) -> None:
    process = static.start(*until_gone("stop"), view=view, timeout=timeout)
    wait_until(lambda: (static.node.control / "started").exists(), "the wrapper has begun")
    assert is_held(view)
    (static.node.artifacts / "stop").touch()
    assert process.wait(60) == 0
    assert not is_held(view)


def test_a_view_that_is_mounted_read_only_is_held_for_those_who_see_it_from_outside(
    node: Any, static_binary: Path, view: Path, wait_until: Any
) -> None:
    """As in a pod: the keeper sees the folder by another mount."""
    mounted = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, str(view))
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("folders cannot be mounted here")
    process = StaticWrapper(node, static_binary, before).start(*until_gone("stop"), view=view)
    wait_until(lambda: (node.control / "started").exists(), "the wrapper has begun")
    assert is_held(view)
    (node.artifacts / "stop").touch()
    assert process.wait(60) == 0
    assert not is_held(view)


def test_a_view_that_is_not_there_or_is_a_link_does_not_keep_the_task_from_running(
    static: StaticWrapper, view: Path, tmp_path: Path
) -> None:
    assert run(static, "echo", "ran", view=tmp_path / "missing") == (0, "ran\n")
    (tmp_path / "link").symlink_to(view)
    assert run(static, "echo", "ran", view=tmp_path / "link") == (0, "ran\n")


def test_a_view_that_the_keeper_is_looking_at_is_waited_for(static: StaticWrapper, view: Path, wait_until: Any) -> None:
    """Else a task that starts in that instant would lose its view while it runs."""
    keeper = os.open(view, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(keeper, fcntl.LOCK_EX)
    process = static.start(*until_gone("stop"), view=view)
    wait_until(lambda: has_open(process.pid, view), "the wrapper tries to hold the view")
    os.close(keeper)
    wait_until(lambda: (static.node.control / "started").exists(), "the wrapper has begun")
    assert is_held(view)
    (static.node.artifacts / "stop").touch()
    assert process.wait(60) == 0


@pytest.mark.parametrize("options", [("--view",), ("--view", "/tmp"), ("--other", "x", "--"), ("--timeout", "x", "--")])
def test_wrong_options_run_nothing(static_binary: Path, node: Any, options: tuple[str, ...]) -> None:
    ended = subprocess.run([static_binary, node.control, *options, "true"], capture_output=True)
    assert ended.returncode == 125
    assert not (node.control / "started").exists()


@pytest.mark.parametrize("name", ["HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_any_stop_signal_that_an_image_may_name_is_forwarded(static: StaticWrapper, wait_until: Any, name: str) -> None:
    process = static.start("sh", "-c", f"trap 'exit 9' {name}; touch ready; while :; do sleep 0.02; done")
    wait_until(lambda: (static.node.artifacts / "ready").exists(), "the trap is set")
    process.send_signal(signal.Signals[f"SIG{name}"])
    process.communicate(timeout=60)
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
    orphans = "for _ in 1 2 3 4 5; do (sh -c 'sleep 0.05; echo >> ended' &); done"
    orphans += "; until [ $(wc -l < ended) = 5 ]; do sleep 0.02; done"
    none_left = "until ! grep -qs '^State:.Z' /proc/[0-9]*/status; do sleep 0.05; done"
    assert run(first, "sh", "-c", f': > ended; {orphans}; timeout 20 sh -c "{none_left}"') == (0, "")


def test_as_the_first_process_it_ends_daemons_before_the_lock_is_free(first: StaticWrapper) -> None:
    """Outputs are read as soon as the lock is free, and the record is written just before; nobody may write then."""
    seen = f"until test -e {first.node.control}/exit; do :; done; : > seen"
    daemon = f"setsid sh -c ': > up; {seen}' >/dev/null 2>&1 &"
    code, _ = run(first, "sh", "-c", f"{daemon} until test -e up; do :; done; : > end; exit 4")
    assert code == 4
    found = record(first.node)
    assert found["exitCode"] == 4
    ended_at = (first.node.artifacts / "end").stat().st_mtime * 1000
    assert found["endedAt"] - ended_at < 4000, "it waited for the daemon instead of killing it"
    assert not (first.node.artifacts / "seen").exists()


def test_as_the_first_process_it_counts_the_work_of_orphans(first: StaticWrapper) -> None:
    spin = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"
    assert run(first, "sh", "-c", f"(({spin}; touch done) &); while ! test -e done; do sleep 0.02; done")[0] == 0
    assert record(first.node)["cpuMs"] >= 20
