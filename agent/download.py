"""One object of the store, brought into an open file and hashed on the way.

Small objects stream through one connection. From RANGED_FROM on, several connections bring windows of the object side
by side, every one bound to the same ETag, while the calling thread hashes the file in order behind them; the read-back
comes from the page cache and keeps the memory at one buffer for each connection. A short read or a broken connection
resumes where it stopped.

A compressed object is unpacked as it lands; what several connections bring of it lands behind the place of the content,
in the same file, and is cut off at the end.
"""

import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable

from agent.frozen import TYPE_CHECKING, Frozen
from agent.logs import Log, progress
from agent.pace import Backoff, Every
from agent.plan import Stored
from agent.web import Response, Web, WebError

if TYPE_CHECKING:
    from agent.zstd import Unpacker

BUFFER = 1024 * 1024
RANGED_FROM = 64 * 1024 * 1024
WINDOW = 32 * 1024 * 1024
"""Bytes of one request. Each request costs the store a search, so more of them only pay where latency is the limit."""
LANES = 4 if (os.cpu_count() or 1) > 2 else 2
TRIES = 8
"""Failures in a row, without one byte in between, after which an object is given up."""
RENEWALS = 3
PROGRESS_SECONDS = 3.0


class DownloadFailed(Exception):
    """The object could not be brought; the message says why, without the input's name."""


class ObjectMissing(DownloadFailed):
    """The store has no such object."""


class ObjectChanged(DownloadFailed):
    """The object is not the one it was when the download began."""


class SinkFault(Exception):
    """The file being written failed, not the network; `__cause__` is the OSError."""


class _RangesIgnored(Exception):
    """The server sent the whole object where a part was asked for."""


class _NotUnpacked(Exception):
    """The object is not what the content was compressed to; the message says in which way."""


class Wanted(Frozen):
    """Which object, and what is known of it beforehand."""

    name: str
    size: int
    etag: str | None
    sha256: str | None
    stored: Stored | None
    """The object, if it is not the content itself; `size` and `sha256` are the content's, `etag` is the object's."""


class Link:
    """A presigned URL that can be renewed; `renew` asks for the plan again and gives the same object's new URL."""

    def __init__(self, url: str, renew: Callable[[], str]) -> None:
        self._url = url
        self._renew = renew
        self._lock = threading.Lock()

    def url(self) -> str:
        with self._lock:
            return self._url

    def renew(self, refused: str) -> str:
        """A URL other than `refused`; of several threads that ask at once, one asks the endpoint."""
        with self._lock:
            if self._url == refused:
                self._url = self._renew()
            return self._url


class PartFile:
    """The file under way. Every failure of it is a SinkFault."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write_at(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                written = os.pwrite(self.fd, data, offset)
                offset += written
                data = data[written:]
        except OSError as error:
            raise SinkFault(error.strerror) from error

    def read_at(self, offset: int, buffer: memoryview) -> int:
        try:
            return os.preadv(self.fd, [buffer], offset)
        except OSError as error:
            raise SinkFault(error.strerror) from error

    def clear(self) -> None:
        self.cut(0)

    def cut(self, size: int) -> None:
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise SinkFault(error.strerror) from error


def download(
    web: Web,
    link: Link,
    wanted: Wanted,
    part: PartFile,
    log: Log,
    lib_dir: str | None = None,
    coming: Callable[[int], object] = lambda _received: None,
    *,
    doubtful: bool = False,
) -> str:
    """Brings the content and returns its SHA-256. A wrong digest, or what cannot be unpacked, is tried once more from
    scratch; from a source that is `doubtful` nothing is tried twice. `lib_dir` is where zstd.load looks.
    `coming` is told now and then how many bytes of the object are here. Raises DownloadFailed or SinkFault.
    """
    trouble = ""
    for again in (False,) if doubtful else (True, False):
        part.clear()
        try:
            digest = _Transfer(web, link, wanted, part, log, lib_dir, coming, 0 if doubtful else TRIES).run()
            if wanted.sha256 is None or digest == wanted.sha256:
                return digest
            trouble = f"its bytes have the digest sha256:{digest}, not sha256:{wanted.sha256}"
        except _NotUnpacked as failure:
            trouble = f"its object cannot be unpacked: {failure}"
        if again:
            log.line(f"{trouble[0].upper()}{trouble[1:]}; downloading once more")
    raise DownloadFailed(trouble)


class _Transfer:
    """One try at one object, from its first byte to its last."""

    def __init__(
        self,
        web: Web,
        link: Link,
        wanted: Wanted,
        part: PartFile,
        log: Log,
        lib_dir: str | None,
        coming: Callable[[int], object],
        tries: int,
        *,
        ranged: bool = True,
    ) -> None:
        self._tries = tries
        self._coming = coming
        self._web = web
        self._link = link
        self._wanted = wanted
        self._part = part
        self._log = log
        self._lib_dir = lib_dir
        self._size = wanted.size if wanted.stored is None else wanted.stored.size
        self._ranged = ranged and self._size >= RANGED_FROM
        self._lands_at = 0 if wanted.stored is None else wanted.size
        """Where in the file the object's first byte is."""
        self._content = _Content(wanted, part, lib_dir)
        self._etag = wanted.etag
        self._lock = threading.Condition()
        self._next_window = 0
        self._reached: dict[int, int] = {}
        self._failure: Exception | None = None
        self._received = 0
        self._began = time.monotonic()
        self._progress = Every(PROGRESS_SECONDS)

    def run(self) -> str:
        if not self._ranged:
            self._stream(0, self._size, self._content.take)
            return self._content.digest()
        try:
            self._run_ranged()
        except _RangesIgnored:
            self._part.clear()
            return _Transfer(
                self._web,
                self._link,
                self._wanted,
                self._part,
                self._log,
                self._lib_dir,
                self._coming,
                self._tries,
                ranged=False,
            ).run()
        digest = self._content.digest()
        if self._wanted.stored is not None:
            self._part.cut(self._wanted.size)
        return digest

    def _run_ranged(self) -> None:
        lanes = [threading.Thread(target=self._lane, daemon=True) for _ in range(LANES)]
        for lane in lanes:
            lane.start()
        try:
            self._take_behind()
        finally:
            with self._lock:
                # Reached early only when something failed: it stops the other lanes at their next buffer.
                self._failure = self._failure or DownloadFailed("stopped")
            for lane in lanes:
                lane.join()

    def _lane(self) -> None:
        try:
            while (window := self._take_window()) is not None:
                start = window * WINDOW
                reached = functools.partial(self._reach, window)
                self._stream(start, min(start + WINDOW, self._size), reached)
        except Exception as failure:  # noqa: BLE001  # carried to the hashing thread and raised there
            with self._lock:
                self._failure = self._failure or failure
                self._lock.notify_all()

    def _take_window(self) -> int | None:
        with self._lock:
            if self._failure is not None or self._next_window * WINDOW >= self._size:
                return None
            self._next_window += 1
            return self._next_window - 1

    def _reach(self, window: int, landed: memoryview) -> None:
        with self._lock:
            self._reached[window] = self._reached.get(window, window * WINDOW) + len(landed)
            self._lock.notify_all()

    def _take_behind(self) -> None:
        buffer = memoryview(bytearray(BUFFER))
        offset = 0
        while offset < self._size:
            landed = self._wait_past(offset)
            while offset < landed:
                count = self._part.read_at(self._lands_at + offset, buffer[: landed - offset])
                if count == 0:
                    raise SinkFault("the file under way was cut short")
                self._content.take(buffer[:count])
                offset += count

    def _wait_past(self, offset: int) -> int:
        """Sleeps until bytes after `offset` have landed, without a gap, and returns how far; raises what stopped a
        lane.
        """
        window = offset // WINDOW
        with self._lock:
            while self._reached.get(window, 0) <= offset and self._failure is None:
                self._lock.wait()
            if self._failure is not None:
                raise self._failure
            return self._reached[window]

    def _stream(self, start: int, end: int, consume: Callable[[memoryview], object]) -> None:
        """Brings the object's bytes [start, end), resuming after every failure that another try may cure."""
        lands = self._ranged or self._wanted.stored is None
        buffer = memoryview(bytearray(min(BUFFER, max(end - start, 1))))
        position, failures, renewals = start, 0, 0
        backoff = Backoff(0.1, 5.0)
        while True:
            began_at = position
            url = self._link.url()
            try:
                with self._open(url, position, end) as response:
                    if response.status == 403:
                        trouble = _store_words(response)
                        renewals += 1
                        if renewals > min(RENEWALS, self._tries):
                            raise DownloadFailed(f"the store refuses it: {trouble}")
                        self._link.renew(url)
                    else:
                        self._check(response, position, end)
                        while position < end and (count := response.readinto(buffer[: end - position])):
                            if lands:
                                self._part.write_at(self._lands_at + position, buffer[:count])
                            consume(buffer[:count])
                            position += count
                            self._count(count)
                        if position >= end:
                            return
                        trouble = "the connection ended early"
            except WebError as error:
                trouble = str(error)
            except _TryAgain as refusal:
                trouble = str(refusal)
            if position > began_at:
                failures, renewals = 0, 0
                backoff.reset()
            failures += 1
            if failures > self._tries:
                after = f"given up after {self._tries} tries: " if self._tries else ""
                raise DownloadFailed(f"{after}{trouble}")
            backoff.pause()

    def _open(self, url: str, position: int, end: int) -> Response:
        headers: dict[str, str] = {}
        if position > 0 or end < self._size:
            headers["Range"] = f"bytes={position}-{end - 1}"
        if self._etag is not None:
            headers["If-Match"] = self._etag
        return self._web.request("GET", url, headers)

    def _check(self, response: Response, position: int, end: int) -> None:
        """Lets a body pass only if it is the asked-for part of the expected object."""
        status = response.status
        if status == 404:
            raise ObjectMissing("no object")
        if status in (412, 416):
            raise ObjectChanged("the object changed while it was downloaded")
        if status == 408 or status == 429 or status >= 500:
            raise _TryAgain(_store_words(response))
        whole = position == 0 and end == self._size
        if status == 200 and not whole:
            raise _RangesIgnored
        if status not in (200, 206):
            raise DownloadFailed(f"the store refuses it: {_store_words(response)}")
        total = response.length if status == 200 else _total(response.header("Content-Range"), position)
        if total is not None and total != self._size:
            raise ObjectChanged(f"the object has {total} bytes, not {self._size}")
        etag = response.header("ETag")
        with self._lock:
            if self._etag is None:
                self._etag = etag
            elif etag is not None and etag != self._etag:
                raise ObjectChanged("the object changed while it was downloaded")

    def _count(self, count: int) -> None:
        with self._lock:
            if self._failure is not None:
                raise DownloadFailed("stopped")
            self._received += count
            self._coming(self._received)
            if self._progress.due():
                seconds = time.monotonic() - self._began
                self._log.line(progress("Downloading", self._wanted.name, self._received, self._size, seconds))


class _Content:
    """What an object's bytes, taken in order, become: the digest of the content, and the content in its file if they
    are not the content themselves.
    """

    def __init__(self, wanted: Wanted, part: PartFile, lib_dir: str | None) -> None:
        self._hasher = hashlib.sha256()
        self._part = part
        self._written = 0
        self._unpacker: Unpacker | None = None
        if wanted.stored is not None:
            from agent.zstd import NoZstd, unpacker

            try:
                self._unpacker = unpacker(wanted.stored, wanted.size, lib_dir, self._write)
            except NoZstd as lack:
                raise DownloadFailed(f"it lies compressed in the store, and {lack}") from None

    def take(self, piece: memoryview) -> None:
        if self._unpacker is None:
            self._hasher.update(piece)
            return
        from agent.zstd import Unpackable

        try:
            self._unpacker.feed(piece)
        except Unpackable as fault:
            raise _NotUnpacked(str(fault)) from None

    def digest(self) -> str:
        if self._unpacker is not None:
            from agent.zstd import Unpackable

            try:
                self._unpacker.finish()
            except Unpackable as fault:
                raise _NotUnpacked(str(fault)) from None
        return self._hasher.hexdigest()

    def _write(self, piece: memoryview) -> None:
        self._part.write_at(self._written, piece)
        self._hasher.update(piece)
        self._written += len(piece)


class _TryAgain(Exception):
    """An answer that another try may improve."""


def _total(content_range: str | None, position: int) -> int | None:
    """The whole object's size in `bytes 0-9/100`; a part that does not begin at `position` is a server that lies."""
    if content_range is None or not content_range.startswith("bytes "):
        return None
    span, _, total = content_range[6:].partition("/")
    if span.split("-")[0].strip() != str(position):
        raise DownloadFailed("the store sent another part than was asked for")
    return int(total) if total.isdigit() else None


def _store_words(response: Response) -> str:
    """`HTTP 403 AccessDenied`: the status and S3's own code. The body may repeat the URL, so nothing else of it is
    used.
    """
    body = response.read(4096)
    before, found, rest = body.partition(b"<Code>")
    del before
    code = rest.partition(b"</Code>")[0].decode("ascii", "replace") if found else ""
    return f"HTTP {response.status} {code}".strip() if code.isalnum() or not code else f"HTTP {response.status}"
