"""A blob's modification time is its seal. Pure.

The O(1) check of a hit compares a blob's size and mtime_ns with what they must be, and what mtime_ns must be follows
from the digest, so no second file is needed. Two seals exist:

durable   the bytes were fsynced under this seal
pending   the bytes were complete and their digest was checked when this seal was set, in the boot that the seal names,
but nobody has
          waited for the disk yet

Within one boot the kernel gives back what was written, synced or not, so a pending blob is as good as a durable one.
What an fsync protects against, a power loss or a crash of the kernel, always brings a new boot id: a pending seal of
another boot sends the reader to the digest, once, before the blob is used again. So a download need not wait for the
disk, and a blob with a hole is never served.
"""

import hashlib
import os
from enum import Enum

_DURABLE_FROM = 1_000_000_000
_PENDING_FROM = 1_100_000_000
_SPAN_SECONDS = 50_000_000
_NANOSECONDS = 1_000_000_000


class Seal(Enum):
    """What the mtime of a blob says about it."""

    DURABLE = "durable"
    PENDING = "pending"
    PENDING_ELSEWHERE = "pending-elsewhere"
    """Pending since another boot (or forged): read it through before using it."""
    BROKEN = "broken"


def durable_ns(digest: str) -> int:
    """The mtime_ns of a blob whose bytes are on the disk."""
    return _seconds(_DURABLE_FROM, digest) * _NANOSECONDS + _fraction("durable", digest)


def pending_ns(digest: str, boot: str) -> int:
    """The mtime_ns of a blob written in the boot `boot` and not yet fsynced."""
    return _seconds(_PENDING_FROM, digest) * _NANOSECONDS + _fraction(boot, digest)


def read_seal(mtime_ns: int, digest: str, boot: str | None) -> Seal:
    if mtime_ns == durable_ns(digest):
        return Seal.DURABLE
    if boot is not None and mtime_ns == pending_ns(digest, boot):
        return Seal.PENDING
    if mtime_ns // _NANOSECONDS == _seconds(_PENDING_FROM, digest):
        return Seal.PENDING_ELSEWHERE
    return Seal.BROKEN


def _seconds(first: int, digest: str) -> int:
    return first + int(digest[:12], 16) % _SPAN_SECONDS


def _fraction(salt: str, digest: str) -> int:
    return int(hashlib.sha256(f"{salt}\n{digest}".encode()).hexdigest()[:12], 16) % _NANOSECONDS


def boot_id() -> str | None:
    """The kernel's id of this boot, the same in every container of the node; None where there is none, and then every
    blob is fsynced.
    """
    try:
        fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 100).decode("ascii", "replace").strip() or None
    except OSError:
        return None
    finally:
        os.close(fd)
