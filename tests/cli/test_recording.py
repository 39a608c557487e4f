"""A recording holds all that Redis keeps of a run, and gives it back unchanged."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from cli.connection import Link
from cli.failure import CommandFailed
from cli.recorded import opened, private_valkey
from cli.recording import RecordingBroken, load, record
from helios.keys import Keys, partition_of
from helios.settings import Settings
from tests.stage import RUN, Stage
from tests.waiting import wait_until

PARTITIONS = 3


@pytest.fixture
def stored(valkey: redis.Redis) -> Link:
    """One run of two tasks, the first of them with a log that is not all UTF-8."""
    keys = Keys(partition_of(RUN, PARTITIONS))
    stage = Stage(valkey, keys.partition)
    stage.open({"first": (), "second": ("first",)})
    stage.pass_through("first", cache="Hit", hit=10)
    valkey.xadd(keys.log(RUN, "first", 1, "task"), {"line": b"caf\xe9 \x1b[1m"})
    valkey.zadd(keys.log_sizes, {RUN: 7})
    return Link(valkey, Settings(partitions=PARTITIONS))


def content(client: redis.Redis, keys: Keys) -> dict[str, Any]:
    """Everything there is about runs, but not the work streams of the services."""
    services = {*keys.ready_streams, keys.checks, keys.launched, keys.cancelled, keys.finished, keys.settled}
    found: dict[str, Any] = {}
    for key in client.scan_iter(f"{keys.prefix}*"):
        if key in services:
            continue
        match client.type(key):
            case "hash":
                found[key] = client.hgetall(key)
            case "list":
                found[key] = client.lrange(key, 0, -1)
            case "zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            case "stream":
                found[key] = client.xrange(key)
            case _:
                found[key] = client.get(key)
    return found


def test_what_is_recorded_comes_back_equal(stored: Link, tmp_path: Path) -> None:
    keys = stored.keys(RUN)
    before = content(stored.client, keys)
    assert {keys.run(RUN), keys.dag(RUN), keys.task(RUN, "first"), keys.events, keys.runs} <= set(before)
    written = record(stored, [RUN], tmp_path / "runs.gz")
    assert written.runs == 1
    assert written.bytes == (tmp_path / "runs.gz").stat().st_size
    with opened(tmp_path / "runs.gz") as link:
        assert link.settings.partitions == PARTITIONS
        assert content(link.client, link.keys(RUN)) == before


def test_other_runs_are_not_in_a_recording(stored: Link, tmp_path: Path) -> None:
    other = "1764027260124-0"
    stage = Stage.__new__(Stage)
    stage.client, stage.keys = stored.client, stored.keys(other)
    stage.open({"secret-plan": ()}, run=other)
    record(stored, [RUN], tmp_path / "runs.gz")
    assert b"secret-plan" not in gzip.decompress((tmp_path / "runs.gz").read_bytes())
    assert other.encode() not in gzip.decompress((tmp_path / "runs.gz").read_bytes())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines[:-1], "its last line is missing"),
        (lambda lines: [*lines[:2], b"{nonsense\n", *lines[3:]], "line 3 is not JSON"),
        (lambda lines: [*lines[:2], *lines[3:]], "lines, but there are"),
        (lambda lines: [b'{"heliosRecording":99,"partitions":1,"runs":1}\n', *lines[1:]], "version 99"),
        (lambda lines: [lines[0], b'{"key":"other","kind":"string","value":"x"}\n', *lines[1:]], "line 2: 'other'"),
        (lambda lines: [lines[0], b'{"key":"helios:{p0}:x","kind":"hash","value":3}\n', *lines[1:]], "line 2"),
        (lambda _: [], "first line"),
    ],
)
def test_a_damaged_recording_is_refused_with_its_line(damage: Any, words: str, stored: Link, tmp_path: Path) -> None:
    file = tmp_path / "runs.gz"
    record(stored, [RUN], file)
    with gzip.open(file) as whole:
        lines = whole.readlines()
    file.write_bytes(gzip.compress(b"".join(damage(lines))))
    with pytest.raises(CommandFailed, match=words), opened(file):
        pass


def test_a_file_that_is_cut_short_or_no_recording_is_refused(stored: Link, tmp_path: Path) -> None:
    file = tmp_path / "runs.gz"
    record(stored, [RUN], file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CommandFailed, match="cannot be shown"), opened(file):
        pass
    file.write_bytes(b"hello")
    with pytest.raises(RecordingBroken):
        load(file, stored.client)


def test_a_recording_that_fails_leaves_the_former_file(stored: Link, tmp_path: Path) -> None:
    file = tmp_path / "runs.gz"
    file.write_bytes(b"former")
    with pytest.raises(AttributeError):
        record(msgspec.structs.replace(stored, client=None), [RUN], file)
    assert file.read_bytes() == b"former"
    assert [each.name for each in tmp_path.iterdir()] == ["runs.gz"]


def test_the_valkey_of_a_recording_ends_with_its_use() -> None:
    with private_valkey() as url:
        client = redis.Redis.from_url(url)
        assert client.ping()

    def is_gone() -> bool:
        try:
            return not redis.Redis.from_url(url).ping()
        except redis.ConnectionError:
            return True

    wait_until("the private Valkey is gone", is_gone)
