"""What was finished for a volume's attempt, in its state folder, so that an agent that is started again goes on from
there: each output that was stored, and the report once it is settled.
"""

import errno
import json
import os
import threading
from collections.abc import Mapping

from agent.documents import Json, read_object
from agent.plan import PlannedOutput, Stored
from agent.saved import save
from agent.upload import StoredOutput

MAX_BYTES = 64 * 1024 * 1024


class Kept:
    """One attempt's. May raise OSError where it writes; what cannot be read is not there."""

    def __init__(self, state_dir: str) -> None:
        self._report = f"{state_dir}/report.json"
        self._outputs = f"{state_dir}/stored"
        self._lock = threading.Lock()
        self._stored: dict[str, StoredOutput] = {}
        for line in _read(self._outputs).splitlines():
            document = read_object(line)
            stored = None if document is None else stored_output(document)
            if stored is not None:
                self._stored[stored.key] = stored

    def stored(self, output: PlannedOutput) -> StoredOutput | None:
        """The output, if it was stored already, at this very key."""
        found = self._stored.get(output.key)
        return found if found is not None and found.name == output.name else None

    def note_stored(self, stored: StoredOutput) -> None:
        # The line's end comes first: one that was cut off spoils none but itself.
        line = b"\n" + json.dumps(stored.document(), separators=(",", ":")).encode()
        with self._lock:
            fd = os.open(self._outputs, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)

    def report(self) -> dict[str, Json] | None:
        return read_object(_read(self._report))

    def note_report(self, report: Mapping[str, object]) -> None:
        save(self._report, report)


def stored_output(document: Mapping[str, Json]) -> StoredOutput | None:
    """The output of which StoredOutput.document made this; None for anything else, such as a line that was cut off."""
    name, key, size, sha256 = (document.get(field) for field in ("name", "key", "bytes", "sha256"))
    if not isinstance(name, str) or not isinstance(key, str) or not isinstance(size, int):
        return None
    if not isinstance(sha256, str):
        return None
    stored = document.get("stored")
    packed = None
    if isinstance(stored, dict):
        codec, packed_size = stored.get("codec"), stored.get("bytes")
        if not isinstance(codec, str) or not isinstance(packed_size, int):
            return None
        packed = Stored(codec, packed_size)
    return StoredOutput(name, key, size, sha256, document.get("archive") is True, packed, document.get("warm") is True)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        with os.fdopen(fd, "rb") as file:
            # Python takes the memory for as much as is asked for before it reads.
            return file.read(min(MAX_BYTES, os.fstat(fd).st_size))
    except OSError:
        return b""
