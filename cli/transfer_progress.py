"""How far a large transfer is, on stderr: a line that renews itself on a terminal, else one every few seconds."""

import sys
import time

from cli.figures import size
from cli.output import is_terminal, narrate

LARGE_BYTES = 16 * 1000**2
FRAME_SECONDS = 0.2
LINE_SECONDS = 5.0


class TransferProgress:
    """Counts bytes of one transfer; silent for small ones."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self._terminal = is_terminal(sys.stderr)
        self._began = time.monotonic()
        self._at_start = done
        self._next = self._began + (0 if self._terminal else LINE_SECONDS)
        self._drawn = False

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.total < LARGE_BYTES or now < self._next:
            return
        self._next = now + (FRAME_SECONDS if self._terminal else LINE_SECONDS)
        rate = (self.done - self._at_start) / max(0.001, now - self._began)
        text = f"{self.name}: {size(self.done)} of {size(self.total)}, {size(int(rate))}/s"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._drawn = True
        else:
            narrate(text)

    def close(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
