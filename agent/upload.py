"""One output into the store: by one PUT with its digest computed in the same read, or in parallel parts above the
single PUT's limit.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Generator

from agent.endpoint import Endpoint, Parts
from agent.frozen import Frozen
from agent.logs import Log, progress
from agent.names import escape
from agent.outputs import Content
from agent.pace import Backoff, Every
from agent.parallel import for_each
from agent.plan import PlannedOutput
from agent.warm import Warming
from agent.web import Response, Web, WebError

TRIES = 8
RENEWALS = 3
PART_LANES = 4
PROGRESS_SECONDS = 3.0


class UploadFailed(Exception):
    """The store did not take the output; the message names it and says why."""


class _Expired(Exception):
    """403: the URL is too old, or was never good."""


class _TryAgain(Exception):
    """An answer that another try may improve."""


class StoredOutput(Frozen):
    """One output as the report names it."""

    name: str
    key: str
    size: int
    sha256: str
    archive: bool
    warm: bool
    """It is in this node's cache."""

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "key": self.key,
            "bytes": self.size,
            "sha256": self.sha256,
            "archive": self.archive,
            "warm": self.warm,
        }


class Uploader:
    """Stores outputs for one attempt; `fresh` asks for the plan again and gives the same output with a new URL."""

    def __init__(
        self,
        web: Web,
        endpoint: Endpoint,
        log: Log,
        single_put_limit: int,
        fresh: Callable[[PlannedOutput], PlannedOutput],
    ) -> None:
        self._web = web
        self._endpoint = endpoint
        self._log = log
        self._limit = single_put_limit
        self._fresh = fresh

    def store(self, output: PlannedOutput, content: Content, warming: Warming | None = None) -> StoredOutput:
        """Uploads the whole content, and into the node's cache what the same read brings. Raises UploadFailed,
        OutputRefused, or what the endpoint raises.
        """
        counter = _Counter(self._log, output.name, content.size)
        try:
            if content.size <= self._limit:
                digest = self._put(output, content, counter, warming)
            else:
                digest = self._put_parts(output, content, counter, warming)
            content.check()
            warm = warming is not None and warming.finish(digest)
        finally:
            if warming is not None:
                warming.close()
        return StoredOutput(output.name, output.key, content.size, digest, content.archive, warm)

    def store_list(self, output: PlannedOutput, content: Content) -> str:
        """Uploads what is no output itself, so the endpoint opens no parts for it; returns its digest."""
        return self._put(output, content, _Counter(self._log, output.name, content.size))

    def _put(self, output: PlannedOutput, content: Content, counter: "_Counter", warming: Warming | None = None) -> str:
        backoff = Backoff(0.1, 5.0)
        renewals = 0
        trouble = ""
        for _ in range(TRIES):
            counter.clear()
            reading = _Reading(warming)
            body = _watched(content.pieces(0, content.size), reading.take, counter)
            try:
                with self._web.upload("PUT", output.url, {}, content.size, body) as response:
                    _accept(response)
                    response.read(4096)
                return reading.digest()
            except _Expired as refusal:
                renewals += 1
                if renewals > RENEWALS:
                    raise UploadFailed(f"output {escape(output.name)}: the store refuses it: {refusal}") from None
                output = self._fresh(output)
                trouble = str(refusal)
            except (WebError, _TryAgain) as error:
                trouble = str(error)
            except UploadFailed as failure:
                raise UploadFailed(f"output {escape(output.name)}: {failure}") from None
            backoff.pause()
        raise UploadFailed(f"output {escape(output.name)}: upload given up after {TRIES} tries: {trouble}")

    def _put_parts(self, output: PlannedOutput, content: Content, counter: "_Counter", warming: Warming | None) -> str:
        trouble = ""
        for _ in range(RENEWALS):
            counter.clear()
            parts = self._endpoint.multipart(output.name, content.size)
            hashing = _HashingAlongside(content, warming)
            try:
                etags = for_each(
                    range(len(parts.urls)),
                    PART_LANES,
                    lambda number, parts=parts: self._put_part(content, parts, number, counter),
                )
                self._complete(parts, etags)
                return hashing.digest()
            except _Expired as refusal:
                trouble = str(refusal)
            except (UploadFailed, WebError) as failure:
                raise UploadFailed(f"output {escape(output.name)}: {failure}") from None
            finally:
                hashing.stop()
        raise UploadFailed(f"output {escape(output.name)}: the store refuses its parts: {trouble}")

    def _put_part(self, content: Content, parts: Parts, number: int, counter: "_Counter") -> str:
        start = number * parts.part_bytes
        end = min(start + parts.part_bytes, content.size)
        backoff = Backoff(0.1, 5.0)
        trouble = ""
        for _ in range(TRIES):
            body = _watched(content.pieces(start, end), None, counter)
            try:
                with self._web.upload("PUT", parts.urls[number], {}, end - start, body) as response:
                    _accept(response)
                    response.read(4096)
                    etag = response.header("ETag")
                if etag is None:
                    raise UploadFailed("the store gave a part no ETag")
                return etag
            except (WebError, _TryAgain) as error:
                trouble = str(error)
            backoff.pause()
        raise UploadFailed(f"part {number + 1} given up after {TRIES} tries: {trouble}")

    def _complete(self, parts: Parts, etags: list[str]) -> None:
        body = _complete_document(etags)
        backoff = Backoff(0.2, 5.0)
        trouble = ""
        for attempt in range(TRIES):
            try:
                with self._web.request(
                    "POST", parts.complete_url, {"Content-Type": "application/xml"}, body
                ) as response:
                    answer = response.read(65536)
                    if attempt > 0 and response.status == 404:
                        # An earlier try has completed the upload and its answer was lost: the upload no longer exists,
                        # the object does.
                        return
                    _accept(response)
                # S3 says 200 before it knows the outcome; only the body tells.
                if b"<Error>" not in answer:
                    return
                trouble = _code(answer) or "an error in the answer"
            except (WebError, _TryAgain) as error:
                trouble = str(error)
            backoff.pause()
        raise UploadFailed(f"the upload's completion given up after {TRIES} tries: {trouble}")


class _Counter:
    """Counts what was sent, over all parts, and logs it now and then."""

    def __init__(self, log: Log, name: str, total: int) -> None:
        self._log = log
        self._name = name
        self._total = total
        self._sent = 0
        self._began = time.monotonic()
        self._progress = Every(PROGRESS_SECONDS)
        self._lock = threading.Lock()

    def clear(self) -> None:
        with self._lock:
            self._sent = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._sent = min(self._total, self._sent + count)
            if self._progress.due():
                seconds = time.monotonic() - self._began
                self._log.line(progress("Uploading", self._name, self._sent, self._total, seconds))


class _Reading:
    """One pass over a content, from its first byte: its digest, and what goes into the cache."""

    def __init__(self, warming: Warming | None) -> None:
        self._hasher = hashlib.sha256()
        self._warming = warming
        if warming is not None:
            warming.restart()

    def take(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        if self._warming is not None:
            self._warming.take(piece)

    def digest(self) -> str:
        return self._hasher.hexdigest()


class _HashingAlongside:
    """The digest of a content that goes up in parts: read once more, in order, while the parts are sent from the same
    page cache.
    """

    def __init__(self, content: Content, warming: Warming | None) -> None:
        self._content = content
        self._warming = warming
        self._stopped = False
        self._digest = ""
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            reading = _Reading(self._warming)
            for piece in self._content.pieces(0, self._content.size):
                if self._stopped:
                    return
                reading.take(piece)
            self._digest = reading.digest()
        except Exception as failure:  # noqa: BLE001  # raised by digest(), in the caller's thread
            self._failure = failure

    def digest(self) -> str:
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._digest

    def stop(self) -> None:
        self._stopped = True
        self._thread.join()


def _watched(
    pieces: Generator[memoryview], consume: Callable[[memoryview], object] | None, counter: _Counter
) -> Generator[memoryview]:
    for piece in pieces:
        if consume is not None:
            consume(piece)
        yield piece
        counter.add(len(piece))


def _accept(response: Response) -> None:
    if response.status in (200, 201, 204):
        return
    body = response.read(4096)
    words = f"HTTP {response.status} {_code(body)}".strip()
    if response.status == 403:
        raise _Expired(words)
    if response.status in (408, 429) or response.status >= 500 or _code(body) == "RequestTimeout":
        raise _TryAgain(words)
    raise UploadFailed(f"the store refuses it: {words}")


def _code(body: bytes) -> str:
    """S3's error code; the rest of an error's body may repeat the URL and is not used."""
    code = body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("ascii", "replace")
    return code if code.isalnum() else ""


def _complete_document(etags: list[str]) -> bytes:
    from html import escape as escape_xml

    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape_xml(etag)}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
