"""Trace context: what is understood, what is handed on, and that ids follow from the run's."""

import pytest

from helios.trace import attempt_traceparent, context_of, parse_traceparent, span_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def test_a_traceparent_is_read_as_w3c_has_it() -> None:
    assert parse_traceparent(GIVEN) == (TRACE, PARENT, True)
    assert parse_traceparent(f"00-{TRACE}-{PARENT}-00") == (TRACE, PARENT, False)
    assert parse_traceparent(f"00-{TRACE}-{PARENT}-03") == (TRACE, PARENT, True)
    assert parse_traceparent(f"cc-{TRACE}-{PARENT}-01-what-comes-later") == (TRACE, PARENT, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01\n00",
        "x" * 10_000_000,
    ],
)
def test_what_is_none_is_none(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_run_without_one_has_a_trace_of_its_own_always_the_same() -> None:
    own = context_of("1-0", None)
    assert own == context_of("1-0", None) != context_of("2-0", None)
    assert own.parent is None
    assert own == context_of("1-0", "nonsense")


def test_an_attempt_is_handed_the_span_that_will_be_its_own() -> None:
    handed = attempt_traceparent("1-0", "t", 2, GIVEN, traced=True)
    assert handed == f"00-{TRACE}-{span_id('1-0', 't', '2')}-01"
    assert attempt_traceparent("1-0", "t", 2, None, traced=True) is not None
    assert parse_traceparent(handed) is not None


def test_where_no_span_comes_between_what_was_given_is_handed_on() -> None:
    assert attempt_traceparent("1-0", "t", 1, GIVEN, traced=False) == GIVEN
    assert attempt_traceparent("1-0", "t", 1, GIVEN[:-1] + "0", traced=True) == GIVEN[:-1] + "0"
    assert attempt_traceparent("1-0", "t", 1, None, traced=False) is None
