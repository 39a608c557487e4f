"""Lists of outputs that had no room in a termination message, read from the store by a thread: no loop waits for it.

Rule: a list counts only with the digest that the message names, and one that cannot be had in time is lost, like the
report that it stands in for.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import structlog

from helios.podwire import MessageOutput, OutputManifest
from services.collector.store import ObjectMissing, StoreRefused

log = structlog.get_logger()

THREADS = 2
PATIENCE_SECONDS = 60.0
"""A store that is away for longer costs the attempt a free repetition."""
AGAIN_SECONDS = 2.0
MANIFEST_BYTES = 16 * 1024**2
"""Ten thousand outputs with the longest names take less."""


class NotYet(Exception):
    """It is being read; ask again."""


class ManifestLost(Exception):
    """It cannot be had, or is not what the message says."""


class _Reading(msgspec.Struct):
    future: Future[bytes]
    until: float
    again: float


class Manifests:
    """`read` takes a key and how many bytes are wanted at most; it raises ObjectMissing or StoreRefused."""

    def __init__(self, read: Callable[[str, int], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self.read = read
        self.clock = clock
        self.threads = ThreadPoolExecutor(THREADS, "manifests")
        self.lock = threading.Lock()
        self.readings: dict[str, _Reading] = {}

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)

    def get(self, key: str, digest: str) -> Sequence[MessageOutput]:
        """The outputs that the object lists. Raises NotYet or ManifestLost."""
        now = self.clock()
        with self.lock:
            known = self.readings.get(key)
            if known is None:
                self._ask(key, now, now + PATIENCE_SECONDS)
                raise NotYet
            if not known.future.done():
                raise NotYet
            try:
                content = known.future.result()
            except StoreRefused as error:
                if now >= known.until:
                    del self.readings[key]
                    raise ManifestLost(str(error)) from None
                if now >= known.again:
                    log.warning("a list of outputs cannot be read yet", key=key, error=str(error))
                    self._ask(key, now, known.until)
                raise NotYet from None
            except ObjectMissing as error:
                del self.readings[key]
                raise ManifestLost(str(error)) from None
            del self.readings[key]
        if hashlib.sha256(content).hexdigest() != digest:
            raise ManifestLost("it has another digest than the message says")
        try:
            return msgspec.json.decode(content, type=OutputManifest).outputs
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ManifestLost(f"it is not understood: {error}") from None

    def _ask(self, key: str, now: float, until: float) -> None:
        try:
            future = self.threads.submit(self.read, key, MANIFEST_BYTES)
        except RuntimeError:  # this process is stopping; whoever takes over asks
            return
        self.readings[key] = _Reading(future, until, now + AGAIN_SECONDS)
