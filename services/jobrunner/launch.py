"""From an entry of `tasks:ready` to a Job, and from one of `jobs:cancelled` to none."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import Task
from helios.dag_rules import EXIT_ENV
from helios.deadletter import acknowledge
from helios.events import TaskLaunched
from helios.keys import keys_of_run
from helios.logged import about
from helios.messages import Cancelled, Ready, decode
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import Call, check, commit, launch
from helios.wire import hash_values
from helios.worker import Failure, Later, Stop, Waits
from services.jobrunner.affinity import Affinity
from services.jobrunner.jobs import JobRefused, Launcher, LauncherAway, WantedJob, job_name, wanted_job

log = structlog.get_logger()

RUN_FIELDS = (
    *("cacheEnabled", "memoize", "recovered", "traceparent"),
    *("onExit", "exitStatus", "failedTasks", "taskCount", "taskSkipped"),
)

_task_decoder = msgspec.json.Decoder(Task)


class Asked(NamedTuple):
    """An entry of `tasks:ready` and the Job it is to get: none if its attempt is wanted no longer.

    `check`: it gets none yet, because an earlier success may stand for it.
    """

    entry: Entry
    ready: Ready
    name: str
    job: WantedJob | None
    check: bool = False


class RunSwitches(NamedTuple):
    """What a run was submitted with."""

    cache_enabled: bool
    memoize: bool
    recovered: bool
    """It was rebuilt after Redis was lost: of each task's first attempt it is looked whether it is needed."""
    traceparent: str | None
    on_exit: str | None = None
    """Its onExit task."""
    exit_env: Mapping[str, str] | None = None
    """What that one is told."""
    all_skipped: bool = False
    """Of the tasks but onExit none ran."""


class Tried(NamedTuple):
    """What came of it: the Job is there (no error), was refused for good, or may be tried again."""

    asked: Asked
    error: Exception | None

    @property
    def refused(self) -> str:
        return str(self.error) if isinstance(self.error, JobRefused) else ""


class JobRunner:
    """Handles batches of ready attempts. `threads` Jobs are created at the same time."""

    def __init__(
        self,
        client: redis.Redis,
        launcher: Launcher,
        settings: Settings,
        threads: int = 1,
        affinity: Affinity | None = None,
        stop: Stop | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        """`inbox`: whose entries these are; they are kept in hand for as long as their Jobs take to be created."""
        self.client = client
        self.launcher = launcher
        self.settings = settings
        self.pool = ThreadPoolExecutor(threads, "create") if threads > 1 else None
        self.affinity = affinity
        self.stop = stop or Stop()
        """Once it is wanted no further Job is begun, so that a batch does not outlast the time there is to end."""
        self.inbox = inbox
        self.keep_seconds = settings.lease_seconds / 3
        self.switches: dict[str, RunSwitches | ResponseError] = {}

    def launch(self, entries: list[Entry]) -> Sequence[Failure]:
        """Create the Job of each attempt that is still wanted, then tell the collector.

        Whoever has its Job is told of at once; nothing waits for the slowest of the batch.
        """
        failures: list[Failure] = []
        asked = self._asked(entries, failures)
        left = {each.entry.id: each.entry for each in asked}
        kept_until = time.monotonic() + self.keep_seconds
        for tried in self._create_all(asked) if self.pool else self._create_each(asked):
            failures += self._tell(tried)
            for each in tried:
                left.pop(each.asked.entry.id, None)
            if time.monotonic() >= kept_until:
                self._keep(list(left.values()))
                kept_until = time.monotonic() + self.keep_seconds
        return failures

    def _keep(self, entries: list[Entry]) -> None:
        """Or else every other replica in turn would ask a slow API server for the same, and count a delivery."""
        if self.inbox is not None:
            for stream in {entry.stream for entry in entries}:
                self.inbox.renew(stream, [entry.id for entry in entries if entry.stream == stream])

    def _asked(self, entries: list[Entry], failures: list[Failure]) -> list[Asked]:
        """What the entries ask for; those that cannot be understood become failures."""
        asked: list[Asked] = []
        taken = _decoded(entries, failures)
        self._read_switches([ready for _, ready in taken])
        for (entry, ready), state in zip(taken, self._states([ready for _, ready in taken]), strict=True):
            name = job_name(ready.run, ready.task, ready.attempt)
            try:
                if isinstance(state, ResponseError):
                    raise state
                status, attempt, checked, spec = state
                if status != "QUEUED" or attempt != str(ready.attempt):
                    asked.append(Asked(entry, ready, name, None))
                    continue
                task = _task_decoder.decode(spec)
                look = checked != attempt and self._is_looked_at(ready, task)
                asked.append(Asked(entry, ready, name, None if look else self._wanted(name, ready, task), look))
            except (ResponseError, msgspec.DecodeError, ValueError) as error:
                failures.append(Failure(entry, error))
        return self._placed(asked)

    def _placed(self, batch: list[Asked]) -> list[Asked]:
        """The same, with the nodes that their Jobs prefer."""
        if self.affinity is None:
            return batch
        jobs = iter(self.affinity.preferring([asked.job for asked in batch if asked.job is not None]))
        return [asked if asked.job is None else asked._replace(job=next(jobs)) for asked in batch]

    def _create_each(self, batch: list[Asked]) -> Iterator[list[Tried]]:
        away = threading.Event()
        yield [self._create(asked, away) for asked in batch]

    def _create_all(self, batch: list[Asked]) -> Iterator[list[Tried]]:
        """Create them side by side; yields those that are done, as they get done, and none in between, so that the
        others are kept in hand.
        """
        assert self.pool is not None
        away = threading.Event()
        pending: set[Future[Tried]] = {self.pool.submit(self._create, asked, away) for asked in batch}
        while pending:
            done, pending = wait(pending, self.keep_seconds, return_when=FIRST_COMPLETED)
            yield [future.result() for future in done]

    def _create(self, asked: Asked, away: threading.Event) -> Tried:
        """`away` spares the rest of the batch an attempt that would only take time, and the lease with it."""
        with about(run=asked.ready.run, task=asked.ready.task, attempt=asked.ready.attempt, entry=asked.entry.id):
            return self._try(asked, away)

    def _try(self, asked: Asked, away: threading.Event) -> Tried:
        try:
            if asked.job is not None:
                if self.stop.wanted:
                    raise Waits("this jobrunner stops, and another one takes it over")
                if away.is_set():
                    raise LauncherAway("others of its batch found nobody to create Jobs")
                if asked.job.task.for_each is not None:
                    raise JobRefused(
                        "it has no container, and the collector that looked at it does not know such tasks"
                    )
                self.launcher.create(asked.job)
        except LauncherAway as error:
            away.set()
            return Tried(asked, error)
        except (OSError, JobRefused, Waits) as error:
            return Tried(asked, error)
        except Exception as error:
            log.exception("a Job could not be created", job=asked.name)
            return Tried(asked, error)
        return Tried(asked, None)

    def _tell(self, batch: list[Tried]) -> list[Failure]:
        """Commit the launches; a Job that nobody wants any more by then is deleted."""
        failures: list[Failure] = []
        calls: list[Call] = []
        told: list[Tried] = []
        for tried in batch:
            if tried.error is not None and not tried.refused:
                error = tried.error
                later = Later(f"the Job cannot be created: {error}") if isinstance(error, OSError) else error
                failures.append(Failure(tried.asked.entry, later))
                continue
            told.append(tried)
            calls.append(self._launch_call(tried))
        for tried, found in zip(told, commit(self.client, calls), strict=True):
            entry, ready, name, _, looked = tried.asked
            with about(run=ready.run, task=ready.task, attempt=ready.attempt, entry=entry.id):
                if isinstance(found, ResponseError):
                    failures.append(Failure(entry, found))
                elif looked:
                    continue
                elif tried.refused:
                    log.warning("a Job is refused", job=name, reason=tried.refused)
                elif superseded(found, ready.attempt):
                    self._delete(name)
                else:
                    log.info("a Job is there", job=name)
        return failures

    def _launch_call(self, tried: Tried) -> Call:
        entry, ready, name, _, look = tried.asked
        keys = keys_of_run(ready.run, self.settings.partitions)
        if look:
            return check(
                keys,
                entry=entry.id,
                run=ready.run,
                task=ready.task,
                attempt=ready.attempt,
                stream=entry.stream,
            )
        return launch(
            keys,
            entry=entry.id,
            run=ready.run,
            task=ready.task,
            attempt=ready.attempt,
            job=name,
            event=TaskLaunched(ready.run, ready.task, ready.attempt, name),
            refused=tried.refused,
            stream=entry.stream,
        )

    def _delete(self, name: str) -> None:
        """Its entry is acknowledged by now, so what cannot be deleted is left to the sweep."""
        try:
            self.launcher.delete(name)
        except OSError as error:
            log.warning("a Job that nobody wants is not deleted yet", job=name, error=str(error))

    def _states(self, batch: list[Ready]) -> list[Any]:
        tasks = [keys_of_run(each.run, self.settings.partitions).task(each.run, each.task) for each in batch]
        return hash_values(self.client, tasks, ("status", "attempt", "checked", "spec"))

    def _wanted(self, job: str, ready: Ready, task: Task) -> WantedJob:
        switches = self._switches(ready.run)
        return wanted_job(
            job,
            task,
            run=ready.run,
            attempt=ready.attempt,
            cache_enabled=switches.cache_enabled,
            settings=self.settings,
            now_seconds=time.time(),
            traceparent=switches.traceparent,
            exit_env=switches.exit_env if ready.task == switches.on_exit else None,
        )

    def _is_looked_at(self, ready: Ready, task: Task) -> bool:
        """Whether an earlier success may stand for the attempt, or it is of a task that stands for others."""
        if task.for_each is not None:
            return True
        switches = self._switches(ready.run)
        if ready.task == switches.on_exit and not switches.all_skipped:
            # After a loss too: what it did before is not about what ran since.
            return False
        return (task.memoize is not None and switches.memoize) or (switches.recovered and ready.attempt == 1)

    def _read_switches(self, batch: list[Ready]) -> None:
        """Of the runs in the batch, anew each time: a run that was rebuilt after Redis was lost has its former id."""
        runs = list({each.run for each in batch})
        keys = [keys_of_run(run, self.settings.partitions).run(run) for run in runs]
        found = hash_values(self.client, keys, RUN_FIELDS)
        self.switches = {
            run: each if isinstance(each, ResponseError) else _run_switches(each)
            for run, each in zip(runs, found, strict=True)
        }

    def _switches(self, run: str) -> RunSwitches:
        """Raises ResponseError."""
        known = self.switches[run]
        if isinstance(known, ResponseError):
            raise known
        return known


def _run_switches(values: Sequence[str | None]) -> RunSwitches:
    """From the values of RUN_FIELDS."""
    cache_enabled, memoize, recovered, traceparent, on_exit, status, failed, count, skipped = values
    if on_exit is None:
        return RunSwitches(cache_enabled == "true", memoize != "false", recovered == "true", traceparent)
    return RunSwitches(
        cache_enabled == "true",
        memoize != "false",
        recovered == "true",
        traceparent,
        on_exit,
        dict(zip(EXIT_ENV, (status or "FAILED", failed or ""), strict=True)),
        bool(count and skipped and skipped.isdecimal()) and count == str(int(skipped or 0) + 1),
    )


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
        """Delete the Job of each; once there is nobody to ask, the rest of the batch is put off."""
        failures: list[Failure] = []
        away: LauncherAway | None = None
        for entry in entries:
            try:
                cancelled = decode(entry.fields, Cancelled)
                if away is not None:
                    raise away
                self.launcher.delete(job_name(cancelled.run, cancelled.task, cancelled.attempt))
            except msgspec.ValidationError as error:
                failures.append(Failure(entry, error))
                continue
            except OSError as error:
                away = error if isinstance(error, LauncherAway) else away
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
