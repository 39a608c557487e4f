"""Learning that something has appeared in one of many folders: one thread for all of them, which the kernel wakes
(inotify).

It only says that it may be worth a look, and now and then it may miss one.
"""

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Callable, Generator

IN_CREATE, IN_MOVED_TO = 0x100, 0x80
LOOK_SECONDS = 1.0
"""How often to look where the kernel tells."""
LOOK_ALONE_SECONDS = 0.02
"""The same where it does not."""

_EVENT = struct.Struct("iIII")
_READ_BYTES = 16 * 1024


class Appearances:
    """Safe from many threads."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Lock()
        self._told: dict[int, Callable[[], object]] = {}
        self._fd: int = self._libc.inotify_init1(os.O_CLOEXEC)
        if self._fd >= 0:
            threading.Thread(target=self._read, name="appearances", daemon=True).start()

    @contextlib.contextmanager
    def watched(self, folder: str, tell: Callable[[], object]) -> Generator[float]:
        """Meanwhile `tell` is called when there is something new in the folder; yields after how many seconds to look
        without a call.
        """
        with self._lock:  # before the first event is looked up
            watch: int = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_CREATE | IN_MOVED_TO)
            if watch >= 0:
                self._told[watch] = tell
        try:
            yield LOOK_SECONDS if watch >= 0 else LOOK_ALONE_SECONDS
        finally:
            with self._lock:
                if self._told.pop(watch, None) is not None:
                    self._libc.inotify_rm_watch(self._fd, watch)

    def _read(self) -> None:
        while True:
            events, at = os.read(self._fd, _READ_BYTES), 0
            while at < len(events):
                watch, _mask, _cookie, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                with self._lock:
                    tell = self._told.get(watch)
                if tell is not None:
                    tell()
