"""`helios submit`: a DAG into the submissions stream; stdout gets the run's id and nothing else."""

import os
import uuid
from typing import Annotated

from cyclopts import Parameter

from cli.connection import ALL, REDIS, connected
from cli.failure import SUCCEEDED, USAGE, CommandFailed
from cli.output import narrate, put
from cli.submission import (
    File,
    Params,
    await_verdict,
    is_alive,
    name_of,
    read_dag,
    read_param_options,
    tell_rejected,
    why_waiting,
)
from cli.submission import submit as send
from cli.watch import watch as follow
from helios.dag_format import Priority

VERDICT_SECONDS = 5.0
WATCHED_VERDICT_SECONDS = 60.0
NO_SUBMITTER_SECONDS = 0.5


def submit(
    file: File,
    /,
    *,
    watch: Annotated[bool, Parameter(negative=())] = False,
    no_cache: Annotated[bool, Parameter(negative=())] = False,
    no_memoize: Annotated[bool, Parameter(negative=())] = False,
    priority: Priority | None = None,
    traceparent: str | None = None,
    param: Params = (),
    request_id: str | None = None,
) -> int:
    """Submit a DAG and print the run's id.

    Waits a moment to learn whether the DAG was accepted; a rejected one ends with exit code 2 and every problem.

    Parameters
    ----------
    file
        The DAG, as YAML or JSON; - for standard input.
    watch
        Follow the run to its end, on stderr; Ctrl-C ends the watching, not the run.
    no_cache
        Fetch every input anew, whatever the DAG says.
    no_memoize
        Run every task, whatever the DAG says of memoize.
    priority
        high, normal or low, whatever the DAG says; tasks that say it themselves keep theirs.
    param
        -p NAME=VALUE: the value of a parameter of the DAG, instead of its default.
    request_id
        Names this submission: sending the same DAG again with the same id starts no second run. Generated unless given.
    traceparent
        The trace that the run belongs to, as W3C has it; that of the variable TRACEPARENT unless given.
    """
    text = read_dag(file)
    params = read_param_options(param)
    if request_id == "":
        raise CommandFailed("--request-id is empty", hint="give 1 to 256 characters, or leave it out")
    with connected(ALL if watch else REDIS) as link:
        request = request_id or f"cli-{uuid.uuid4().hex}"
        entry = send(
            link,
            text,
            use_cache=False if no_cache else None,
            request_id=request,
            memoize=False if no_memoize else None,
            priority=priority,
            traceparent=traceparent or os.environ.get("TRACEPARENT"),
            params=params,
        )
        alive = is_alive(link, "submitter") or link.stack is not None
        patience = WATCHED_VERDICT_SECONDS if watch else VERDICT_SECONDS if alive else NO_SUBMITTER_SECONDS
        verdict = await_verdict(link, entry, patience)
        put(verdict.run)
        if verdict.is_alias and request_id is not None:
            narrate(f"request id {request_id!r} was used before: this is its first run, and no second one was started")
        if verdict.status == "REJECTED":
            tell_rejected(verdict, name_of(file))
            return USAGE
        if verdict.status is None:
            why = "no submitter is alive" if not alive else why_waiting(link) or "the submitter has not come to it yet"
            narrate(f"submitted, but not accepted yet: {why}; it waits in the stream")
            narrate(f"  next: helios doctor, or helios show {entry} in a while")
            return SUCCEEDED
        if watch:
            return follow(link, verdict.run, verdict.run, cancels=False, output="table", report_to=narrate)
        narrate(f"accepted; helios show {verdict.run} tells how it goes")
        return SUCCEEDED
