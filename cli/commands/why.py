"""`helios why`: why a task's inputs were hits or misses, and why it ran, against an earlier run."""

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.differences import Side, Why, contents_evicted_for, explain, with_names
from cli.failure import SUCCEEDED, CommandFailed
from cli.history import earlier_runs, names_of, read_side, runs_with_success
from cli.lookup import check_task, find_run, task_names
from cli.output import Format, harmless, put, put_json
from cli.why_text import why_lines
from helios.dag_problem import nearest
from helios.run_object import readable


def why(
    run: str,
    task: str,
    /,
    *,
    input: str | None = None,
    against: str | None = None,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Say why a task ran, and why each of its inputs was a hit or a miss.

    It is compared with the nearest earlier run of the same DAG in which the task succeeded. An input whose content is
    another is followed up the DAG to what changed there.

    Parameters
    ----------
    run
        The run's id, or @latest.
    task
        The task's name.
    input
        Only this input.
    against
        Compare with this run instead.
    output
        table for people, json for one object.
    """
    with connected() as link:
        found = find_run(link, run)
        check_task(task_names(link, found), found, task)
        now = read_side(link, found, task, asked=True)
        told = explain(now, _before(link, found, task, against), task)
        told = with_names(told, names_of(link, contents_evicted_for(told)))
    if input is not None:
        told = _only(told, input)
    if output == "json":
        put_json(why_object(found, told))
    else:
        put("\n".join(harmless(line) for line in why_lines(found, told, paint)))
    return SUCCEEDED


def _before(link: Link, run: str, task: str, against: str | None) -> Side | None:
    if against is not None:
        other = find_run(link, against)
        check_task(task_names(link, other), other, task)
        return read_side(link, other, task)
    name: Any = link.client.hget(link.keys(run).run(run), "dagName")
    earlier = next(runs_with_success(link, earlier_runs(link, name, run), task), None) if name else None
    return read_side(link, earlier, task) if earlier else None


def _only(told: Why, name: str) -> Why:
    wanted = [each for each in told.inputs if each.name == name]
    if not wanted:
        names = [each.name for each in told.inputs]
        near = nearest(name, names)
        listed = f"it has {', '.join(names)}" if 0 < len(names) <= 8 else f"it has {len(names):,} inputs"
        raise CommandFailed(
            f"task {told.task!r} has no input {name!r}", hint=f"did you mean {near!r}? {listed}" if near else listed
        )
    return msgspec.structs.replace(told, inputs=wanted)


def why_object(run: str, told: Why) -> dict[str, object]:
    return {
        "dagId": run,
        "task": told.task,
        "status": told.status,
        "attempt": told.attempt,
        "node": told.node,
        "comparedWith": told.compared,
        "comparedNode": told.compared_node or None,
        "why": readable(told.ran),
        "reason": readable(told.reason) or None,
        "differingParts": list(told.differing_parts),
        "definition": list(told.definition),
        "inputs": [
            {
                "name": each.name,
                "origin": each.origin,
                "bytes": each.bytes,
                "hit": each.hit,
                "cause": each.cause or None,
                "source": each.source or None,
                "content": each.content,
                "why": readable(each.words),
                "before": each.before,
                "roots": [
                    {"kind": root.kind, "task": root.task, "path": list(root.path), "words": root.words}
                    for root in each.roots
                ],
            }
            for each in told.inputs
        ],
    }
