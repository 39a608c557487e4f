"""Makes the artifact bucket in MinIO and three users, so that the root password stays with MinIO and this first step.

The collector reads everywhere, because inputs are anywhere, and writes artifacts only, because it signs URLs for
nothing else; it deletes those of forgotten runs, and what it stores of a run until that has ended. The client, which is
whoever runs `helios put`, `helios artifacts` and `helios gc`, may do as it likes with objects. The HTTP API signs URLs
for artifacts, and reads nothing else.
Repeating it is safe.
"""

import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException
from minio.minioadmin import MinioAdmin

PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 2.0

READ = ["s3:GetObject", "s3:GetObjectVersion", "s3:GetBucketLocation", "s3:ListBucket"]
"""ListBucket too: without it the store answers 403, not 404, for an object that is not there."""
WRITE = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
LIST_UPLOADS = ["s3:ListBucketMultipartUploads"]
"""Uploads that were begun and never completed."""


def policies(bucket: str) -> dict[str, dict[str, Any]]:
    def allow(actions: list[str], *resources: str) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{each}" for each in resources]}

    return {
        "helios-collector": policy(
            allow(READ, "*"),
            allow(WRITE, f"{bucket}/*"),
            allow(["s3:DeleteObject"], f"{bucket}/runs/*", f"{bucket}/recovery/*"),
            allow(LIST_UPLOADS, bucket),
        ),
        "helios-client": policy(
            allow([*READ, *WRITE, *LIST_UPLOADS, "s3:DeleteObject", "s3:CreateBucket", "s3:ListAllMyBuckets"], "*")
        ),
        "helios-api": policy(allow(["s3:GetObject"], f"{bucket}/runs/*")),
    }


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def prepare(environ: dict[str, str]) -> None:
    place = urlsplit(environ["HELIOS_S3_ENDPOINT"])
    bucket, region = environ["HELIOS_S3_BUCKET"], environ["HELIOS_S3_REGION"]
    user, password = environ["MINIO_ROOT_USER"], environ["MINIO_ROOT_PASSWORD"]
    secure = place.scheme == "https"
    # Patience is this script's own, so that it says what it waits for.
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=10), retries=False)
    store = Minio(place.netloc, user, password, secure=secure, region=region, http_client=http)
    if not store.bucket_exists(bucket):
        store.make_bucket(bucket)
    admin: Any = MinioAdmin(
        endpoint=place.netloc,
        credentials=StaticProvider(user, password),
        region=region,
        secure=secure,
        http_client=http,
    )
    for (name, document), who in zip(policies(bucket).items(), ("COLLECTOR", "CLIENT", "API"), strict=True):
        admin.policy_add(name, policy=document)
        admin.user_add(environ[f"{who}_ACCESS_KEY"], environ[f"{who}_SECRET_KEY"])
        admin.policy_set(name, user=environ[f"{who}_ACCESS_KEY"])


def main() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            prepare(dict(os.environ))
            return
        except (MinioException, MinioAdminException, urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"the object store cannot be prepared: {error}")
            print(f"the object store cannot be prepared yet: {error}", file=sys.stderr)  # noqa: T201 -- the container's log
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
