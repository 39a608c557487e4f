"""A download delivers exactly the object's bytes or says why it cannot, whatever the connection does on the way."""

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import download as module
from agent.download import DownloadFailed, Link, ObjectChanged, ObjectMissing, PartFile, SinkFault, Wanted, download
from agent.logs import Log
from agent.web import Web

BYTES = random.Random(7).randbytes(300_000)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 16 KiB from 64 KiB on, so that small objects take the ranged path."""
    monkeypatch.setattr(module, "RANGED_FROM", 65536)
    monkeypatch.setattr(module, "WINDOW", 16384)
    monkeypatch.setattr(module, "BUFFER", 4096)


def bring(store: Any, path: Path, key: str = "b/x", size: int | None = None, **wanted: Any) -> str:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    size = len(store.objects[key]) if size is None else size
    known = Wanted("x", size, wanted.get("etag"), wanted.get("sha256"), wanted.get("stored"))
    try:
        url = store.url(key)
        return download(Web(), Link(url, lambda: url), known, PartFile(fd), Log(lambda _: None))
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4096, 65535, 65536, 65537, 300_000])
def test_every_size_arrives_whole_with_its_digest(store: Any, tmp_path: Path, small_windows: None, size: int) -> None:
    digest = store.put("b/x", BYTES[:size])
    assert bring(store, tmp_path / "x") == digest
    assert (tmp_path / "x").read_bytes() == BYTES[:size]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    size=st.integers(0, 300_000),
    faults=st.lists(st.one_of(st.just(503), st.tuples(st.just("cut"), st.integers(0, 20_000))), max_size=4),
)
def test_ranges_resets_and_short_reads_assemble_to_the_same_bytes(
    store: Any, tmp_path: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch, size: int, faults: list[Any]
) -> None:
    monkeypatch.setattr(module.Backoff, "pause", lambda self: None)
    digest = store.put("b/x", BYTES[:size])
    store.faults["b/x"] = list(faults)
    assert bring(store, tmp_path / "x") == digest
    assert (tmp_path / "x").read_bytes() == BYTES[:size]
    store.faults["b/x"] = []


def test_a_broken_connection_resumes_where_it_stopped(store: Any, tmp_path: Path) -> None:
    store.put("b/x", BYTES)
    store.faults["b/x"] = [("cut", 100_000)]
    assert bring(store, tmp_path / "x") == hashlib.sha256(BYTES).hexdigest()
    ranges = [asked for method, _, asked in store.requests if method == "GET"]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert ranges[1].startswith("bytes=")
    assert not ranges[1].startswith("bytes=0-")


def test_a_server_without_ranges_is_read_from_start_to_end(store: Any, tmp_path: Path, small_windows: None) -> None:
    digest = store.put("b/x", BYTES)
    store.honours_ranges = False
    assert bring(store, tmp_path / "x") == digest


def test_an_object_that_changes_under_a_ranged_download_is_noticed(
    store: Any, tmp_path: Path, small_windows: None
) -> None:
    store.put("b/x", BYTES)
    store.faults["b/x"] = [lambda: None, lambda: None, lambda: store.put("b/x", BYTES[::-1])]
    with pytest.raises(ObjectChanged):
        bring(store, tmp_path / "x")


def test_an_object_of_another_size_than_promised_is_refused(store: Any, tmp_path: Path) -> None:
    store.put("b/x", BYTES)
    with pytest.raises(ObjectChanged, match="300000 bytes, not 299999"):
        bring(store, tmp_path / "x", size=299_999)


def test_a_wrong_digest_is_tried_once_more_and_then_an_error(store: Any, tmp_path: Path) -> None:
    store.put("b/x", BYTES)
    with pytest.raises(DownloadFailed, match="not sha256:" + "0" * 64):
        bring(store, tmp_path / "x", sha256="0" * 64)
    assert store.count("GET", "b/x") == 2


def test_a_missing_object_is_told_from_a_refused_one(store: Any, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        bring(store, tmp_path / "x", key="b/none", size=1)
    store.put("b/x", b"x")
    store.oldest_valid = 1
    with pytest.raises(DownloadFailed, match="the store refuses it: HTTP 403 SlowDown"):
        bring(store, tmp_path / "x")


def test_a_store_that_stays_down_is_given_up(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "pause", lambda self: None)
    store.put("b/x", b"x")
    store.faults["b/x"] = [503] * 99
    with pytest.raises(DownloadFailed, match="given up after 8 tries: HTTP 503 SlowDown"):
        bring(store, tmp_path / "x")


def test_a_full_disk_is_the_sinks_fault_and_not_the_networks(store: Any, tmp_path: Path, small_windows: None) -> None:
    import resource

    store.put("b/x", BYTES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SinkFault):
            bring(store, tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
