"""`helios run`: a DAG from its file to its metrics."""

import contextlib
import os
import uuid
from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from cli.connection import ALL, Link, connected
from cli.failure import UNREACHABLE, USAGE, CommandFailed
from cli.forecast import Forecast
from cli.interrupts import Interrupts
from cli.object_store import storing
from cli.output import Format, harmless, narrate, put, put_json
from cli.run_object import read_run, whole_object
from cli.submission import (
    File,
    Params,
    await_verdict,
    cancel,
    name_of,
    problem_line,
    read_dag,
    read_param_options,
    submit,
    tell_rejected,
    why_idle,
    why_waiting,
)
from cli.watch import watch
from helios.dag import Dag, DagInvalid, ParsedDag, parse_dag
from helios.dag_format import Priority

ACCEPT_SECONDS = 60.0
QUIET_SECONDS = 4.0
"""After so long without a verdict the user is told."""


def run(
    file: File,
    /,
    *,
    no_cache: Annotated[bool, Parameter(negative=())] = False,
    no_memoize: Annotated[bool, Parameter(negative=())] = False,
    priority: Priority | None = None,
    traceparent: str | None = None,
    param: Params = (),
    plan: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Run a DAG, follow it to its end and show its metrics.

    Ctrl-C cancels the run and waits for its tasks to end; a second one leaves at once.

    Parameters
    ----------
    file
        The DAG, as YAML or JSON; - for standard input.
    no_cache
        Fetch every input anew, whatever the DAG says.
    no_memoize
        Run every task, whatever the DAG says of memoize.
    priority
        high, normal or low, whatever the DAG says; tasks that say it themselves keep theirs.
    param
        -p NAME=VALUE: the value of a parameter of the DAG, instead of its default.
    plan
        Say before what it would cost, as `helios plan` does, and afterwards how good that was.
    output
        table for people, json for one object on stdout.
    traceparent
        The trace that the run belongs to, as W3C has it; that of the variable TRACEPARENT unless given.
    """
    text = read_dag(file)
    name = name_of(file)
    params = read_param_options(param)
    parsed = check(text, name, params)
    with connected(ALL) as link, contextlib.ExitStack() as noting:
        if link.stack is not None:
            narrate("local mode: tasks run as processes on this machine; their images are not used")
        forecast = foretold(link, parsed.dag, no_cache=no_cache, no_memoize=no_memoize) if plan else None
        # With an id of its own a submission whose reply is lost can be sent again, and is one run all the same.
        request = f"cli-{uuid.uuid4().hex}"
        entry = submit(
            link,
            text,
            use_cache=False if no_cache else None,
            request_id=request,
            memoize=False if no_memoize else None,
            priority=priority,
            traceparent=traceparent or os.environ.get("TRACEPARENT"),
            params=params,
        )
        try:
            verdict = await_verdict(link, entry, QUIET_SECONDS)
            if verdict.status is None:
                why = why_idle(link, "submitter") or why_waiting(link)
                narrate(f"not accepted yet{f': {why}' if why else ''}")
                verdict = await_verdict(link, entry, ACCEPT_SECONDS - QUIET_SECONDS)
            while verdict.status is None and (why := why_waiting(link)):
                narrate(f"not accepted yet: {why}")
                verdict = await_verdict(link, entry, ACCEPT_SECONDS)
            # Within the `try`, so that no Ctrl-C falls between this wait and the following.
            interrupts = noting.enter_context(Interrupts())
        except KeyboardInterrupt:
            cancel(link, entry)
            raise
        entry = verdict.run
        if verdict.status is None:
            raise CommandFailed(
                f"run {entry} was not accepted within {ACCEPT_SECONDS:.0f} s",
                hint=f"is a submitter alive? helios doctor; the run starts when one is, or helios cancel {entry}",
                code=UNREACHABLE,
            )
        if verdict.status == "REJECTED":
            tell_rejected(verdict, name)
            if output == "json":
                put_json(whole_object(read_run(link, entry), ()))
            return USAGE
        narrate(f"run {entry} of {parsed.dag.dag_name}")
        title = f"{parsed.dag.dag_name}  {entry}"
        return watch(
            link,
            entry,
            title,
            cancels=True,
            output=output,
            report_to=put,
            forecast=forecast,
            interrupts=interrupts,
        )


def foretold(link: Link, dag: Dag, *, no_cache: bool, no_memoize: bool) -> Forecast:
    """The forecast of the run that is about to be submitted; says it in a few lines."""
    from cli.forecast_text import summary_lines
    from cli.prospect import prospect

    with storing(link.settings):
        forecast = prospect(link, dag, cache_enabled=dag.use_cache and not no_cache, memoize=not no_memoize)
    for line in summary_lines(forecast):
        narrate(harmless(line))
    return forecast


def check(text: bytes, name: str, params: Mapping[str, str] | None = None) -> ParsedDag:
    """Read the DAG here first, where its lines are at hand; raises CommandFailed after naming every problem."""
    try:
        parsed = parse_dag(text, params=params)
    except DagInvalid as invalid:
        for problem in invalid.problems:
            narrate(problem_line(name, problem))
        raise CommandFailed(
            f"{name} is not a valid DAG", hint="correct the lines above; `helios schema` has the whole format"
        ) from None
    for warning in parsed.warnings:
        narrate(f"warning: {problem_line(name, warning)}")
    return parsed
