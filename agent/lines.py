"""The log lines of a step that the node's agent does, on their way to the collector: in batches, in order, counted.

Nothing here can hold up or fail the step. A collector that is away is tried again for a while; when more lines wait
than are kept, the oldest of them go and one line says so. A step that is done again, because the agent died in it, goes
on counting where the earlier one stopped.
"""

import contextlib
import threading
import time

from agent.endpoint import AttemptOver, Endpoint, EndpointError, Refused
from agent.logs import PREFIX, Log
from agent.saved import read_saved, save
from agent.settings import Attempt
from agent.web import Web

BATCH_SECONDS = 1.0
"""Lines wait this long for others, but at a step's end."""
BATCH_LINES = 500
KEPT_LINES = 2_000
LINE_CHARACTERS = 4_096
END_SECONDS = 30.0
"""How long a collector that is away is tried after the step's end."""
NOT_KEPT = f"{PREFIX}lines before this are not kept"


class Lines:
    """One step's. `add` never waits; `close` says that there are no more, and `wait` for what is under way."""

    def __init__(self, web: Web, attempt: Attempt, step: str, state_dir: str) -> None:
        # It has nobody to tell of its own troubles.
        self._endpoint = Endpoint(web, attempt, Log(lambda _data: None))
        self._step = step
        self._counter = f"{state_dir}/{step}-lines"
        sent = read_saved(self._counter).get("sent")
        self._sent = sent if isinstance(sent, int) else 0
        self._waiting: list[str] = []
        self._closed = False
        self._given_up = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, data: bytes) -> None:
        """One line, as a Log writes it."""
        line = data.decode("utf-8", "replace").rstrip("\n")
        with self._changed:
            if self._closed or self._given_up:
                return
            self._waiting.append(line[:LINE_CHARACTERS])
            self._drop_oldest()
            if self._thread is None:
                self._begin()

    def close(self) -> None:
        """Sends what is left, in its own time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until all is sent or given up, at most for so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _drop_oldest(self) -> None:
        if len(self._waiting) > KEPT_LINES:
            self._waiting[: len(self._waiting) - KEPT_LINES + 1] = [NOT_KEPT]

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._send_all, name=f"lines-{self._step}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had: a log less
            self._thread, self._given_up = None, True

    def _send_all(self) -> None:
        deadline: float | None = None
        while True:
            with self._changed:
                if not self._closed:
                    self._changed.wait(BATCH_SECONDS)
                if self._closed and deadline is None:
                    deadline = time.monotonic() + END_SECONDS
                batch = self._waiting[:BATCH_LINES]
                del self._waiting[:BATCH_LINES]
                if not batch and self._closed:
                    return
            if not batch:
                continue
            try:
                self._endpoint.lines(self._step, self._sent, batch)
            except (AttemptOver, Refused):
                break
            except EndpointError:
                if deadline is not None and time.monotonic() > deadline:
                    break
                with self._changed:
                    self._waiting[:0] = batch
                    self._drop_oldest()
                continue
            self._sent += len(batch)
            with contextlib.suppress(OSError):
                save(self._counter, {"v": 1, "sent": self._sent})
        with self._changed:
            self._given_up = True
            self._waiting.clear()
