"""Signed URLs for artifacts. Signing is arithmetic: it asks nobody."""

from datetime import timedelta
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from minio import Minio

from helios.records import OutputRecord
from helios.settings import SettingInvalid, Settings


class Signer:
    """Signs GETs for one store, in the name by which users reach it."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingInvalid."""
        self.endpoint = settings.s3_public_endpoint or settings.s3_endpoint
        self.bucket = settings.s3_bucket
        self.expiry = timedelta(seconds=settings.presigned_url_seconds)
        place = urlsplit(self.endpoint)
        variable = "HELIOS_S3_PUBLIC_ENDPOINT" if settings.s3_public_endpoint else "HELIOS_S3_ENDPOINT"
        try:
            if place.scheme not in ("http", "https") or not place.netloc or place.username is not None:
                raise ValueError("it takes http://host:port or https://host")
            # A region of its own keeps the client from asking the store for the bucket's.
            self.client = Minio(
                place.netloc,
                access_key=settings.s3_access_key,
                secret_key=settings.s3_secret_key,
                secure=place.scheme == "https",
                region=settings.s3_region,
            )
        except ValueError as error:
            raise SettingInvalid(f"{variable} is no address of an object store: {error}") from None

    def url(self, output: OutputRecord, *, unpacks: bool) -> str:
        """Where the output's bytes are. One that lies compressed goes to a client that unpacks zstd by itself as what
        it is, to others as a .zst file. Raises ValueError for a key that no store takes.
        """
        name = PurePosixPath(output.name).name + (".tar" if output.archive else "")
        headers = {"response-content-type": "application/octet-stream"}
        if output.stored is not None and unpacks:
            headers["response-content-encoding"] = output.stored.codec
        elif output.stored is not None:
            name += ".zst"
        headers["response-content-disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        return self.client.get_presigned_url(
            "GET", self.bucket, output.key, expires=self.expiry, response_headers=dict(headers)
        )
