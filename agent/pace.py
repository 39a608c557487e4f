"""How long to wait before trying again, and how long in all."""

import time
from collections.abc import Callable


class Backoff:
    """Growing, jittered pauses: the n-th is between half and all of `first * 2**n`, at most `most`, all in seconds."""

    def __init__(self, first: float, most: float, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._first = first
        self._most = most
        self._sleep = sleep
        self._step = 0

    def reset(self) -> None:
        self._step = 0

    def pause(self, at_most: float | None = None) -> None:
        import random  # a millisecond, and most steps never wait

        full = min(self._most, self._first * 2 ** min(self._step, 30))
        self._step += 1
        seconds = full * (0.5 + random.random() / 2)  # noqa: S311  # jitter, not a secret
        self._sleep(seconds if at_most is None else max(0.0, min(seconds, at_most)))


class Every:
    """True at most once in `seconds`, and not in the first `seconds`: paces progress lines."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def now_ms() -> int:
    """Epoch milliseconds of this node's clock."""
    return time.time_ns() // 1_000_000
