"""The cache folder of local mode, read as it lies there: for forecasts, which want it as it is at this moment."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from agent.store import Identity

NODE = "local"


class LocalCache:
    """Nothing is changed, and nothing locked: a forecast may be wrong about what changes just now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, digest: str) -> bool:
        return (self.folder / "blobs" / "sha256" / digest[:2] / digest).is_file()

    def digest_of(self, source: str, version: str, size: int) -> str:
        """What that version of an external object (`endpoint/bucket/key`) held; empty if it was never here."""
        key = Identity(source, version, size).key()
        document = self._read(f"refs/{hashlib.sha256(key.encode()).hexdigest()}")
        found = document.get("sha256")
        return found if isinstance(found, str) else ""

    def store_rate(self) -> float | None:
        """Bytes a second of downloads from the store; None where it is not known."""
        found = self._read("rate.json").get("bytesPerSecond")
        return float(found) if isinstance(found, int | float) and found > 0 else None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            document: Any = msgspec.json.decode((self.folder / name).read_bytes())
        except (OSError, msgspec.DecodeError):
            return {}
        return document if isinstance(document, dict) else {}  # pyright: ignore[reportUnknownVariableType] -- of any JSON
