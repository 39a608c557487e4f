"""Compressed objects on a real S3, signed for by the collector's own code."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd as library

from agent import download as download_module
from agent import packing
from cli.download import fetch_output
from cli.failure import CommandFailed
from cli.object_store import store_client
from helios.podwire import Multipart, MultipartWanted
from helios.records import OutputRecord
from helios.settings import Settings
from services.collector.store import PART_BYTES, Store
from tests.agent.test_compression import MiB, fetch, noise, publish, text

KEY = "runs/r/t/0/pod/out"


@pytest.fixture
def settings(real_s3: Any) -> Settings:
    return Settings(
        s3_endpoint=f"http://{real_s3.endpoint}",
        s3_access_key="helios",
        s3_secret_key="helios-secret",
        s3_bucket="corpora",
    )


@pytest.fixture
def s3(real_s3: Any, endpoint: Any, settings: Settings) -> Any:
    """The endpoint gives the URLs that the collector would."""
    signer = Store(settings)

    def multipart(request: dict[str, Any]) -> dict[str, Any]:
        wanted = msgspec.convert(request, MultipartWanted)
        part_bytes, urls, complete = signer.multipart(
            KEY, wanted.bytes, part_bytes=wanted.partBytes or PART_BYTES, encoding=wanted.codec
        )
        return msgspec.to_builtins(Multipart(partBytes=part_bytes, urls=urls, completeUrl=complete))

    endpoint.make_url = real_s3.sign
    endpoint.make_parts = multipart
    endpoint.add_output("out", "corpora")
    return real_s3


def lying(s3: Any) -> bytes:
    """The object's own bytes."""
    answer = s3.client.get_object("corpora", KEY)
    try:
        return b"".join(answer.stream(MiB, decode_content=False))
    finally:
        answer.close()
        answer.release_conn()


def record(output: dict[str, Any]) -> OutputRecord:
    return msgspec.convert({**output, "key": output["key"].removeprefix("corpora/")}, OutputRecord)


@pytest.mark.parametrize(
    ("name", "data"),
    [("text", text(3 * MiB)), ("noise", noise(3 * MiB)), ("zeros", bytes(30 * MiB)), ("parts", noise(9 * MiB).hex())],
    ids=lambda value: value if isinstance(value, str) and len(value) < 9 else "",
)
def test_an_output_makes_its_way_to_the_next_task_and_to_the_user(
    s3: Any, endpoint: Any, make_node: Any, settings: Settings, tmp_path: Path, name: str, data: bytes | str
) -> None:
    content = data.encode() if isinstance(data, str) else data
    output = publish(make_node("producer"), endpoint, "out", content)
    found = s3.client.stat_object("corpora", KEY)
    if name == "noise":
        assert "stored" not in output
        assert found.metadata.get("Content-Encoding") is None
    else:
        assert output["stored"] == {"codec": "zstd", "bytes": found.size}
        assert found.size < 0.8 * len(content)
        assert found.metadata.get("Content-Encoding") == "zstd"
        assert library.decompress(lying(s3)) == content
    assert (found.etag.endswith("-2")) is (name == "parts")
    node, manifest = fetch(make_node, endpoint, output, "consumer")
    assert manifest["error"] is None
    assert node.read("in") == content
    assert fetch_output(store_client(settings), "corpora", record(output), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert sorted(path.name for path in tmp_path.glob(".got*")) == []


def test_a_large_object_is_brought_in_ranges(
    s3: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "RANGED_FROM", 1 * MiB)
    monkeypatch.setattr(download_module, "WINDOW", 1 * MiB)
    content = noise(5 * MiB).hex().encode()
    output = publish(make_node("producer"), endpoint, "out", content)
    node, manifest = fetch(make_node, endpoint, output, "consumer")
    assert manifest["error"] is None
    assert node.read("in") == content


def test_parts_that_nothing_filled_are_no_part_of_the_object(
    s3: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is asked for the most that a content can be compressed to, which it never takes."""
    monkeypatch.setattr(packing, "PART_BYTES", 5 * MiB)
    content = noise(6 * MiB).hex().encode() + bytes(20 * MiB)
    output = publish(make_node("producer"), endpoint, "out", content)
    assert s3.client.stat_object("corpora", KEY).etag.endswith("-2")
    assert library.decompress(lying(s3)) == content
    assert output["sha256"] == hashlib.sha256(content).hexdigest()


def replaced(s3: Any, data: bytes) -> None:
    import io

    s3.client.put_object("corpora", KEY, io.BytesIO(data), len(data))


def test_an_object_that_was_damaged_in_the_store_reaches_nobody(
    s3: Any, endpoint: Any, make_node: Any, settings: Settings, tmp_path: Path
) -> None:
    content = text(MiB)
    output = publish(make_node("producer"), endpoint, "out", content)
    whole = lying(s3)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for number, damaged in enumerate((bytes(flipped), whole[:-1], library.compress(bytes(64 * MiB)))):
        replaced(s3, damaged)
        node, manifest = fetch(make_node, endpoint, output, f"consumer-{number}")
        assert manifest["error"] is not None
        assert not (node.artifacts / "in").exists()
        with pytest.raises(CommandFailed):
            fetch_output(store_client(settings), "corpora", record(output), tmp_path / "got")
        assert not (tmp_path / "got").exists()
    replaced(s3, whole)
    assert fetch_output(store_client(settings), "corpora", record(output), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content


def test_a_fetch_by_the_user_that_was_interrupted_goes_on_where_it_stopped(
    s3: Any, endpoint: Any, make_node: Any, settings: Settings, tmp_path: Path
) -> None:
    content = noise(5 * MiB).hex().encode()
    output = record(publish(make_node("producer"), endpoint, "out", content))
    told: list[int] = []

    class Stops:
        def __init__(self, name: str, total: int, done: int) -> None:
            assert total == len(content)
            self.done = done

        def add(self, count: int) -> None:
            self.done += count
            told.append(self.done)
            if self.done > 3 * MiB:
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        fetch_output(store_client(settings), "corpora", output, tmp_path / "got", watch=Stops)
    (left,) = tmp_path.glob(".got*")
    assert lying(s3).startswith(left.read_bytes())
    assert left.stat().st_size >= MiB
    replaced(s3, bytes(left.stat().st_size) + lying(s3)[left.stat().st_size :])
    assert fetch_output(store_client(settings), "corpora", output, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert json.dumps(told) == json.dumps(sorted(told))
