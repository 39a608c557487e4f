"""`helios artifacts`: the outputs of a run, as a list or as files."""

from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from cli.commands.runs import paint
from cli.connection import REDIS, REDIS_AND_S3, Link, connected
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count, size
from cli.lookup import check_task, find_run, task_names
from cli.output import Format, narrate, put, put_json
from cli.table import Column, lay_out
from helios.records import OutputRecord, read_tasks

COLUMNS = (Column("TASK"), Column("NAME"), Column("BYTES", right=True), Column("STORED", right=True), Column("SHA256"))


class Found(NamedTuple):
    """An output and the task that stored it."""

    task: str
    output: OutputRecord


def artifacts(
    run: str,
    task: str | None = None,
    name: str | None = None,
    /,
    *,
    to: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """List the outputs of a run, or fetch them.

    With --to they are fetched, checked against their digests, and printed as paths: DIR/<task>/<name> for a whole run,
    DIR/<name> for one task. A fetch that was interrupted goes on where it stopped; a folder is unpacked.
    A file that is there with the same content is left as it is; anything else in its place is refused without --force.

    Parameters
    ----------
    run
        The run's id, or @latest.
    task
        Only the outputs of this task.
    name
        Only this output.
    to
        The folder to fetch into.
    force
        Replace what is in an output's place already.
    output
        table for people, json for a list of objects.
    """
    with connected(REDIS if to is None else REDIS_AND_S3) as link:
        found = outputs_of(link, find_run(link, run), task, name)
        if to is not None:
            return fetch(link, found, to, by_task=task is None, force=force)
        if force:
            raise CommandFailed("--force has no effect without --to", hint="give --to DIR, or leave it out")
        if output == "json":
            put_json([output_object(link, each) for each in found])
        elif found:
            rows = [
                (task, output.name, str(output.bytes), str(stored_bytes(output)), output.sha256)
                for task, output in found
            ]
            put("\n".join(lay_out(COLUMNS, rows, paint)))
        else:
            narrate("nothing is stored: no task with outputs has succeeded")
        return SUCCEEDED


def outputs_of(link: Link, run: str, task: str | None, name: str | None) -> list[Found]:
    names = task_names(link, run)
    if task is not None:
        check_task(names, run, task)
    views = read_tasks(link.client, link.keys(run), run, names if task is None else [task])
    found = [Found(view.name, output) for view in views for output in view.outputs]
    if name is None:
        return found
    wanted = [each for each in found if each.output.name == name]
    if not wanted:
        state = views[0].status
        stored = ", ".join(each.output.name for each in found) or f"nothing; the task is {state}"
        raise CommandFailed(f"task {task!r} has stored no output {name!r}", hint=f"it has stored {stored}")
    return wanted


def stored_bytes(output: OutputRecord) -> int:
    """What the output takes in the store."""
    return output.bytes if output.stored is None else output.stored.bytes


def output_object(link: Link, found: Found) -> dict[str, object]:
    output = found.output
    return {
        "task": found.task,
        "name": output.name,
        "bytes": output.bytes,
        "storedBytes": stored_bytes(output),
        "codec": output.stored.codec if output.stored is not None else None,
        "sha256": output.sha256,
        "archive": output.archive,
        "uri": f"s3://{link.settings.s3_bucket}/{output.key}",
    }


def fetch(link: Link, found: list[Found], folder: Path, *, by_task: bool, force: bool) -> int:
    """Bring every output to its place; one that fails does not keep the others from being fetched."""
    from cli.download import fetch_output, place_below
    from cli.object_store import store_client, storing

    store = store_client(link.settings)
    failures: list[CommandFailed] = []
    total = there = 0
    for task, output in found:
        try:
            target = place_below(folder / task if by_task else folder, output.name)
            with storing(link.settings):
                fresh = fetch_output(store, link.settings.s3_bucket, output, target, force=force)
        except OSError as error:
            where = error.filename or folder
            raise CommandFailed(
                f"cannot write {where}: {error.strerror}", hint="give another --to, or free some space", code=RUN_FAILED
            ) from None
        except CommandFailed as failure:
            if failure.code != RUN_FAILED:
                raise
            failures.append(failure)
            narrate(f"task {task!r}, output {output.name!r}: {failure.message}")
            continue
        total += output.bytes if fresh else 0
        there += not fresh
        put(str(target))
    if failures:
        raise CommandFailed(
            f"{count(len(failures), 'output')} could not be fetched", hint=failures[0].hint, code=RUN_FAILED
        )
    same = f"; {there:,} there already with the same content" if there else ""
    narrate(f"{count(len(found), 'output')} in {folder}, {size(total)} fetched{same}")
    return SUCCEEDED
