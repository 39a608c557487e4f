# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH105
"""Small documents that one process keeps across its deaths: whole or as they were before, never half of one.

Each has one writer and one place to be written at first, so a process that is killed leaves nothing that piles up.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping

from agent.documents import Json, read_object

_MOST_BYTES = 65536


def save(path: str, document: Mapping[str, object]) -> None:
    """Replaces the document at `path`. May raise OSError, and then the old one stays."""
    beside = f"{path}.new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(json.dumps(document, separators=(",", ":")).encode())
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.replace(beside, path)


def read_saved(path: str) -> dict[str, Json]:
    """The document; an empty one if there is none or it cannot be read, as after a crash of the machine."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return read_object(os.read(fd, _MOST_BYTES)) or {}
    except OSError:
        return {}
    finally:
        os.close(fd)


def whole(document: Mapping[str, Json], name: str) -> int:
    """A counter of a document; 0 if it is not there or is none."""
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def content_ref(root: str, digest: str) -> str:
    """Where a cache notes what it knows of a content, whether its blob is there or not."""
    key = f"content\n{digest}"
    return f"{root}/refs/{hashlib.sha256(key.encode()).hexdigest()}"


def note_end(root: str, digest: str, size: int, end: Mapping[str, Json]) -> None:
    """Adds to a content's ref what became of its blob: evictedAt and evictedFor, or corruptAt; a fetch that brings it
    again writes the ref anew. A disk that is too full for that is no error; others are OSErrors.

    Overwritten in place, in one write: a file that is replaced costs seventy times as much, and thousands may be
    evicted at once. A reader that comes in that very moment takes the ref for none, which costs the reason of one miss.
    """
    ref = content_ref(root, digest)
    known: dict[str, Json] = {"v": 1, "sha256": digest, "bytes": size}
    try:
        fd = os.open(ref, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            before = os.read(fd, _MOST_BYTES)
            document = {**known, **(read_object(before) or {}), **end}
            os.pwrite(fd, json.dumps(document, separators=(",", ":")).encode().ljust(len(before)), 0)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
