"""fetch, its hook, the task's wrapper and publish as a pod has them: real processes side by side that meet at the gate.

What they wait for is held up by other means than time: an object store that does not answer, or a pipe that nobody
reads in a file's place.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import Node, wait_until
from tests.agent.wrappers import compile_static, has_open

STRANGER = 12345
NOT_RUN = "[HELIOS] the task was not run: its inputs are not there\n"

Process = subprocess.Popen[bytes]


class Pod:
    """The containers of one pod, each to be started when the test wants it; what is left of them is killed."""

    def __init__(self, node: Node, binary: Path) -> None:
        self.node = node
        self.binary = binary
        self.gate = node.root / "gate"
        self.gate.mkdir()
        self.view = node.cache / "views" / node.job
        self.processes: list[Process] = []

    def env(self, step: str, **more: str) -> dict[str, str]:
        message = str(self.node.root / f"{step}-message")
        return {**self.node.env(), "HELIOS_TERMINATION_LOG": message, "HELIOS_GATE_DIR": str(self.gate), **more}

    def fetch(self, wrapper: Path | None = None, **options: Any) -> Process:
        more = {"HELIOS_WRAPPER": str(wrapper or self.binary), "HELIOS_CONTROL_DIR": str(self.gate)}
        return self._started(self.node.start("fetch", env=self.env("fetch", **more), **options))

    def publish(self) -> Process:
        return self._started(self.node.start("publish", env=self.env("publish")))

    def hook(self, binary: Path | None = None) -> Process:
        return self._run(str(binary or self.binary), "--placed", str(self.gate))

    def task(self, *command: str, before: tuple[str, ...] = (), binary: Path | None = None) -> Process:
        """Runs what fetch has put in place, unless the test has another."""
        wrapper = str(binary or self.gate / "exec")
        options = ("--after", str(self.gate), "--view", str(self.view))
        return self._run(*before, wrapper, str(self.node.control), *options, "--", *command)

    def message(self, step: str) -> dict[str, Any]:
        return json.loads((self.node.root / f"{step}-message").read_bytes())

    @property
    def has_started(self) -> bool:
        return (self.node.control / "started").exists()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def _run(self, *command: str) -> Process:
        artifacts = self.node.artifacts
        return self._started(subprocess.Popen(command, cwd=artifacts, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))

    def _started(self, process: Process) -> Process:
        self.processes.append(process)
        return process


@pytest.fixture
def pod(node: Node, static_binary: Path) -> Iterator[Pod]:
    found = Pod(node, static_binary)
    yield found
    found.close()


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Lets the object store go on in the end, whatever became of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def held(store: Any, endpoint: Any, go: threading.Event) -> Callable[[], None]:
    """An input `x` that the store keeps back; a call lets go of it."""
    store.put("bucket/x", b"brought")
    endpoint.add_input("x", "bucket/x")
    store.faults["bucket/x"] = [lambda: go.wait(60)]
    return go.set


def end_of(process: Process) -> tuple[int, str]:
    printed = process.communicate(timeout=60)[0].decode()
    return process.returncode, printed


def keeps_looking(process: Process) -> None:
    """Returns when the process has gone to sleep and woken up often enough to have looked several times."""

    def naps() -> int:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    first = naps()
    wait_until(lambda: naps() >= first + 10, "it looks again and again")
    assert process.poll() is None


def waits_at(pod: Pod, process: Process) -> None:
    wait_until(lambda: has_open(process.pid, pod.gate / "fetching"), "it waits for fetch")


def until_placed(pod: Pod) -> None:
    assert end_of(pod.hook()) == (0, "")


def test_the_hook_waits_until_fetch_has_put_the_wrapper_in_place(pod: Pod) -> None:
    """The task's container is executed from it at once."""
    source = pod.node.root / "wrapper"
    os.mkfifo(source)
    hook, fetch = pod.hook(), pod.fetch(source)
    wait_until((pod.gate / "fetching").exists, "fetch has begun")
    keeps_looking(hook)
    assert not (pod.gate / "placed").exists()
    source.write_bytes(b"")
    assert end_of(hook) == (0, "")
    assert (pod.gate / "exec").exists()
    assert end_of(fetch)[0] == 0


def test_the_hook_does_not_wait_for_the_inputs(pod: Pod, held: Callable[[], None]) -> None:
    fetch = pod.fetch()
    until_placed(pod)
    assert fetch.poll() is None
    assert not (pod.gate / "fetched").exists()
    held()
    assert end_of(fetch)[0] == 0


def test_the_view_and_the_wrapper_are_there_before_the_hook_may_return(pod: Pod) -> None:
    """A view that is not there would be made with the task's container, as root's."""
    os.mkfifo(pod.gate / "placed")
    pod.node.cache.mkdir()
    fetch = pod.fetch()
    wait_until(lambda: pod.view.is_dir() and (pod.gate / "exec").exists(), "both are there, ahead of the mark")
    until_placed(pod)
    assert end_of(fetch)[0] == 0


def test_a_hook_that_waits_in_vain_fails_and_says_so(pod: Pod, tmp_path: Path) -> None:
    impatient = compile_static(tmp_path, "-DPLACED_PATIENCE_MS=1000")
    assert isinstance(impatient, Path)
    words = "[HELIOS] fetch did not put the task's wrapper in place within 1 s\n"
    assert end_of(pod.hook(impatient)) == (125, words)


def test_a_hook_that_cannot_leave_word_fails_and_says_so(pod: Pod) -> None:
    pod.gate.rmdir()
    code, words = end_of(pod.hook())
    assert code == 125
    assert words.startswith("[HELIOS] the hook cannot tell fetch of itself: No such file or directory: /")


def test_command_and_publish_wait_until_fetch_has_brought_everything(pod: Pod, held: Callable[[], None]) -> None:
    fetch = pod.fetch()
    until_placed(pod)
    publish, task = pod.publish(), pod.task("cat", "x")
    waits_at(pod, publish)
    keeps_looking(task)
    assert not pod.has_started
    held()
    assert end_of(fetch)[0] == 0
    assert end_of(task) == (0, "brought")
    assert end_of(publish)[0] == 0
    (report,) = pod.node.endpoint.reports
    assert (report["exitCode"], report["fetch"]["ok"]) == (0, True)


def test_publish_finds_the_manifest_as_soon_as_the_gate_is_open(pod: Pod) -> None:
    os.mkfifo(pod.gate / "fetched")
    fetch = pod.fetch()
    until_placed(pod)
    wait_until(lambda: (pod.node.root / "fetch-message").exists(), "fetch has said that it is done")
    assert json.loads((pod.node.root / "state" / "fetch.json").read_bytes())["ok"]
    os.close(os.open(pod.gate / "fetched", os.O_RDONLY))
    assert end_of(fetch)[0] == 0


def all_say_that_nothing_was_run(pod: Pod, publish: Process, task: Process) -> None:
    assert end_of(task) == (125, NOT_RUN)
    code, words = end_of(publish)
    assert (code, words) == (1, "[HELIOS] Error: the task does not start, since its inputs are not there\n")
    assert not pod.has_started
    assert pod.node.endpoint.reports == []
    assert not (pod.node.root / "publish-message").exists()


def test_when_fetch_fails_the_command_is_not_run_and_fetch_alone_says_why(
    pod: Pod, held: Callable[[], None], store: Any
) -> None:
    fetch = pod.fetch()
    until_placed(pod)
    publish, task = pod.publish(), pod.task("true")
    waits_at(pod, publish)
    waits_at(pod, task)
    del store.objects["bucket/x"]
    held()
    all_say_that_nothing_was_run(pod, publish, task)
    assert end_of(fetch)[0] == 1
    assert "bucket/x" in pod.message("fetch")["error"]


def test_when_fetch_is_killed_the_command_is_not_run(pod: Pod, held: Callable[[], None]) -> None:
    fetch = pod.fetch()
    until_placed(pod)
    publish, task = pod.publish(), pod.task("true")
    waits_at(pod, publish)
    waits_at(pod, task)
    fetch.kill()
    all_say_that_nothing_was_run(pod, publish, task)


def test_when_fetch_was_never_there_the_command_is_not_run(pod: Pod) -> None:
    """kubelet makes the others all the same when fetch's container cannot be started, or its hook fails."""
    all_say_that_nothing_was_run(pod, pod.publish(), pod.task("true", binary=pod.binary))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wrapper_that_is_told_to_end_while_it_waits_ends(
    pod: Pod, held: Callable[[], None], number: signal.Signals
) -> None:
    pod.fetch()
    until_placed(pod)
    task = pod.task("true")
    keeps_looking(task)
    task.send_signal(number)
    assert end_of(task) == (128 + number, "")
    assert not pod.has_started


def test_publish_that_is_told_to_end_while_it_waits_ends(pod: Pod, held: Callable[[], None]) -> None:
    pod.fetch()
    until_placed(pod)
    publish = pod.publish()
    waits_at(pod, publish)
    publish.terminate()
    assert end_of(publish) == (143, "")
    assert pod.node.endpoint.reports == []


def test_fetch_does_not_end_before_its_hook_has_returned(pod: Pod) -> None:
    """A hook that its container's end kills has failed, to kubelet. The command need not wait for that."""
    hook = pod.hook()
    keeps_looking(hook)
    hook.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(hook), "the hook stands still")
    fetch = pod.fetch()
    wait_until((pod.gate / "fetched").exists, "all is brought")
    assert end_of(pod.task("echo", "ran")) == (0, "ran\n")
    keeps_looking(fetch)
    hook.send_signal(signal.SIGCONT)
    assert end_of(hook) == (0, "")
    assert end_of(fetch)[0] == 0


def test_fetch_waits_for_a_hook_that_begins_late(pod: Pod) -> None:
    """kubelet starts the two at once, and fetch may be the faster."""
    fetch = pod.fetch()
    wait_until((pod.gate / "fetched").exists, "all is brought")
    keeps_looking(fetch)
    until_placed(pod)
    assert end_of(fetch)[0] == 0


def test_a_hook_that_fails_when_all_is_brought_costs_nothing(pod: Pod) -> None:
    """kubelet ends fetch for it with a SIGTERM and makes the others; the pod may succeed if fetch has."""
    fetch = pod.fetch()
    wait_until((pod.gate / "fetched").exists, "all is brought")
    keeps_looking(fetch)
    fetch.terminate()
    assert end_of(fetch)[0] == 0
    assert end_of(pod.task("echo", "ran")) == (0, "ran\n")


def test_a_hook_that_fails_before_all_is_brought_ends_fetch_and_the_command_is_not_run(
    pod: Pod, held: Callable[[], None]
) -> None:
    fetch = pod.fetch()
    wait_until((pod.gate / "placed").exists, "fetch has begun with its inputs")
    fetch.terminate()
    assert end_of(fetch)[0] == 143
    all_say_that_nothing_was_run(pod, pod.publish(), pod.task("true"))


def is_stopped(process: Process) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_fetch_that_cannot_place_the_wrapper_does_not_wait_for_a_hook_that_waits_for_it(pod: Pod) -> None:
    hook = pod.hook()
    wait_until((pod.gate / "hook").exists, "the hook waits")
    assert end_of(pod.fetch(Path("/nowhere/exec")))[0] == 1
    assert hook.poll() is None
    assert pod.message("fetch")["error"] == "the task's wrapper cannot be put in place: No such file or directory"


@pytest.mark.parametrize("broken", ["", "views"])
def test_a_broken_cache_keeps_no_task_from_running(pod: Pod, held: Callable[[], None], broken: str) -> None:
    cache = pod.node.cache
    if broken:
        cache.mkdir()
    (cache / broken).write_text("no folder")
    held()
    fetch = pod.fetch()
    until_placed(pod)
    assert end_of(pod.task("cat", "x")) == (0, "brought")
    assert end_of(fetch)[0] == 0


def test_a_view_that_leads_out_is_not_made(make_node: Any, static_binary: Path, tmp_path: Path) -> None:
    node = make_node()
    (node.cache / "views").mkdir(parents=True)
    node.job = "../../out"
    pod = Pod(node, static_binary)
    assert end_of(pod.fetch())[0] == 1
    assert not (tmp_path / "out").exists()


def test_the_gate_opens_for_a_strangers_wrapper_whatever_the_umask(
    endpoint: Any, static_binary: Path, held: Callable[[], None]
) -> None:
    """A task's image names any user it likes."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be another user")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to strangers
    root.chmod(0o755)
    pod = Pod(Node(root, endpoint, root / "cache"), static_binary)
    try:
        (pod.node.cache / "views").mkdir(parents=True)
        pod.node.control.chmod(0o1777)
        fetch = pod.fetch(umask=0o077)
        until_placed(pod)
        task = pod.task("cat", "x", before=("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"))
        keeps_looking(task)
        assert pod.view.stat().st_mode & 0o777 == 0o755
        held()
        assert end_of(task) == (0, "brought")
        assert (pod.node.control / "started").stat().st_uid == STRANGER
        assert end_of(fetch)[0] == 0
    finally:
        pod.close()
        shutil.rmtree(root)
