"""Sends a DAG and waits a moment for what becomes of it."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from cli.connection import Link, reaching
from cli.submission import is_alive, submit

VERDICT_SECONDS = 1.5
"""A submitter that is alive answers within milliseconds."""
POLL_SECONDS = 0.02


class Sent(NamedTuple):
    """`status` is that of the run, None while nobody has taken the submission up."""

    run: str
    status: str | None
    problems: tuple[str, ...] = ()
    is_anyone_there: bool = True


def send(link: Link, text: str, *, use_cache: bool, request_id: str, params: Mapping[str, str]) -> Sent:
    """Submit the DAG. Raises CommandFailed; sending it again with the same request id starts no second run."""
    with reaching(link.settings, embedded=link.stack is not None):
        encoded = text.encode("utf-8", "surrogateescape")
        entry = submit(link, encoded, use_cache=use_cache, request_id=request_id, params=params)
        deadline = time.monotonic() + VERDICT_SECONDS
        while True:
            status, alias, problems = link.client.hmget(link.keys(entry).run(entry), "status", "aliasOf", "problems")
            if alias:
                return Sent(str(alias), "RUNNING")
            if status:
                return Sent(entry, str(status), tuple(str(problems or "").splitlines()))
            if time.monotonic() > deadline:
                return Sent(entry, None, is_anyone_there=is_alive(link, "submitter"))
            time.sleep(POLL_SECONDS)
