"""The order of tasks: the graph's properties hold whatever the DAG is."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.dag_graph import Graph, children_of, cycles


@st.composite
def dags(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Parents by task, declared in any order."""
    count = draw(st.integers(1, 12))
    parents = {
        f"t{at}": tuple(f"t{parent}" for parent in draw(st.lists(st.integers(0, at - 1), max_size=4)) if parent < at)
        if at
        else ()
        for at in range(count)
    }
    return {name: parents[name] for name in draw(st.permutations(list(parents)))}


@given(dags())
def test_every_task_comes_after_its_parents(parents: dict[str, tuple[str, ...]]) -> None:
    graph = Graph(parents)
    assert sorted(graph.order) == sorted(parents)
    position = {name: at for at, name in enumerate(graph.order)}
    assert all(position[parent] < position[name] for name in parents for parent in graph.parents[name])


@given(dags())
def test_roots_are_the_tasks_without_parents_and_children_mirror_parents(parents: dict[str, tuple[str, ...]]) -> None:
    graph = Graph(parents)
    assert set(graph.roots) == {name for name, of_task in parents.items() if not of_task}
    edges = {(parent, name) for name in parents for parent in graph.parents[name]}
    assert edges == {(name, child) for name in parents for child in graph.children[name]}


@given(dags())
def test_descendants_are_what_can_be_reached_in_topological_order(parents: dict[str, tuple[str, ...]]) -> None:
    graph = Graph(parents)
    for name in parents:
        below = graph.descendants(name)
        expected = set(graph.children[name]).union(*(graph.descendants(child) for child in graph.children[name]))
        assert below == [task for task in graph.order if task in expected]


@given(dags())
def test_depth_is_the_longest_chain(parents: dict[str, tuple[str, ...]]) -> None:
    graph = Graph(parents)
    longest: dict[str, int] = {}
    for name in graph.order:
        longest[name] = 1 + max((longest[parent] for parent in graph.parents[name]), default=0)
    assert graph.depth == max(longest.values())


@given(dags())
def test_a_dag_has_no_cycles(parents: dict[str, tuple[str, ...]]) -> None:
    assert list(cycles(parents)) == []


@given(st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.integers(0, n - 1)), min_size=n, max_size=n)))
def test_cycles_are_real_and_without_their_closing_edges_none_is_left(edges: list[list[int]]) -> None:
    parents = {f"t{at}": [f"t{parent}" for parent in of_task] for at, of_task in enumerate(edges)}
    parents = {name: list(dict.fromkeys(of_task)) for name, of_task in parents.items()}
    for cycle in (found := list(cycles(parents))):
        assert len(set(cycle)) == len(cycle)
        for before, after in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            assert before in parents[after]
    assert bool(found) == (not _is_dag(parents))
    assert len({tuple(cycle) for cycle in found}) == len(found)


def _is_dag(parents: Mapping[str, Sequence[str]]) -> bool:
    try:
        Graph(parents)
    except ValueError:
        return False
    return True


def test_a_graph_of_tasks_in_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        Graph({"a": ["b"], "b": ["a"]})


def test_a_chain_of_a_hundred_thousand_needs_no_deep_stack() -> None:
    parents = {f"t{at}": (f"t{at - 1}",) if at else () for at in range(100_000)}
    graph = Graph(parents)
    assert graph.depth == 100_000
    assert graph.descendants("t0") == list(graph.order[1:])
    closed = {**parents, "t0": ("t99999",)}
    assert [len(cycle) for cycle in cycles(closed)] == [100_000]


def test_repeated_parents_count_once() -> None:
    assert Graph({"a": (), "b": ("a", "a")}).children == {"a": ("b",), "b": ()}


def test_no_tasks_make_an_empty_graph() -> None:
    graph = Graph({})
    assert (graph.order, graph.roots, graph.depth, children_of({})) == ((), (), 0, {})
