"""Where pods are seen: their status, messages and logs, and the release that lets them go.

Rule: a pod is released only after its end is committed, so that none vanishes unseen.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from helios import localjobs
from helios.localjobs import PodStatus
from services.collector.loglines import LogPart, cut

FETCH_LOG_BYTES = 16 * 1024 * 1024


class JobOf(NamedTuple):
    """The attempt that a Job is for."""

    run: str
    task: str
    attempt: int


class Pods(Protocol):
    """What the collector asks of whatever runs pods. The loop calls it often, so nothing here waits for a network."""

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        """The status of each Job's pod: None while it has none yet. A Job that is gone with its pod is left out."""
        ...

    def message(self, job: str, step: str) -> str | None:
        """The step's termination message; None when it is missing, oversized or not UTF-8."""
        ...

    def lines(self, job: str, step: str, after: int, *, final: bool) -> LogPart:
        """What is known of the step's log after the position `after`, which is 0 at its start; `final` when over."""
        ...

    def fetch_log(self, job: str) -> list[str]:
        """The lines of fetch's log, for when nothing better tells what it did."""
        ...

    def release(self, job: str) -> None:
        """Let the Job and its pod go. May do so later, and `unreleased` names the Job until it is done."""
        ...

    def unreleased(self) -> list[str]:
        """Jobs that still exist although nothing of theirs runs any more, or yet."""
        ...

    def attempt_of(self, job: str) -> JobOf | None:
        """Which attempt the Job is for, as far as it says so itself."""
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

    def lines(self, job: str, step: str, after: int, *, final: bool) -> LogPart:
        try:
            length = localjobs.log_file(self.directory, job, step).stat().st_size
        except OSError:
            length = 0
        return cut(lambda offset, limit: self._read(job, step, offset, limit), length, after, final=final)

    def fetch_log(self, job: str) -> list[str]:
        return self._read(job, "fetch", 0, FETCH_LOG_BYTES).decode("utf-8", "replace").split("\n")

    def release(self, job: str) -> None:
        localjobs.release_pod(self.directory, job)

    def unreleased(self) -> list[str]:
        found = (self._status(job) for job in localjobs.list_pods(self.directory))
        return [status.job for status in found if status is not None and status.final]

    def attempt_of(self, job: str) -> JobOf | None:
        try:
            found = localjobs.read_job(self.directory, job)
        except msgspec.DecodeError:
            return None
        return JobOf(found.run, found.task, found.attempt) if found else None

    def _status(self, job: str) -> PodStatus | None:
        """A task of local mode can reach its pod's folder, so what is there may be anything."""
        try:
            return localjobs.read_status(self.directory, job)
        except msgspec.DecodeError:
            return PodStatus(job=job, uid="", node="", phase="Failed", reason="its pod's status file is unreadable")

    def _read(self, job: str, step: str, offset: int, limit: int) -> bytes:
        try:
            with localjobs.log_file(self.directory, job, step).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except OSError:
            return b""
