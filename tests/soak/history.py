"""Everything that a soak's checker looks at: the ledgers, what Redis holds at the end, and its feed of events."""

from collections.abc import Mapping, Sequence

import msgspec

from helios.events import AnyEvent
from tests.soak.ledger import Line
from tests.soak.workload import Planned, Task


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """A run as Redis holds it at the end: its hash, and the hash of each task by name. A rejected one has no tasks."""

    fields: Mapping[str, str]
    tasks: Mapping[str, Mapping[str, str]] = {}
    dag: tuple[Task, ...] = ()
    partition: int = 0

    @property
    def status(self) -> str:
        return self.fields.get("status", "")


class Cut(msgspec.Struct, frozen=True):
    """Redis ended without warning, and may have come back without what it had done between these two moments, in epoch
    microseconds. `since` is the newest moment of which it still knew.
    """

    since: int
    until: int
    kind: str = "power cut"
    """Or `kill`."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One soak from its beginning to its end."""

    plans: Sequence[Planned]
    lines: Sequence[Line]
    cuts: Sequence[Cut] = ()
    runs: Mapping[str, RunState]
    """By id; aliases are not among them."""
    aliases: Mapping[str, str] = {}
    """The ids of repeated requests, and the runs that they stand for."""
    waiting: frozenset[str] = frozenset()
    """Submissions that nobody has taken up when time is over: they are not lost, but they did not end."""
    events: Sequence[tuple[str, AnyEvent]]
    """In the order of the feed, one partition after the other; the id begins with the time in milliseconds."""
    events_missing: int = 0
    """Events that the feed had no room for: of what it told nothing can be proved then."""
    sums: Mapping[tuple[int, str], Mapping[str, int]] = {}
    """By partition and by whose sums they are."""
    left: Mapping[str, int] = {}
    """What is still there though all is over: entries, pending ones, dead letters, Jobs, pods, active runs."""
    exits: Mapping[str, int] = {}
    """How processes ended that nobody killed, where that was not 0."""


class Violation(msgspec.Struct, frozen=True):
    """A promise that was not kept. `rule` is one of a few words, so that they can be counted."""

    rule: str
    what: str


class Figures(msgspec.Struct, kw_only=True):
    """What happened, good or bad."""

    runs: int = 0
    tasks: int = 0
    attempts: int = 0
    starts: int = 0
    rejected: int = 0
    aliases: int = 0
    cancelled: int = 0
    unanswered: int = 0
    """Submissions without a request id of which nobody knows whether they arrived; some did."""
    lost: int = 0
    """Accepted runs that are gone: a violation each."""
    taken: int = 0
    """Submissions that Redis acknowledged and that ended with its last second, without a promise broken."""
    taken_by_kill: int = 0
    """Of those, how many a mere kill -9 took."""
    taken_repeated: int = 0
    """Of those, how many had a request id, and so were sent again."""
    durable: int = 0
    """Submissions that WAITAOF confirmed; none of them may be lost."""
    double_commits: int = 0
    double_starts: int = 0
    """Attempts whose command started more than once."""
    double_starts_undone: int = 0
    """Of those, how many because Redis forgot in a power cut that it had started before."""
    disrupted: int = 0
    """Attempts that ended through no fault of their own, as with their node."""
    given_up: int = 0
    """Tasks that failed because their attempts were disrupted more often than is repeated for free."""


class Verdict(msgspec.Struct, frozen=True):
    violations: Sequence[Violation]
    figures: Figures

    def of(self, rule: str) -> list[Violation]:
        return [each for each in self.violations if each.rule == rule]


def number_of(dag: Sequence[Task]) -> int | None:
    """The submission that a DAG was sent with."""
    return dag[0].behaviour.number if dag else None


def milliseconds(entry: str) -> int:
    """The time in a stream entry's id."""
    return int(entry.partition("-")[0])
