"""Ctrl-C as something that can be asked for: the first one is noted, the second ends the command at once."""

import contextlib
import signal
from collections.abc import Generator
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Whether the user, or whoever runs us, wants this to end. Within `with`, SIGINT and SIGTERM are noted instead of
    ending the process; within a second one they are noted by the same, and no longer after its end.
    """

    def __init__(self) -> None:
        self.count = 0
        self._patience = 1
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            if number not in self._former:
                self._former[number] = signal.getsignal(number)
                signal.signal(number, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

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
