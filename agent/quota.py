"""A look, about once a second, at how much running tasks have written to their folders."""

import time
from collections.abc import Callable, Sequence

from agent.logs import Log, one_line
from agent.names import escape
from agent.trees import DEEPEST, TooDeep
from agent.volume import Volume

WATCH_SECONDS = 1.0
"""From one look to the next."""
WATCH_SHARE = 0.05
"""Of one processor, for looking at all of them. A volume that takes long is looked at less often, and no other is."""


class Quota:
    """`limit` bytes for each of the volumes that are `running`. One thread."""

    def __init__(self, limit: int, running: Callable[[], Sequence[Volume]], log: Log) -> None:
        self._limit = limit
        self._running = running
        self._log = log
        self._due: dict[str, float] = {}
        """By volume, when it is to be looked at again."""

    def watch(self) -> None:
        """Never returns."""
        while True:
            time.sleep(WATCH_SECONDS)
            self.look()

    def look(self) -> None:
        running = self._running()
        due = {volume.name: self._due.get(volume.name, 0.0) for volume in running}
        for volume in running:
            began = time.monotonic()
            if began < due[volume.name]:
                continue
            try:
                self._measure(volume)
            except Exception as error:  # noqa: BLE001  # the other tasks are still to be watched
                self._log.line(f"Error: volume {escape(volume.name)} is not measured: {one_line(repr(error))}")
            ended = time.monotonic()
            due[volume.name] = ended + (ended - began) * len(running) / WATCH_SHARE
        self._due = due

    def _measure(self, volume: Volume) -> None:
        try:
            size = volume.bytes_taken(self._limit)
        except TooDeep:
            volume.fail(f"its folder is nested more than {DEEPEST} deep, so that its size cannot be told")
            return
        if size > self._limit:
            volume.fail(f"its folder holds more than {self._limit} bytes (HELIOS_VOLUME_BYTES)")
