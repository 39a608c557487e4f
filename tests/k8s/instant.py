"""A collector for Jobs that need no time, of which some fail, some are lost and all have logs.

    python -m tests.k8s.instant

Everything but the source of pods is the service's own code. A task whose name begins with `bad` fails, one whose name
begins with `lost` has no pod the first time.
"""

from collections.abc import Iterable

from bench.instant import InstantPods
from helios.localjobs import PodStatus, StepStatus
from helios.settings import settings_from
from helios.worker import Stop
from services.collector.__main__ import run
from services.collector.loglines import LogPart, cut
from services.log_lines import configure_logging
from services.process import connect

LOG = b"a line\n"


class UnevenPods(InstantPods):
    def __init__(self) -> None:
        self.lost = False

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        found: dict[str, PodStatus | None] = {}
        for job in jobs:
            if job.startswith("lost") and not self.lost:
                self.lost = True
                continue
            steps = {step: StepStatus(startedAt=1, endedAt=1, exitCode=0) for step in ("fetch", "task", "publish")}
            if job.startswith("bad"):
                steps["task"] = StepStatus(startedAt=1, endedAt=1, exitCode=1)
            phase = "Failed" if job.startswith("bad") else "Succeeded"
            found[job] = PodStatus(job=job, uid="0", node="test", phase=phase, steps=steps)
        return found

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:
        return cut(lambda offset, limit: LOG[offset : offset + limit], len(LOG), after, final=final, followed=followed)


def main() -> None:
    settings = settings_from()
    configure_logging("collector", settings)
    stop = Stop()
    stop.listen()
    run(settings, UnevenPods(), connect(settings), stop)


if __name__ == "__main__":
    main()
