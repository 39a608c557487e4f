"""What shrinks lies compressed in the store, and nobody but the store can tell."""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd as library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import download as download_module
from agent import packing, puts
from agent.download import DownloadFailed, Link, PartFile, Wanted, download
from agent.logs import Log
from agent.outputs import MadeContent
from agent.plan import Stored
from agent.web import Web
from agent.zstd import LEAST_BYTES, LEVEL, bound, is_worth_it, sample_starts
from helios.localjobs import PodStatus
from helios.podwire import PublishMessage, Report
from helios.records import AttemptRecord, decode_attempt
from services.collector.classify import Classification
from services.collector.outcome import from_report, report_of
from tests.agent.conftest import AGENT

PEAK_OF = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
KEY = "bucket/runs/r/t/0/pod/"
PACKAGES = str(Path(library.__file__).parents[2])
MiB = 1 << 20


def text(size: int, seed: int = 1) -> bytes:
    """Lines that shrink to about a third: numbers, as a table has them."""
    rows = random.Random(seed)
    made = io.BytesIO()
    while made.tell() < size:
        made.write(b"%d\t%.6f\tsample-%d\n" % (made.tell(), rows.random(), rows.randrange(1000)))
    return made.getvalue()[:size]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def publish(node: Any, endpoint: Any, name: str, data: bytes) -> dict[str, Any]:
    """Stores one output and returns the report's account of it."""
    if not endpoint.outputs:
        endpoint.add_output(name)
    (node.artifacts / name).write_bytes(data)
    node.task_ended()
    outcome = node.publish()
    assert outcome.reason is None, outcome.reason
    return endpoint.reports[-1]["outputs"][0]


def fetch(make_node: Any, endpoint: Any, output: dict[str, Any], job: str, **options: Any) -> tuple[Any, Any]:
    """A task after it on another node, with this output as its input: (its node, fetch's manifest)."""
    fields = {name: output.get(name) for name in ("sha256", "bytes", "archive", "stored")}
    endpoint.inputs = []
    endpoint.add_input("in", output["key"], headUrl=None, **fields)
    node = elsewhere(make_node(job))
    return node, node.fetch(**options)


def elsewhere(node: Any) -> Any:
    """The node with a cache of its own, which publish of the task before has not warmed."""
    node.cache = node.root / "cache"
    return node


@pytest.fixture
def small_parts(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 KiB, and ranges of 64 KiB from 128 KiB on."""
    monkeypatch.setattr(packing, "PART_BYTES", 65536)
    endpoint.part_bytes = 65536
    monkeypatch.setattr(download_module, "RANGED_FROM", 131072)
    monkeypatch.setattr(download_module, "WINDOW", 65536)


@pytest.mark.parametrize(
    ("data", "packed"),
    [
        (text(LEAST_BYTES), True),
        (text(LEAST_BYTES - 1), False),
        (text(3 * MiB), True),
        (bytes(5 * MiB), True),
        (noise(3 * MiB), False),
        (library.compress(text(3 * MiB)), False),
        (text(2 * MiB) + noise(2 * MiB), True),
        (text(MiB) + noise(9 * MiB), False),
    ],
    ids=["a table", "small", "a large table", "zeros", "noise", "compressed already", "half of it shrinks", "a tenth"],
)
def test_samples_from_all_over_a_content_decide(data: bytes, packed: bool) -> None:
    assert is_worth_it(library, MadeContent("x", data)) is packed


@given(st.integers(1, 2**36))
def test_samples_lie_in_the_content_and_show_its_start_and_its_end(size: int) -> None:
    starts = sample_starts(size)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert 0 < size - starts[-1] <= 65536


@pytest.mark.parametrize("make", [text, noise, lambda size: bytes(size)], ids=["text", "noise", "zeros"])
def test_an_output_comes_back_as_it_was_with_the_cache_and_without(
    store: Any, endpoint: Any, make_node: Any, make: Callable[[int], bytes]
) -> None:
    data = make(2 * MiB + 7)
    output = publish(make_node("producer"), endpoint, "out", data)
    assert (output["bytes"], output["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    stored = store.objects[KEY + "out"]
    if make is noise:
        assert stored == data
        assert "stored" not in output
    else:
        assert output["stored"] == {"codec": "zstd", "bytes": len(stored)}
        assert len(stored) < 0.8 * len(data)
        assert library.decompress(stored) == data
        assert library.get_frame_info(stored).decompressed_size == len(data)
    cached, manifest = fetch(make_node, endpoint, output, "cached")
    assert (manifest["causes"], manifest["missBytes"]) == ({"never-here": 1}, len(data))
    assert cached.read("in") == data
    assert cached.blob(output["sha256"]).read_bytes() == data
    direct, _ = fetch(make_node, endpoint, output, "direct", cache_enabled=False)
    assert direct.read("in") == data


def test_a_large_output_goes_up_in_parts_as_it_is_made_and_comes_back_in_ranges(
    store: Any, endpoint: Any, make_node: Any, small_parts: None
) -> None:
    data = text(4 * MiB + 13)
    output = publish(make_node("producer"), endpoint, "out", data)
    stored = store.objects[KEY + "out"]
    assert library.decompress(stored) == data
    assert output["stored"] == {"codec": "zstd", "bytes": len(stored)}
    assert store.part_sizes[:-1] == [65536] * (len(stored) // 65536)
    node, _ = fetch(make_node, endpoint, output, "consumer")
    assert node.read("in") == data
    assert store.count("GET", KEY + "out") >= len(stored) // 65536
    assert node.blob(output["sha256"]).stat().st_size == len(data)


def test_a_folder_is_compressed_as_one_tar(store: Any, endpoint: Any, make_node: Any) -> None:
    endpoint.add_output("out")
    node = make_node("producer")
    for number in range(40):
        path = node.artifacts / "out" / f"part-{number % 3}" / f"{number}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text(5_000 + number, number))
    node.task_ended()
    assert node.publish().good
    (output,) = endpoint.reports[-1]["outputs"]
    assert output["archive"]
    assert output["stored"]["bytes"] == len(store.objects[KEY + "out"]) < 0.8 * output["bytes"]
    consumer, _ = fetch(make_node, endpoint, output, "consumer")
    assert (consumer.artifacts / "in/part-1/1.tsv").read_bytes() == text(5_001, 1)
    assert sum(1 for _ in (consumer.artifacts / "in").rglob("*.tsv")) == 40


def test_a_sparse_file_costs_the_store_next_to_nothing(store: Any, endpoint: Any, make_node: Any) -> None:
    node = make_node("producer")
    endpoint.add_output("out")
    with (node.artifacts / "out").open("wb") as file:
        file.truncate(200 * MiB)
        file.seek(77 * MiB)
        file.write(b"here")
    node.task_ended()
    assert node.publish().good
    (output,) = endpoint.reports[-1]["outputs"]
    assert len(store.objects[KEY + "out"]) < 100_000
    consumer, _ = fetch(make_node, endpoint, output, "consumer")
    with (consumer.artifacts / "in").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == output["sha256"]


def test_switched_off_it_stores_everything_as_it_is_and_still_unpacks(
    store: Any, endpoint: Any, make_node: Any
) -> None:
    data = text(MiB)
    packed = publish(make_node("before"), endpoint, "out", data)
    assert packed["stored"]
    node, _ = fetch(make_node, endpoint, packed, "consumer")
    assert node.read("in") == data
    off = make_node("off")
    off.compress = False
    assert "stored" not in publish(off, endpoint, "out", data)
    assert store.objects[KEY + "out"] == data


@pytest.mark.parametrize("faults", [[503, 500], [lambda: None, 503]])
def test_a_store_that_is_not_well_gets_the_same_object_again(
    store: Any, endpoint: Any, make_node: Any, small_parts: None, faults: list[Any]
) -> None:
    data = text(2 * MiB)
    store.faults[KEY + "out"] = faults
    output = publish(make_node("producer"), endpoint, "out", data)
    assert library.decompress(store.objects[KEY + "out"]) == data
    assert output["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("size", "good"), [(200_000, 0), (2 * MiB, 2)], ids=["one PUT", "parts"])
def test_urls_that_expire_on_the_way_are_renewed(
    store: Any, endpoint: Any, make_node: Any, small_parts: None, size: int, good: int
) -> None:
    """After the first `good` requests, which the store takes."""
    data = text(size)

    def expire() -> None:
        store.oldest_valid = endpoint.generation = 1

    node = make_node("producer")
    endpoint.add_output("out")
    store.faults[KEY + "out"] = [*[lambda: None] * good, expire]
    output = publish(node, endpoint, "out", data)
    assert library.decompress(store.objects[KEY + "out"]) == data
    assert output["stored"]["bytes"] == len(store.objects[KEY + "out"])
    assert store.oldest_valid == 1


def test_a_store_that_refuses_a_part_for_good_fails_the_task_with_the_reason(
    store: Any, endpoint: Any, node: Any, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puts.Backoff, "pause", lambda self: None)
    endpoint.add_output("out")
    (node.artifacts / "out").write_bytes(text(4 * MiB))
    store.faults[KEY + "out"] = [lambda: None, *[400] * 99]
    node.task_ended()
    reason = node.publish().reason or ""
    assert reason == "output 'out': the store refuses it: HTTP 400 SlowDown"
    assert KEY + "out" not in store.objects


def test_an_older_endpoint_that_gives_larger_parts_gets_the_output_as_it_is(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts as large as it likes would not fit into memory."""
    monkeypatch.setattr(packing, "PART_BYTES", 65536)
    data = text(2 * MiB)
    output = publish(node, endpoint, "out", data)
    assert "stored" not in output
    assert store.objects[KEY + "out"] == data


def test_many_large_outputs_side_by_side_hold_a_bounded_number_of_parts(
    store: Any, endpoint: Any, node: Any, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = most = 0
    lock = threading.Lock()
    original = threading.Semaphore

    class Counted(original):
        def acquire(self, *arguments: Any, **named: Any) -> bool:
            nonlocal held, most
            got = super().acquire(*arguments, **named)
            with lock:
                held += 1
                most = max(most, held)
            return got

        def release(self, n: int = 1) -> None:
            nonlocal held
            with lock:
                held -= 1
            super().release(n)

    monkeypatch.setattr("agent.upload.threading.Semaphore", Counted)
    contents = {f"out-{number}": text(MiB, number) for number in range(6)}
    for name, data in contents.items():
        endpoint.add_output(name)
        (node.artifacts / name).write_bytes(data)
    node.task_ended()
    outcome = node.publish()
    assert outcome.reason is None
    assert held == 0
    assert 1 < most <= packing.SLOTS
    assert {each.name: each.sha256 for each in outcome.outputs} == {
        name: hashlib.sha256(data).hexdigest() for name, data in contents.items()
    }
    assert {name: library.decompress(store.objects[KEY + name]) for name in contents} == contents


def test_large_outputs_side_by_side_need_a_fraction_of_the_container_s_memory(
    store: Any, endpoint: Any, node: Any
) -> None:
    """Of its 256 MiB, parts and everything else together."""
    data = os.urandom(24 * MiB).hex().encode()
    for number in range(4):
        endpoint.add_output(f"out-{number}")
        (node.artifacts / f"out-{number}").write_bytes(data)
    node.task_ended()
    endpoint.part_bytes = packing.PART_BYTES
    # Through a process between, because a child's peak begins with what its parent had when it was forked.
    command = [sys.executable, "-c", PEAK_OF, sys.executable, "-I", "-S", str(AGENT), "publish"]
    env = node.env() | {"HELIOS_AGENT_LIB": PACKAGES}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert int(done.stderr) < 110 * 1024
    assert library.decompress(store.objects[KEY + "out-3"]) == data


def test_without_the_library_outputs_go_as_they_are_and_a_compressed_input_fails_with_the_reason(
    store: Any, endpoint: Any, make_node: Any, tmp_path: Path
) -> None:
    """As processes, which see no package that they were not told of."""
    data = text(MiB)
    packed = publish(make_node("producer"), endpoint, "out", data)
    endpoint.add_input("in", packed["key"], headUrl=None, **{n: packed[n] for n in ("sha256", "bytes", "stored")})
    lacking = elsewhere(make_node("lacking"))
    process = lacking.start("fetch", env=lacking.env() | {"HELIOS_AGENT_LIB": str(tmp_path)})
    assert process.wait() == 1
    error = json.loads((lacking.root / "message").read_bytes())["error"]
    assert error.endswith(f"it lies compressed in the store, and there is no zstd in {tmp_path}")
    endpoint.inputs = []
    (lacking.artifacts / "out").write_bytes(data)
    lacking.task_ended()
    process = lacking.start("publish", env=lacking.env() | {"HELIOS_AGENT_LIB": str(tmp_path)})
    said = process.communicate()[0].decode()
    assert process.returncode == 0
    assert f"Outputs are stored as they are: there is no zstd in {tmp_path}" in said
    assert store.objects[KEY + "out"] == data


def test_as_a_process_that_is_told_where_it_finds_the_library(store: Any, endpoint: Any, make_node: Any) -> None:
    data = text(MiB)
    node = make_node("one")
    endpoint.add_output("out")
    (node.artifacts / "out").write_bytes(data)
    node.task_ended()
    process = node.start("publish", env=node.env() | {"HELIOS_AGENT_LIB": PACKAGES})
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    stored = store.objects[KEY + "out"]
    assert f"Stored output 'out', {len(data)} bytes, {len(stored)} compressed" in said
    (output,) = endpoint.reports[-1]["outputs"]
    endpoint.outputs = []
    endpoint.add_input("in", output["key"], headUrl=None, **{n: output[n] for n in ("sha256", "bytes", "stored")})
    other = elsewhere(make_node("other"))
    process = other.start("fetch", env=other.env() | {"HELIOS_AGENT_LIB": PACKAGES})
    assert process.wait() == 0
    assert other.read("in") == data


def test_a_publish_that_is_killed_under_way_leaves_nothing_that_the_next_one_minds(
    store: Any, endpoint: Any, make_node: Any, small_parts: None, wait_until: Callable[..., None]
) -> None:
    data = text(40 * MiB)
    node = make_node("one")
    endpoint.add_output("out")
    (node.artifacts / "out").write_bytes(data)
    node.task_ended()
    reached, go = threading.Event(), threading.Event()
    store.faults[KEY + "out"] = [lambda: (reached.set(), go.wait(30))]
    endpoint.part_bytes = 8 * MiB
    process = node.start("publish", env=node.env() | {"HELIOS_AGENT_LIB": PACKAGES})
    wait_until(reached.is_set, "a part of the object is on its way")
    process.kill()
    process.wait()
    go.set()
    assert endpoint.reports == []
    endpoint.part_bytes = 65536
    output = publish(node, endpoint, "out", data)
    assert library.decompress(store.objects[KEY + "out"]) == data
    assert output["sha256"] == hashlib.sha256(data).hexdigest()


# What a compressed object may do to the one that unpacks it.


def bring(store: Any, path: Path, data: bytes, stored: Stored, size: int, sha256: str | None) -> str:
    store.put("b/x", data)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        url = store.url("b/x")
        wanted = Wanted("x", size, None, sha256, stored)
        return download(Web(), Link(url, lambda: url), wanted, PartFile(fd), Log(lambda _: None))
    finally:
        os.close(fd)


DATA = text(300_000)
OBJECT = library.compress(DATA)
DIGEST = hashlib.sha256(DATA).hexdigest()


def with_a_large_window() -> bytes:
    """The content, in a frame that asks for 128 MiB of memory."""
    compressor = library.ZstdCompressor(options={library.CompressionParameter.window_log: 27})
    return compressor.compress(DATA) + compressor.flush()


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: library.compress(bytes(1 << 30)), "it holds more bytes than the output has"),
        (lambda: OBJECT[:-10], "it holds fewer bytes than the output has"),
        (lambda: OBJECT + b"x", "something follows its end"),
        (lambda: OBJECT + OBJECT, "something follows its end"),
        (lambda: library.compress(DATA[:-1]), "it holds fewer bytes than the output has"),
        (lambda: DATA, "it is not zstd, or damaged"),
        (lambda: b"", "it holds fewer bytes than the output has"),
        (with_a_large_window, "it is not zstd, or damaged"),
    ],
    ids=["bomb", "cut", "longer", "twice", "another content", "not compressed", "empty", "wants memory"],
)
def test_an_object_that_is_not_the_content_compressed_is_refused(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], bytes], words: str, ranged: bool
) -> None:
    if ranged:
        monkeypatch.setattr(download_module, "RANGED_FROM", 1)
        monkeypatch.setattr(download_module, "WINDOW", 16384)
    data = made()
    with pytest.raises(DownloadFailed, match=f"its object cannot be unpacked: {words}"):
        bring(store, tmp_path / "x", data, Stored("zstd", len(data)), len(DATA), DIGEST)
    assert (tmp_path / "x").stat().st_size <= len(DATA) + len(data)
    assert store.count("GET", "b/x") >= 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(position=st.integers(0, len(OBJECT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_other_bytes(store: Any, tmp_path: Path, position: int, bit: int) -> None:
    damaged = bytearray(OBJECT)
    damaged[position] ^= 1 << bit
    try:
        digest = bring(store, tmp_path / "x", bytes(damaged), Stored("zstd", len(damaged)), len(DATA), DIGEST)
    except DownloadFailed:
        return
    assert digest == DIGEST
    assert (tmp_path / "x").read_bytes()[: len(DATA)] == DATA


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    size=st.integers(1, len(DATA)),
    faults=st.lists(st.one_of(st.just(503), st.tuples(st.just("cut"), st.integers(0, 20_000))), max_size=4),
    ranged=st.booleans(),
)
def test_cut_connections_and_ranges_unpack_to_the_same_bytes(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, faults: list[Any], ranged: bool
) -> None:
    monkeypatch.setattr(download_module.Backoff, "pause", lambda self: None)
    monkeypatch.setattr(download_module, "RANGED_FROM", 1 if ranged else 1 << 30)
    monkeypatch.setattr(download_module, "WINDOW", 16384)
    data = DATA[:size]
    packed = library.compress(data)
    store.faults["b/x"] = list(faults)
    digest = hashlib.sha256(data).hexdigest()
    assert bring(store, tmp_path / "x", packed, Stored("zstd", len(packed)), size, digest) == digest
    assert (tmp_path / "x").read_bytes() == data
    store.faults["b/x"] = []


def test_a_server_that_ignores_ranges_is_read_from_its_start(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "RANGED_FROM", 1)
    monkeypatch.setattr(download_module, "WINDOW", 16384)
    store.honours_ranges = False
    assert bring(store, tmp_path / "x", OBJECT, Stored("zstd", len(OBJECT)), len(DATA), DIGEST) == DIGEST
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_codec_of_a_later_version_is_named(store: Any, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="compressed in the store, and 'lzx' is not known here"):
        bring(store, tmp_path / "x", OBJECT, Stored("lzx", len(OBJECT)), len(DATA), DIGEST)


@given(st.binary(max_size=3000), st.integers(1, 90))
def test_no_content_is_compressed_to_more_than_the_bound(piece: bytes, times: int) -> None:
    data = piece * times
    assert len(library.compress(data, LEVEL)) <= bound(len(data))
    assert len(library.compress(noise(200_000, times), LEVEL)) <= bound(200_000)


# What is told of it.


def test_a_lost_report_s_message_says_which_objects_are_compressed(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.add_output("out")
    endpoint.add_output("small")
    (node.artifacts / "out").write_bytes(text(MiB))
    (node.artifacts / "small").write_bytes(b"small")
    node.task_ended()
    assert node.publish().good
    raw = (node.root / "publish-message").read_bytes()
    message = msgspec.json.decode(raw, type=PublishMessage)
    pod = PodStatus(job="j", uid="pod", node="node-1", phase="Succeeded")
    made = report_of(
        message, pod, run="r", task="t", attempt=0, declared_outputs=["out", "small"], manifest=lambda *_: ()
    )
    assert made is not None
    sent = msgspec.convert(endpoint.reports[0], Report)
    assert [each.stored for each in made.outputs] == [each.stored for each in sent.outputs]
    assert made.outputs[0].stored is not None
    assert made.outputs[0].stored.bytes == len(store.objects[KEY + "out"])
    assert made.outputs[1].stored is None
    assert len(json.loads(raw)["stored"][1]) == 4
    record = from_report(made, Classification(cache="N/A")).record
    assert [each.stored for each in record.outputs] == [each.stored for each in made.outputs]


def test_a_record_of_an_earlier_version_is_of_objects_that_are_stored_as_they_are() -> None:
    earlier = '{"outputs": [{"name": "o", "bytes": 1, "sha256": "00", "key": "k", "archive": false}]}'
    record: AttemptRecord = decode_attempt(earlier)
    assert record.outputs[0].stored is None
