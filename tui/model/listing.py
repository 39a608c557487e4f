"""Which runs the table shows and in what order: kept up to date by what changed, not made anew."""

from collections.abc import Collection, Mapping
from typing import Any

from tui.model.columns import RUN_ID, Column, Look, id_order
from tui.model.filters import Filter
from tui.model.runs import RunRow

EVERYTHING = Filter()


class Listing:
    """Ids of the runs that pass the filter, sorted by one column, and among equals by id, in the same direction."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.filter = EVERYTHING
        self.column = RUN_ID
        self.descending = True
        self._keys: dict[str, Any] = {}

    def update(self, rows: Mapping[str, RunRow], changed: Collection[str], now_ms: int) -> None:
        """Take over what became of these runs. `order` is a new list if it is another."""
        keys, new, moved, gone = self._keys, list[str](), False, False
        for run in changed:
            row = rows.get(run)
            if row is None or not self.filter.matches(it := Look(row, now_ms)):
                gone = keys.pop(run, None) is not None or gone
                continue
            key = (self.column.order(it), id_order(run))
            before = keys.get(run)
            if before is None:
                new.append(run)
            elif before != key:
                moved = True
            keys[run] = key
        if not (new or moved or gone):
            return
        order = [run for run in self.order if run in keys] if gone else self.order.copy()
        order += new
        if new or moved:
            order.sort(key=keys.__getitem__, reverse=self.descending)  # nearly sorted, so this takes a millisecond
        self.order = order

    def arrange(
        self, rows: Mapping[str, RunRow], now_ms: int, *, column: Column, descending: bool, chosen: Filter
    ) -> None:
        """Show other runs, or in another order."""
        self.column, self.descending, self.filter = column, descending, chosen
        self._keys, self.order = {}, []
        self.update(rows, rows, now_ms)

    def pass_time(self, rows: Mapping[str, RunRow], running: Collection[str], now_ms: int) -> None:
        """Move what moves with time alone; `running` are the runs that go on."""
        if self.filter.ages:
            self.update(rows, rows, now_ms)
        elif self.column.moves or self.filter.moves:
            self.update(rows, running, now_ms)

    def shows(self, run: str) -> bool:
        return run in self._keys
