"""What a full cache lets go of: the least valuable first, what is needed last, and never a byte that somebody reads."""

import errno
import json
import math
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent.store
from agent import room
from agent.evict import Evictor, Limits, Needed, Room, choose, ranked, room_wanted, value
from agent.room import attended, has_room
from agent.shelves import Shelves
from agent.stamp import boot_id
from tests.agent.blobs import blob_file, held, prepared, put_blob, read_ref, ref_file
from tests.agent.conftest import wait_until

NONE = 1 << 60
"""More than any disk has free."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return prepared(tmp_path / "cache")


def evictor(cache: Path, needed: Needed | None = None, *, limit: int = 0, free: int = 0, low: float = 0.5) -> Evictor:
    shelves = Shelves(str(cache), boot_id())
    shelves.look()
    return Evictor(str(cache), shelves, Limits(limit, 0.95, low, free), needed)


# The policy.


@given(st.lists(st.floats(min_value=0, allow_nan=False, allow_infinity=False)))
def test_ranking_is_sorting(values: list[float]) -> None:
    assert [values[number] for number in ranked(values)] == sorted(values)


@given(
    sizes=st.lists(st.integers(1, 1000), max_size=40),
    wanted=st.integers(0, 20_000),
    must=st.integers(0, 20_000),
    seed=st.integers(),
    answers=st.booleans(),
)
def test_no_more_goes_than_has_to_and_what_is_needed_only_for_the_disks_sake(
    sizes: list[int], wanted: int, must: int, seed: int, answers: bool
) -> None:
    must = min(must, wanted)
    chance = random.Random(seed)
    order = chance.sample(range(len(sizes)), len(sizes))
    needed = {number for number in order if chance.random() < 0.5}
    choice = choose(iter(order), sizes, Room(wanted, must), lambda some: needed & set(some) if answers else None)
    assert len(set(choice.victims)) == len(choice.victims)
    freed = [sizes[number] for number in choice.victims]
    if choice.victims:
        assert sum(freed[:-1]) < wanted, "one more than was wanted went"
    spared = [number for number in order if answers and number in needed]
    free_to_go = [number for number in order if number not in spared]
    willing = sum(sizes[number] for number in free_to_go)
    taken = [number for number in choice.victims if number in spared]
    if willing >= wanted:
        assert taken == []
        assert choice.victims == free_to_go[: len(choice.victims)], "not the least valuable first"
        assert sum(freed) >= wanted
    else:
        assert set(free_to_go) <= set(choice.victims)
        assert taken == spared[::-1][: len(taken)]
        assert sum(freed) >= min(must, sum(sizes))
        if taken:
            assert sum(freed[:-1]) < must, "more that is needed went than the floor demands"
    assert choice.asked or not answers or not wanted or not sizes


@given(
    limit=st.integers(0, 10**12),
    used=st.integers(0, 10**12),
    free=st.integers(0, 10**12),
    floor=st.integers(0, 10**12),
    wished=st.integers(0, 10**9),
)
def test_evicting_ends_below_the_low_watermark_and_above_the_floor(
    limit: int, used: int, free: int, floor: int, wished: int
) -> None:
    found = room_wanted(Limits(limit, 0.95, 0.85, floor), used, free, wished)
    assert 0 <= found.must <= found.wanted
    if limit and used > 0.95 * limit:
        assert used - found.wanted <= 0.85 * limit
    if free < floor:
        assert free + found.must >= floor
        assert free + found.wanted >= floor * 1.1 - 1
    if wished:
        assert free + found.wanted >= wished
    if free >= floor + wished and (not limit or used <= 0.95 * limit):
        assert found == Room(0, 0)


@given(size=st.integers(1, 10**12), rate=st.floats(1e-9, 1e-3), idle=st.floats(0, 1e9))
def test_a_blob_is_worth_less_the_longer_it_lies_and_the_sooner_it_is_brought_again(
    size: int, rate: float, idle: float
) -> None:
    assert value(size, rate, idle) >= value(size, rate, 2 * idle + 1)
    assert value(size, rate, idle) < value(size, 2 * rate, idle)
    assert math.isfinite(value(size, rate, idle))


# The doing.


def test_the_blobs_that_are_cheapest_to_bring_again_go_first_down_to_the_low_watermark(cache: Path) -> None:
    cheap = [put_blob(cache, bytes([each]) * 1000, ms=10 + each) for each in range(4)]
    dear = [put_blob(cache, bytes([each]) * 1000, ms=9000) for each in range(4, 8)]
    keeping = evictor(cache, limit=8000, low=0.6)
    assert keeping.make_room() == 4
    assert held(cache) == set(dear)
    assert (keeping.blobs, keeping.bytes) == (4, 4000)
    assert keeping.make_room() == 0
    assert read_ref(cache, cheap[0])["ms"] == 10


def test_a_blob_that_is_larger_than_the_cache_goes_before_all_others(cache: Path) -> None:
    cheap = [put_blob(cache, bytes([each]) * 100, ms=1) for each in range(3)]
    put_blob(cache, b"x" * 2000, ms=10_000)
    assert evictor(cache, limit=1000).make_room() == 1
    assert held(cache) == set(cheap)


def test_nothing_goes_below_the_high_watermark(cache: Path) -> None:
    put_blob(cache, b"x" * 900)
    assert evictor(cache, limit=1000).make_room() == 0


def test_a_blob_that_a_view_links_to_stays_even_when_the_disk_is_full(cache: Path) -> None:
    used, idle = put_blob(cache, b"used"), put_blob(cache, b"idle")
    os.link(blob_file(cache, used), cache / "views" / "task's")
    evictor(cache, limit=1, free=NONE).make_room()
    assert held(cache) == {used}
    assert "evictedAt" in read_ref(cache, idle)


def test_a_blob_that_comes_into_use_while_others_are_chosen_stays(cache: Path) -> None:
    digests = {put_blob(cache, bytes([each]) * 10) for each in range(3)}
    came = sorted(digests)[0]

    def needed(candidates: Sequence[str]) -> set[str]:
        os.link(blob_file(cache, came), cache / "views" / "task's")
        return set()

    evictor(cache, needed, limit=1).make_room()
    assert held(cache) == {came}


def test_what_tasks_still_need_stays_though_the_limit_is_broken(cache: Path) -> None:
    digests = {put_blob(cache, bytes([each]) * 10) for each in range(20)}
    wanted = set(sorted(digests)[:15])
    asked: set[str] = set()

    def needed(candidates: Sequence[str]) -> set[str]:
        asked.update(candidates)
        return wanted & set(candidates)

    keeping = evictor(cache, needed, limit=100)
    keeping.make_room()
    assert held(cache) == wanted
    assert asked == digests
    assert not keeping.demand_unknown


def test_the_demand_is_asked_for_only_when_something_has_to_go(cache: Path) -> None:
    put_blob(cache, b"x")

    def needed(candidates: Sequence[str]) -> set[str]:
        raise AssertionError("asked")

    assert evictor(cache, needed, limit=100).make_room() == 0


def test_when_the_disk_runs_full_even_what_is_needed_goes_last(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more of it than the floor of free disk needs."""
    plain = {put_blob(cache, b"p%d" % each) for each in range(3)}
    wanted = {put_blob(cache, b"n%d" % each * 500) for each in range(4)}

    class Disk:
        f_frsize, f_bavail, f_blocks = 1, 9000, 10_000

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk)
    evictor(cache, lambda some: wanted & set(some), free=9000 + 6 + 1500).make_room()
    assert not held(cache) & plain
    assert len(held(cache) & wanted) == 2


def test_when_nobody_knows_the_demand_value_alone_decides_and_it_is_said(cache: Path) -> None:
    for each in range(4):
        put_blob(cache, bytes([each]) * 10)
    keeping = evictor(cache, lambda _candidates: None, limit=20)
    assert keeping.make_room() == 3
    assert keeping.demand_unknown


def test_a_blob_whose_cost_nobody_measured_is_brought_at_the_nodes_rate(cache: Path) -> None:
    (cache / "rate.json").write_text(json.dumps({"v": 1, "bytesPerSecond": 1000}))
    unknown = put_blob(cache, b"u" * 1000)
    quick, slow = put_blob(cache, b"q" * 1000, ms=900), put_blob(cache, b"s" * 1000, ms=1100)
    evictor(cache, limit=2000, low=0.5).make_room()
    assert held(cache) == {slow}
    put_blob(cache, b"q" * 1000, ms=900)
    put_blob(cache, b"u" * 1000)
    evictor(cache, limit=2500, low=0.8).make_room()
    assert held(cache) == {unknown, slow}
    assert "evictedFor" in read_ref(cache, quick)


def test_an_evicted_blob_says_when_it_went_and_for_what(cache: Path) -> None:
    old = put_blob(cache, b"old" * 10, origin="store", at=5)
    shelves = Shelves(str(cache), boot_id())
    shelves.look()
    new = put_blob(cache, b"new" * 20, ms=10**6)
    os.utime(blob_file(cache, new).parent, (1, 1))
    shelves.look()
    Evictor(str(cache), shelves, Limits(90, 0.95, 0.7, 0), None).make_room()
    ref = read_ref(cache, old)
    assert (ref["sha256"], ref["origin"], ref["at"], ref["evictedFor"]) == (old, "store", 5, new)
    assert isinstance(ref["evictedAt"], int)


def test_what_was_evicted_is_counted_across_keepers(cache: Path) -> None:
    for each in range(4):
        put_blob(cache, bytes([each]) * 10)
    evictor(cache, limit=20).make_room()
    again = evictor(cache, limit=20)
    assert (again.blobs, again.bytes) == (3, 30)


def test_a_disk_too_full_to_say_so_is_emptied_all_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_blob(cache, b"x" * 10)

    def full(fd: int, data: bytes, offset: int = 0) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        evictor(cache, limit=1).make_room()  # the counters are what could not be saved
    assert held(cache) == set()


def test_a_wish_for_room_is_fulfilled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_frsize, f_bavail, f_blocks = 1, 100, 1000

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk)
    digests = [put_blob(cache, b"%d" % each * 100, ms=each + 1) for each in range(4)]
    (cache / "room").write_text(json.dumps({"v": 1, "bytes": 250, "for": "f" * 64}))
    keeping = evictor(cache)
    assert keeping.is_wished()
    assert keeping.make_room() == 2
    assert held(cache) == set(digests[2:])
    assert read_ref(cache, digests[0])["evictedFor"] == "f" * 64
    assert not keeping.is_wished()


@pytest.mark.parametrize("wish", [b"", b"{", b"[]", b'{"bytes":-1}', b'{"bytes":"1"}', b'{"bytes":true}'])
def test_a_wish_that_says_nothing_is_removed(cache: Path, wish: bytes) -> None:
    digest = put_blob(cache, b"x")
    (cache / "room").write_bytes(wish)
    keeping = evictor(cache)
    assert keeping.make_room() == 0
    assert held(cache) == {digest}
    assert not keeping.is_wished()


def test_a_fetch_that_finds_no_room_is_given_some_by_the_keeper(
    cache: Path, store: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the keeper's answer instead of going around the cache."""
    old = put_blob(cache, b"o" * 1000)
    free = 500

    class Disk:
        f_frsize = f_blocks = 1

        @property
        def f_bavail(self) -> int:
            return free + (0 if blob_file(cache, old).exists() else 1000)

    monkeypatch.setattr(os, "statvfs", lambda _path: Disk())
    monkeypatch.setattr(agent.store, "SPARE_BYTES", 0)
    store.put("bucket/x", b"x" * 900)
    endpoint.add_input("x", "bucket/x")
    with attended(str(cache)) as attend, ThreadPoolExecutor(1) as pool:
        attend()
        running = pool.submit(make_node("job-1").fetch)
        keeping = evictor(cache)
        wait_until(keeping.is_wished, "the wish")
        keeping.make_room()
        assert running.result(60)["inputs"][0]["cause"] == "never-here"
    assert not blob_file(cache, old).exists()


def test_without_a_keeper_nobody_waits_for_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_leave", None)
    assert not has_room(str(cache), NONE)
    with attended(str(cache)) as attend:
        attend()
    assert not has_room(str(cache), NONE), "it is gone"
    assert has_room(str(cache), 1)


def test_a_ref_of_the_first_version_or_none_is_good_enough(cache: Path) -> None:
    first, none, broken = (put_blob(cache, data) for data in (b"first", b"none", b"broken"))
    ref_file(cache, none).unlink()
    ref_file(cache, broken).write_bytes(b"{")
    assert evictor(cache, limit=1).make_room() == 3
    for digest in (first, none, broken):
        assert read_ref(cache, digest)["sha256"] == digest
        assert "evictedAt" in read_ref(cache, digest)
