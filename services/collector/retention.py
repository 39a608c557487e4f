"""The duty that deletes artifacts of forgotten runs, on one replica at a time.

Rule: it takes only what this Redis has had and forgotten. What it never knew, as after Redis was emptied, is for people
to decide on, with `helios gc`.
"""

import time
from typing import Any
from urllib.parse import urlsplit

import redis
import structlog
import urllib3
from minio import Minio
from minio.error import MinioException

from helios.keys import RETENTION
from helios.leftovers import Leftovers, NothingStored
from helios.retention import GRACE_SECONDS
from helios.settings import Settings
from helios.worker import Stop

log = structlog.get_logger()

LOOK_SECONDS = 600
"""How often it is seen whether it is time; after a failure that is the pause."""


def tidy_store(client: redis.Redis, settings: Settings, stop: Stop) -> None:
    """Delete what has to go, if it is time and no other replica is at it. When stopped it ends after a batch."""
    if not settings.gc_hours or not settings.s3_access_key:
        return
    span = max(1, int(settings.gc_hours * 3600))
    if not client.set(RETENTION, settings.replica, nx=True, ex=span):
        return
    finished = False
    try:
        finished = _delete(
            Leftovers(client, _store(settings), settings.s3_bucket, before=0, unknown=False), settings, stop
        )
    except NothingStored:
        finished = True
        log.info("redis holds no run, so no artifact is deleted")
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        log.warning("artifacts of forgotten runs cannot be deleted", error=str(error))
    finally:
        if not finished:
            client.delete(RETENTION)


def _delete(leftovers: Leftovers, settings: Settings, stop: Stop) -> bool:
    """Whether it came to the end."""
    began = time.monotonic()
    leftovers.before = time.time() - GRACE_SECONDS
    failed: list[Any] = []
    aborted = 0
    for batch in leftovers.batches():
        failed += leftovers.delete(batch)
        if stop.wanted:
            return False
    try:
        # The signed URLs of these have expired, so that nobody can complete them.
        for upload in leftovers.uploads(before=leftovers.before - settings.presigned_url_seconds):
            leftovers.abort(upload)
            aborted += 1
    except MinioException as error:
        log.warning("unfinished uploads are left alone", error=str(error))
    total, left = leftovers.account.total, leftovers.account.left
    if total.objects or aborted:
        log.info(
            "artifacts of forgotten runs are deleted",
            runs=total.runs,
            objects=total.objects - len(failed),
            bytes=total.bytes,
            uploads=aborted,
            seconds=round(time.monotonic() - began, 1),
        )
    if failed:
        log.warning("artifacts cannot be deleted", objects=len(failed), error=f"{failed[0].code}: {failed[0].message}")
    if left.objects:
        log.info(
            "artifacts of runs that this redis never knew are left alone; `helios gc` deletes them",
            runs=left.runs,
            objects=left.objects,
            bytes=left.bytes,
        )
    return not failed


def _store(settings: Settings) -> Minio:
    place = urlsplit(settings.s3_endpoint)
    return Minio(
        place.netloc,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        secure=place.scheme == "https",
        region=settings.s3_region,
    )
