"""A jobrunner and a collector for Jobs that need no time: what is left is the pipeline itself.

    python -m bench.instant jobrunner|collector

Everything but the launcher and the source of pods is the services' own code.
"""

import os
import sys
from collections.abc import Iterable

from helios.localjobs import PodStatus, StepStatus
from helios.settings import settings_from
from helios.worker import Stop
from services.collector.__main__ import run as run_collector
from services.collector.loglines import LogPart
from services.collector.pods import JobOf
from services.jobrunner.__main__ import run as run_jobrunner
from services.jobrunner.jobs import ExistingJob, WantedJob
from services.log_lines import configure_logging
from services.process import connect
from services.scrape import serve_metrics


class InstantLauncher:
    """Jobs that exist as soon as they are wanted."""

    def create(self, job: WantedJob) -> None:
        pass

    def delete(self, name: str) -> None:
        pass

    def room(self) -> int:
        return 1_000

    def trouble(self) -> str:
        return ""

    def jobs(self) -> list[ExistingJob]:
        return []


class InstantPods:
    """Pods that are over, and well, when they are first looked at."""

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        steps = {step: StepStatus(startedAt=1, endedAt=1, exitCode=0) for step in ("fetch", "task", "publish")}
        return {job: PodStatus(job=job, uid="0", node="bench", phase="Succeeded", steps=steps) for job in jobs}

    def message(self, job: str, step: str) -> str | None:
        return None

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        return LogPart([], after)

    def fetch_log(self, job: str) -> list[str]:
        return []

    def release(self, job: str) -> None:
        pass

    def unreleased(self) -> list[str]:
        return []

    def attempt_of(self, job: str) -> JobOf | None:
        return None


def main() -> None:
    settings = settings_from({"HELIOS_LOG_LEVEL": "warning", **os.environ})
    configure_logging(f"bench-{sys.argv[1]}", settings)
    if settings.metrics_bind:
        serve_metrics(sys.argv[1], settings.metrics_bind)
    stop = Stop()
    stop.listen()
    client = connect(settings)
    if sys.argv[1] == "jobrunner":
        run_jobrunner(settings, InstantLauncher(), client, stop)
    else:
        run_collector(settings, InstantPods(), client, stop)


if __name__ == "__main__":
    main()
