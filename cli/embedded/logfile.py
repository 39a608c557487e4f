"""Logs of components: appended to by the components themselves, kept short by the supervisor."""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

LOG_BYTES = 8 * 1024 * 1024
KEPT_BYTES = 512 * 1024


def open_log(file: Path) -> BinaryIO:
    """For a child's stdout and stderr. O_APPEND, so that `shorten` may truncate under the writer."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab", buffering=0)


def say(line: str) -> None:
    """One line in this process's own log. A full disk, where that log is too, must not end what tells of it."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode("utf-8", "replace"))


def shorten(file: Path) -> None:
    """Cut a log that grew too long down to its last part."""
    try:
        if file.stat().st_size <= LOG_BYTES:
            return
        with file.open("r+b") as log:
            log.seek(-KEPT_BYTES, 2)
            last = log.read()
            log.truncate(0)
        with file.open("ab") as log:
            log.write(b"... older lines were dropped ...\n" + last[last.find(b"\n") + 1 :])
    except OSError:
        # A full disk must not take the stack down with it; the next round tries again.
        return


def tail(file: Path, lines: int = 12) -> str:
    """The last lines, for an error message."""
    try:
        with file.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 16 * 1024))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(line[:300] for line in text.splitlines()[-lines:])
