"""Where pods are seen: their status, messages and logs, and the release that lets them go.

Rule: a pod is released only after its end is committed, so that none vanishes unseen.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from helios import localjobs
from helios.localjobs import PodStatus


class Pods(Protocol):
    """What the collector asks of whatever runs pods."""

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        """The status of each Job's pod: None while it has none yet. A Job that is gone with its pod is left out."""
        ...

    def message(self, job: str, step: str) -> str | None:
        """The step's termination message; None when it is missing, oversized or not UTF-8."""
        ...

    def log(self, job: str, step: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of the step's log from `offset`."""
        ...

    def log_bytes(self, job: str, step: str) -> int:
        """How long the step's log is so far."""
        ...

    def release(self, job: str) -> None:
        """Let the Job and its pod go."""
        ...


class LocalPods:
    """The pods of the local node, read from its folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        found: dict[str, PodStatus | None] = {}
        for job in jobs:
            status = self._status(job)
            if status is not None or localjobs.job_file(self.directory, job).exists():
                found[job] = status
        return found

    def message(self, job: str, step: str) -> str | None:
        try:
            with localjobs.message_file(self.directory, job, step).open("rb") as file:
                text = file.read(localjobs.MESSAGE_BYTES + 1)
        except OSError:
            return None
        if len(text) > localjobs.MESSAGE_BYTES:
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            return None

    def log(self, job: str, step: str, offset: int, limit: int) -> bytes:
        try:
            with localjobs.log_file(self.directory, job, step).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except OSError:
            return b""

    def log_bytes(self, job: str, step: str) -> int:
        try:
            return localjobs.log_file(self.directory, job, step).stat().st_size
        except OSError:
            return 0

    def release(self, job: str) -> None:
        localjobs.release_pod(self.directory, job)

    def job(self, name: str) -> localjobs.LocalJob | None:
        try:
            return localjobs.read_job(self.directory, name)
        except msgspec.DecodeError:
            return None

    def _status(self, job: str) -> PodStatus | None:
        """A task of local mode can reach its pod's folder, so what is there may be anything."""
        try:
            return localjobs.read_status(self.directory, job)
        except msgspec.DecodeError:
            return PodStatus(job=job, uid="", node="", phase="Failed", reason="its pod's status file is unreadable")

    def pods(self) -> list[PodStatus]:
        """Every pod that is over and has not been released."""
        found = (self._status(job) for job in localjobs.list_pods(self.directory))
        return [status for status in found if status is not None and status.final]
