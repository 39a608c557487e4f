"""The tree of a DAG and the time axis, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.model.task_listing import ORDERS, listed, passes
from tui.model.tasks import Span, TaskRow
from tui.model.timeline import Axis, bar, ruler
from tui.model.tree import branches


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    """Task names with parents among the earlier ones, in any order."""
    count = draw(st.integers(0, 12))
    found = [
        (f"t{number}", [f"t{each}" for each in sorted(draw(st.sets(st.integers(0, number - 1), max_size=3)))])
        if number
        else ("t0", [])
        for number in range(count)
    ]
    return draw(st.permutations(found))


@given(dag=dags(), folded=st.sets(st.sampled_from([f"t{number}" for number in range(12)])))
def test_every_task_is_in_the_tree_once_or_counted_in_a_fold(
    dag: list[tuple[str, list[str]]], folded: set[str]
) -> None:
    lines = branches(dag, folded)
    names = [line.name for line in lines]
    assert len(names) == len(set(names))
    assert len(names) + sum(line.hidden for line in lines) == len(dag)
    parents = dict(dag)
    for line in lines:
        assert set(line.also_after) <= set(parents[line.name])


def test_a_task_stands_below_the_last_of_its_parents() -> None:
    lines = branches([("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["b", "c"])])
    assert [(line.guide + line.name, line.also_after) for line in lines] == [
        ("a", ()),
        ("├─ b", ()),
        ("└─ c", ()),
        ("   └─ d", ("b",)),
    ]


def test_ten_thousand_tasks_are_drawn_without_recursion() -> None:
    chain = [("t0", [])] + [(f"t{number}", [f"t{number - 1}"]) for number in range(1, 10_000)]
    assert len(branches(chain, ["t5000"])) == 5_001


@given(
    times=st.lists(st.integers(0, 1_000), min_size=2, max_size=6).map(sorted),
    begin=st.integers(0, 500),
    length=st.integers(1, 1_000),
    width=st.integers(1, 60),
)
def test_a_bar_is_as_wide_as_its_axis(times: list[int], begin: int, length: int, width: int) -> None:
    stages = ("queued", "starting", "fetching", "running", "publishing")
    spans = [Span(stage, first, last) for stage, first, last in zip(stages, times, times[1:], strict=False)]
    parts = bar(spans, Axis(begin, begin + length), width)
    assert sum(len(text) for text, _ in parts) == width


def test_a_short_stage_still_shows() -> None:
    parts = bar([Span("queued", 0, 1), Span("running", 1, 1_000)], Axis(0, 1_000), 10)
    assert [text for text, _ in parts] == ["█" * 10] or parts[0][0].startswith("░")


@pytest.mark.parametrize(
    ("width", "said"), [(3, "0"), (7, "0 4.0 s"), (21, "0       2.0 s   4.0 s"), (20, "0      2.0 s   4.0 s")]
)
def test_the_ruler_names_what_fits(width: int, said: str) -> None:
    assert ruler(Axis(1_000, 5_000), width) == said


def rows() -> dict[str, TaskRow]:
    return {
        "a": TaskRow("a", status="SUCCEEDED", cache="Miss", miss_bytes=5, launched_at=2, ended_at=9),
        "b": TaskRow("b", status="FAILED", node="n2", launched_at=1, ended_at=3),
        "c": TaskRow("c", status="WAITING"),
    }


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ("", "abc"),
        ("status:failed", "b"),
        ("cache:miss", "a"),
        ("node:n2", "b"),
        ("!status:failed", "ac"),
        ("name:c", "c"),
        ("waiting", "c"),
        ("!", "abc"),
        ("a status:failed", "b"),
        ("nothing", ""),
    ],
)
def test_a_filter_looks_where_it_is_told(wanted: str, left: str) -> None:
    assert "".join(listed(rows(), wanted, "DAG order")) == left


@given(wanted=st.text(alphabet="abcmis!:ftulked ", max_size=12).filter(lambda text: len(text.split()) == 1))
def test_every_task_passes_a_word_or_its_opposite(wanted: str) -> None:
    for row in rows().values():
        if wanted.strip("! "):
            assert passes(row, wanted) != passes(row, f"!{wanted.strip()}")


@pytest.mark.parametrize(
    ("order", "first"),
    [("DAG order", "a"), ("start", "b"), ("longest first", "a"), ("most missed first", "a"), ("failed first", "b")],
)
def test_each_order_has_its_first(order: str, first: str) -> None:
    assert listed(rows(), "", order)[0] == first
    assert order in ORDERS
