"""`python -m services.jobrunner`: one thread creates Jobs, another deletes them: a full house delays no cancel."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import structlog

from helios.heartbeat import Heartbeat
from helios.keys import JOBRUNNER_GROUP, all_partitions, keys_of_run
from helios.settings import SettingInvalid, Settings, settings_from
from helios.streams import Inbox
from helios.worker import Stop, work
from services.jobrunner.jobs import Launcher
from services.jobrunner.launch import Deleter, JobRunner, superseded
from services.jobrunner.local import LocalLauncher
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
        while not launcher.room() and not stop.wait(FULL_HOUSE_WAIT_SECONDS):
            heartbeat.beat()

    partitions = all_partitions(settings.partitions)
    heartbeat = Heartbeat(client, "jobrunner", settings.replica)
    cancelled = inbox(tuple(keys.cancelled for keys in partitions))
    ready = inbox(tuple(keys.ready for keys in partitions))
    deleter = Deleter(launcher, cancelled)
    runner = JobRunner(client, launcher, settings)
    run_loops(
        stop,
        lambda: work(ready, runner.launch, settings=settings, stop=stop, heartbeat=heartbeat, on_turn=wait_for_room),
        lambda: work(cancelled, deleter.delete, settings=settings, stop=stop),
        *others,
    )
    heartbeat.end()


def sweep(launcher: LocalLauncher, client: redis.Redis, settings: Settings) -> None:
    """Delete Jobs whose attempt is no longer wanted, which a crash between two steps can leave."""
    for job in launcher.jobs():
        try:
            keys = keys_of_run(job.run, settings.partitions)
            found: Any = client.hmget(keys.task(job.run, job.task), "status", "attempt")
            if superseded(found, job.attempt):
                log.info("deleting a Job that nobody wants", job=job.job, run=job.run, task=job.task)
                launcher.delete(job.job)
        except (OSError, ValueError, redis.ResponseError) as error:
            log.error("a Job cannot be looked at", job=job.job, error=str(error))


def main() -> None:
    try:
        settings = settings_from()
    except SettingInvalid as error:
        sys.exit(str(error))
    configure_logging("jobrunner", settings.log_level)
    if settings.launcher != "local":
        sys.exit(f"HELIOS_LAUNCHER is {settings.launcher!r}, but there is only 'local'")
    if not settings.local_dir or not settings.token_key:
        sys.exit("HELIOS_LOCAL_DIR and HELIOS_TOKEN_KEY must be set; `helios up` sets both")
    stop = Stop()
    stop.listen()
    client = connect(settings)
    launcher = LocalLauncher(Path(settings.local_dir), settings.jobs_alive)
    run(
        settings, launcher, client, stop, lambda: repeat(stop, SWEEP_SECONDS, lambda: sweep(launcher, client, settings))
    )


if __name__ == "__main__":
    main()
