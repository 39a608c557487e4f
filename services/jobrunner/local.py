"""Jobs of local mode: files in a folder that the local node watches."""

from pathlib import Path

import structlog

from helios.dag import EnvSecret, EnvValue
from helios.localjobs import (
    EnvFromSecret,
    LocalJob,
    Unreadable,
    create_job,
    delete_job,
    list_jobs,
    read_job,
    remove_partials,
)
from services.jobrunner.jobs import ExistingJob, WantedJob

log = structlog.get_logger()


def local_job(job: WantedJob) -> LocalJob:
    """The Job as the local node takes it: the image is not used there, nor are resources or placement."""
    task = job.task
    return LocalJob(
        job=job.name,
        run=job.run,
        task=task.name,
        attempt=job.attempt,
        command=[*task.command, *task.args],
        env={each.name: each.value for each in task.env if isinstance(each, EnvValue)},
        secrets=[EnvFromSecret(each.name, each.secret, each.key) for each in task.env if isinstance(each, EnvSecret)],
        timeoutSeconds=task.timeout_seconds,
        agentEnv=job.agent_env,
    )


class LocalLauncher:
    """Puts Jobs into the folder; holds back while as many exist as the node may have in hand."""

    def __init__(self, directory: Path, jobs_alive: int) -> None:
        self.directory = directory
        self.jobs_alive = jobs_alive

    def create(self, job: WantedJob) -> None:
        create_job(self.directory, local_job(job))

    def delete(self, name: str) -> None:
        delete_job(self.directory, name)

    def room(self) -> int:
        return max(0, self.jobs_alive - len(list_jobs(self.directory)))

    def look(self) -> None:
        """A process has no form to look at. What is left of Jobs that a jobrunner was killed over goes."""
        remove_partials(self.directory)

    def trouble(self) -> str:
        return "" if self.directory.is_dir() else f"the folder {self.directory}"

    def jobs(self) -> list[ExistingJob]:
        """Every Job that exists and can be read."""
        found: list[ExistingJob] = []
        for name in list_jobs(self.directory):
            try:
                job = read_job(self.directory, name)
            except Unreadable as error:
                log.error("a Job's file is damaged", job=name, error=str(error))
                continue
            if job is not None:
                found.append(ExistingJob(job.job, job.run, job.task, job.attempt))
        return found
