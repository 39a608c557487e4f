"""zstd for what lies compressed in the store: whether a content is worth it, and both directions in bounded memory.

Python has it from 3.14 on. Before that it comes from the package backports.zstd, the one thing outside the standard
library that the agent uses: pure Python would be hundreds of times slower, and a program of its own would have to be
in every image and on every machine. It is loaded, which takes seven milliseconds, only when there is something to
compress or to unpack, and without it everything else works.
"""

import sys
import threading
from collections.abc import Callable

from agent.frozen import TYPE_CHECKING
from agent.plan import Stored

if TYPE_CHECKING:
    from types import ModuleType

    from agent.outputs import Content

CODEC = "zstd"
LEVEL = 1
"""Two to five times as fast as level 3 on tables, logs, text and DNA, and hardly ever larger: a link of 1 Gbit/s is not
to wait for it.
"""
LEAST_BYTES = 64 * 1024
"""What is smaller costs a request, whatever its size."""
MOST_BYTES = 64 * 1024**3
"""What is larger would need more parts than S3 takes, or larger ones than memory holds."""
WORTH = 0.8
"""A content is compressed if its samples shrink to less than that."""
SAMPLES = 8
SAMPLE_BYTES = 64 * 1024
WINDOW_LOG = 23
"""An object that would need more memory than 8 MiB to unpack is refused; level 1 needs half a one."""

_PIECE = 1024 * 1024
_loading = threading.Lock()


class NoZstd(Exception):
    """There is no zstd here; the message says where it was looked for."""


class Unpackable(Exception):
    """The object is not what a content of the expected size was compressed to; the message says in which way."""


def load(lib_dir: str | None) -> "ModuleType":
    """The library, from Python itself or else from the folder of packages `lib_dir` (None: from where imports come
    from). Raises NoZstd.
    """
    with _loading:
        on_path = lib_dir is None or lib_dir in sys.path
        if lib_dir is not None and not on_path:
            sys.path.append(lib_dir)
        try:
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
        except ImportError:
            where = f"in {lib_dir}" if lib_dir is not None else "among this Python's packages"
            raise NoZstd(f"there is no zstd {where}") from None
        finally:
            if lib_dir is not None and not on_path:
                sys.path.remove(lib_dir)
        return zstd


def bound(size: int) -> int:
    """What `size` bytes are compressed to at most."""
    return size + size // 256 + 1024


def is_worth_it(library: "ModuleType", content: "Content") -> bool:
    """Whether pieces from all over the content shrink."""
    if not LEAST_BYTES <= content.size <= MOST_BYTES:
        return False
    before = after = 0
    for start in sample_starts(content.size):
        sample = bytearray()
        for piece in content.pieces(start, min(start + SAMPLE_BYTES, content.size)):
            sample += piece
        before += len(sample)
        after += len(library.compress(sample, LEVEL))
    return after < WORTH * before


def sample_starts(size: int) -> list[int]:
    """Where the samples begin: the whole of a small content, else pieces at even distances, the first and last bytes
    among them.
    """
    if size <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, size, SAMPLE_BYTES))
    return [number * (size - SAMPLE_BYTES) // (SAMPLES - 1) for number in range(SAMPLES)]


class Packer:
    """Compresses one content of `size` bytes to one frame that names this size."""

    def __init__(self, library: "ModuleType", size: int) -> None:
        self._compressor = library.ZstdCompressor(level=LEVEL)
        self._compressor.set_pledged_input_size(size)

    def feed(self, piece: memoryview) -> bytes:
        """What is ready of the object; nothing most of the time."""
        return self._compressor.compress(piece)

    def finish(self) -> bytes:
        return self._compressor.flush()


class Unpacker:
    """Unpacks one object to exactly `size` bytes, handed to `write` in order and in pieces of at most a mebibyte."""

    def __init__(self, library: "ModuleType", size: int, write: Callable[[memoryview], object]) -> None:
        options = {library.DecompressionParameter.window_log_max: WINDOW_LOG}
        self._decompressor = library.ZstdDecompressor(options=options)
        self._error: type[Exception] = library.ZstdError
        self._left = size
        self._write = write

    def feed(self, piece: memoryview) -> None:
        """The object's next bytes. Raises Unpackable, or what `write` raises."""
        decompressor, data = self._decompressor, piece
        while True:
            if decompressor.eof:
                raise Unpackable("something follows its end")
            try:
                content = decompressor.decompress(data, _PIECE)
            except self._error:
                raise Unpackable("it is not zstd, or damaged") from None
            data = memoryview(b"")
            if len(content) > self._left:
                raise Unpackable("it holds more bytes than the output has")
            if content:
                self._left -= len(content)
                self._write(memoryview(content))
            if decompressor.eof:
                if decompressor.unused_data:
                    raise Unpackable("something follows its end")
                return
            if decompressor.needs_input:
                return

    def finish(self) -> None:
        """Raises Unpackable when the object has ended too early."""
        if not self._decompressor.eof or self._left:
            raise Unpackable("it holds fewer bytes than the output has")


def unpacker(stored: Stored, size: int, lib_dir: str | None, write: Callable[[memoryview], object]) -> Unpacker:
    """For the object of a content of `size` bytes. Raises NoZstd, also for a codec that is not known here."""
    if stored.codec != CODEC:
        raise NoZstd(f"{stored.codec!r} is not known here")
    return Unpacker(load(lib_dir), size, write)
