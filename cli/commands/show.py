"""`helios show`: one run as it stands now."""

from typing import Annotated

from cyclopts import Parameter

from cli.commands.runs import paint
from cli.connection import connected
from cli.failure import SUCCEEDED
from cli.lookup import find_run
from cli.output import Format, harmless, put, put_json
from cli.run_object import read_run, read_views, whole_object
from cli.run_text import metrics_lines, reason_lines, task_lines


def show(run: str, /, *, output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table") -> int:
    """Show one run: its metrics, its tasks, the reasons of failures, and why it was rejected.

    Parameters
    ----------
    run
        The run's id, or @latest.
    output
        table for people, json for one object.
    """
    with connected() as link:
        found = find_run(link, run)
        fields, views = read_run(link, found), read_views(link, found)
        if output == "json":
            put_json(whole_object(fields, views))
            return SUCCEEDED
        if found != run and run[0] != "@":
            put(f"alias    {run}")
        lines = metrics_lines(fields, paint)
        for name in ("problems", "warnings"):
            if fields[name]:
                lines += ["", f"{name}:", *(f"  {harmless(line)}" for line in fields[name])]
        if views:
            lines += ["", *task_lines(views, paint)]
        reasons = [line for view in views if view.status == "FAILED" for line in reason_lines(view)]
        if reasons:
            lines += ["", "reasons:", *(f"  {harmless(line)}" for line in reasons)]
        put("\n".join(lines))
        return SUCCEEDED
