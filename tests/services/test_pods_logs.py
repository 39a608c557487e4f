"""Where a line stands in a log that Kubernetes gives: its time, then its number. Pure decisions."""

import pytest

from services.collector.kube_stamps import NS, PER_NS, entry_id, position_of, split, stamped

SECOND = 1_795_568_400


@pytest.mark.parametrize(
    ("stamp", "nanoseconds"),
    [
        (b"2026-11-25T01:00:00Z", 0),
        (b"2026-11-25T01:00:00.5Z", 500_000_000),
        (b"2026-11-25T01:00:00.000000001Z", 1),
        (b"2026-11-25T01:00:07.25Z", 7 * NS + 250_000_000),
        (b"2026-11-25T06:30:00.5+05:30", 500_000_000),
        (b"2026-11-24T18:00:07-07:00", 7 * NS),
        (b"2026-11-25T01:00:00+00:00", 0),
    ],
)
def test_a_position_is_the_time_in_nanoseconds(stamp: bytes, nanoseconds: int) -> None:
    """Whatever the node's time zone: a kubelet writes its own."""
    assert position_of(stamp) == (SECOND * NS + nanoseconds) * PER_NS


@pytest.mark.parametrize(
    "stamp",
    [b"", b"unable", b"2026-11-25", b"2026-11-25T01:00:00", b"2026-11-25T01:00:00.Z", b"2026-11-25T01:00:00+0530"],
)
def test_what_is_no_time_has_no_position(stamp: bytes) -> None:
    assert position_of(stamp) is None


def test_ids_are_in_the_order_of_positions() -> None:
    positions = [SECOND * NS * PER_NS + step for step in (0, 1, PER_NS - 1, PER_NS, PER_NS * 10**6, PER_NS * NS)]
    ids = [tuple(map(int, entry_id(each).split("-"))) for each in positions]
    assert ids == sorted(set(ids))
    assert entry_id(positions[0]) == f"{SECOND * 1000}-0"
    assert max(sequence for _, sequence in ids) < 2**63


def lines(*texts: str) -> list[bytes]:
    return [f"2026-11-25T01:00:{text}".encode() for text in texts]


def test_lines_of_one_time_are_numbered_and_so_are_those_out_of_order() -> None:
    found = list(stamped(lines("01Z a", "01Z b", "03Z c", "02Z d", "04Z e"), 0))
    base = SECOND * NS * PER_NS
    steps = [(position - base, text) for position, text in found]
    assert steps == [
        (1 * NS * PER_NS, b"a"),
        (1 * NS * PER_NS + 1, b"b"),
        (3 * NS * PER_NS, b"c"),
        (3 * NS * PER_NS + 1, b"d"),
        (4 * NS * PER_NS, b"e"),
    ]


def test_an_answer_that_begins_a_second_back_brings_only_what_is_new() -> None:
    """The same line has the same position, wherever the answer begins."""
    whole = lines("01Z a", "02.5Z b", "02.5Z c", "02.9Z d", "03Z e")
    known = list(stamped(whole[:3], 0))
    again = list(stamped(whole[1:], known[-1][0]))
    assert known + again == list(stamped(whole, 0))


def test_the_kubelets_own_words_are_no_lines() -> None:
    said = [b"unable to retrieve container logs for containerd://c", *lines("01Z a")]
    assert [text for _, text in stamped(said, 0)] == [b"a"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunks_are_joined_whatever_their_size(size: int) -> None:
    text = b"one\ntwo\n\nthree"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    sizes: list[int] = []
    assert list(split(chunks, sizes, 1_000)) == [b"one", b"two", b"", b"three"]
    assert sum(sizes) == len(text)


def test_a_last_line_without_an_end_waits_while_the_rest_may_follow() -> None:
    assert list(split([b"one\ntw"], [], 0)) == [b"one"]
    assert list(split([b"one\ntw"], [], 6)) == [b"one"]
    assert list(split([b"one\ntw"], [], 7)) == [b"one", b"tw"]
