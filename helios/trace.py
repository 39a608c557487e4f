"""Trace context as W3C has it (https://www.w3.org/TR/trace-context/), and the ids of a run's spans. No I/O here.

Rule: the ids follow from the run's, so whoever sends a trace twice sends the same spans, and a task is told the id of a
span that nobody has made yet.
"""

import re
from hashlib import sha256
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


class TraceContext(NamedTuple):
    """Which trace a run belongs to, and which span of it is its parent (none where the trace is its own)."""

    trace: str
    parent: str | None
    is_sampled: bool


def parse_traceparent(text: str) -> TraceContext | None:
    """None for what is no traceparent, as for ids that are all zeros. Of a later version the known part counts."""
    found = _TRACEPARENT.fullmatch(text.strip()) if len(text) <= 512 else None
    if found is None:
        return None
    version, trace, parent, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not trace.strip("0") or not parent.strip("0"):
        return None
    return TraceContext(trace, parent, bool(int(flags, 16) & _SAMPLED))


def context_of(run: str, traceparent: str | None) -> TraceContext:
    """The trace of a run: that of whoever submitted it, or one of its own."""
    given = parse_traceparent(traceparent) if traceparent else None
    return given or TraceContext(_digest("trace", run)[:32], None, is_sampled=True)


def span_id(*parts: str) -> str:
    """Of the run itself by its id; of an attempt, and of a stage in it, by task, attempt and stage behind that."""
    return _digest("span", *parts)[:16]


def attempt_traceparent(run: str, task: str, attempt: int, given: str | None, *, traced: bool) -> str | None:
    """What an attempt's command finds as TRACEPARENT. Where no trace is sent (not `traced`, or not sampled) that is
    what the submission had, since there will be no span between; None if that had nothing.
    """
    if not given and not traced:
        return None
    context = context_of(run, given)
    if traced and context.is_sampled:
        return f"00-{context.trace}-{span_id(run, task, str(attempt))}-01"
    return None if context.parent is None else f"00-{context.trace}-{context.parent}-{context.is_sampled:02x}"


def _digest(*parts: str) -> str:
    """Never all zeros where it is cut, but for a chance of 2**-64."""
    return sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
