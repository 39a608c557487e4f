"""`python -m services.jobrunner`: one thread creates Jobs, another deletes them: a full house delays no cancel."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import structlog
from redis.exceptions import ResponseError

from helios.heartbeat import Heartbeat
from helios.keys import JOBRUNNER_GROUP, all_partitions, keys_of_run
from helios.logged import about
from helios.recovery import Patience
from helios.settings import SettingInvalid, Settings
from helios.streams import Inbox
from helios.wire import hash_values, send
from helios.worker import Stop, work
from services.jobrunner.affinity import Affinity
from services.jobrunner.forms import LOOK_SECONDS
from services.jobrunner.jobs import ExistingJob, Launcher, LauncherAway
from services.jobrunner.launch import Deleter, JobRunner, superseded
from services.jobrunner.local import LocalLauncher
from services.jobrunner.reading import ReadyInbox
from services.process import begin, connect, end_in_time, refuse, repeat, run_loops

log = structlog.get_logger()

FULL_HOUSE_WAIT_SECONDS = 0.05
SWEEP_SECONDS = 30.0


def run(settings: Settings, launcher: Launcher, client: redis.Redis, stop: Stop, *others: Callable[[], None]) -> None:
    """Serve both streams until stopped, with `others` beside."""

    def inbox(streams: tuple[str, ...]) -> Inbox:
        return Inbox(
            client,
            group=JOBRUNNER_GROUP,
            consumer=settings.replica,
            streams=streams,
            batch_entries=settings.batch_entries,
            lease_seconds=settings.lease_seconds,
        )

    def wait_for_room() -> None:
        while (room := launcher.room()) == 0 and not stop.wait(FULL_HOUSE_WAIT_SECONDS):
            ready.turned = time.monotonic()
            heartbeat.beat()
        ready.batch_entries = max(1, min(room, settings.batch_entries))

    partitions = all_partitions(settings.partitions)
    heartbeat = Heartbeat(client, "jobrunner", settings.replica)
    cancelled = inbox(tuple(keys.cancelled for keys in partitions))
    ready = ReadyInbox(client, settings, partitions)
    deleter = Deleter(launcher, cancelled)
    is_local = settings.launcher == "local"
    affinity = None if is_local or settings.affinity == "off" else Affinity(client, settings)
    threads = 1 if is_local else settings.job_create_threads
    runner = JobRunner(client, launcher, settings, threads, affinity, stop, ready)
    heartbeat.troubles += [ready.trouble, cancelled.trouble, launcher.trouble]
    end_in_time(stop, settings, (ready, cancelled))
    run_loops(
        stop,
        lambda: work(ready, runner.launch, settings=settings, stop=stop, heartbeat=heartbeat, on_turn=wait_for_room),
        lambda: work(cancelled, deleter.delete, settings=settings, stop=stop),
        *others,
    )
    heartbeat.end()


class Sweep:
    """Deletes Jobs whose attempt is no longer wanted, which a crash between two steps, or of Redis, can leave.

    One whose task is not in Redis at all has its patience: Redis lost its run, which may be rebuilt around it, or it is
    just being opened again.
    """

    def __init__(self, launcher: Launcher, client: redis.Redis, settings: Settings) -> None:
        self.launcher = launcher
        self.client = client
        self.settings = settings
        self.patience = Patience(settings.unknown_job_seconds)

    def look(self) -> None:
        try:
            jobs = self.launcher.jobs()
            records = [keys_of_run(job.run, self.settings.partitions).task(job.run, job.task) for job in jobs]
            states = list(zip(jobs, hash_values(self.client, records, ("status", "attempt")), strict=True))
            waits = self.patience.look({job.job for job, found in states if found == [None, None]})
            if waits:
                words = "Jobs of runs that Redis has lost are left alone for now: `helios recover`"
                log.warning(words, jobs=len(waits))
            for job, found in states:
                if job.job not in waits:
                    self._delete_unwanted(job, found)
        except OSError as error:
            log.warning("the look for Jobs that nobody wants is put off", error=str(error))

    def _delete_unwanted(self, job: ExistingJob, found: Any) -> None:
        """Delete the Job if its attempt is superseded. Raises LauncherAway: then nobody is there to be asked for
        others.
        """
        with about(run=job.run, task=job.task, attempt=job.attempt):
            try:
                if isinstance(found, ResponseError):
                    raise found
                if not superseded(found, job.attempt):
                    return
                why = "its run is not in Redis" if found[0] is None else "its attempt is over"
                log.info("deleting a Job that nobody wants", job=job.job, why=why)
                self.launcher.delete(job.job)
            except LauncherAway:
                raise
            except (OSError, ValueError, ResponseError) as error:
                log.error("a Job cannot be looked at", job=job.job, error=str(error))


def jobs_in_hand(client: redis.Redis, partitions: int) -> int:
    """Jobs that exist and are not wrapped up yet, whichever jobrunner created them: each has its entry."""
    lengths = send(client, [("XLEN", keys.launched) for keys in all_partitions(partitions)])
    for length in lengths:
        if isinstance(length, ResponseError):
            raise length
    return sum(lengths)


def launcher_from(settings: Settings, client: redis.Redis) -> Launcher:
    """Raises SettingInvalid."""
    needed = ("local_dir", "token_key") if settings.launcher == "local" else ("agent_image", "token_key")
    missing = [f"HELIOS_{field.upper()}" for field in needed if not getattr(settings, field)]
    if missing:
        raise SettingInvalid(f"{' and '.join(missing)} must be set for HELIOS_LAUNCHER={settings.launcher}")
    if settings.launcher == "local":
        return LocalLauncher(Path(settings.local_dir), settings.jobs_alive)
    # Only now, because the client of Kubernetes takes long to import.
    from services.jobrunner.kubernetes import KubernetesLauncher, connect_api

    return KubernetesLauncher(connect_api(settings), settings, lambda: jobs_in_hand(client, settings.partitions))


def main() -> None:
    stop = Stop()
    settings = begin("jobrunner", stop)
    client = connect(settings)
    try:
        launcher = launcher_from(settings, client)
    except SettingInvalid as error:
        refuse(error)
    run(
        settings,
        launcher,
        client,
        stop,
        lambda: repeat(stop, SWEEP_SECONDS, Sweep(launcher, client, settings).look),
        lambda: repeat(stop, LOOK_SECONDS, launcher.look),
    )


if __name__ == "__main__":
    main()
