"""The index follows the folders, and its deltas tell a reader the same as a look at the whole would."""

import os
import random
from pathlib import Path

import pytest

from agent import shelves as module
from agent.shelves import Shelves
from agent.stamp import boot_id, pending_ns
from tests.agent.blobs import blob_file, digest_of, held, prepared, put_blob


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return prepared(tmp_path / "cache")


def age(cache: Path, chance: random.Random) -> None:
    """Folders that changed long ago, each at another time: as if two seconds had passed."""
    for folder in (cache / "blobs" / "sha256").iterdir():
        then = chance.randrange(1, 10**9)
        os.utime(folder, (then, then))


@pytest.mark.parametrize("seed", range(5))
def test_who_follows_the_deltas_knows_what_is_there(cache: Path, seed: int) -> None:
    chance = random.Random(seed)
    index = Shelves(str(cache), boot_id())
    index.look()
    known = dict(index.deltas.snapshot())
    for _ in range(20):
        for _ in range(chance.randrange(6)):
            data = b"%d" % chance.randrange(60) * 10
            if (file := blob_file(cache, digest_of(data))).exists():
                file.unlink()
            else:
                put_blob(cache, data)
        if chance.random() < 0.5:
            age(cache, chance)
        index.look()
        if chance.random() < 0.7:
            taken = index.deltas.take()
            assert taken is not None
            added, removed = taken
            known.update(added)
            for digest in removed:
                known.pop(digest, None)
            assert known.keys() == held(cache)
            assert known == dict(index.entries())
        assert (index.blobs, index.bytes) == (len(held(cache)), sum(size for _, size in index.entries()))


def test_a_snapshot_is_due_first_and_after_a_loss_and_after_too_much(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Shelves(str(cache), boot_id())
    digest = put_blob(cache, b"x")
    index.look()
    assert index.deltas.take() is None
    assert list(index.deltas.snapshot()) == [(digest, 1)]
    assert index.deltas.take() == ([], [])
    index.deltas.lose()
    assert index.deltas.take() is None
    monkeypatch.setattr(module, "_MOST_CHANGES", 3)
    list(index.deltas.snapshot())
    for each in range(5):
        put_blob(cache, b"%d" % each)
    index.look()
    assert index.deltas.take() is None
    assert len(list(index.deltas.snapshot())) == 6


def test_a_blob_that_was_replaced_is_looked_at_again(cache: Path) -> None:
    """By a fetcher that found it damaged: the new one is pending, and is settled."""
    digest = put_blob(cache, b"whole")
    file = blob_file(cache, digest)
    file.chmod(0o644)
    file.write_bytes(b"cut")
    index = Shelves(str(cache), boot_id())
    index.look()
    assert dict(index.entries()) == {digest: 3}
    file.rename(cache / "quarantine" / "cut")
    put_blob(cache, b"whole")
    boot = boot_id()
    assert boot is not None
    os.utime(file, ns=(pending_ns(digest, boot), pending_ns(digest, boot)))
    index.look()
    assert dict(index.entries()) == {digest: 5}
    assert index.pending == {digest}


def test_what_is_no_blob_is_passed_over(cache: Path) -> None:
    put_blob(cache, b"x")
    blobs = cache / "blobs" / "sha256"
    (blobs / "stray-file").touch()
    (blobs / "ab").mkdir(exist_ok=True)
    for name in ("x", "AB" * 32, "g" * 64, "é" * 64, "ab" * 33):
        (blobs / "ab" / name).touch()
    index = Shelves(str(cache), boot_id())
    index.look()
    assert {digest for digest, _ in index.entries()} == {digest_of(b"x")}


def test_blobs_come_in_the_order_of_their_digests_after_any_of_them(cache: Path) -> None:
    digests = sorted(put_blob(cache, b"%d" % each) for each in range(300))
    index = Shelves(str(cache), boot_id())
    index.look()
    for position in ("", digests[0], digests[150], digests[-2]):
        seen: list[str] = []
        after = position
        while coming := index.after(after):
            seen += [digest for digest, _ in coming]
            after = seen[-1]
        assert seen == [digest for digest in digests if digest > position]
