"""Blobs are read again at a bounded rate; what is damaged is set apart, and a restart goes on where it was."""

import json
import os
import time
from pathlib import Path

import pytest

from agent import scrub as module
from agent.scrub import Scrub
from agent.shelves import Shelves
from agent.stamp import Seal, boot_id, durable_ns, pending_ns, read_seal
from agent.store import Store
from tests.agent.blobs import blob_file, digest_of, held, prepared, put_blob

EVERYTHING = 1e12


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return prepared(tmp_path / "cache")


def scrub(cache: Path, rate: float = 1e6) -> Scrub:
    shelves = Shelves(str(cache), boot_id())
    shelves.look()
    return Scrub(str(cache), Store(str(cache), "keep"), shelves, boot_id(), rate)


def damage(file: Path) -> None:
    """Another byte at equal size and with the same seal: what no stat can see."""
    seal = file.stat().st_mtime_ns
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    file.chmod(0o444)
    os.utime(file, ns=(seal, seal))


def test_a_blob_damaged_without_a_trace_is_set_apart_and_the_whole_ones_stay(cache: Path) -> None:
    digests = [put_blob(cache, b"%d" % each * 1000) for each in range(50)]
    for digest in digests[::10]:
        damage(blob_file(cache, digest))
    scrubbing = scrub(cache)
    assert scrubbing.read(EVERYTHING) == 5
    assert held(cache) == set(digests) - set(digests[::10])
    assert {path.name[:64] for path in (cache / "quarantine").iterdir()} == set(digests[::10])
    assert scrubbing.corrupt == 5
    assert scrubbing.bytes == sum(len(b"%d" % each * 1000) for each in range(50))
    assert scrubbing.read(EVERYTHING) == 0


def test_a_blob_with_a_broken_seal_is_set_apart_unread(cache: Path) -> None:
    touched = put_blob(cache, b"touched")
    os.utime(blob_file(cache, touched))
    scrubbing = scrub(cache)
    assert scrubbing.read(EVERYTHING) == 1
    assert scrubbing.bytes == 0
    assert held(cache) == set()


def test_no_more_is_read_than_the_rate_allows(cache: Path) -> None:
    """Of files of any size: opening one counts too."""
    for each in range(100):
        put_blob(cache, b"%d" % each)
    large = put_blob(cache, b"x" * 5_000_000)
    scrubbing = scrub(cache)
    for _ in range(10):
        scrubbing.read(65536 * 5)
    read = json.loads((cache / "scrub.json").read_bytes())["after"]
    passed = sorted(held(cache)).index(read) + 1
    assert passed <= 51
    assert scrubbing.bytes <= 10 * 65536 * 5 + 2 * module._BUFFER
    assert large in held(cache)


def test_a_large_blob_is_read_over_many_steps(cache: Path) -> None:
    digest = put_blob(cache, os.urandom(3_000_000))
    damage(blob_file(cache, digest))
    scrubbing = scrub(cache)
    steps = 1
    while not scrubbing.read(300_000):
        steps += 1
        assert steps < 50
    assert steps > 5
    assert held(cache) == set()


def test_a_restart_goes_on_where_it_was(cache: Path) -> None:
    digests = sorted(put_blob(cache, b"%d" % each * 100) for each in range(40))
    first = scrub(cache)
    first.read(65536 * 15)
    passed = digests.index(json.loads((cache / "scrub.json").read_bytes())["after"]) + 1
    assert 10 < passed < 20
    damage(blob_file(cache, digests[0]))
    damage(blob_file(cache, digests[passed]))
    second = scrub(cache)
    assert second.read(EVERYTHING) == 1, "the first is behind it until the next pass"
    assert held(cache) == set(digests) - {digests[passed]}
    assert second.bytes > first.bytes
    assert scrub(cache).read(EVERYTHING) == 1
    assert held(cache) == set(digests) - {digests[0], digests[passed]}


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b'{"after":5,"bytes":"x"}'])
def test_a_position_that_a_crash_destroyed_is_the_beginning(cache: Path, state: bytes) -> None:
    damage(blob_file(cache, put_blob(cache, b"first")))
    (cache / "scrub.json").write_bytes(state)
    assert scrub(cache).read(EVERYTHING) == 1


def test_a_blob_that_was_pending_when_the_machine_went_down_is_sealed_for_good(cache: Path) -> None:
    digest, holed = put_blob(cache, b"whole"), put_blob(cache, b"holed")
    for each in (digest, holed):
        elsewhere = pending_ns(each, "another boot")
        os.utime(blob_file(cache, each), ns=(elsewhere, elsewhere))
    damage(blob_file(cache, holed))
    assert scrub(cache).read(EVERYTHING) == 1
    assert held(cache) == {digest}
    assert blob_file(cache, digest).stat().st_mtime_ns == durable_ns(digest)


def test_a_blob_that_is_evicted_while_it_is_read_is_let_go(cache: Path) -> None:
    digest = put_blob(cache, b"x" * 2_000_000)
    scrubbing = scrub(cache)
    scrubbing.read(300_000)
    blob_file(cache, digest).unlink()
    before = len(os.listdir("/proc/self/fd"))
    assert scrubbing.read(300_000) == 0
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert scrubbing.bytes < 1_000_000


def test_a_sound_blob_that_replaced_a_damaged_one_stays(cache: Path) -> None:
    data = b"x" * 2_000_000
    digest = put_blob(cache, data)
    damage(blob_file(cache, digest))
    scrubbing = scrub(cache)
    scrubbing.read(300_000)
    blob_file(cache, digest).unlink()
    kept = cache / "still-open"
    put_blob(cache, data)
    os.link(blob_file(cache, digest), kept)
    assert scrubbing.read(EVERYTHING) == 0
    assert digest_of(blob_file(cache, digest).read_bytes()) == digest


def test_reading_does_not_count_as_use(cache: Path) -> None:
    digest = put_blob(cache, b"x")
    before = blob_file(cache, digest).stat()
    scrub(cache).read(EVERYTHING)
    after = blob_file(cache, digest).stat()
    assert (after.st_ctime_ns, after.st_mtime_ns) == (before.st_ctime_ns, before.st_mtime_ns)
    assert read_seal(after.st_mtime_ns, digest, boot_id()) is Seal.DURABLE


def test_quarantine_is_emptied_after_a_day(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "quarantine" / "damaged").write_bytes(b"x")
    (cache / "quarantine" / "folder").mkdir()
    scrub(cache).step()
    assert (cache / "quarantine" / "damaged").exists()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + module.QUARANTINED_SECONDS + 1)
    scrub(cache).step()
    assert not (cache / "quarantine" / "damaged").exists()
    assert (cache / "quarantine" / "folder").exists()


def test_with_a_rate_of_zero_nothing_is_read(cache: Path) -> None:
    damage(blob_file(cache, put_blob(cache, b"x")))
    assert scrub(cache, rate=0).step() == 0
    assert len(held(cache)) == 1
