"""A jobrunner and a collector whose Jobs end when a test says so, to be run from any version's tree.

    python held.py jobrunner|collector FOLDER

A Job is over, and well, once FOLDER holds a file of its name, or `all`; `<job>.failed` makes it fail. Everything but
the launcher and the source of pods is the services' own code. It uses what bench/instant.py of each version has.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from bench.instant import InstantLauncher, InstantPods
from helios.localjobs import PodStatus, StepStatus
from helios.settings import settings_from
from helios.worker import Stop
from services.collector.__main__ import run as run_collector
from services.jobrunner.__main__ import run as run_jobrunner
from services.process import connect


class HeldPods(InstantPods):
    """Pods that run until they may end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        may_end = {file.name for file in self.folder.iterdir()}
        return {job: self._status(job, may_end) for job in jobs}

    @staticmethod
    def _status(job: str, may_end: set[str]) -> PodStatus:
        failed = f"{job}.failed" in may_end
        over = failed or "all" in may_end or job in may_end
        ended = {
            step: StepStatus(startedAt=1, endedAt=1, exitCode=int(failed)) for step in ("fetch", "task", "publish")
        }
        running = {"task": StepStatus(startedAt=1)}
        phase = "Failed" if failed else "Succeeded" if over else "Running"
        return PodStatus(job=job, uid="0", node="held", phase=phase, steps=ended if over else running)


def main() -> None:
    settings = settings_from()
    stop = Stop()
    stop.listen()
    client = connect(settings)
    if sys.argv[1] == "jobrunner":
        run_jobrunner(settings, InstantLauncher(), client, stop)
    else:
        run_collector(settings, HeldPods(Path(sys.argv[2])), client, stop)


if __name__ == "__main__":
    main()
