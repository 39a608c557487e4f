"""Files that the user asks for: written whole or not at all, and never over another one unasked."""

import os
from pathlib import Path

from cli.failure import CommandFailed


def save(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Raises FileExistsError unless `replace`, and CommandFailed where nothing can be written."""
    try:
        exists = path.exists()
        if not exists or replace:
            _write(path, content)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandFailed(f"cannot write {path}: {why}", hint="name a file in a folder that is writable") from None
    if exists and not replace:
        raise FileExistsError(path)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
