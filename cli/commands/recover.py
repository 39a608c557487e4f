"""`helios recover`: runs that Redis has lost are rebuilt from what the object store has of them."""

import time
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from minio import Minio
from minio.error import S3Error

from cli.commands.runs import paint
from cli.connection import ALL, REDIS_AND_S3, Link, connected
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count
from cli.object_store import store_client, storing
from cli.output import Format, narrate, put, put_json
from cli.submission import why_idle
from cli.table import Column, lay_out
from helios.dag import DagInvalid, parse_dag
from helios.keys import CONTROLS
from helios.recovery import OBJECT_BYTES, RECOVERY, StoredRun, StoredTasks, done_prefix, run_in, run_key

PATIENCE_SECONDS = 60.0
COLUMNS = (
    Column("RUN"),
    Column("DAG"),
    Column("TASKS", right=True),
    Column("SUCCEEDED", right=True),
    Column("WHAT"),
)


class Found(msgspec.Struct):
    """A run of which something is stored. `trouble`: why it cannot be rebuilt."""

    run: str
    dag_name: str = ""
    tasks: int = 0
    succeeded: int = 0
    known: bool = False
    """Redis has it."""
    trouble: str = ""
    stored: StoredRun | None = None

    @property
    def what(self) -> str:
        if self.known:
            return "Redis has it: left alone"
        return f"cannot be rebuilt: {self.trouble}" if self.trouble else "to be rebuilt"


def recover(
    *,
    apply: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Rebuild the runs that a lost Redis had under way. Unless told to, only says what it would do.

    A run comes back under its id. Tasks whose success and outputs are stored count as skipped, everything else is run
    again; Jobs that are still there are adopted. Logs, metrics and events of before are gone, and so are runs that had
    ended. A run that Redis has is left alone, so it may be repeated.

    Parameters
    ----------
    apply
        Do it.
    output
        table for people, json for a list of objects.
    """
    with connected(ALL if apply else REDIS_AND_S3) as link, storing(link.settings):
        found = _look(link)
        lost = [each for each in found if not each.known and each.stored is not None]
        if apply:
            _ask(link, lost)
            late = _wait(link, [each.run for each in lost])
        else:
            late = []
        if output == "json":
            put_json([_object(each) for each in found])
        elif found:
            rows = [(e.run, e.dag_name, f"{e.tasks:,}", f"{e.succeeded:,}", e.what) for e in found]
            put("\n".join(lay_out(COLUMNS, rows, paint)))
        if not lost:
            narrate("there is nothing to rebuild")
        elif not apply:
            narrate(f"would rebuild {count(len(lost), 'run')}\n  next: helios recover --apply")
        elif late:
            why = why_idle(link, "submitter", "jobrunner", "collector") or "see `helios dead` and the submitter's log"
            raise CommandFailed(f"{count(len(late), 'run')} did not come back: {late[0]}", hint=why, code=RUN_FAILED)
        else:
            narrate(f"rebuilt {count(len(lost), 'run')}\n  next: helios runs --watch")
        return SUCCEEDED


def _look(link: Link) -> list[Found]:
    store = store_client(link.settings)
    bucket = link.settings.s3_bucket
    folders = store.list_objects(bucket, prefix=RECOVERY)
    runs = sorted({run for each in folders if (run := run_in(each.object_name or ""))})
    return [found for run in runs if (found := _found(link, store, bucket, run)) is not None]


def _found(link: Link, store: Minio, bucket: str, run: str) -> Found | None:
    """None where a store still lists the folder of what is deleted."""
    found = Found(run, known=link.client.exists(link.keys(run).run(run)) == 1)
    try:
        stored = msgspec.json.decode(_read(store, bucket, run_key(run)), type=StoredRun)
        dag = parse_dag(stored.dag.encode(), recorded=True).dag
    except (S3Error, msgspec.DecodeError, DagInvalid) as error:
        code = error.code if isinstance(error, S3Error) else "it is not understood"
        if code == "NoSuchKey":
            return None
        found.trouble = f"{run_key(run)}: {code}"
        return found
    found.stored, found.dag_name, found.tasks = stored, dag.dag_name, len(dag.tasks)
    found.succeeded = len(_succeeded(store, bucket, run))
    return found


def _succeeded(store: Minio, bucket: str, run: str) -> set[str]:
    done: set[str] = set()
    for each in store.list_objects(bucket, prefix=done_prefix(run)):
        try:
            stored = msgspec.json.decode(_read(store, bucket, each.object_name or ""), type=StoredTasks)
        except msgspec.DecodeError:
            continue  # its tasks run again
        done |= {task.task for task in stored.tasks}
    return done


def _read(store: Minio, bucket: str, key: str) -> bytes:
    answer = store.get_object(bucket, key)
    try:
        return answer.read(OBJECT_BYTES)
    finally:
        answer.close()
        answer.release_conn()


def _ask(link: Link, lost: list[Found]) -> None:
    for each in lost:
        assert each.stored is not None
        fields: dict[Any, Any] = {
            "run": each.run,
            "action": "recover",
            "dag": each.stored.dag,
            "useCache": "true" if each.stored.useCache else "false",
            "memoize": "true" if each.stored.memoize else "false",
        }
        link.client.xadd(CONTROLS, fields)


def _wait(link: Link, runs: list[str]) -> list[str]:
    """Until Redis has them all; returns those that it has not in the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        runs = [run for run in runs if not link.client.exists(link.keys(run).run(run))]
        if not runs or time.monotonic() > deadline:
            return runs
        time.sleep(0.1)


def _object(each: Found) -> dict[str, Any]:
    return {
        "run": each.run,
        "dagName": each.dag_name,
        "taskCount": each.tasks,
        "taskSucceeded": each.succeeded,
        "known": each.known,
        "trouble": each.trouble or None,
    }
