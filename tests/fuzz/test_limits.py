"""Limits of docs/limits.md that no other test reaches."""

from pathlib import Path

import msgspec
import pytest

from agent.control import MAX_RECORD_BYTES, read_exit
from agent.volume_record import FILE, read_record
from helios.podwire import ViewsAsked
from tests.fuzz import endpoints
from tests.fuzz.endpoints import exchange
from tests.fuzz.files import EXIT, VOLUME


def test_of_a_wrappers_file_no_more_is_read_than_a_wrapper_writes(tmp_path: Path) -> None:
    exact = msgspec.json.encode(EXIT).ljust(MAX_RECORD_BYTES)
    (tmp_path / "exit").write_bytes(exact)
    assert read_exit(str(tmp_path)) is not None
    (tmp_path / "exit").write_bytes(b" " + exact[:-1] + b" " * 100 + b"x" * 100_000_000)
    assert read_exit(str(tmp_path)) is not None
    (tmp_path / "exit").write_bytes(b" " * MAX_RECORD_BYTES + exact)
    assert read_exit(str(tmp_path)) is None


def test_a_volumes_record_is_not_longer_than_a_mebibyte(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b" " * 1024**2 + msgspec.json.encode(VOLUME))
    assert read_record(str(tmp_path)) is None


def test_a_keeper_asks_for_so_many_views_at_once() -> None:
    text = msgspec.json.encode({"node": "n", "views": ["v"] * 10_001})
    with pytest.raises(msgspec.ValidationError, match="10000"):
        msgspec.json.decode(text, type=ViewsAsked)


def test_headers_without_end_are_refused_by_both_endpoints() -> None:
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(200))
    with endpoints.keeper_at() as port:
        assert exchange(port, b"GET / HTTP/1.1\r\n" + lines + b"\r\n").startswith(b"HTTP/1.1 431")
        assert exchange(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 414")
    with endpoints.collector_at() as port:
        assert b" 431 " in exchange(port, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n")[:20]
