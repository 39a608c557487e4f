"""`helios runs`: the runs that are kept, newest first."""

import sys
from typing import Annotated

from cyclopts import Parameter

from cli.connection import connected
from cli.failure import SUCCEEDED, CommandFailed
from cli.lookup import newest_runs
from cli.output import Format, narrate, put, put_json, styled
from cli.run_object import read_runs
from cli.run_text import RUN_COLUMNS, run_row
from cli.table import lay_out


def runs(
    dag: str | None = None,
    /,
    *,
    limit: int = 20,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """List runs, newest first.

    Parameters
    ----------
    dag
        Only runs of the DAG with this dagName.
    limit
        How many at most.
    output
        table for people, json for a list of objects without their tasks.
    """
    if limit < 1:
        raise CommandFailed(f"--limit is {limit}", hint="give 1 or more")
    with connected() as link:
        found = read_runs(link, newest_runs(link, limit, dag))
        if output == "json":
            put_json(found)
        elif found:
            put("\n".join(lay_out(RUN_COLUMNS, [run_row(run) for run in found], paint)))
        else:
            narrate(f"there is no run of {dag!r}" if dag else "there is no run yet\n  next: helios run FILE")
        return SUCCEEDED


def paint(text: str, style: str) -> str:
    return styled(text, style, sys.stdout)
