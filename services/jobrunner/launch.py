"""From an entry of `tasks:ready` to a Job, and from one of `jobs:cancelled` to none."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import Task
from helios.deadletter import acknowledge
from helios.events import TaskLaunched
from helios.keys import keys_of_run
from helios.messages import Cancelled, Ready, decode
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import Call, commit, launch
from helios.wire import hash_values
from helios.worker import Failure, Later
from services.jobrunner.jobs import Launcher, WantedJob, job_name, wanted_job

log = structlog.get_logger()

RUNS_REMEMBERED = 256

_task_decoder = msgspec.json.Decoder(Task)


class JobRunner:
    """Handles batches of ready attempts and of cancelled Jobs."""

    def __init__(self, client: redis.Redis, launcher: Launcher, settings: Settings) -> None:
        self.client = client
        self.launcher = launcher
        self.settings = settings
        self.cache_enabled: OrderedDict[str, bool] = OrderedDict()

    def launch(self, entries: list[Entry]) -> Sequence[Failure]:
        """Create the Job of each attempt that is still wanted, then tell the collector."""
        failures: list[Failure] = []
        taken = _decoded(entries, failures)
        created: list[tuple[Entry, Ready, str]] = []
        calls: list[Call] = []
        for (entry, ready), state in zip(taken, self._states([ready for _, ready in taken]), strict=True):
            job = job_name(ready.run, ready.task, ready.attempt)
            try:
                if isinstance(state, ResponseError):
                    raise state
                status, attempt, spec = state
                if status == "QUEUED" and attempt == str(ready.attempt):
                    self.launcher.create(self._wanted(job, ready, spec))
            except OSError as error:
                failures.append(Failure(entry, Later(f"the Job cannot be created: {error}")))
                continue
            except (ResponseError, msgspec.DecodeError, ValueError) as error:
                failures.append(Failure(entry, error))
                continue
            keys = keys_of_run(ready.run, self.settings.partitions)
            event = TaskLaunched(ready.run, ready.task, ready.attempt, job)
            calls.append(
                launch(
                    keys, entry=entry.id, run=ready.run, task=ready.task, attempt=ready.attempt, job=job, event=event
                )
            )
            created.append((entry, ready, job))
        for (entry, ready, job), found in zip(created, commit(self.client, calls), strict=True):
            if isinstance(found, ResponseError):
                failures.append(Failure(entry, found))
            elif superseded(found, ready.attempt):
                self.launcher.delete(job)
        return failures

    def _states(self, batch: list[Ready]) -> list[Any]:
        tasks = [keys_of_run(each.run, self.settings.partitions).task(each.run, each.task) for each in batch]
        return hash_values(self.client, tasks, ("status", "attempt", "spec"))

    def _wanted(self, job: str, ready: Ready, spec: str) -> WantedJob:
        return wanted_job(
            job,
            _task_decoder.decode(spec),
            run=ready.run,
            attempt=ready.attempt,
            cache_enabled=self._cache_enabled(ready.run),
            settings=self.settings,
            now_seconds=time.time(),
        )

    def _cache_enabled(self, run: str) -> bool:
        known = self.cache_enabled.get(run)
        if known is None:
            keys = keys_of_run(run, self.settings.partitions)
            known = self.cache_enabled[run] = self.client.hget(keys.run(run), "cacheEnabled") == "true"
            if len(self.cache_enabled) > RUNS_REMEMBERED:
                self.cache_enabled.popitem(last=False)
        return known


def superseded(found: Sequence[str | None], attempt: int) -> bool:
    """Whether an attempt's Job must go: the task is cancelled, gone, or at a later attempt.

    A Job of the current attempt stays, whatever the attempt's state: it may be running, or wait to be wrapped up.
    """
    status, current = found
    return status is None or status in ("CANCELLED", "UPSTREAM_FAILED") or current != str(attempt)


class Deleter:
    """Handles batches of cancelled Jobs."""

    def __init__(self, launcher: Launcher, inbox: Inbox) -> None:
        self.launcher = launcher
        self.inbox = inbox

    def delete(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        for entry in entries:
            try:
                cancelled = decode(entry.fields, Cancelled)
                self.launcher.delete(job_name(cancelled.run, cancelled.task, cancelled.attempt))
            except msgspec.ValidationError as error:
                failures.append(Failure(entry, error))
                continue
            except OSError as error:
                failures.append(Failure(entry, Later(f"the Job cannot be deleted: {error}")))
                continue
            acknowledge(self.inbox, entry)
        return failures


def _decoded(entries: list[Entry], failures: list[Failure]) -> list[tuple[Entry, Ready]]:
    taken: list[tuple[Entry, Ready]] = []
    for entry in entries:
        try:
            taken.append((entry, decode(entry.fields, Ready)))
        except msgspec.ValidationError as error:
            failures.append(Failure(entry, error))
    return taken
