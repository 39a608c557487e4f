# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH123, PTH208
"""exec: run the task's command and leave a record of its end, however it ends. The local form of agent/exec.c, which
keeps the same rules.

The command gets a session of its own, and neither the lock nor the agent's own variables. Whatever it started is killed
when it ends, also what left its session (on Linux, where orphans can be adopted): the lock is held until none is left,
so that nothing writes to the outputs that publish reads. Exit codes are the command's; 128+n for a signal, 124 for a
timeout, 126 and 127 for a command that cannot be run or found, and 125 when the wrapper itself cannot do its work, in
which case the command was not run.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from agent.control import ExitRecord, signal_name
from agent.folders import write_whole
from agent.pace import now_ms
from agent.settings import ExecSettings, SettingsError, exec_settings

GRACE_SECONDS = 5.0
TIMED_OUT = 124
CANNOT_WRAP = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_FOR_THE_TASK = frozenset(
    (
        *("HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT", "HELIOS_NODE"),
        *("HELIOS_RUN_STATUS", "HELIOS_FAILED_TASKS"),
    )
)


def task_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without the agent's own variables: what the task may know of Helios is listed, not what it may
    not.
    """
    return {name: value for name, value in env.items() if not name.startswith("HELIOS_") or name in _FOR_THE_TASK}


def exec_verb(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """The verb: `-- command args...`; returns the exit code described above."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        return _complain("no command given: exec -- COMMAND [ARG...]", CANNOT_WRAP)
    try:
        settings = exec_settings(env)
    except SettingsError as error:
        return _complain(str(error), CANNOT_WRAP)
    try:
        return run(settings, command, task_environment(env))
    except OSError as error:
        return _complain(f"the task was not run: {error.strerror}: {error.filename or ''}".rstrip(": "), CANNOT_WRAP)


def run(settings: ExecSettings, command: Sequence[str], env: Mapping[str, str]) -> int:
    """Runs the command under the control folder's lock and returns its exit code. For a process's main thread only."""
    lock = os.open(f"{settings.control_dir}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if settings.lifeline_fd is not None:
        os.set_inheritable(settings.lifeline_fd, False)
    adopt_orphans()
    with _Signals() as signals:
        started = os.open(f"{settings.control_dir}/started", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.close(started)
        started_at = now_ms()
        task = _Task(settings, signals, command, env)
        import json  # only now, beside the running command, which need not wait for it

        record = task.watch(started_at)
    try:
        write_whole(f"{settings.control_dir}/exit", json.dumps(record.document()).encode())
    except OSError as error:
        # publish will find no record and fail the attempt for that; the command's own exit code is still worth having.
        _complain(f"the exit record cannot be written: {error.strerror}", CANNOT_WRAP)
    # The lock is left to the process's end, so that nothing of this process outlives what publish sees.
    assert record.exit_code is not None
    return record.exit_code


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent dies, before there are any. Linux only."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    """Linux's prctl(2); nothing elsewhere."""
    if sys.platform != "linux":
        return
    # The ctypes package costs four milliseconds at every start; this is the one millisecond of it that is needed.
    import _ctypes

    prctl = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # pyright: ignore[reportArgumentType]  # None is this process; the stub lacks it
    _ctypes.call_function(prctl, (option, value, 0, 0, 0))


def kill_descendants() -> None:
    """Kills every process below this one and waits for their ends; for when nothing that runs is wanted any more."""
    while True:
        try:
            # With nothing left, which is the rule, this is all that it costs.
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and not _kill_once():
                return
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _kill_once() -> bool:
    """Kills all descendants that can be found; False if none of the children could be killed."""
    parents: dict[int, int] = {}
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return False
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                text = file.read()
                parents[int(name)] = int(text[text.rindex(b")") + 1 :].split()[1])
    me = os.getpid()
    below, children_killed = {me}, False
    # Parents mostly have lower numbers, but numbers come round; what is missed now is adopted, and found the next time.
    for pid in sorted(parents):
        if parents[pid] in below and pid != me:
            below.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # a program may run as another user
                os.kill(pid, signal.SIGKILL)
                children_killed = children_killed or parents[pid] == me
    return children_killed


class _Signals:
    """SIGTERM, SIGINT and SIGCHLD as bytes of a pipe, so that one poll waits for all there is to wait for."""

    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> "_Signals":
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._former = [signal.signal(number, _ignore) for number in self.caught]
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in zip(self.caught, self._former, strict=True):
            signal.signal(number, former)
        signal.set_wakeup_fd(self._former_fd)
        os.close(self.fd)
        os.close(self._write)

    def read(self) -> list[int]:
        """The signals that came since the last call."""
        with contextlib.suppress(BlockingIOError):
            return list(os.read(self.fd, 1024))
        return []


def _ignore(number: int, frame: object) -> None:
    del number, frame  # The wake-up pipe carries the signal; the handler only has to exist.


class _Task:
    """The running command: one process group, its deadlines, and how it ended."""

    def __init__(
        self, settings: ExecSettings, signals: _Signals, command: Sequence[str], env: Mapping[str, str]
    ) -> None:
        self._signals = signals
        self._lifeline = settings.lifeline_fd
        self._timed_out = False
        self._deadline = None if settings.timeout_seconds is None else time.monotonic() + settings.timeout_seconds
        self._pid, self._error = _start(command, env, settings.artifacts)

    def watch(self, started_at: int) -> ExitRecord:
        """Waits for the end, forwarding signals and keeping the deadlines, takes its account, and kills what is left of
        it.
        """
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        while not self._has_ended():
            for fd, _ in poll.poll(self._milliseconds_left()):
                if fd == self._signals.fd:
                    self._forward()
                elif os.read(fd, 1) == b"":
                    poll.unregister(fd)
                    self._signal(signal.SIGKILL)
            self._keep_deadline()
        # The leader is still a zombie here, so the group's id cannot have been given to anybody else.
        self._signal(signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        kill_descendants()
        return self._record(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, started_at)

    def _has_ended(self) -> bool:
        """Whether the command is over. Adopted orphans that are over are forgotten on the way."""
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid == self._pid:
                return True
            os.waitpid(found.si_pid, 0)
        return False

    def _milliseconds_left(self) -> int | None:
        if self._deadline is None:
            return None
        return max(0, int((self._deadline - time.monotonic()) * 1000) + 1)

    def _forward(self) -> None:
        for number in self._signals.read():
            if number != signal.SIGCHLD:
                self._signal(number)

    def _keep_deadline(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if not self._timed_out:
            self._timed_out = True
            self._deadline = time.monotonic() + GRACE_SECONDS
            self._signal(signal.SIGTERM)
        else:
            self._deadline = None
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _record(self, status: int, cpu_seconds: float, peak_bytes: int, started_at: int) -> ExitRecord:
        code = os.waitstatus_to_exitcode(status)
        by_signal = signal_name(-code) if code < 0 else None
        exit_code = TIMED_OUT if self._timed_out else (128 - code if code < 0 else code)
        return ExitRecord(
            exit_code=exit_code,
            signal=by_signal,
            timed_out=self._timed_out,
            cpu_ms=int(cpu_seconds * 1000),
            peak_memory_bytes=peak_bytes,
            started_at=started_at,
            ended_at=now_ms(),
            error=self._error,
        )


def _start(command: Sequence[str], env: Mapping[str, str], folder: str) -> tuple[int, str | None]:
    """Forks and executes; returns the pid and, when the command could not be executed, why. The pid is to be waited for
    in both cases.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(command, env, folder, tell)
    os.close(tell)
    with open(told, "rb") as words:
        error = words.read().decode("utf-8", "replace") or None
    if error is not None:
        os.write(2, f"[HELIOS] {error}\n".encode())
    return pid, error


def _become(command: Sequence[str], env: Mapping[str, str], folder: str, tell: int) -> None:
    """In the child, never returns. Every other descriptor is close-on-exec; the error goes up the pipe that a good exec
    closes.
    """
    code = CANNOT_WRAP
    try:
        os.setsid()
        # A command that ignores every other signal still ends with a wrapper that is killed.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in _Signals.caught:
            signal.signal(number, signal.SIG_DFL)
        # Python ignores these two, and ignored signals stay ignored over an exec: a task's `yes | head` would never
        # end.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.chdir(folder)
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvpe(command[0], list(command), dict(env))  # noqa: S606  # no shell is the point
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            code, words = NOT_FOUND, f"command not found: {command[0]!r}"
        elif error.errno in (errno.EACCES, errno.ENOEXEC, errno.EISDIR):
            code, words = NOT_EXECUTABLE, f"command cannot be executed: {command[0]!r}: {error.strerror}"
        else:
            words = f"command could not be started: {command[0]!r}: {error.strerror}"
        os.write(tell, words.encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _complain(words: str, code: int) -> int:
    os.write(2, f"[HELIOS] {words}\n".encode("utf-8", "replace"))
    return code
