"""Which artifacts go: those of runs that are no longer stored and that nothing refers to. No I/O happens here.

An object `runs/<run>/…` stays when its run is stored, when a stored task or a memo names it as its output (a task that
was skipped names outputs of an older run), and while it is young, because its run's records may be about to exist.
"""

from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple

from msgspec import Struct, field

ARTIFACTS = "runs/"
"""What the keys of all artifacts start with."""

GRACE_SECONDS = 24 * 3600.0
"""What is younger stays, unless somebody says otherwise."""

UNKNOWN = "(unknown)"
"""Stands for the DAG of runs that this Redis neither stores nor remembers; no DAG can have that name."""

Verdict = Literal["goes", "young", "referred"]


class Artifact(NamedTuple):
    """One object; `modified` in epoch seconds of the store's clock."""

    key: str
    bytes: int
    modified: float


class Tally(Struct):
    """So much of something."""

    runs: int = 0
    objects: int = 0
    bytes: int = 0

    def add(self, artifact: Artifact) -> None:
        self.objects += 1
        self.bytes += artifact.bytes


class Account(Struct):
    """What was found of the runs that are not stored: what goes, by DAG, and what stays all the same."""

    by_dag: dict[str, Tally] = field(default_factory=dict[str, Tally])
    young: Tally = field(default_factory=Tally)
    referred: Tally = field(default_factory=Tally)
    left: Tally = field(default_factory=Tally)
    """Of runs that this Redis never knew, where they are to be left alone."""

    @property
    def total(self) -> Tally:
        each = self.by_dag.values()
        return Tally(sum(t.runs for t in each), sum(t.objects for t in each), sum(t.bytes for t in each))


def run_of(key: str) -> str:
    """The run that an artifact's key, or the folder of a run, belongs to; empty if it is neither."""
    if not key.startswith(ARTIFACTS):
        return ""
    run, slash, _ = key[len(ARTIFACTS) :].partition("/")
    milliseconds, dash, sequence = run.partition("-")
    sound = bool(slash and dash) and all(part.isascii() and part.isdecimal() for part in (milliseconds, sequence))
    return run if sound else ""


def verdict(artifact: Artifact, *, referred: AbstractSet[str], before: float) -> Verdict:
    """What becomes of an artifact of a run that is not stored; what was modified since `before` is young."""
    if artifact.key in referred:
        return "referred"
    return "goes" if artifact.modified < before else "young"
