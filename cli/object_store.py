"""The object store as commands use it: a client from the settings, and its faults in words."""

import contextlib
from collections.abc import Generator
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from cli.failure import RUN_FAILED, UNREACHABLE, CommandFailed
from helios.settings import Settings

CONNECT_SECONDS = 5
READ_SECONDS = 60


def store_client(settings: Settings) -> Minio:
    """A client of the object store; asks nobody yet."""
    place = urlsplit(settings.s3_endpoint)
    if place.scheme not in ("http", "https") or not place.netloc:
        raise CommandFailed(
            f"HELIOS_S3_ENDPOINT is {settings.s3_endpoint!r}", hint="give a URL: http://host:port or https://host"
        )
    http = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        cert_reqs="CERT_REQUIRED",
    )
    try:
        return Minio(
            place.netloc,
            access_key=settings.s3_access_key or None,
            secret_key=settings.s3_secret_key or None,
            secure=place.scheme == "https",
            region=settings.s3_region,
            http_client=http,
        )
    except ValueError as error:
        raise CommandFailed(
            f"HELIOS_S3_ENDPOINT is {settings.s3_endpoint!r}: {error}",
            hint="give a URL: http://host:port or https://host",
        ) from None


@contextlib.contextmanager
def storing(settings: Settings) -> Generator[None]:
    """Turns what the store answers into words."""
    try:
        yield
    except S3Error as error:
        if error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise CommandFailed(
                f"the object store at {settings.s3_endpoint} refuses the credentials: {error.code}",
                hint="set HELIOS_S3_ACCESS_KEY and HELIOS_S3_SECRET_KEY; helios doctor checks them",
                code=UNREACHABLE,
            ) from None
        subject = f" s3://{error.bucket_name}/{error.object_name or ''}" if error.bucket_name else ""
        raise CommandFailed(
            f"the object store refuses{subject}: {error.code}: {error.message}", hint="helios doctor", code=RUN_FAILED
        ) from None
    except ValueError as error:
        raise CommandFailed(
            f"the object store takes no such name: {error}", hint="give another bucket or key"
        ) from None
    except (urllib3.exceptions.HTTPError, MinioException) as error:
        reason = getattr(error, "reason", None) or error
        raise CommandFailed(
            f"the object store at {settings.s3_endpoint} cannot be used: {reason}",
            hint="start it, or correct HELIOS_S3_ENDPOINT; helios doctor checks it",
            code=UNREACHABLE,
        ) from None
