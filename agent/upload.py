"""One output into the store, with its digest from the read that sends it: by one PUT, in parallel parts above the
single PUT's limit, or compressed (agent/packing.py) where that makes it smaller.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping

from agent.endpoint import Endpoint, Parts
from agent.frozen import TYPE_CHECKING, Frozen
from agent.logs import Log, one_line, progress
from agent.names import escape
from agent.outputs import Content
from agent.pace import Backoff, Every
from agent.parallel import for_each
from agent.plan import PlannedOutput, Stored
from agent.puts import TRIES, Expired, PutRefused, TryAgain, complete, put_once, put_part
from agent.warm import Warming
from agent.web import Web, WebError

if TYPE_CHECKING:
    from types import ModuleType

RENEWALS = 3
PART_LANES = 4
PROGRESS_SECONDS = 3.0


class UploadFailed(Exception):
    """The store did not take the output; the message names it and says why."""


class StoredOutput(Frozen):
    """One output as the report names it."""

    name: str
    key: str
    size: int
    sha256: str
    archive: bool
    stored: Stored | None
    warm: bool
    """It is in this node's cache."""

    def document(self) -> dict[str, object]:
        document: dict[str, object] = {
            "name": self.name,
            "key": self.key,
            "bytes": self.size,
            "sha256": self.sha256,
            "archive": self.archive,
            "warm": self.warm,
        }
        if self.stored is not None:
            document["stored"] = self.stored.document()
        return document


class Uploader:
    """Stores outputs for one attempt; `fresh` asks for the plan again and gives the same output with a new URL.

    With `compress` what shrinks is compressed; `lib_dir` is where zstd.load looks; `packing` is what all outputs
    share that are compressed side by side, where other attempts of this process have a part in it.
    """

    def __init__(
        self,
        web: Web,
        endpoint: Endpoint,
        log: Log,
        single_put_limit: int,
        fresh: Callable[[PlannedOutput], PlannedOutput],
        *,
        compress: bool,
        lib_dir: str | None,
        packing: threading.Semaphore | None = None,
    ) -> None:
        self._web = web
        self._endpoint = endpoint
        self._log = log
        self._limit = single_put_limit
        self._fresh = fresh
        self._compress = compress
        self._lib_dir = lib_dir
        self._slots = packing
        self._lock = threading.Lock()

    def store(self, output: PlannedOutput, content: Content, warming: Warming | None = None) -> StoredOutput:
        """Uploads the whole content, and into the node's cache what the same read brings. Raises UploadFailed,
        OutputRefused, or what the endpoint raises.
        """
        reading = Reading(content, warming, self._log)
        try:
            stored = self._store_read(output, reading)
            content.check()
            warm = warming is not None and warming.finish(reading.digest)
        finally:
            if warming is not None:
                warming.close()
        return StoredOutput(output.name, output.key, content.size, reading.digest, content.archive, stored, warm)

    def store_list(self, output: PlannedOutput, content: Content) -> str:
        """Uploads what is no output itself, so the endpoint opens no parts for it; returns its digest."""
        reading = Reading(content, None, self._log)
        try:
            self._put(output, {}, content.size, reading.sent_pieces)
        except PutRefused as refusal:
            raise UploadFailed(f"output {escape(output.name)}: {refusal}") from None
        return reading.digest

    def _store_read(self, output: PlannedOutput, reading: "Reading") -> Stored | None:
        """None when the object is the content as it is."""
        try:
            library = self._library_for(reading.content)
            stored = self._put_packed(output, reading, library) if library is not None else None
            if stored is None and reading.content.size <= self._limit:
                self._put(output, {}, reading.content.size, reading.sent_pieces)
            elif stored is None:
                self._put_parts(output, reading)
            return stored
        except PutRefused as refusal:
            raise UploadFailed(f"output {escape(output.name)}: {refusal}") from None

    def _put(
        self,
        output: PlannedOutput,
        headers: Mapping[str, str],
        length: int,
        body: Callable[[], Iterable[memoryview | bytes]],
    ) -> None:
        backoff = Backoff(0.1, 5.0)
        renewals = 0
        trouble = ""
        for _ in range(TRIES):
            try:
                put_once(self._web, output.url, headers, length, body())
                return
            except Expired as refusal:
                renewals += 1
                if renewals > RENEWALS:
                    raise PutRefused(f"the store refuses it: {refusal}") from None
                output = self._fresh(output)
                trouble = str(refusal)
            except (WebError, TryAgain) as error:
                trouble = str(error)
            backoff.pause()
        raise PutRefused(f"upload given up after {TRIES} tries: {trouble}")

    def _put_parts(self, output: PlannedOutput, reading: "Reading") -> None:
        content = reading.content
        trouble = ""
        for _ in range(RENEWALS):
            parts = self._endpoint.multipart(output.name, content.size)
            hashing = _HashingAlongside(reading)

            def put(number: int, parts: Parts = parts) -> str:
                start = number * parts.part_bytes
                end = min(start + parts.part_bytes, content.size)
                return put_part(
                    self._web, parts, number, end - start, lambda: reading.counter.counted(content.pieces(start, end))
                )

            try:
                complete(self._web, parts, for_each(range(len(parts.urls)), PART_LANES, put))
                hashing.finish()
                return
            except Expired as refusal:
                trouble = str(refusal)
            except WebError as failure:
                raise PutRefused(str(failure)) from None
            finally:
                hashing.stop()
        raise PutRefused(f"the store refuses its parts: {trouble}")

    def _put_packed(self, output: PlannedOutput, reading: "Reading", library: "ModuleType") -> Stored | None:
        """None when it cannot be done with this endpoint."""
        from agent.packing import PART_BYTES, Packed, PartsTooLarge
        from agent.zstd import CODEC, bound

        trouble = ""
        for _ in range(RENEWALS):
            packed = Packed(self._web, library, reading, self._slots_for_parts(), min(PART_BYTES, self._limit))
            try:
                with packed:
                    if packed.fill():
                        self._put(output, {"Content-Encoding": CODEC}, packed.size, packed.whole)
                    else:
                        limit = bound(reading.content.size)
                        packed.send(self._endpoint.multipart(output.name, limit, packed.part_bytes, CODEC))
                return Stored(CODEC, packed.size)
            except PartsTooLarge:
                return None
            except Expired as refusal:
                trouble = str(refusal)
            except WebError as failure:
                raise PutRefused(str(failure)) from None
        raise PutRefused(f"the store refuses its parts: {trouble}")

    def _library_for(self, content: Content) -> "ModuleType | None":
        """zstd, if the content shrinks by it."""
        if not self._compress:
            return None
        from agent import zstd

        if not zstd.LEAST_BYTES <= content.size <= zstd.MOST_BYTES:
            return None
        try:
            library = zstd.load(self._lib_dir)
        except zstd.NoZstd as lack:
            with self._lock:
                if self._compress:
                    self._log.line(f"Outputs are stored as they are: {one_line(str(lack))}")
                self._compress = False
            return None
        return library if zstd.is_worth_it(library, content) else None

    def _slots_for_parts(self) -> threading.Semaphore:
        """What all outputs share that are compressed side by side."""
        from agent.packing import SLOTS

        with self._lock:
            if self._slots is None:
                self._slots = threading.Semaphore(SLOTS)
            return self._slots


class Reading:
    """A content's way through this process: read from its start as often as that is needed, each time with its digest,
    and with every byte into the cache.
    """

    def __init__(self, content: Content, warming: Warming | None, log: Log) -> None:
        self.content = content
        self.counter = _Counter(log, content.name, content.size)
        self.digest = ""
        """Of the last read that came to the content's end."""
        self._warming = warming

    def pieces(self) -> Generator[memoryview]:
        """The whole content; each piece is valid until the next is asked for."""
        self.digest = ""
        self.counter.clear()
        hasher = hashlib.sha256()
        if self._warming is not None:
            self._warming.restart()
        for piece in self.content.pieces(0, self.content.size):
            hasher.update(piece)
            if self._warming is not None:
                self._warming.take(piece)
            yield piece
        self.digest = hasher.hexdigest()

    def sent_pieces(self) -> Generator[memoryview]:
        """The same, counted as sent when the next piece is asked for."""
        return self.counter.counted(self.pieces())


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

    def counted(self, pieces: Generator[memoryview]) -> Generator[memoryview]:
        for piece in pieces:
            yield piece
            self._add(len(piece))

    def _add(self, count: int) -> None:
        with self._lock:
            self._sent = min(self._total, self._sent + count)
            if self._progress.due():
                seconds = time.monotonic() - self._began
                self._log.line(progress("Uploading", self._name, self._sent, self._total, seconds))


class _HashingAlongside:
    """The digest of a content that goes up in parts: read once more, in order, while the parts are sent from the same
    page cache.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._stopped = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for _ in self._reading.pieces():
                if self._stopped:
                    return
        except Exception as failure:  # noqa: BLE001  # raised by finish(), in the caller's thread
            self._failure = failure

    def finish(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._stopped = True
        self._thread.join()
