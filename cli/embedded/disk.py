"""How much of the disk is left, and making room on it without writing to it."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from helios.localjobs import open_regular
from helios.settings import SettingInvalid

RESERVE_MEGABYTES = 64
RESERVE_PART = 0.05
LOG_KEPT_BYTES = 1024 * 1024


def free_bytes(folder: Path) -> int:
    """What this user can still write on the folder's file system."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def reserve_from(environ: Mapping[str, str], folder: Path) -> int:
    """What HELIOS_DISK_RESERVE_MB says, else 64 MB, or a twentieth of the file system if that is less."""
    wanted = environ.get("HELIOS_DISK_RESERVE_MB", "")
    if wanted:
        if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 9:
            raise SettingInvalid(f"HELIOS_DISK_RESERVE_MB must be a whole number of megabytes, not {wanted!r}")
        return int(wanted) * 1024 * 1024
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.statvfs(folder)
    return min(RESERVE_MEGABYTES * 1024 * 1024, int(found.f_blocks * found.f_frsize * RESERVE_PART))


def shorten_log(log: Path) -> None:
    """Keep the beginning of a long log. What a reader has not copied of the rest is lost."""
    with contextlib.suppress(OSError):
        fd = open_regular(log, os.O_WRONLY)
        try:
            if os.fstat(fd).st_size > LOG_KEPT_BYTES:
                os.ftruncate(fd, LOG_KEPT_BYTES)
        finally:
            os.close(fd)


def size_text(count: int) -> str:
    return f"{count / 1024 / 1024:.1f} MB"
