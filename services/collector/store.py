"""Signed URLs for single objects: what a plan may hand to a pod instead of a credential."""

from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio

from helios.measures import STORE_REQUESTS, answer_class
from helios.settings import Settings

PART_BYTES = 64 * 1024**2
PARTS_AT_MOST = 9_000
HEAD_SECONDS = 5.0
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
"""A store that neither takes a connection nor says anything for so long is away."""


class StoreRefused(Exception):
    """The object store answered an error; the message holds its words. `status` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def lasting(self) -> bool:
        """Whether the same question would get the same answer."""
        return 400 <= self.status < 500 and self.status not in (408, 429)


class ObjectHead(NamedTuple):
    """What a HEAD says: the object's size, and its version in the words of the agent (`etag …` or `version …`)."""

    bytes: int
    version: str


class ObjectMissing(Exception):
    """The object is not there, or is no object of ours: the answer would stay the same."""


class ObjectRefused(Exception):
    """No URL can be signed for an object of that name, now or later; the message says why."""


class Store:
    """Signs for one object store. Signing itself asks nobody."""

    def __init__(self, settings: Settings) -> None:
        place = urlsplit(settings.s3_endpoint)
        self.endpoint = place.netloc
        self.bucket = settings.s3_bucket
        self.expiry = timedelta(seconds=settings.presigned_url_seconds)
        # Nothing is repeated here: whoever asks decides, and knows what else waits meanwhile.
        self.http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=False
        )
        # A region of its own keeps the client from asking the store for the bucket's.
        self.client = Minio(
            place.netloc,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            secure=place.scheme == "https",
            region=settings.s3_region,
        )

    def get_url(self, bucket: str, key: str) -> str:
        return self._signed("GET", bucket, key)

    def head_url(self, bucket: str, key: str) -> str:
        return self._signed("HEAD", bucket, key)

    def put_url(self, key: str) -> str:
        return self._signed("PUT", self.bucket, key)

    def _signed(self, method: str, bucket: str, key: str, **parameters: str) -> str:
        query: dict[str, Any] = dict(parameters)
        try:
            return self.client.get_presigned_url(method, bucket, key, expires=self.expiry, extra_query_params=query)
        except ValueError as error:
            raise ObjectRefused(f"s3://{bucket}/{key} cannot be signed for: {error}") from None

    def read(self, key: str, limit: int) -> bytes:
        """A small object of the artifact bucket. Raises StoreRefused, or ObjectMissing for good."""
        try:
            answer = self._request("GET", self.get_url(self.bucket, key), preload_content=False)
            try:
                content = answer.read(limit + 1)
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise self._away(error) from None
        if answer.status == 404:
            raise ObjectMissing(f"the object store has no {key}")
        if answer.status != 200:
            raise StoreRefused(f"the object store refused to give {key}: HTTP {answer.status}")
        if "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
            # Its headers were cut off, which looks like an empty object.
            raise StoreRefused(f"the object store broke off when it gave {key}")
        if len(content) > limit:
            raise ObjectMissing(f"{key} has more than {limit} bytes")
        return content

    def write(self, key: str, content: bytes) -> None:
        """Store a small object in the artifact bucket. Raises StoreRefused."""
        try:
            answer = self._request("PUT", self.put_url(key), body=content, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise StoreRefused(f"the object store does not answer: {error.__class__.__name__}") from None
        if answer.status != 200:
            raise StoreRefused(f"the object store refused to take {key}: HTTP {answer.status}", answer.status)

    def head(self, bucket: str, key: str) -> ObjectHead | None:
        """None if there is no such object. Raises StoreRefused or ObjectRefused."""
        try:
            patience = urllib3.Timeout(connect=CONNECT_SECONDS, read=HEAD_SECONDS)
            answer = self._request("HEAD", self.head_url(bucket, key), timeout=patience)
        except urllib3.exceptions.HTTPError as error:
            raise self._away(error) from None
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise StoreRefused(f"the object store refused to show {key}: HTTP {answer.status}", answer.status)
        version, length = answer.headers.get("x-amz-version-id"), answer.headers.get("Content-Length", "")
        etag = answer.headers.get("ETag")
        if not length.isdecimal() or not etag:
            raise StoreRefused(f"the object store does not tell the size and version of {key}")
        named = f"version {version}" if version and version != "null" else f"etag {etag}"
        return ObjectHead(int(length), named)

    def _request(self, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Raises urllib3.exceptions.HTTPError."""
        try:
            answer = self.http.request(method, url, **options)
        except urllib3.exceptions.HTTPError:
            STORE_REQUESTS.add((method, answer_class(0)))
            raise
        STORE_REQUESTS.add((method, answer_class(answer.status)))
        return answer

    def _away(self, error: urllib3.exceptions.HTTPError) -> StoreRefused:
        """Its class alone: the words may repeat a signed URL. No connection is kept: the others have met the same."""
        self.http.clear()
        return StoreRefused(f"the object store does not answer: {error.__class__.__name__}")

    def source(self, bucket: str, key: str) -> str:
        """Names an object, its version aside."""
        return f"{self.endpoint}/{bucket}/{key}"

    def multipart(
        self, key: str, size: int, *, part_bytes: int = PART_BYTES, encoding: str | None = None
    ) -> tuple[int, list[str], str]:
        """Open an upload of at most `size` bytes in parts: (bytes of a part, a PUT for each, a POST that completes it).

        The parts have `part_bytes`, or more where there would be too many; `encoding` is the object's Content-Encoding.
        """
        start = self._signed("POST", self.bucket, key, uploads="")
        try:
            # Not signed for, which S3 asks of its own x-amz- headers only.
            answer = self._request("POST", start, headers={"Content-Encoding": encoding} if encoding else None)
        except urllib3.exceptions.HTTPError as error:
            raise self._away(error) from None
        if answer.status != 200:
            raise StoreRefused(f"the object store refused an upload in parts: HTTP {answer.status}")
        try:
            nodes = list(ElementTree.fromstring(answer.data).iter())  # noqa: S314 -- our own store speaks
        except ElementTree.ParseError:
            nodes = []
        upload = next((node.text for node in nodes if node.tag.endswith("UploadId")), None)
        if not upload:
            raise StoreRefused("the object store opened an upload in parts without an id")
        part_bytes = max(part_bytes, -(-size // PARTS_AT_MOST))
        parts = [
            self._signed("PUT", self.bucket, key, partNumber=str(number), uploadId=upload)
            for number in range(1, -(-size // part_bytes) + 1)
        ]
        return part_bytes, parts, self._signed("POST", self.bucket, key, uploadId=upload)
