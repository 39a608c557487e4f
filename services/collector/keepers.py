"""What the nodes' keepers ask of the collector: to take their word, what is still needed, what to bring first, whose
pods are over.
"""

from collections.abc import Callable, Sequence
from typing import Any

from helios.podwire import (
    DemandAnswer,
    Demanded,
    NodeAnswer,
    NodeReport,
    SeedAnswer,
    SeedWanted,
    ViewsAnswer,
    ViewsAsked,
)
from services.collector.demand import Demand
from services.collector.nodes import Nodes, Refused
from services.collector.seed import Seeding

Body = Callable[[Any], Any]
"""The request's body as the given struct."""

Over = Callable[[Sequence[str]], Sequence[str]]
"""Which of these Jobs have no pod any more that goes on; what is not known for certain is left out."""


def nobody_knows(_jobs: Sequence[str]) -> Sequence[str]:
    """For those that see no pods of a cluster."""
    return ()


class Keepers:
    """The calls that a keeper's token opens. A keeper speaks for its own node only."""

    PATHS = ("/v1/node", "/v1/demand", "/v1/seed", "/v1/views")

    def __init__(self, nodes: Nodes, demand: Demand, seeding: Seeding, over: Over) -> None:
        self.over = over
        self.nodes = nodes
        self.demand = demand
        self.seeding = seeding

    def answer(self, node: str, path: str, body: Body) -> NodeAnswer | DemandAnswer | SeedAnswer | ViewsAnswer:
        """Raises Refused."""
        match path:
            case "/v1/node":
                report: NodeReport = body(NodeReport)
                _own(node, report.node)
                return self.nodes.report(report)
            case "/v1/demand":
                asked: Demanded = body(Demanded)
                _own(node, asked.node)
                return DemandAnswer(self.demand.needed(asked.candidates))
            case "/v1/views":
                views: ViewsAsked = body(ViewsAsked)
                _own(node, views.node)
                return ViewsAnswer(self.over(views.views))
            case _:
                wanted: SeedWanted = body(SeedWanted)
                _own(node, wanted.node)
                return SeedAnswer(self.seeding.seeds(node, wanted.budgetBytes))


def _own(node: str, named: str) -> None:
    if node != named:
        raise Refused("a keeper speaks for its own node only")
