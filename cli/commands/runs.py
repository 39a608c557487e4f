"""`helios runs`: the runs that are kept, newest first."""

import contextlib
import os
import sys
from typing import Annotated

from cyclopts import Parameter

from cli.connection import ALL, REDIS, Link, connected
from cli.failure import SUCCEEDED, CommandFailed
from cli.interrupts import Interrupts
from cli.lookup import newest_runs
from cli.output import Format, is_terminal, narrate, put, put_json, styled
from cli.run_object import read_runs
from cli.run_text import RUN_COLUMNS, run_row
from cli.table import lay_out


def runs(
    dag: str | None = None,
    /,
    *,
    limit: int = 20,
    watch: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """List runs, newest first.

    Parameters
    ----------
    dag
        Only runs of the DAG with this dagName.
    limit
        How many at most.
    watch
        Go on until Ctrl-C: a table on a terminal, else a line for each run that starts or ends.
    output
        table for people, json for a list of objects without their tasks; with --watch one object a line.
    """
    if limit < 1:
        raise CommandFailed(f"--limit is {limit}", hint="give 1 or more")
    with connected(ALL if watch else REDIS) as link:
        if watch:
            return follow(link, limit, dag, output)
        found = read_runs(link, newest_runs(link, limit, dag))
        if output == "json":
            put_json(found)
        elif found:
            put("\n".join(lay_out(RUN_COLUMNS, [run_row(run) for run in found], paint)))
        else:
            narrate(f"there is no run of {dag!r}" if dag else "there is no run yet\n  next: helios run FILE")
        return SUCCEEDED


def follow(link: Link, limit: int, dag: str | None, output: Format) -> int:
    """Show the runs as they change, until Ctrl-C or SIGTERM."""
    from cli.watch_runs import PlainRuns, RunsFollower

    follower = RunsFollower(link, limit, dag)
    with Interrupts() as interrupts, contextlib.ExitStack() as drawing:
        if output == "table" and is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb":
            from cli.live_runs import LiveRuns

            view = LiveRuns()
        else:
            view = PlainRuns(as_json=output == "json")
        drawing.callback(view.close)
        while not interrupts.wanted:
            view.show(follower, follower.read())
    return SUCCEEDED


def paint(text: str, style: str) -> str:
    return styled(text, style, sys.stdout)
