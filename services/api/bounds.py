"""How much one token, and all together, may ask for at once. Each replica counts for itself."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Generator

from services.api.problems import Refused

STREAMS_PER_TOKEN = 32
STREAMS = 256
"""Events and logs that are followed at the same time."""
BODY_BYTES = 64 * 1024**2
"""Of all bodies that are being received or read."""
BURST_SECONDS = 2.0
STREAM_RETRY_SECONDS = 5
BODY_RETRY_SECONDS = 1


class Rate:
    """A bucket for each token, which holds so many requests as two seconds bring."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.most = max(1.0, per_second * BURST_SECONDS)
        self.left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float | None = None) -> float:
        """0 if the request may pass, else after how many seconds one may."""
        now = time.monotonic() if now is None else now
        left, at = self.left.get(name, (self.most, now))
        left = min(self.most, left + (now - at) * self.per_second)
        if left < 1:
            self.left[name] = (left, now)
            return (1 - left) / self.per_second
        self.left[name] = (left - 1, now)
        return 0.0


def refuse_rate(seconds: float, per_second: float) -> Refused:
    return Refused(
        429, f"more than {per_second:g} requests a second with this token", retry_seconds=max(1, math.ceil(seconds))
    )


class Shares:
    """What is in use now: streams by token, and bytes of bodies."""

    def __init__(self) -> None:
        self.streams: Counter[str] = Counter()
        self.body_bytes = 0

    @contextlib.contextmanager
    def stream(self, name: str) -> Generator[None]:
        """A place for one stream; raises Refused when there is none."""
        if self.streams[name] >= STREAMS_PER_TOKEN:
            raise Refused(
                429,
                f"{STREAMS_PER_TOKEN} events or logs are being followed with this token, which is the most",
                retry_seconds=STREAM_RETRY_SECONDS,
            )
        if self.streams.total() >= STREAMS:
            raise Refused(503, "no more events or logs can be followed here", retry_seconds=STREAM_RETRY_SECONDS)
        self.streams[name] += 1
        try:
            yield
        finally:
            self.streams[name] -= 1

    def take_bytes(self, count: int) -> None:
        """Room for a piece of a body; raises Refused when there is none."""
        if self.body_bytes + count > BODY_BYTES:
            raise Refused(503, "too many DAGs are being received at once", retry_seconds=BODY_RETRY_SECONDS)
        self.body_bytes += count

    def give_bytes(self, count: int) -> None:
        self.body_bytes -= count
