"""One thing done for many items on a few threads. The first failure stops what has not begun, and is raised when all
threads are home.
"""

import threading
from collections.abc import Callable, Sequence

from agent.frozen import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")


def for_each(items: "Sequence[Item]", width: int, work: "Callable[[Item], Result]") -> "list[Result]":
    """`work` of each item, results in the items' order. At most `width` threads, and none of them is left at the end;
    with one item or a width of 1, none is started.
    """
    if len(items) <= 1 or width <= 1:
        return [work(item) for item in items]
    results: dict[int, Result] = {}

    def work_one(index: int) -> None:
        results[index] = work(items[index])

    crew = _Crew(len(items), work_one)
    threads: list[threading.Thread] = []
    for _ in range(min(width, len(items))):
        thread = threading.Thread(target=crew.run, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are to be had: those that are there do it all
            break
        threads.append(thread)
    if not threads:
        crew.run()
    for thread in threads:
        thread.join()
    if crew.failure is not None:
        raise crew.failure
    return [results[index] for index in range(len(items))]


class _Crew:
    """Hands out the items' numbers one by one and keeps the first failure."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self.failure: BaseException | None = None
        self._count = count
        self._work = work
        self._next = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        while (index := self._take()) is not None:
            try:
                self._work(index)
            except BaseException as failure:  # noqa: BLE001  # carried to the caller's thread and raised there
                with self._lock:
                    self.failure = self.failure or failure
                return

    def _take(self) -> int | None:
        with self._lock:
            if self.failure is not None or self._next >= self._count:
                return None
            self._next += 1
            return self._next - 1
