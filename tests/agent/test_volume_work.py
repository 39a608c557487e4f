"""A volume's fetch and publish in the agent's own process: as from containers, many at once, over restarts, and with a
task that does not want it.
"""

import io
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import lines as lines_module
from agent import volume_work
from agent.kept import Kept
from agent.lines import NOT_KEPT, Lines
from agent.parallel import for_each
from agent.progress import Progress
from agent.report import UNDELIVERED
from agent.upload import StoredOutput
from agent.volume_work import Shared, VolumeTask, bring, look_ahead, report_failure
from agent.web import Web
from helios.podwire import Report
from tests.agent.conftest import Node, ObjectStore, PodEndpoint, wait_until

KEY = "bucket/runs/r/t/0/pod/"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def form() -> str:
    return "csi"


def changed(task: VolumeTask, **fields: Any) -> VolumeTask:
    return VolumeTask(**{**vars(task), **fields})


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def everything(endpoint: PodEndpoint, objects: ObjectStore) -> None:
    """A link, a copy and a folder to bring."""
    packed = tar_of({"a": b"A", "deep/b": b"B"})
    digest = objects.put("bucket/folder", packed)
    objects.put("bucket/x", b"x" * 1000)
    objects.put("bucket/y", b"y")
    endpoint.add_input("in/x", "bucket/x")
    endpoint.add_input("in/y", "bucket/y", mode="copy")
    endpoint.add_input("folder", "bucket/folder", sha256=digest, bytes=len(packed), headUrl=None, archive=True)


# What the collector is told.


def test_both_forms_give_the_same_manifest_the_same_lines_and_the_same_report(
    store: ObjectStore, endpoint: PodEndpoint, tmp_path: Path
) -> None:
    everything(endpoint, store)
    endpoint.add_output("n")
    found: list[Any] = []
    for form in ("init", "csi"):
        node = Node(tmp_path / form, endpoint, tmp_path / f"cache-{form}", form=form)
        manifest = node.fetch()
        (node.artifacts / "n").write_bytes(b"n")
        node.task_ended()
        assert node.publish().good
        report = endpoint.reports[-1]
        assert report.pop("fetch") == manifest
        own = (report.pop("form", "init"), report.pop("final", False), report.pop("publishedAt") > 0)
        assert own == (form, False, True)
        steady = [{name: each for name, each in item.items() if name != "ms"} for item in manifest["inputs"]]
        totals = {name: each for name, each in manifest.items() if name not in ("inputs", "elapsedMs", "endedAt")}
        # Inputs come side by side, in whatever order.
        found.append((totals, steady, report, sorted(line.replace(f"cache-{form}", "cache") for line in node.lines)))
    assert found[0] == found[1]


def test_the_collector_gets_a_steps_lines_and_the_agents_own_log_says_whose_they_are(
    store: ObjectStore, endpoint: PodEndpoint, node: Node
) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    endpoint.add_output("n")
    assert node.fetch()["ok"]
    wait_until(lambda: len(endpoint.lines["fetch"]) == len(node.lines), "fetch's lines are there")
    assert endpoint.lines["fetch"] == [line.rstrip("\n") for line in node.lines]
    assert endpoint.lines["fetch"][-1] == "[HELIOS] Init container completed."
    (node.artifacts / "n").write_bytes(b"n")
    node.task_ended()
    printed: list[bytes] = []
    log = volume_work.Log(printed.append)
    assert volume_work.store(node.volume(), log, node.web).good
    assert endpoint.lines["publish"] == ["[HELIOS] Stored output 'n', 1 bytes", "[HELIOS] Task ended with exit code 0"]
    assert printed[-1] == b"[HELIOS] r t attempt 0 publish: Task ended with exit code 0\n"


def test_lines_that_the_collector_does_not_take_hold_up_nothing(endpoint: PodEndpoint, node: Node) -> None:
    endpoint.script["/v1/lines"] = [503] * 4
    assert node.fetch()["ok"]
    wait_until(lambda: len(endpoint.lines["fetch"]) == 3, "they come later")
    assert endpoint.script["/v1/lines"] == []


def test_lines_are_numbered_on_by_a_step_that_is_done_again(endpoint: PodEndpoint, node: Node) -> None:
    for word in (b"one\n", b"two\n"):
        again = Lines(Web(), node.attempt(), "publish", str(node.root / "state"))
        again.add(word)
        again.close()
        again.wait(60)
    assert endpoint.lines["publish"] == ["one", "two"]


def test_of_too_many_lines_the_last_ones_are_kept(
    endpoint: PodEndpoint, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "KEPT_LINES", 10)
    monkeypatch.setattr(lines_module, "BATCH_SECONDS", 60.0)
    lines = Lines(Web(), node.attempt(), "fetch", str(node.root / "state"))
    for number in range(100):
        lines.add(b"%d\n" % number)
    lines.close()
    lines.wait(60)
    assert endpoint.lines["fetch"] == [NOT_KEPT, *map(str, range(91, 100))]


@pytest.mark.parametrize("status", [404, 410])
def test_a_collector_that_refuses_lines_is_asked_once(endpoint: PodEndpoint, node: Node, status: int) -> None:
    endpoint.script["/v1/lines"] = [status] * 2
    lines = Lines(Web(), node.attempt(), "fetch", str(node.root / "state"))
    lines.add(b"one\n")
    lines.close()
    lines.wait(60)
    assert endpoint.script["/v1/lines"] == [status]
    assert endpoint.lines == {}


def test_the_collector_hears_that_outputs_are_being_stored(
    store: ObjectStore, endpoint: PodEndpoint, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_work, "AT_WORK_SECONDS", 0.01)
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"n")
    store.faults[KEY + "n"] = [lambda: wait_until(lambda: endpoint.at_work >= 3, "it is told")]
    node.task_ended()
    assert node.publish().good


def test_the_collector_hears_that_inputs_are_being_brought(
    store: ObjectStore, endpoint: PodEndpoint, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is nothing to log for long: a wait for another task's download, a hit that is read through."""
    monkeypatch.setattr(volume_work, "AT_WORK_SECONDS", 0.01)
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    store.faults["bucket/x"] = [lambda: wait_until(lambda: endpoint.at_work >= 3, "it is told")]
    assert node.fetch()["ok"]


def test_a_fetch_that_failed_is_reported_with_its_manifest_and_is_final(endpoint: PodEndpoint, node: Node) -> None:
    endpoint.add_input("x", "bucket/none")
    manifest = node.fetch()
    assert (manifest["ok"], endpoint.reports) == (False, [])
    task = node.volume()
    assert report_failure(task, node.agents_log(), node.web, str(manifest["error"])) == "committed"
    report = msgspec.convert(endpoint.reports[0], Report)
    assert report.fetch is not None
    assert (report.fetch.ok, report.fetch.error, report.reason) == (False, manifest["error"], manifest["error"])
    assert (report.exitCode, report.startedAt, report.disrupted) == (None, None, False)
    assert (endpoint.reports[0]["form"], endpoint.reports[0]["final"]) == ("csi", True)
    assert not (node.cache / "views" / node.job).exists()


def test_the_first_report_that_was_settled_is_the_one_that_counts(endpoint: PodEndpoint, node: Node) -> None:
    """As of a task that ends well while its quota is still being reported."""
    node.task_ended()
    endpoint.script["/v1/result"] = [503] * 99
    words = "its folder holds more than 5 bytes (HELIOS_VOLUME_BYTES)"
    assert report_failure(node.volume(patience=0.1), node.agents_log(), node.web, words) == UNDELIVERED
    endpoint.script["/v1/result"] = []
    outcome = node.publish()
    assert (outcome.good, outcome.reason, outcome.told) == (False, words, "committed")
    assert [report["reason"] for report in endpoint.reports] == [words]
    assert endpoint.reports[0]["startedAt"] > 0


def test_a_task_without_inputs_and_outputs_asks_for_no_plan(endpoint: PodEndpoint, node: Node) -> None:
    assert node.fetch()["ok"]
    node.task_ended()
    assert node.publish().good
    assert endpoint.asked == ["/v1/result"]


def test_progress_says_how_far_the_inputs_are(store: ObjectStore, endpoint: PodEndpoint, node: Node) -> None:
    store.put("bucket/x", bytes(4 << 20))
    digest = store.put("bucket/y", bytes(1_200_000))
    endpoint.add_input("x", "bucket/x")
    endpoint.add_input("y", "bucket/y", sha256=digest, bytes=1_200_000, headUrl=None)
    progress, half_way = Progress(), threading.Event()
    assert progress.words() == "0 of 0 inputs, 0 bytes of 0 bytes"
    store.faults["bucket/x"] = [("hold", half_way)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bring, node.volume(), node.agents_log(), node.web, progress)
        wait_until(lambda: progress.words() == "1 of 2 inputs, 3.3 MB of 5.4 MB", "one is there, and half of the other")
        half_way.set()
        assert running.result(60)["ok"]
    assert progress.words() == "2 of 2 inputs, 5.4 MB of 5.4 MB"


# Where things are, and whose.


def test_a_nested_input_leads_to_where_the_view_is_mounted(
    store: ObjectStore, endpoint: PodEndpoint, node: Node
) -> None:
    store.put("bucket/x", b"x")
    for name in ("x", "a/b/x"):
        endpoint.add_input(name, "bucket/x")
    node.fetch()
    assert os.readlink(node.artifacts / "x") == ".helios/inputs/x"
    assert os.readlink(node.artifacts / "a/b/x") == "../../.helios/inputs/a/b/x"
    assert node.read("a/b/x") == b"x"


@as_root
@pytest.mark.parametrize("cache_enabled", [True, False])
def test_what_the_task_may_write_to_is_its_own_and_nothing_else_is(
    store: ObjectStore, endpoint: PodEndpoint, node: Node, *, cache_enabled: bool
) -> None:
    everything(endpoint, store)
    os.chown(node.artifacts, 1000, 1000)
    node.artifacts.chmod(0o700)
    assert bring(node.volume(cache_enabled=cache_enabled, user=1000), node.agents_log(), node.web)["ok"]
    for name in ("in", "in/y", "folder", "folder/a", "folder/deep", "folder/deep/b"):
        found = (node.artifacts / name).lstat()
        assert (found.st_uid, found.st_gid, oct(found.st_mode)[-2:]) == (1000, 1000, "00"), name
    assert (node.artifacts / "in/x").is_symlink() == cache_enabled
    if not cache_enabled:
        found = (node.artifacts / "in/x").stat()
        assert (found.st_uid, oct(found.st_mode)[-3:]) == (0, "444")


def test_an_output_becomes_a_blob_without_a_copy(store: ObjectStore, endpoint: PodEndpoint, make_node: Any) -> None:
    endpoint.add_output("out/n")
    node = make_node("a")
    (node.artifacts / "out").mkdir()
    (node.artifacts / "out/n").write_bytes(b"hot")
    was = (node.artifacts / "out/n").stat()
    node.task_ended()
    outcome = node.publish()
    assert (outcome.good, outcome.outputs[0].warm) == (True, True)
    found = node.blob(outcome.outputs[0].sha256).stat()
    assert (found.st_ino, found.st_nlink, oct(found.st_mode)[-3:]) == (was.st_ino, 1, "444")
    assert found.st_uid == os.geteuid()
    for emptied in (node.artifacts / "out", node.cache / "tmp", node.cache / "locks"):
        assert os.listdir(emptied) == []
    endpoint.add_input("n", KEY + "out/n", sha256=outcome.outputs[0].sha256, bytes=3, headUrl=None)
    assert make_node("b").fetch()["causes"] == {"warm": 1}
    assert store.count("GET", KEY + "out/n") == 0


def test_with_the_cache_off_outputs_stay_where_they_are(store: ObjectStore, endpoint: PodEndpoint, node: Node) -> None:
    endpoint.cache_enabled = False
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"n")
    node.task_ended()
    outcome = node.publish(sees_cache=False)
    assert (outcome.good, outcome.outputs[0].warm, node.read("n")) == (True, False, b"n")
    assert not node.cache.exists()


# A task that does not want it.


def outlive(node: Node, how: str) -> Any:
    """Keeps output `n` open for writing after the task's end; gives what then writes to it."""
    file = (node.artifacts / "n").open("r+b")
    if how == "descriptor":
        return lambda: (file.seek(0), file.write(b"EVIL"), file.flush())
    mapped = mmap.mmap(file.fileno(), 0)
    file.close()
    mapped[0:1] = b"g"  # the page is there by now, and writing to it changes no time
    return lambda: mapped.__setitem__(slice(0, 4), b"EVIL")


@pytest.mark.parametrize("how", ["descriptor", "mapping"])
def test_a_writer_that_lives_on_after_the_task_cannot_change_a_blob(
    endpoint: PodEndpoint, node: Node, how: str
) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"good")
    write = outlive(node, how)
    node.task_ended()
    outcome = node.publish()
    write()
    assert outcome.outputs[0].warm
    assert node.blob(outcome.outputs[0].sha256).read_bytes() == b"good"
    assert node.read("n") == b"EVIL"


def test_a_second_name_for_an_output_cannot_change_a_blob(endpoint: PodEndpoint, node: Node) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"good")
    (node.artifacts / "other").hardlink_to(node.artifacts / "n")
    node.task_ended()
    outcome = node.publish()
    assert outcome.outputs[0].warm
    (node.artifacts / "other").write_bytes(b"EVIL")
    assert node.blob(outcome.outputs[0].sha256).read_bytes() == b"good"


def test_two_outputs_of_one_file_are_both_stored(store: ObjectStore, endpoint: PodEndpoint, node: Node) -> None:
    for name in ("one", "two"):
        endpoint.add_output(name)
    (node.artifacts / "one").write_bytes(b"same")
    (node.artifacts / "two").hardlink_to(node.artifacts / "one")
    node.task_ended()
    assert node.publish().good
    assert (store.objects[KEY + "one"], store.objects[KEY + "two"]) == (b"same", b"same")


@pytest.mark.parametrize("size", [1001, 1 << 60])
def test_a_file_of_holes_is_not_read(store: ObjectStore, endpoint: PodEndpoint, node: Node, size: int) -> None:
    endpoint.add_output("n")
    with (node.artifacts / "n").open("wb") as file:
        try:
            file.truncate(size)
        except OSError:
            file.truncate(1 << 43)
    node.task_ended()
    limited = changed(node.volume(), limit_bytes=1000) if size == 1001 else node.volume()
    outcome = volume_work.store(limited, node.agents_log(), node.web)
    assert re.match(r"output 'n' has \d+ bytes, more than \d+ \(", outcome.reason or "")
    assert store.objects == {}


def test_what_is_not_the_tasks_own_is_neither_brought_nor_stored(
    store: ObjectStore, endpoint: PodEndpoint, make_node: Any
) -> None:
    digest = store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    endpoint.add_output(".helios/inputs/x")
    node = make_node("a")
    node.fetch()
    node.task_ended()
    assert node.publish().reason == "output '.helios/inputs/x' is not the task's own"
    assert node.blob(digest).read_bytes() == b"x"
    endpoint.inputs[0]["name"] = ".helios/inputs/x"
    assert make_node("b").fetch()["error"] == "input '.helios/inputs/x': .helios/ is not the task's own"


def plant_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir, plant_link])
def test_what_stands_in_for_the_exit_record_is_no_record(endpoint: PodEndpoint, node: Node, plant: Any) -> None:
    node.task_ended()
    (node.control / "exit").unlink()
    plant(node.control / "exit")
    assert node.publish().reason == "the task was killed before it could write its exit code"


@pytest.mark.parametrize(
    "record",
    [
        {"exitCode": 10**30},
        {"exitCode": -1},
        {"exitCode": True},
        {"exitCode": 0, "signal": "\ud800", "error": "\ud800\n"},
    ],
)
def test_an_exit_record_of_the_tasks_own_making_makes_no_report_that_the_collector_cannot_read(
    endpoint: PodEndpoint, node: Node, record: dict[str, object]
) -> None:
    node.task_ended()
    (node.control / "exit").write_text(json.dumps(record))
    outcome = node.publish()
    read = msgspec.json.decode(json.dumps(endpoint.reports[0]), type=Report)
    assert (read.exitCode, read.signal, read.reason) == (outcome.record.exit_code, None, outcome.reason)
    assert outcome.reason in ("\\ud800\\n", "the task was killed before it could write its exit code")


def test_a_report_that_the_collector_will_never_take_is_not_sent_for_ever(endpoint: PodEndpoint, node: Node) -> None:
    endpoint.script["/v1/result"] = [400]
    node.task_ended()
    assert node.publish().told == "refused"


# Restarts.


def test_an_undelivered_report_is_delivered_again_as_it_was(
    store: ObjectStore, endpoint: PodEndpoint, node: Node
) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"n")
    node.task_ended()
    endpoint.script["/v1/result"] = [503] * 99
    first = node.publish(patience=0.1)
    assert (first.good, first.told) == (True, UNDELIVERED)
    settled = json.loads((node.root / "state" / "report.json").read_bytes())
    endpoint.script["/v1/result"] = []
    again = node.publish()
    assert (again.good, again.told, again.record, again.outputs) == (True, "committed", first.record, first.outputs)
    assert endpoint.reports == [settled]
    assert store.count("PUT", KEY + "n") == 1


def test_an_output_whose_note_is_cut_off_by_a_full_disk_is_not_taken_for_noted(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(str(node.root / "state"))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(OSError, match="No space left"):
        kept.note_stored(StoredOutput("n", "key", 1, "0" * 64, archive=False, stored=None, warm=True))


CRASHING = """
import json, sys
from agent.logs import Log
from agent.settings import Attempt
from agent.volume_work import VolumeTask, {step}
from agent.web import Web
fields = json.loads(sys.argv[1])
{step}(VolumeTask(attempt=Attempt(**fields.pop("attempt")), **fields), Log(), Web())
"""


def begin(node: Node, step: str) -> subprocess.Popen[bytes]:
    """The step in an agent of its own, to be killed."""
    task = node.volume()
    fields = json.dumps({**vars(task), "attempt": vars(task.attempt)})
    command = [sys.executable, "-c", CRASHING.format(step=step), fields]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)


def test_an_agent_that_is_killed_while_it_stores_leaves_the_rest_to_the_next(
    store: ObjectStore, endpoint: PodEndpoint, node: Node
) -> None:
    for name in ("done", "under-way"):
        endpoint.add_output(name)
        (node.artifacts / name).write_bytes(name.encode())
    node.task_ended()
    killed, reached = threading.Event(), threading.Event()
    store.faults[KEY + "under-way"] = [lambda: (reached.set(), killed.wait(30))]
    agent = begin(node, "store")
    wait_until(lambda: reached.is_set() and not (node.artifacts / "done").exists(), "one of two is stored and noted")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    killed.set()
    outcome = node.publish()
    assert (outcome.good, outcome.told) == (True, "committed")
    assert store.count("PUT", KEY + "done") == 1
    (report,) = endpoint.reports
    assert [(each["name"], each["warm"]) for each in report["outputs"]] == [("done", True), ("under-way", True)]
    assert {key: store.objects[KEY + key] for key in ("done", "under-way")} == {
        "done": b"done",
        "under-way": b"under-way",
    }
    assert os.listdir(node.artifacts) == []


def test_an_agent_that_is_killed_while_it_brings_is_followed_by_one_that_begins_anew(
    store: ObjectStore, endpoint: PodEndpoint, node: Node
) -> None:
    everything(endpoint, store)
    store.put("bucket/slow", b"slow")
    endpoint.add_input("slow", "bucket/slow")
    killed, reached = threading.Event(), threading.Event()
    store.faults["bucket/slow"] = [lambda: (reached.set(), killed.wait(30))]
    agent = begin(node, "bring")
    wait_until(lambda: reached.is_set() and (node.artifacts / "folder/deep/b").exists(), "half of it is there")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    killed.set()
    assert node.fetch()["ok"]
    assert (node.read("folder/deep/b"), node.read("in/x"), node.read("slow")) == (b"B", b"x" * 1000, b"slow")


def test_inputs_that_were_brought_are_not_brought_again(store: ObjectStore, endpoint: PodEndpoint, node: Node) -> None:
    everything(endpoint, store)
    manifest = node.fetch()
    (node.artifacts / "in/y").write_bytes(b"kept")
    asked = list(endpoint.asked)
    assert node.fetch() == manifest
    assert (endpoint.asked, node.read("in/y")) == (asked, b"kept")
    for link in (node.cache / "views" / node.job).rglob("*"):
        if link.is_file():
            link.unlink()
    (node.cache / "views" / node.job / "in").rmdir()
    (node.cache / "views" / node.job).rmdir()
    assert node.fetch()["ok"], "a view that was removed meanwhile is made again"
    assert node.read("in/x") == b"x" * 1000


def test_a_view_that_another_pod_of_the_job_has_taken_over_stays(
    store: ObjectStore, endpoint: PodEndpoint, tmp_path: Path
) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    first, second = (Node(tmp_path / name, endpoint, tmp_path / "cache", form="csi") for name in ("one", "two"))
    for node in (first, second):
        assert node.fetch()["ok"]
        node.task_ended()
    assert first.publish().good
    assert second.read("x") == b"x"
    assert second.publish().good
    assert not (second.cache / "views" / second.job).exists()


# Many at once.


def test_hundreds_of_volumes_in_one_process(store: ObjectStore, endpoint: PodEndpoint, make_node: Any) -> None:
    store.put("bucket/x", b"x" * 100_000)
    endpoint.add_input("x", "bucket/x")
    endpoint.add_output("n")
    web, shared, before = Web(), Shared(), set(threading.enumerate())
    nodes: list[Node] = [make_node(f"job-{number}") for number in range(200)]

    def live(node: Node) -> tuple[str, str]:
        task = node.volume()
        manifest: Any = bring(task, node.agents_log(), web, None, shared)
        node.mount_view()
        (node.artifacts / "n").write_bytes(node.read("x") + node.job.encode())
        node.task_ended()
        outcome = volume_work.store(task, node.agents_log(), web, look_ahead(task, node.agents_log(), web), shared)
        return manifest["inputs"][0]["source"], outcome.told

    with ThreadPoolExecutor(len(nodes)) as pool:
        found = list(pool.map(live, nodes))
    assert sorted(source for source, _ in found) == ["cache"] * 199 + ["store"]
    assert {told for _, told in found} == {"committed"}
    assert store.count("GET", "bucket/x") == 1
    assert os.listdir(nodes[0].cache / "views") == []

    def steps_threads() -> list[str]:
        return [each.name for each in set(threading.enumerate()) - before if "process_request" not in each.name]

    wait_until(lambda: not steps_threads(), "its threads have ended")


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_where_no_more_threads_are_to_be_had_the_others_do_the_work(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """A failure in the middle would leave some at work on a volume that is begun anew."""
    real = threading.Thread.start
    left = [None] * threads

    def start(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert for_each([1, 2, 3, 4], 4, lambda number: number * 2) == [2, 4, 6, 8]


def test_what_is_in_the_cache_waits_for_nobodys_download(
    store: ObjectStore, endpoint: PodEndpoint, make_node: Any
) -> None:
    shared, going_on = Shared(), threading.Event()
    shared.downloads = threading.Semaphore(1)

    def brings(name: str, job: str) -> Any:
        node = make_node(job)
        endpoint.inputs.clear()
        endpoint.add_input(name, f"bucket/{name}")
        return bring(node.volume(), node.agents_log(), node.web, None, shared)["causes"]

    for name in ("x", "slow", "next"):
        store.put(f"bucket/{name}", b"x" * 1000 + name.encode())
    assert brings("x", "first") == {"never-here": 1}
    store.faults["bucket/slow"] = [("hold", going_on)]
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(brings, "slow", "second")
        wait_until(lambda: store.count("GET", "bucket/slow"), "a download is under way")
        assert brings("x", "third") == {"cached": 1}
        after = pool.submit(brings, "next", "fourth")
        wait_until(lambda: store.count("HEAD", "bucket/next"), "another one has its turn next")
        assert store.count("GET", "bucket/next") == 0
        going_on.set()
        assert (slow.result(60), after.result(60)) == ({"never-here": 1}, {"never-here": 1})
