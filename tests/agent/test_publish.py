"""publish stores what the task declared, or fails the attempt with the reason; the reason reaches the report and the
message.
"""

import fcntl
import hashlib
import io
import json
import os
import signal
import socket
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import outputs as outputs_module
from agent import upload as upload_module
from agent.manifest import MESSAGE_BYTES
from helios.localjobs import PodStatus
from helios.podwire import OutputManifest, PublishMessage, Report, StoredOutput
from services.collector.outcome import report_of
from tests.agent.conftest import both_forms

KEY = "bucket/runs/r/t/0/pod/"


def test_a_good_task_has_its_outputs_stored_and_reported(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.add_output("out/result.txt")
    endpoint.add_output("empty")
    (node.artifacts / "out").mkdir()
    (node.artifacts / "out/result.txt").write_bytes(b"42\n")
    (node.artifacts / "empty").touch()
    node.task_ended()
    assert node.publish().good
    assert store.objects[KEY + "out/result.txt"] == b"42\n"
    assert store.objects[KEY + "empty"] == b""
    (report,) = endpoint.reports
    sha256 = hashlib.sha256(b"42\n").hexdigest()
    assert report["outputs"][0] == {
        "name": "out/result.txt",
        "key": KEY + "out/result.txt",
        "bytes": 3,
        "sha256": sha256,
        "archive": False,
        "warm": True,
    }
    assert (report["exitCode"], report["reason"], report["timedOut"], report["cpuMs"]) == (0, None, False, 12)
    assert (report["run"], report["task"], report["attempt"], report["podUid"], report["node"], report["v"]) == (
        *("r", "t", 0, "pod", "node-1"),
        1,
    )
    message = json.loads((node.root / "publish-message").read_bytes())
    assert (message["ok"], message["outputs"], message["outputBytes"], message["exitCode"]) == (True, 2, 3, 0)


@both_forms
def test_the_report_carries_what_fetch_found(store: Any, endpoint: Any, node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    manifest = node.fetch()
    node.task_ended()
    assert node.publish().good
    assert endpoint.reports[0]["fetch"] == manifest


def test_a_missing_output_fails_a_task_that_exited_0(endpoint: Any, node: Any) -> None:
    endpoint.add_output("n")
    node.task_ended()
    outcome = node.publish()
    assert not outcome.good
    assert endpoint.reports[0]["reason"] == "output 'n' was not written by the task"
    assert json.loads((node.root / "publish-message").read_bytes())["reason"] == outcome.reason


@both_forms
def test_a_failed_task_stores_nothing_and_is_reported(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_text("half")
    node.task_ended(3)
    assert not node.publish().good
    assert store.objects == {}
    assert (endpoint.reports[0]["exitCode"], endpoint.reports[0]["reason"]) == (3, None)


def plant_socket(path: Path) -> None:
    # A socket's path is limited to 108 bytes, which the folder of a test can exceed.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


@both_forms
@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "a symbolic link"),
        (lambda path: path.symlink_to("other"), "a symbolic link"),
        (os.mkfifo, "a FIFO"),
        (plant_socket, "a socket"),
    ],
)
def test_an_output_that_is_no_file_is_refused_by_its_kind(
    store: Any, endpoint: Any, make_node: Any, plant: Callable[[Path], None], words: str
) -> None:
    """FAULTS 32, for the output itself and for one inside an output folder."""
    endpoint.add_output("out")
    node = make_node("a")
    plant(node.artifacts / "out")
    node.task_ended()
    assert words in (node.publish().reason or "")
    node = make_node("b")
    node.task_ended()
    (node.artifacts / "out").mkdir()
    plant(node.artifacts / "out" / "inner")
    reason = node.publish().reason or ""
    assert words in reason
    assert "'inner'" in reason
    assert store.objects == {}


@both_forms
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_refused_without_being_opened(endpoint: Any, node: Any) -> None:
    endpoint.add_output("out")
    try:
        os.mknod(node.artifacts / "out", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this place allows no devices")
    node.task_ended()
    assert "a device" in (node.publish().reason or "")


@both_forms
def test_an_output_behind_a_linked_folder_is_refused(store: Any, endpoint: Any, node: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not yours")
    (node.artifacts / "dir").symlink_to(outside)
    endpoint.add_output("dir/secret")
    node.task_ended()
    assert "symbolic link" in (node.publish().reason or "")
    assert store.objects == {}


@both_forms
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b"])
def test_an_output_name_that_leads_out_is_refused(store: Any, endpoint: Any, node: Any, name: str) -> None:
    endpoint.add_output(name)
    node.task_ended()
    assert not node.publish().good
    assert endpoint.reports[0]["reason"]
    assert store.objects == {}


def fill(folder: Path, order: list[str]) -> None:
    for name in order:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 300)
    (folder / order[0]).chmod(0o755)
    for name in sorted(order)[1:]:
        (folder / name).chmod(0o600)
    (folder / "hollow").mkdir()


@both_forms
def test_a_folder_is_stored_as_the_same_tar_whoever_wrote_it_and_when(
    store: Any, endpoint: Any, make_node: Any
) -> None:
    endpoint.add_output("out")
    names = ["a", "b/c", "b-d", "b/é" + "x" * 120, "z" * 200]
    digests: list[str] = []
    for job, order in (("one", names), ("two", [names[0], *reversed(names[1:])])):
        node = make_node(job)
        node.compress = False
        fill(node.artifacts / "out", order)
        os.utime(node.artifacts / "out" / "a", (len(digests), 5))
        node.task_ended()
        assert node.publish().good
        digests.append(endpoint.reports[-1]["outputs"][0]["sha256"])
    assert digests[0] == digests[1]
    packed = store.objects[KEY + "out"]
    assert endpoint.reports[0]["outputs"][0]["archive"] is True
    assert endpoint.reports[0]["outputs"][0]["bytes"] == len(packed)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name: member for member in archive}
        assert set(members) == {"a", "b", "hollow", *names}
        assert all((member.mtime, member.uid, member.gid) == (0, 0, 0) for member in members.values())
        assert (members["a"].mode, members["b-d"].mode) == (0o755, 0o644)
        content = archive.extractfile("b/c")
        assert content is not None
        assert content.read() == b"b/c" * 300


@both_forms
def test_a_folder_output_comes_back_as_an_input(store: Any, endpoint: Any, make_node: Any) -> None:
    endpoint.add_output("out")
    writer = make_node("writer")
    fill(writer.artifacts / "out", ["a", "b/c"])
    writer.task_ended()
    writer.publish()
    stored = endpoint.reports[0]["outputs"][0]
    fields = {"sha256": stored["sha256"], "bytes": stored["bytes"], "archive": True, "headUrl": None}
    endpoint.add_input("back", stored["key"], **fields)
    reader = make_node("reader")
    assert reader.fetch()["ok"]
    assert reader.read("back/b/c") == b"b/c" * 300
    assert os.access(reader.artifacts / "back/a", os.X_OK)
    assert (reader.artifacts / "back/hollow").is_dir()


def test_an_output_that_changes_while_it_is_read_is_refused(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "BUFFER", 4)
    endpoint.add_output("growing")
    path = node.artifacts / "growing"
    path.write_bytes(b"0123456789")

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    store.faults[KEY + "growing"] = [grow]
    node.task_ended()
    assert node.publish().reason == "output 'growing' changed while it was read"


@both_forms
def test_an_upload_is_tried_again_and_an_expired_url_is_replaced(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"n")
    store.faults[KEY + "n"] = [503, lambda: setattr(store, "oldest_valid", 1)]
    original = endpoint.plan

    def plan() -> dict[str, Any]:
        document = original()
        endpoint.generation = 1
        return document

    endpoint.plan = plan
    node.task_ended()
    assert node.publish().good
    assert store.objects[KEY + "n"] == b"n"


@both_forms
def test_an_upload_that_fails_for_good_fails_the_task(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module.Backoff, "pause", lambda self: None)
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"n")
    store.faults[KEY + "n"] = [500] * 99
    node.task_ended()
    assert not node.publish().good
    assert endpoint.reports[0]["exitCode"] == 0
    assert endpoint.reports[0]["reason"] == "output 'n': upload given up after 8 tries: HTTP 500 SlowDown"


@both_forms
def test_a_big_output_goes_up_in_parts_and_an_error_in_a_200_is_seen(store: Any, endpoint: Any, node: Any) -> None:
    data = os.urandom((3 << 20) + 17)
    endpoint.single_put_limit = 1 << 20
    endpoint.add_output("big")
    (node.artifacts / "big").write_bytes(data)
    # One fault is taken by each request of the key: the four parts pass, then the first completion fails inside a 200.
    store.faults[KEY + "big"] = [*[lambda: None] * 4, "error-in-200"]
    node.task_ended()
    assert node.publish().good
    assert store.objects[KEY + "big"] == data
    assert endpoint.reports[0]["outputs"][0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert len(store.complete_bodies) == 2


@both_forms
def test_a_report_that_is_too_early_is_delivered_again(endpoint: Any, node: Any) -> None:
    endpoint.script["/v1/result"] = [425, 425, 503]
    node.task_ended()
    assert node.publish().good
    assert len(endpoint.reports) == 1


def test_an_undelivered_report_leaves_the_message_and_the_outcome(endpoint: Any, node: Any) -> None:
    endpoint.script["/v1/result"] = [503] * 99
    node.task_ended()
    assert node.publish(patience=0.3).good
    message = json.loads((node.root / "publish-message").read_bytes())
    assert (message["ok"], message["report"]) == (True, "undelivered")


def made_report(node: Any, endpoint: Any, store: Any) -> Report | None:
    """What the collector makes of the message when the report is lost."""
    message = msgspec.json.decode((node.root / "publish-message").read_bytes(), type=PublishMessage)

    def manifest(key: str, digest: str) -> Any:
        listed = store.objects[f"bucket/{key}"]
        assert hashlib.sha256(listed).hexdigest() == digest
        return msgspec.json.decode(listed, type=OutputManifest).outputs

    names = [output["name"] for output in endpoint.outputs]
    pod = PodStatus(job="j", uid="pod", node="node-1", phase="Succeeded")
    return report_of(message, pod, run="r", task="t", attempt=0, declared_outputs=names, manifest=manifest)


@pytest.mark.parametrize("count", [0, 1, 300], ids=["no output", "one output", "more than a message holds"])
def test_the_message_is_there_before_the_report_and_says_what_was_stored(
    store: Any, endpoint: Any, node: Any, count: int
) -> None:
    for number in range(count):
        endpoint.add_output(f"out/a-rather-long-name-{number}")
        path = node.artifacts / f"out/a-rather-long-name-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
    made: list[Report | None] = []

    class Reports(list[Any]):
        def append(self, report: Any) -> None:
            made.append(made_report(node, endpoint, store))
            super().append(report)

    endpoint.reports = Reports()
    node.task_ended()
    assert node.publish().good
    message = (node.root / "publish-message").read_bytes()
    assert json.loads(message)["report"] == "committed"
    assert len(message) <= MESSAGE_BYTES
    (report,) = endpoint.reports
    # That an output is in the node's cache is for the report alone.
    stored = [{**each, "key": each["key"].removeprefix("bucket/"), "warm": False} for each in report["outputs"]]
    assert len(stored) == count
    for each in (*made, made_report(node, endpoint, store)):
        assert each is not None
        assert list(each.outputs) == msgspec.convert(stored, list[StoredOutput])
        assert (each.exitCode, each.cpuMs, each.startedAt, each.endedAt) == (0, 12, 1, 2)
    assert ("bucket/runs/r/t/0/pod.manifest.json" in store.objects) == (count == 300)


def test_a_list_of_outputs_that_cannot_be_stored_costs_nothing_else(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module.Backoff, "pause", lambda self: None)
    for number in range(60):
        endpoint.add_output(f"output-{number}")
        (node.artifacts / f"output-{number}").touch()
    store.faults["bucket/runs/r/t/0/pod.manifest.json"] = [500] * 99
    node.task_ended()
    assert node.publish().good
    assert len(endpoint.reports[0]["outputs"]) == 60
    assert made_report(node, endpoint, store) is None


@both_forms
def test_an_endpoint_that_gives_no_place_for_the_list_is_an_older_one(store: Any, endpoint: Any, node: Any) -> None:
    original = endpoint.plan
    endpoint.plan = lambda: {name: value for name, value in original().items() if name != "manifest"}
    for number in range(60):
        endpoint.add_output(f"output-{number}")
        (node.artifacts / f"output-{number}").touch()
    node.task_ended()
    assert node.publish().good
    assert len(store.objects) == 60


@both_forms
def test_a_fenced_attempt_is_not_reported_twice(endpoint: Any, node: Any) -> None:
    endpoint.script["/v1/result"] = [410]
    node.task_ended()
    node.publish()
    assert endpoint.asked.count("/v1/result") == 1


def test_a_reason_too_long_for_the_message_is_shortened(endpoint: Any, node: Any) -> None:
    name = "/".join(["\u00fc" * 100] * 5)
    endpoint.add_output(name)
    node.task_ended()
    node.publish()
    message = (node.root / "publish-message").read_bytes()
    assert len(message) <= MESSAGE_BYTES
    assert json.loads(message)["reason"].startswith("output '")
    assert endpoint.reports[0]["reason"].endswith("was not written by the task")


def test_the_end_is_seen_when_the_lock_is_released_however_the_wrapper_died(
    endpoint: Any, node: Any, wait_until: Any
) -> None:
    """A wrapper that was killed leaves no record: the exit code is unknown, and the attempt is reported as failed."""
    process = node.start("exec", "--", "sh", "-c", "echo $$; exec sleep 600")
    assert process.stdout is not None
    command = int(process.stdout.readline())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(node.publish)
        wait_until(lambda: "/v1/plan" in endpoint.asked, "publish waits for the end")
        assert not running.done()
        process.send_signal(signal.SIGKILL)
        outcome = running.result(60)
    # Without its wrapper nobody ends the command here; in a container the wrapper's end is the container's.
    os.kill(command, signal.SIGKILL)
    process.communicate()
    assert not outcome.good
    (report,) = endpoint.reports
    assert (report["exitCode"], report["signal"]) == (None, None)
    assert "killed" in report["reason"]


def test_publish_waits_in_the_kernel_for_the_lock(endpoint: Any, node: Any, wait_until: Any) -> None:
    node.task_ended()
    lock = os.open(node.control / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(node.publish)
        wait_until(lambda: "/v1/plan" in endpoint.asked, "publish is past the start")
        assert not running.done()
        os.close(lock)
        assert running.result(60).good


def test_a_task_that_never_starts_is_reported_when_the_patience_ends(endpoint: Any, node: Any) -> None:
    assert not node.publish(start_patience=0.05).good
    assert "did not start" in endpoint.reports[0]["reason"]


CHANGED = "input 'x' was changed while the task ran; its cached copy is quarantined and the attempt repeated"


@pytest.mark.parametrize("exit_code", [0, 1])
def test_an_input_that_was_written_to_disrupts_writer_and_reader_alike_and_is_quarantined(
    store: Any, endpoint: Any, make_node: Any, exit_code: int
) -> None:
    """Who did it cannot be told, and what either made of it, a failure included, does not count."""
    digest = store.put("bucket/x", b"shared")
    endpoint.add_input("x", "bucket/x")
    writer, reader = make_node("writer"), make_node("reader")
    writer.fetch()
    reader.fetch()
    blob = writer.blob(digest)
    blob.chmod(0o644)
    with (writer.artifacts / "x").open("r+b") as file:
        file.write(b"SHARED")
    writer.task_ended(0)
    assert not writer.publish().good
    assert not blob.exists()
    after = make_node("after")
    assert after.fetch()["causes"] == {"evicted": 1}
    reader.task_ended(exit_code)
    assert not reader.publish().good
    assert [(report["reason"], report["disrupted"]) for report in endpoint.reports] == [(CHANGED, True)] * 2
    message = json.loads((reader.root / "publish-message").read_bytes())
    assert (message["reason"], message["disrupted"]) == (CHANGED, True)
    assert after.read("x") == b"shared"
    assert blob.read_bytes() == b"shared", "the sound blob that came meanwhile stays"
    after.task_ended()
    assert after.publish().good
    assert endpoint.reports[2]["disrupted"] is False


@both_forms
def test_a_command_that_could_not_be_run_fails_for_that_whoever_changed_its_input(
    store: Any, endpoint: Any, node: Any
) -> None:
    digest = store.put("bucket/x", b"shared")
    endpoint.add_input("x", "bucket/x")
    node.fetch()
    node.blob(digest).chmod(0o644)
    node.blob(digest).write_bytes(b"SHARED")
    node.task_ended(127, error="command not found: 'x'")
    node.publish()
    assert (endpoint.reports[0]["reason"], endpoint.reports[0]["disrupted"]) == ("command not found: 'x'", False)


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir])
def test_what_a_task_puts_in_the_messages_place_neither_stops_publish_nor_keeps_it_waiting(
    endpoint: Any, node: Any, plant: Callable[[Path], None]
) -> None:
    plant(node.root / "publish-message")
    node.task_ended()
    assert node.publish().good
    assert len(endpoint.reports) == 1


@both_forms
def test_after_the_task_its_view_is_gone_and_its_blobs_are_on_the_disk(
    store: Any, endpoint: Any, make_node: Any, wait_until: Any
) -> None:
    from agent.stamp import durable_ns

    digest = store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.fetch()
    node.task_ended()
    assert node.publish().good
    assert not (node.cache / "views" / "a").exists()
    wait_until(lambda: node.blob(digest).stat().st_mtime_ns == durable_ns(digest), "the blob is settled")


def test_publish_runs_as_a_process_and_exits_by_the_outcome(endpoint: Any, node: Any) -> None:
    endpoint.add_output("n")
    node.task_ended()
    process = node.start("publish")
    assert b"was not written by the task" in process.communicate()[0]
    assert process.returncode == 1
    (node.artifacts / "n").write_text("n")
    process = node.start("publish")
    process.communicate()
    assert process.returncode == 0


def catches_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_publish_of_a_pod_that_is_ended_before_its_task_started_ends_at_once(
    endpoint: Any, node: Any, wait_until: Any
) -> None:
    """As a container's first process it would else hear no SIGTERM, and wait for a start that cannot come."""
    process = node.start("publish")
    wait_until(lambda: catches_sigterm(process.pid), "it can be told to end")
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"its pod was ended before its task started" in printed
    message = json.loads((node.root / "message").read_bytes())
    assert (message["ok"], message["reason"]) == (False, "its pod was ended before its task started")
    assert endpoint.reports == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_publish_hears_no_sigterm_of_its_own_once_the_task_runs(endpoint: Any, node: Any, wait_until: Any) -> None:
    """A container's first process then goes on, until the task has ended and its end is reported."""
    node.task_ended()
    lock = os.open(node.control / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = node.start("publish")
    wait_until(lambda: "/v1/plan" in endpoint.asked, "publish is past the start")
    assert not catches_sigterm(process.pid)
    os.close(lock)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_progress_of_many_outputs_is_kept_apart(store: Any, endpoint: Any, node: Any) -> None:
    for number in range(20):
        endpoint.add_output(f"out-{number}")
        (node.artifacts / f"out-{number}").write_bytes(b"%d" % number)
    node.task_ended()
    before = threading.active_count()
    assert node.publish().good
    assert [item["name"] for item in endpoint.reports[0]["outputs"]] == [f"out-{number}" for number in range(20)]
    assert threading.active_count() <= before + 40
