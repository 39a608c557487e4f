"""Where pods are seen: their status, messages and logs, and the release that lets them go.

Rule: a pod is released only after its end is committed, so that none vanishes unseen; and nothing that a task may have
put into its pod's folder raises here or makes anybody wait.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog

from helios import localjobs
from helios.localjobs import PodStatus

log = structlog.get_logger()

OUR_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that tell of this process and not of the file: the status is looked at again at the next turn."""


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
            if status is not None or os.path.lexists(localjobs.job_file(self.directory, job)):
                found[job] = status
        return found

    def message(self, job: str, step: str) -> str | None:
        return localjobs.read_message(self.directory, job, step)

    def log(self, job: str, step: str, offset: int, limit: int) -> bytes:
        return localjobs.read_log(self.directory, job, step, offset, limit)

    def log_bytes(self, job: str, step: str) -> int:
        return localjobs.log_length(self.directory, job, step)

    def release(self, job: str) -> None:
        """One that does not succeed is tried again by the sweep."""
        try:
            localjobs.release_pod(self.directory, job)
        except OSError as error:
            log.error("a pod cannot be released", job=job, error=str(error))

    def job(self, name: str) -> localjobs.LocalJob | None:
        try:
            return localjobs.read_job(self.directory, name)
        except localjobs.Unreadable:
            return None

    def _status(self, job: str) -> PodStatus | None:
        try:
            return localjobs.read_status(self.directory, job)
        except localjobs.Unreadable as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OUR_OWN_TROUBLE:
                return None
            return PodStatus(job=job, uid="", node="", phase="Failed", reason=str(error))

    def pods(self) -> list[PodStatus]:
        """Every pod that is over and has not been released."""
        found = (self._status(job) for job in localjobs.list_pods(self.directory))
        return [status for status in found if status is not None and status.final]
