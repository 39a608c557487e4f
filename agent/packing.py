"""An output on its way into the store compressed. Its object's size is known only at its end, and S3 wants each
request's beforehand, so the object is made in memory, one part at a time: one PUT if it fits into a part, else the
parts are sent while the next ones are made.

Rule: a part is held only with a slot, and all outputs of a process share SLOTS of them.
"""

import threading
from collections.abc import Iterable

from agent.endpoint import Parts
from agent.frozen import TYPE_CHECKING
from agent.puts import complete, put_part
from agent.upload import Reading
from agent.web import Web
from agent.zstd import Packer

if TYPE_CHECKING:
    from types import ModuleType

PART_BYTES = 8 * 1024 * 1024
"""S3 takes no parts below 5 MiB."""
SLOTS = 4


class PartsTooLarge(Exception):
    """The endpoint gives larger parts than were asked for, as an older one does; nothing was sent yet."""


class Packed:
    """One try at one output: `fill`, then either a PUT of `whole` or `send`. To be entered, so that its slots are given
    back.
    """

    def __init__(
        self, web: Web, library: "ModuleType", reading: Reading, slots: threading.Semaphore, part_bytes: int
    ) -> None:
        self.size = 0
        """Bytes of the object as far as it was made."""
        self.part_bytes = part_bytes
        self._web = web
        self._packer = Packer(library, reading.content.size)
        self._pieces = reading.sent_pieces()
        self._slots = slots
        self._filled: list[memoryview] = []
        self._filled_bytes = 0
        self._ended = False
        self._etags: dict[int, str] = {}
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Packed":
        self._slots.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()
        self._pieces.close()
        self._slots.release()

    def fill(self) -> bool:
        """Makes the object's first part; true if that is all of it."""
        while not self._ended and self._filled_bytes <= self.part_bytes:
            self._make()
        return self._ended and self._filled_bytes <= self.part_bytes

    def whole(self) -> Iterable[memoryview]:
        """The object, when it fits into a part."""
        return self._filled

    def send(self, parts: Parts) -> None:
        """Sends the part that is there and all others, and completes the object."""
        if parts.part_bytes > self.part_bytes:
            raise PartsTooLarge
        number = 0
        while self._failure is None and (not self._ended or self._filled):
            while not self._ended and self._filled_bytes <= parts.part_bytes:
                self._make()
            chunks, length = self._take(parts.part_bytes)
            self._threads.append(threading.Thread(target=self._send, args=(parts, number, length, chunks), daemon=True))
            self._threads[-1].start()
            # The part's slot is given back by its thread; this one is for the next part.
            self._slots.acquire()
            number += 1
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        complete(self._web, parts, [self._etags[each] for each in range(number)])

    def _make(self) -> None:
        """Reads on until there is more of the object."""
        made = b""
        while not made and not self._ended:
            piece = next(self._pieces, None)
            if piece is None:
                made = self._packer.finish()
                self._ended = True
            else:
                made = self._packer.feed(piece)
        if made:
            self._filled.append(memoryview(made))
            self._filled_bytes += len(made)
            self.size += len(made)

    def _take(self, most: int) -> tuple[list[memoryview], int]:
        """Takes the first `most` bytes of what is there."""
        taken: list[memoryview] = []
        left = most
        while self._filled and left > 0:
            first = self._filled.pop(0)
            taken.append(first[:left])
            if len(first) > left:
                self._filled.insert(0, first[left:])
            left -= len(taken[-1])
        self._filled_bytes -= most - left
        return taken, most - left

    def _send(self, parts: Parts, number: int, length: int, chunks: list[memoryview]) -> None:
        try:
            self._etags[number] = put_part(self._web, parts, number, length, lambda: chunks)
        except BaseException as failure:  # noqa: BLE001  # carried to the caller's thread and raised there
            self._failure = self._failure or failure
        finally:
            chunks.clear()
            self._slots.release()
