"""What makes each promise of docs/faults.md true, and the test that fails without it."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One mechanism, and how to take it out."""

    without: str
    """What is taken out, in words."""
    test: str
    """As pytest names it. Its function is named in the promise's row."""
    file: str
    old: str
    """Text of the file that is there once."""
    new: str


MUTATIONS = (
    Mutation(
        "the binding of a requestId to its first run",
        "tests/services/test_accept.py::test_a_client_that_sends_again_gets_an_alias_of_its_first_run",
        "helios/transitions/claim_request.lua",
        "if held[1] then\n",
        "if false then\n",
    ),
    Mutation(
        "the fence of the attempt when an attempt ends",
        "tests/helios/test_transitions_life.py::test_a_stale_attempt_is_refused",
        "helios/transitions/end_attempt.lua",
        "if state[1] == 'RUNNING' and state[2] == attempt then\n",
        "if state[1] == 'RUNNING' then\n",
    ),
)
