"""exec runs the command, keeps its exit code, and leaves a record and a released lock behind, however it ends."""

import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.wrapper import task_environment


def record(node: Any) -> dict[str, Any]:
    return json.loads((node.control / "exit").read_text())


def run(node: Any, *command: str, **env: str) -> tuple[int, str]:
    process = node.start("exec", "--", *command, env={**node.env(), **env})
    output = process.communicate(timeout=30)[0].decode()
    return process.returncode, output


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code_is_the_commands(node: Any, code: int) -> None:
    assert run(node, "sh", "-c", f"exit {code}")[0] == code
    found = record(node)
    assert (found["exitCode"], found["signal"], found["timedOut"]) == (code, None, False)
    assert 0 < found["startedAt"] <= found["endedAt"]
    assert "error" not in found


def test_the_command_runs_in_the_artifacts_folder_with_its_output_passed_through(node: Any) -> None:
    assert run(node, "sh", "-c", "pwd; echo x > made") == (0, f"{node.artifacts}\n")
    assert node.read("made") == b"x\n"


def test_a_command_that_dies_of_a_signal_gives_128_and_its_number(node: Any) -> None:
    assert run(node, "sh", "-c", "kill -SEGV $$")[0] == 128 + signal.SIGSEGV
    assert record(node)["signal"] == "SIGSEGV"


def test_a_command_that_is_not_found_is_127_with_a_clear_line(node: Any) -> None:
    code, output = run(node, "no-such-command")
    assert code == 127
    assert output == "[HELIOS] command not found: 'no-such-command'\n"
    assert record(node)["error"] == "command not found: 'no-such-command'"


def test_a_command_that_is_not_executable_is_126(node: Any) -> None:
    (node.artifacts / "data").write_text("x")
    code, output = run(node, "./data")
    assert code == 126
    assert "cannot be executed" in output


def test_cpu_time_and_peak_memory_are_measured(node: Any) -> None:
    program = "x = b'x' * 60_000_000; [i * i for i in range(2_000_000)]"
    assert run(node, sys.executable, "-I", "-S", "-c", program)[0] == 0
    assert record(node)["peakMemoryBytes"] > 60_000_000
    assert record(node)["cpuMs"] > 10


def test_a_timeout_ends_the_whole_group_with_124(node: Any) -> None:
    code, output = run(node, "sh", "-c", "sleep 600 & echo $!; sleep 600", HELIOS_TIMEOUT_SECONDS="0.3")
    assert code == 124
    assert record(node)["timedOut"] is True
    assert is_gone(int(output))


def test_what_the_command_leaves_running_is_killed_at_its_end(node: Any, wait_until: Any) -> None:
    _, output = run(node, "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    wait_until(lambda: is_gone(int(output)), "the left-over process is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_to_the_command(node: Any, wait_until: Any, number: signal.Signals) -> None:
    script = f"trap 'exit 9' {number.name[3:]}; touch ready; while :; do sleep 0.02; done"
    process = node.start("exec", "--", "sh", "-c", script)
    wait_until(lambda: (node.artifacts / "ready").exists(), "the trap is set")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 9


def test_the_command_sees_no_secret_and_no_folder_of_the_agent(node: Any) -> None:
    _, output = run(node, "env")
    seen = {line.partition("=")[0] for line in output.splitlines() if line.startswith("HELIOS_")}
    assert seen == {"HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT", "HELIOS_NODE"}
    assert "secret-token" not in output
    assert task_environment({"HELIOS_SOMETHING_NEW": "x", "LANG": "C"}) == {"LANG": "C"}


def test_the_command_inherits_no_descriptor(node: Any) -> None:
    program = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    command = ("--", sys.executable, "-I", "-S", "-c", program)
    process = node.start("exec", *command, env=env, pass_fds=[read_end])
    output = process.communicate(timeout=20)[0]
    os.close(read_end)
    os.close(write_end)
    # 3 is the listing's own.
    assert output == b"[0, 1, 2, 3]\n"


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.dup2(os.open("/dev/null", 1), 1)
    os.dup2(1, 2)
    open("daemon.new", "w").write(str(os.getpid()))
    os.rename("daemon.new", "daemon")
    number = 0
    while True:
        number += 1
        open("out", "w").write(str(number))
while not os.path.exists("out"):
    time.sleep(0.01)
if "wait" in sys.argv:
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
def test_a_daemon_without_the_environment_is_killed_before_the_lock_is_given_up(node: Any) -> None:
    """`env -i setsid`, twice forked: publish must not read outputs that it still writes."""
    assert run(node, "env", "-i", sys.executable, "-I", "-S", "-c", DAEMON)[0] == 0
    assert is_gone(int(node.read("daemon")))
    assert record(node)["exitCode"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
@pytest.mark.parametrize("how", ["signal", "lifeline", "timeout"])
def test_a_daemon_does_not_outlive_a_command_that_was_ended(node: Any, wait_until: Any, how: str) -> None:
    read_end, write_end = os.pipe()
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    if how == "timeout":
        env["HELIOS_TIMEOUT_SECONDS"] = "0.5"
    command = ["env", "-i", sys.executable, "-I", "-S", "-c", DAEMON, "wait"]
    process = node.start("exec", "--", *command, env=env, pass_fds=[read_end])
    os.close(read_end)
    wait_until(lambda: (node.artifacts / "out").exists(), "the daemon runs")
    if how == "signal":
        process.terminate()
    if how == "lifeline":
        os.close(write_end)
    process.communicate(timeout=20)
    assert process.returncode == {"signal": 143, "lifeline": 137, "timeout": 124}[how]
    assert is_gone(int(node.read("daemon")))
    if how != "lifeline":
        os.close(write_end)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
def test_adopted_orphans_that_end_by_themselves_do_not_pile_up(node: Any) -> None:
    script = "for n in 1 2 3 4; do (sleep 0.01 &) ; done; sleep 0.5; ps -o stat= --ppid $PPID | grep -c Z || true"
    code, output = run(node, "sh", "-c", script)
    assert (code, output.strip()) == (0, "0")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_the_command_dies_with_a_wrapper_that_is_killed(node: Any, wait_until: Any) -> None:
    """Nobody is left to end a command that ignores signals, when its wrapper got SIGKILL."""
    script = "echo $$ > pid.new; mv pid.new pid; trap '' TERM INT HUP; while :; do sleep 0.02; done"
    process = node.start("exec", "--", "sh", "-c", script)
    wait_until(lambda: (node.artifacts / "pid").exists(), "the command runs")
    process.kill()
    process.communicate(timeout=20)
    wait_until(lambda: is_gone(int(node.read("pid"))), "the command is gone")


def test_the_lock_is_held_before_started_exists(node: Any, wait_until: Any) -> None:
    process = node.start("exec", "--", "sleep", "600")
    wait_until(lambda: (node.control / "started").exists(), "the start is marked")
    with (node.control / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_the_command_dies_with_the_nodes_process(node: Any, wait_until: Any) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    script = "echo $$ > pid.new; mv pid.new pid; trap '' TERM; while :; do sleep 0.02; done"
    process = node.start("exec", "--", "sh", "-c", script, env=env, pass_fds=[read_end])
    os.close(read_end)
    wait_until(lambda: (node.artifacts / "pid").exists(), "the command runs")
    os.close(write_end)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL
    assert is_gone(int(node.read("pid")))


def test_broken_pipes_kill_the_command_as_they_do_anywhere_else(node: Any) -> None:
    code, output = run(node, sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGXFSZ))")
    assert code == 0
    del output
    code, output = run(node, "sh", "-c", "yes | head -1")
    assert (code, output) == (0, "y\n")


def test_without_a_control_folder_the_command_is_not_run(node: Any) -> None:
    code, output = run(node, "touch", "ran", HELIOS_CONTROL_DIR=str(node.root / "none"))
    assert code == 125
    assert "not run" in output
    assert not (node.artifacts / "ran").exists()


def test_no_command_is_an_error(node: Any) -> None:
    assert run(node)[0] == 125
