"""From an entry of `tasks:finished` to what follows: children queued, the next attempt, or everything below failed."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from redis.exceptions import ResponseError

from helios.dag import Dag
from helios.dag_graph import Graph
from helios.keys import keys_of_run
from helios.messages import Finished, decode
from helios.streams import Entry
from helios.transitions import Call, commit, fail_task, settle
from helios.worker import Failure

GRAPHS_KEPT = 16
"""Graphs are needed only where a task fails for good; failures of one run tend to come together."""

_dag_decoder = msgspec.json.Decoder(Dag)


class Settler:
    """Handles batches of finished attempts."""

    def __init__(self, client: redis.Redis, partitions: int) -> None:
        self.client = client
        self.partitions = partitions
        self.graphs: OrderedDict[str, Graph] = OrderedDict()

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        taken: list[tuple[Entry, Finished]] = []
        calls: list[Call] = []
        for entry in entries:
            try:
                finished = decode(entry.fields, Finished)
            except msgspec.ValidationError as error:
                failures.append(Failure(entry, error))
                continue
            keys = keys_of_run(finished.run, self.partitions)
            calls.append(settle(keys, entry=entry.id, run=finished.run, task=finished.task, attempt=finished.attempt))
            taken.append((entry, finished))
        for (entry, finished), result in zip(taken, commit(self.client, calls), strict=True):
            try:
                if isinstance(result, ResponseError):
                    raise result
                if result == "failed":
                    self._fail(entry, finished)
            except ResponseError as error:
                failures.append(Failure(entry, error))
        return failures

    def _fail(self, entry: Entry, finished: Finished) -> None:
        keys = keys_of_run(finished.run, self.partitions)
        graph = self._graph(finished.run)
        if graph and finished.task not in graph.parents:
            # The run has got more tasks since.
            del self.graphs[finished.run]
            graph = self._graph(finished.run)
        below = graph.descendants(finished.task) if graph and finished.task in graph.parents else ()
        calls = fail_task(
            keys, entry=entry.id, run=finished.run, task=finished.task, attempt=finished.attempt, dependents=below
        )
        for result in commit(self.client, calls):
            if isinstance(result, ResponseError):
                raise result

    def _graph(self, run: str) -> Graph | None:
        graph = self.graphs.get(run)
        if graph is None:
            text: Any = self.client.get(keys_of_run(run, self.partitions).dag(run))
            if text is None:
                return None
            graph = self.graphs[run] = _dag_decoder.decode(text).success_graph()
            if len(self.graphs) > GRAPHS_KEPT:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(run)
        return graph
