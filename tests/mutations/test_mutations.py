"""Every promise has a mutation that could be made today, and a few are made; `make mutations` makes them all."""

import re
from pathlib import Path

import pytest

from tests.mutations.mutations import MUTATIONS, Mutation
from tests.mutations.run import NOT_COPIED, PROJECT, verdicts_on, without

PAGE = PROJECT / "docs" / "faults.md"
FEW = 3


def rows() -> list[set[str]]:
    """The tests of each promise."""
    return [
        set(re.findall(r"`(test_\w+)`", line))
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and "`test_" in line
    ]


def name_of(mutation: Mutation) -> str:
    return mutation.test.rpartition("::")[2].partition("[")[0]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_mutation_is_of_code_that_is_there(mutation: Mutation) -> None:
    assert without(mutation, (PROJECT / mutation.file).read_text())
    file = Path(mutation.test.partition("::")[0])
    assert f"def {name_of(mutation)}(" in (PROJECT / file).read_text()


def test_every_promise_has_a_mutation() -> None:
    shown = {name_of(each) for each in MUTATIONS}
    bare = [sorted(tests) for tests in rows() if not tests & shown]
    assert not bare, f"{len(bare)} promises without a mutation that takes their mechanism out: {bare}"


def test_the_first_mutations_are_killed() -> None:
    survivors = [each for each in verdicts_on(MUTATIONS[:FEW], 2) if not each.killed]
    assert not survivors


def test_nothing_that_is_made_in_a_checkout_is_copied() -> None:
    """A demo before the tests leaves sockets behind."""
    ignored = (PROJECT / ".gitignore").read_text().split()
    made = [name for each in ignored if "*" not in (name := each.strip("/")) and "/" not in name]
    assert {".cache", ".venv", "build", "dist"} <= set(made)
    assert NOT_COPIED(str(PROJECT), made) == set(made)
