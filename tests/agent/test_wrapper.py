"""The wrapper, in both its forms, runs the command, keeps its exit code, and leaves a record and a released lock,
however the command ends.
"""

import fcntl
import os
import signal
import sys
from typing import Any

import pytest

from agent.control import read_exit
from agent.wrapper import task_environment
from tests.agent.wrappers import PythonWrapper, Wrapper, is_gone, record, run

RECORD = {"exitCode", "signal", "timedOut", "cpuMs", "peakMemoryBytes", "startedAt", "endedAt"}


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code_is_the_commands(wrapper: Wrapper, code: int) -> None:
    assert run(wrapper, "sh", "-c", f"exit {code}")[0] == code
    found = record(wrapper.node)
    assert (found["exitCode"], found["signal"], found["timedOut"]) == (code, None, False)
    assert 0 < found["startedAt"] <= found["endedAt"]
    assert set(found) == RECORD


def test_the_command_runs_in_the_artifacts_folder_with_its_output_passed_through(wrapper: Wrapper) -> None:
    assert run(wrapper, "sh", "-c", "pwd; echo x > made") == (0, f"{wrapper.node.artifacts}\n")
    assert wrapper.node.read("made") == b"x\n"


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "KILL", "USR1", "XCPU"])
def test_a_command_that_dies_of_a_signal_gives_128_and_its_number(wrapper: Wrapper, name: str) -> None:
    assert run(wrapper, "sh", "-c", f"ulimit -c 0; kill -{name} $$")[0] == 128 + signal.Signals[f"SIG{name}"]
    assert record(wrapper.node)["signal"] == f"SIG{name}"


def test_a_command_that_is_not_found_is_127_with_a_clear_line(wrapper: Wrapper) -> None:
    code, output = run(wrapper, "no-such-command")
    assert code == 127
    assert output == "[HELIOS] command not found: 'no-such-command'\n"
    found = record(wrapper.node)
    assert found["error"] == "command not found: 'no-such-command'"
    assert set(found) == {*RECORD, "error"}


@pytest.mark.parametrize("name", ['it\'s "quoted"\\', "line\nfeed", "naïve", "x" * 2000])
def test_a_command_of_any_name_leaves_a_record_that_can_be_read(wrapper: Wrapper, name: str) -> None:
    code, output = run(wrapper, name)
    found = read_exit(str(wrapper.node.control))
    assert found is not None
    assert found.exit_code == code != 0
    assert output == f"[HELIOS] {found.error}\n"
    assert output.count("\n") == 1


def test_a_command_that_is_not_executable_is_126(wrapper: Wrapper) -> None:
    (wrapper.node.artifacts / "data").write_text("x")
    code, output = run(wrapper, "./data")
    assert code == 126
    assert output == "[HELIOS] command cannot be executed: './data': Permission denied\n"


def test_cpu_time_and_peak_memory_are_measured(wrapper: Wrapper) -> None:
    program = "x = b'x' * 60_000_000; [i * i for i in range(2_000_000)]"
    assert run(wrapper, sys.executable, "-I", "-S", "-c", program)[0] == 0
    assert 60_000_000 < record(wrapper.node)["peakMemoryBytes"] < 600_000_000
    assert 10 < record(wrapper.node)["cpuMs"] < 20_000


def test_a_timeout_ends_the_whole_group_with_124(wrapper: Wrapper, wait_until: Any) -> None:
    code, output = run(wrapper, "sh", "-c", "sleep 600 & echo $!; sleep 600", timeout="3")
    assert code == 124
    found = record(wrapper.node)
    assert (found["exitCode"], found["timedOut"], found["signal"]) == (124, True, "SIGTERM")
    wait_until(lambda: is_gone(int(output)), "the rest of the group is gone")


def test_a_command_that_ignores_the_timeout_is_killed_after_its_grace(wrapper: Wrapper) -> None:
    code, _ = run(wrapper, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", timeout="2")
    assert code == 124
    found = record(wrapper.node)
    assert found["signal"] == "SIGKILL"
    assert 7000 <= found["endedAt"] - found["startedAt"] < 20_000


def test_what_the_command_leaves_running_is_killed_at_its_end(wrapper: Wrapper, wait_until: Any) -> None:
    _, output = run(wrapper, "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    wait_until(lambda: is_gone(int(output)), "the left-over process is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_to_the_command(wrapper: Wrapper, wait_until: Any, number: signal.Signals) -> None:
    script = f"trap 'exit 9' {number.name[3:]}; touch ready; while :; do sleep 0.02; done"
    process = wrapper.start("sh", "-c", script)
    wait_until(lambda: (wrapper.node.artifacts / "ready").exists(), "the trap is set")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 9


def test_the_command_inherits_no_descriptor(wrapper: Wrapper) -> None:
    program = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    # 3 is the listing's own.
    assert run(wrapper, sys.executable, "-I", "-S", "-c", program) == (0, "[0, 1, 2, 3]\n")


def test_the_command_starts_with_every_signal_as_it_is_anywhere_else(wrapper: Wrapper) -> None:
    code, output = run(wrapper, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    masks = dict(line.split(":\t") for line in output.splitlines())
    # 32 and 33 are the C library's own; glibc's posix_spawn, which `make` uses, leaves them ignored.
    programs_own = (1 << 31) - 1
    assert code == 0
    assert {name: int(mask, 16) & programs_own for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


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
DAEMON_COMMAND = ("env", "-i", sys.executable, "-I", "-S", "-c", DAEMON)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
def test_a_daemon_without_the_environment_is_killed_before_the_lock_is_given_up(wrapper: Wrapper) -> None:
    """`env -i setsid`, twice forked: publish must not read outputs that it still writes."""
    assert run(wrapper, *DAEMON_COMMAND)[0] == 0
    assert is_gone(int(wrapper.node.read("daemon")))
    assert record(wrapper.node)["exitCode"] == 0
    with (wrapper.node.control / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
@pytest.mark.parametrize("how", ["signal", "timeout"])
def test_a_daemon_does_not_outlive_a_command_that_was_ended(wrapper: Wrapper, wait_until: Any, how: str) -> None:
    process = wrapper.start(*DAEMON_COMMAND, "wait", timeout="5" if how == "timeout" else None)
    wait_until(lambda: (wrapper.node.artifacts / "out").exists(), "the daemon runs")
    if how == "signal":
        process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == {"signal": 143, "timeout": 124}[how]
    assert is_gone(int(wrapper.node.read("daemon")))


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
def test_adopted_orphans_that_end_by_themselves_do_not_pile_up(wrapper: Wrapper) -> None:
    orphans = "for n in 1 2 3 4; do (sh -c 'sleep 0.01; echo >> ended' &); done"
    orphans += "; until [ $(wc -l < ended) = 4 ]; do sleep 0.02; done"
    none_left = "until ! ps -o stat= --ppid $PPID | grep -q Z; do sleep 0.05; done"
    assert run(wrapper, "sh", "-c", f": > ended; {orphans}; {none_left}") == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_the_command_dies_with_a_wrapper_that_is_killed(wrapper: Wrapper, wait_until: Any) -> None:
    """Nobody is left to end a command that ignores signals, when its wrapper got SIGKILL."""
    script = "echo $$ > pid.new; mv pid.new pid; trap '' TERM INT HUP; while :; do sleep 0.02; done"
    process = wrapper.start("sh", "-c", script)
    wait_until(lambda: (wrapper.node.artifacts / "pid").exists(), "the command runs")
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: is_gone(int(wrapper.node.read("pid"))), "the command is gone")


def test_the_lock_is_held_before_started_exists(wrapper: Wrapper, wait_until: Any) -> None:
    process = wrapper.start("sleep", "600")
    wait_until(lambda: (wrapper.node.control / "started").exists(), "the start is marked")
    with (wrapper.node.control / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_broken_pipes_kill_the_command_as_they_do_anywhere_else(wrapper: Wrapper) -> None:
    assert run(wrapper, "sh", "-c", "yes | head -1") == (0, "y\n")


def test_without_a_control_folder_the_command_is_not_run(wrapper: Wrapper) -> None:
    code, output = run(wrapper, "touch", "ran", control=wrapper.node.root / "none")
    assert code == 125
    assert "not run" in output
    assert not (wrapper.node.artifacts / "ran").exists()


def test_no_command_is_an_error(wrapper: Wrapper) -> None:
    assert run(wrapper)[0] == 125
    assert not (wrapper.node.control / "started").exists()


@pytest.mark.parametrize("limit", ["soon", "-1", "1e", "1..2"])
def test_a_timeout_that_is_no_number_is_an_error(wrapper: Wrapper, limit: str) -> None:
    assert run(wrapper, "touch", "ran", timeout=limit)[0] == 125
    assert not (wrapper.node.artifacts / "ran").exists()


def test_the_local_command_sees_no_secret_and_no_folder_of_the_agent(node: Any) -> None:
    """In a container there is none to be seen; see services/jobrunner's manifest."""
    _, output = run(PythonWrapper(node), "env")
    seen = {line.partition("=")[0] for line in output.splitlines() if line.startswith("HELIOS_")}
    assert seen == {"HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT", "HELIOS_NODE"}
    assert "secret-token" not in output
    assert task_environment({"HELIOS_SOMETHING_NEW": "x", "LANG": "C"}) == {"LANG": "C"}


def test_the_local_command_does_not_inherit_the_lifeline(node: Any) -> None:
    program = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    command = ("--", sys.executable, "-I", "-S", "-c", program)
    process = node.start("exec", *command, env=env, pass_fds=[read_end])
    output = process.communicate(timeout=60)[0]
    os.close(read_end)
    os.close(write_end)
    assert output == b"[0, 1, 2, 3]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="orphans can be adopted on Linux only")
def test_a_local_daemon_dies_with_the_nodes_process(node: Any, wait_until: Any) -> None:
    """A container has no lifeline: the kubelet ends it."""
    read_end, write_end = os.pipe()
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    process = node.start("exec", "--", *DAEMON_COMMAND, "wait", env=env, pass_fds=[read_end])
    os.close(read_end)
    wait_until(lambda: (node.artifacts / "out").exists(), "the daemon runs")
    os.close(write_end)
    process.communicate(timeout=60)
    assert process.returncode == 137
    assert is_gone(int(node.read("daemon")))


def test_the_local_command_dies_with_the_nodes_process(node: Any, wait_until: Any) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    env = {**node.env(), "HELIOS_LIFELINE_FD": str(read_end)}
    script = "echo $$ > pid.new; mv pid.new pid; trap '' TERM; while :; do sleep 0.02; done"
    process = node.start("exec", "--", "sh", "-c", script, env=env, pass_fds=[read_end])
    os.close(read_end)
    wait_until(lambda: (node.artifacts / "pid").exists(), "the command runs")
    os.close(write_end)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert is_gone(int(node.read("pid")))
