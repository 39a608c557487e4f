"""`helios put`: a file into the object store, where DAGs can name it as an external input."""

from pathlib import Path
from typing import IO, Any, cast

from minio import Minio

from cli.connection import S3, connected, read_settings, uses_own_servers
from cli.failure import SUCCEEDED, CommandFailed
from cli.figures import size
from cli.object_store import store_client, storing
from cli.output import narrate
from cli.output import put as put_line
from cli.transfer_progress import TransferProgress
from helios.dag_names import uri_fault
from helios.dag_problem import LIMITS
from helios.settings import Settings

PART_BYTES = 32 * 1024**2


class CountingFile:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], progress: TransferProgress) -> None:
        self.file, self.progress = file, progress

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(count)
        self.progress.add(len(data))
        return data


def put(file: Path, uri: str, /, *, make_bucket: bool = False) -> int:
    """Store a file under an address that DAGs can name: inputs: [{uri: s3://bucket/key}].

    Parameters
    ----------
    file
        The file to store.
    uri
        s3://bucket/key
    make_bucket
        Make the bucket when it is missing, as local mode always does.
    """
    fault = uri_fault(uri, LIMITS)
    if fault is not None:
        raise CommandFailed(fault, hint="write s3://bucket/key, as in s3://corpora/opticks.txt")
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise CommandFailed(f"{file} {what}", hint="name one regular file")
    if uses_own_servers():
        return store(read_settings(), file, uri, makes_bucket=make_bucket)
    with connected(S3) as link:
        return store(link.settings, file, uri, makes_bucket=True)


def store(settings: Settings, file: Path, uri: str, *, makes_bucket: bool) -> int:
    client = store_client(settings)
    with storing(settings):
        total = store_file(client, file, uri, makes_bucket=makes_bucket)
    put_line(uri)
    narrate(f'stored {size(total)}; a task reads it with inputs: [{{uri: "{uri}"}}]')
    return SUCCEEDED


def store_file(client: Minio, file: Path, uri: str, *, makes_bucket: bool) -> int:
    """Store it, showing how it goes on a terminal; returns its bytes. Raises CommandFailed, and what the store does."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not client.bucket_exists(bucket):
        if not makes_bucket:
            raise CommandFailed(f"there is no bucket {bucket!r}", hint="check its name, or add --make-bucket")
        client.make_bucket(bucket)
    try:
        with file.open("rb") as opened:
            total = file.stat().st_size
            progress = TransferProgress(file.name, total)
            source: Any = cast(Any, CountingFile(opened, progress))
            try:
                client.put_object(bucket, key, source, total, part_size=PART_BYTES if total > PART_BYTES else 0)
            finally:
                progress.close()
    except OSError as error:
        if error.filename is None:
            raise
        raise CommandFailed(f"cannot read {file}: {error.strerror}", hint="make it readable") from None
    return total
