"""Ctrl-C as something that can be asked for: the first one is noted, the second ends the command at once."""

import contextlib
import signal
from collections.abc import Generator
from types import FrameType


class Interrupts:
    """Whether the user, or whoever runs us, wants this to end."""

    def __init__(self) -> None:
        self.count = 0
        self._patience = 1

    @property
    def wanted(self) -> bool:
        return self.count > 0

    def note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > self._patience:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """What must not be cut short: within, it takes one Ctrl-C more."""
        self._patience = max(2, self.count + 1)
        try:
            yield
        finally:
            self._patience = 1
        if self.count > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def noting_interrupts() -> Generator[Interrupts]:
    """While this is open, SIGINT and SIGTERM are noted instead of ending the process."""
    noted = Interrupts()
    former = {number: signal.signal(number, noted.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
