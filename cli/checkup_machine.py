"""What `helios doctor` looks at besides Redis: the object store, the cache folder, the disk, the embedded parts."""

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from minio.error import S3Error

from cli.checkup import Finding
from cli.embedded.stack import Stack
from cli.failure import CommandFailed
from cli.figures import size
from cli.object_store import store_client, storing
from helios.settings import Settings

FREE_BYTES = 1_000_000_000


def check_store(settings: Settings) -> Iterator[Finding]:
    """Put, get and delete a small object in the artifact bucket."""
    key = f"doctor/{uuid.uuid4().hex}"
    bucket = settings.s3_bucket
    try:
        with storing(settings):
            client = store_client(settings)
            if not client.bucket_exists(bucket):
                yield Finding(
                    "s3", False, f"{settings.s3_endpoint} has no bucket {bucket!r}", "make it, or set HELIOS_S3_BUCKET"
                )
                return
            client.put_object(bucket, key, io.BytesIO(b"helios"), 6)
            answer = client.get_object(bucket, key)
            try:
                same = answer.read() == b"helios"
            finally:
                answer.close()
                answer.release_conn()
            client.remove_object(bucket, key)
            yield Finding(
                "s3",
                same,
                f"put, get and delete in {settings.s3_endpoint}/{bucket}" if same else "it returned other bytes",
                "" if same else "the store is broken; see its log",
            )
    except CommandFailed as failure:
        yield Finding("s3", False, failure.message, failure.hint)
    except S3Error as error:
        yield Finding("s3", False, str(error.code), "helios doctor again; see the store's log")


def check_cache(settings: Settings, *, is_local: bool) -> Iterator[Finding]:
    """The node's cache folder: there, writable, with room."""
    folder = Path(settings.cache_dir)
    if not is_local and not folder.exists():
        yield Finding("cache", True, "on the nodes; not looked at from here")
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("cache", False, f"{folder} is not writable", "make it writable, or set HELIOS_CACHE_DIR")
        return
    free = shutil.disk_usage(folder).free
    fix = "" if free >= FREE_BYTES else "free some space, or move HELIOS_HOME to a larger disk"
    yield Finding("cache", free >= FREE_BYTES, f"{folder}, {size(free)} free", fix)


def check_stack(stack: Stack) -> Iterator[Finding]:
    """The parts of the embedded stack."""
    for name, component in sorted(stack.components.items()):
        well = component.phase == "ready"
        detail = component.phase if well or not component.error else f"{component.phase}: {component.error}"
        yield Finding(f"embedded {name}", well, detail, "" if well else f"see {stack.home.log(name)}")
