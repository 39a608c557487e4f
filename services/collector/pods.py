"""Where pods are seen: their status, messages and logs, and the release that lets them go.

Rule: a pod is released only after its end is committed, so that none vanishes unseen; and nothing that a task may have
put into its pod's folder raises here or makes anybody wait.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from helios import localjobs
from helios.localjobs import PodStatus
from services.collector.loglines import LogPart, cut

log = structlog.get_logger()

FETCH_LOG_BYTES = 16 * 1024 * 1024

OUR_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that tell of this process and not of the file: the status is looked at again at the next turn."""


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

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        """What is known of the step's log after the position `after`, which is 0 at its start; `final` when over.

        `followed`: what came before has been asked for as it came, so that no more may be left out than must be.
        """
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
            if status is not None or os.path.lexists(localjobs.job_file(self.directory, job)):
                found[job] = status
        return found

    def message(self, job: str, step: str) -> str | None:
        return localjobs.read_message(self.directory, job, step)

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        length = localjobs.log_length(self.directory, job, step)

        def read(offset: int, limit: int) -> bytes:
            return localjobs.read_log(self.directory, job, step, offset, limit)

        return cut(read, length, after, final=final, followed=followed)

    def fetch_log(self, job: str) -> list[str]:
        text = localjobs.read_log(self.directory, job, "fetch", 0, FETCH_LOG_BYTES)
        return text.decode("utf-8", "replace").split("\n")

    def release(self, job: str) -> None:
        """One that does not succeed is tried again by the sweep."""
        try:
            localjobs.release_pod(self.directory, job)
        except OSError as error:
            log.error("a pod cannot be released", job=job, error=str(error))

    def unreleased(self) -> list[str]:
        found = (self._status(job) for job in localjobs.list_pods(self.directory))
        return [status.job for status in found if status is not None and status.final]

    def attempt_of(self, job: str) -> JobOf | None:
        try:
            found = localjobs.read_job(self.directory, job)
        except localjobs.Unreadable:
            return None
        return JobOf(found.run, found.task, found.attempt) if found else None

    def _status(self, job: str) -> PodStatus | None:
        try:
            return localjobs.read_status(self.directory, job)
        except localjobs.Unreadable as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OUR_OWN_TROUBLE:
                return None
            return PodStatus(job=job, uid="", node="", phase="Failed", reason=str(error))
