# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH105
"""Small documents that one process keeps across its deaths: whole or as they were before, never half of one.

Each has one writer and one place to be written at first, so a process that is killed leaves nothing that piles up.
"""

import json
import os
from collections.abc import Mapping

from agent.documents import Json, read_object

_MOST_BYTES = 65536


def save(path: str, document: Mapping[str, object], beside: str | None = None) -> None:
    """Replaces the document at `path`; `beside` is where it is written first, on the same file system. May raise
    OSError, and then the old one stays.
    """
    beside = beside or f"{path}.new"
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
