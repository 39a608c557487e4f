"""`python -m services.jobrunner`: one thread creates Jobs, another deletes them: a full house delays no cancel."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import structlog
from redis.exceptions import ResponseError

from helios.heartbeat import Heartbeat
from helios.keys import JOBRUNNER_GROUP, all_partitions, keys_of_run
from helios.settings import SettingInvalid, Settings, settings_from
from helios.streams import Inbox
from helios.wire import hash_values, send
from helios.worker import Stop, work
from services.jobrunner.affinity import Affinity
from services.jobrunner.forms import LOOK_SECONDS
from services.jobrunner.jobs import ExistingJob, Launcher, LauncherAway
from services.jobrunner.launch import Deleter, JobRunner, superseded
from services.jobrunner.local import LocalLauncher
from services.jobrunner.reading import ReadyInbox
from services.process import configure_logging, connect, repeat, run_loops

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
            heartbeat.beat()
        ready.batch_entries = max(1, min(room, settings.batch_entries))

    partitions = all_partitions(settings.partitions)
    heartbeat = Heartbeat(client, "jobrunner", settings.replica)
    cancelled = inbox(tuple(keys.cancelled for keys in partitions))
    ready = ReadyInbox(client, settings, partitions)
    deleter = Deleter(launcher, cancelled)
    is_local = settings.launcher == "local"
    affinity = None if is_local or settings.affinity == "off" else Affinity(client, settings)
    runner = JobRunner(client, launcher, settings, 1 if is_local else settings.job_create_threads, affinity, ready)
    run_loops(
        stop,
        lambda: work(ready, runner.launch, settings=settings, stop=stop, heartbeat=heartbeat, on_turn=wait_for_room),
        lambda: work(cancelled, deleter.delete, settings=settings, stop=stop),
        *others,
    )
    heartbeat.end()


def sweep(launcher: Launcher, client: redis.Redis, settings: Settings) -> None:
    """Delete Jobs whose attempt is no longer wanted, which a crash between two steps can leave."""
    try:
        jobs = launcher.jobs()
        records = [keys_of_run(job.run, settings.partitions).task(job.run, job.task) for job in jobs]
        for job, found in zip(jobs, hash_values(client, records, ("status", "attempt")), strict=True):
            _delete_unwanted(launcher, job, found)
    except OSError as error:
        log.warning("the look for Jobs that nobody wants is put off", error=str(error))


def _delete_unwanted(launcher: Launcher, job: ExistingJob, found: Any) -> None:
    """Delete the Job if its attempt is superseded. Raises LauncherAway: then nobody is there to be asked for others."""
    try:
        if isinstance(found, ResponseError):
            raise found
        if superseded(found, job.attempt):
            log.info("deleting a Job that nobody wants", job=job.job, run=job.run, task=job.task)
            launcher.delete(job.job)
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
    try:
        settings = settings_from()
        client = connect(settings)
        launcher = launcher_from(settings, client)
    except SettingInvalid as error:
        sys.exit(str(error))
    configure_logging("jobrunner", settings.log_level)
    stop = Stop()
    stop.listen()
    run(
        settings,
        launcher,
        client,
        stop,
        lambda: repeat(stop, SWEEP_SECONDS, lambda: sweep(launcher, client, settings)),
        lambda: repeat(stop, LOOK_SECONDS, launcher.look),
    )


if __name__ == "__main__":
    main()
