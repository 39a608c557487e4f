"""`helios gc`: artifacts that nothing refers to any more go from the store."""

import time
from typing import Annotated, Any

import urllib3
from cyclopts import Parameter
from minio.error import MinioException, S3Error

from cli.commands.runs import paint
from cli.connection import REDIS_AND_S3, Link, connected
from cli.embedded.home import Home
from cli.failure import RUN_FAILED, SUCCEEDED, UNREACHABLE, USAGE, CommandFailed
from cli.figures import count, seconds_of, size
from cli.object_store import store_client, storing
from cli.output import Format, narrate, put, put_json
from cli.table import Column, lay_out
from cli.transfer_progress import TransferProgress
from helios.leftovers import Leftovers, NotDeleted, NothingStored
from helios.retention import GRACE_SECONDS, UNKNOWN, Account, Tally

COLUMNS = (
    Column("DAG"),
    Column("RUNS", right=True),
    Column("OBJECTS", right=True),
    Column("BYTES", right=True),
)

MAY_NOT = (
    "the store's user may not do that: give one that may list and delete in the bucket, as helios-client of k8s/base, "
    "with HELIOS_S3_ACCESS_KEY and HELIOS_S3_SECRET_KEY"
)


class Progress:
    """Deleted so far; `failed` is what the store did not delete."""

    def __init__(self) -> None:
        self.deleted = Tally()
        self.failed: list[NotDeleted] = []
        self.uploads = 0
        self.lists_uploads = True


def gc(
    *,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    older_than: str | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Delete artifacts of runs that are no longer kept and that nothing refers to.

    What a kept run or a memo names as its output stays, whichever run stored it, and so does what is younger than a
    day. Uploads that were begun and never completed go too. It may be broken off and repeated; the collector does the
    same once a day.

    Parameters
    ----------
    dry_run
        Only say what would go, by DAG.
    older_than
        Leave what is younger than this alone: 12h, 7d; 24h unless given.
    force
        Go on although Redis holds no run at all, so that every artifact goes.
    output
        table for people, json for one object.
    """
    grace = GRACE_SECONDS
    if older_than is not None:
        try:
            grace = seconds_of(older_than)
        except ValueError as error:
            raise CommandFailed(str(error), hint="--older-than 7d") from None
    with connected(REDIS_AND_S3) as link, storing(link.settings):
        before = time.time() - grace
        store: Any = store_client(link.settings)
        leftovers = Leftovers(link.client, store, link.settings.s3_bucket, before=before, unknown=True)
        progress = Progress()
        try:
            _delete(link, leftovers, progress, dry_run=dry_run, force=force, before=before)
        except S3Error as error:
            if error.code == "AccessDenied":
                raise CommandFailed(
                    f"the object store refuses: {error.message}", hint=MAY_NOT, code=UNREACHABLE
                ) from None
            raise
        except KeyboardInterrupt:
            if not dry_run:
                narrate(f"interrupted after {_amount(progress.deleted)}; `helios gc` goes on from there")
            raise
        if link.stack is not None and not dry_run and progress.deleted.objects:
            _compact(link.stack.home, progress.deleted.bytes)
        return _tell(leftovers.account, progress, dry_run=dry_run, grace=grace, as_json=output == "json")


def _delete(link: Link, leftovers: Leftovers, progress: Progress, *, dry_run: bool, force: bool, before: float) -> None:
    transfer = TransferProgress("deleted", 0)
    try:
        for batch in leftovers.batches(force=force):
            if dry_run:
                continue
            failed = leftovers.delete(batch)
            progress.failed += failed
            kept = {each.key for each in failed}
            for artifact in batch:
                if artifact.key not in kept:
                    progress.deleted.add(artifact)
            transfer.total = leftovers.account.total.bytes
            transfer.add(sum(artifact.bytes for artifact in batch if artifact.key not in kept))
            if any(each.code == "AccessDenied" for each in failed):
                return
    except NothingStored:
        raise CommandFailed(
            "Redis holds no run at all, so every artifact in the store would go",
            hint="see that HELIOS_REDIS_URL names the right Redis; --force deletes them all the same",
            code=USAGE,
        ) from None
    finally:
        transfer.close()
    _end_uploads(leftovers, progress, dry_run=dry_run, before=before - link.settings.presigned_url_seconds)


def _end_uploads(leftovers: Leftovers, progress: Progress, *, dry_run: bool, before: float) -> None:
    """Those whose signed URLs have expired, so that nobody can complete them."""
    try:
        for upload in leftovers.uploads(before=before):
            if not dry_run:
                leftovers.abort(upload)
            progress.uploads += 1
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        progress.lists_uploads = False
        narrate(f"unfinished uploads are left alone: {getattr(error, 'code', None) or error}")


def _compact(home: Home, freed_bytes: int) -> None:
    """The embedded store keeps the bytes of deleted objects until its files are written anew."""
    from cli.embedded.s3 import compact
    from cli.embedded.state import read_state

    state = read_state(home)
    if state is None or not compact(home, state.ports, freed_bytes):
        narrate("the embedded store gives the space back later, while it runs")


def _tell(account: Account, progress: Progress, *, dry_run: bool, grace: float, as_json: bool) -> int:
    total = account.total
    if as_json:
        put_json(
            {
                "dryRun": dry_run,
                "runs": total.runs,
                "objects": total.objects,
                "bytes": total.bytes,
                "dags": [{"dag": name, **_object(tally)} for name, tally in _by_size(account)],
                "young": {"objects": account.young.objects, "bytes": account.young.bytes},
                "referred": {"objects": account.referred.objects, "bytes": account.referred.bytes},
                "uploads": progress.uploads,
                "deletedObjects": progress.deleted.objects,
                "deletedBytes": progress.deleted.bytes,
                "failures": [{"key": e.key, "code": e.code, "message": e.message} for e in progress.failed],
            }
        )
    elif total.objects:
        rows = [(name, f"{tally.runs:,}", f"{tally.objects:,}", size(tally.bytes)) for name, tally in _by_size(account)]
        put("\n".join(lay_out(COLUMNS, rows, paint)))
    _narrate_rest(account, progress, dry_run=dry_run, grace=grace)
    if progress.failed:
        first = progress.failed[0]
        denied = first.code == "AccessDenied"
        raise CommandFailed(
            f"{count(len(progress.failed), 'object')} could not be deleted: {first.code}: {first.message}",
            hint=MAY_NOT if denied else "run it again",
            code=UNREACHABLE if denied else RUN_FAILED,
        )
    return SUCCEEDED


def _narrate_rest(account: Account, progress: Progress, *, dry_run: bool, grace: float) -> None:
    total = account.total
    verb = "would go" if dry_run else "deleted"
    if total.objects or progress.uploads:
        shown = total if dry_run else progress.deleted
        uploads = f", and {count(progress.uploads, 'unfinished upload')}" if progress.uploads else ""
        narrate(f"{verb}: {_amount(shown)} of {count(total.runs, 'run')} that are no longer kept{uploads}")
    else:
        narrate("nothing to delete")
    if account.young.objects:
        narrate(f"left: {_amount(account.young)} younger than {_span(grace)}")
    if account.referred.objects:
        narrate(f"left: {_amount(account.referred)} that newer runs or memos name as their outputs")
    if UNKNOWN in account.by_dag:
        narrate(f"{UNKNOWN}: runs that this Redis does not remember; another Helios must not share the bucket")


def _by_size(account: Account) -> list[tuple[str, Tally]]:
    return sorted(account.by_dag.items(), key=lambda each: (-each[1].bytes, each[0]))


def _object(tally: Tally) -> dict[str, int]:
    return {"runs": tally.runs, "objects": tally.objects, "bytes": tally.bytes}


def _amount(tally: Tally) -> str:
    return f"{count(tally.objects, 'object')}, {size(tally.bytes)}"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}" if unit != "d" or seconds > length else "24h"
    return f"{seconds:.0f}s"
