"""Which task comes before which: pure functions of names. No I/O happens here, and nothing recurses."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence


class Graph:
    """A directed graph without cycles, over task names.

    `parents` maps every task, in the order of declaration, to the tasks it waits for, each of them a key too.
    Raises ValueError when the tasks do not form a DAG; `cycles` names the cycles.
    """

    __slots__ = ("_position", "children", "depth", "order", "parents", "roots")

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self.parents: dict[str, tuple[str, ...]] = {
            name: tuple(dict.fromkeys(of_task)) for name, of_task in parents.items()
        }
        self.children: dict[str, tuple[str, ...]] = children_of(self.parents)
        self.roots: tuple[str, ...] = tuple(name for name, of_task in self.parents.items() if not of_task)
        self.order: tuple[str, ...]
        """Every task after all its parents; among those free to start, in the order they became free."""
        self.depth: int
        """Tasks in the longest chain; 0 for no tasks."""
        self.order, self.depth = self._sorted()
        self._position: dict[str, int] = {name: position for position, name in enumerate(self.order)}

    def _sorted(self) -> tuple[tuple[str, ...], int]:
        waiting = {name: len(of_task) for name, of_task in self.parents.items()}
        level = dict.fromkeys(self.roots, 1)
        ready = deque(self.roots)
        order: list[str] = []
        while ready:
            name = ready.popleft()
            order.append(name)
            for child in self.children[name]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    # Kahn's queue hands tasks out level by level, so the last parent is the deepest.
                    level[child] = level[name] + 1
                    ready.append(child)
        if len(order) != len(self.parents):
            raise ValueError("the tasks do not form a DAG: there is a cycle")
        return tuple(order), max(level.values(), default=0)

    def descendants(self, name: str) -> list[str]:
        """Every task that waits for `name`, directly or not, in topological order; KeyError for an unknown name."""
        seen: set[str] = set()
        to_visit = list(self.children[name])
        while to_visit:
            task = to_visit.pop()
            if task not in seen:
                seen.add(task)
                to_visit.extend(self.children[task])
        return sorted(seen, key=self._position.__getitem__)


def children_of(parents: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The same edges from the other end; children in the order of declaration."""
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, of_task in parents.items():
        for parent in of_task:
            children[parent].append(name)
    return {name: tuple(of_task) for name, of_task in children.items()}


def cycles(parents: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Cycles of the graph, each as its tasks in the order in which they would run, the first not repeated.

    One for every edge that closes a cycle in a depth-first walk: without these edges the graph is a DAG, and there
    are at most as many as edges, while the number of all its cycles may be exponential.
    """
    children = children_of(parents)
    declared = {name: position for position, name in enumerate(parents)}
    done: set[str] = set()
    for start in parents:
        if start in done:
            continue
        on_path: dict[str, int] = {start: 0}
        path = [start]
        walks = [iter(children[start])]
        while walks:
            child = next(walks[-1], None)
            if child is None:
                walks.pop()
                finished = path.pop()
                del on_path[finished]
                done.add(finished)
            elif child in on_path:
                cycle = path[on_path[child] :]
                first = min(range(len(cycle)), key=lambda at: declared[cycle[at]])
                yield cycle[first:] + cycle[:first]
            elif child not in done:
                on_path[child] = len(path)
                path.append(child)
                walks.append(iter(children[child]))
