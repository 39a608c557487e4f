"""More replicas share the work, and one is enough."""

import os

import pytest

from tests.cluster.dags import many
from tests.cluster.installed import Installed

TASKS = 200 if os.environ.get("HELIOS_LONG") else 24


@pytest.mark.parametrize("replicas", [1, 3])
def test_tasks_with_so_many_jobrunners_and_collectors(helios: Installed, replicas: int) -> None:
    """The figures are printed, not judged: on two cores it is the kubelets that set the pace."""
    helios.scale(replicas, "helios-jobrunner", "helios-collector")
    try:
        tasks = many(helios, f"scaled-{replicas}", TASKS, "echo $N > n", outputs=["n"])
        run = helios.succeed(tasks, deadline_seconds=390)
        assert run["taskSucceeded"] == TASKS
        assert {task["attempt"] for task in run["tasks"]} == {1}
        print(f"{TASKS} tasks, {replicas} of jobrunner and collector: {run['durationMs'] / 1000:.1f} s")  # noqa: T201
    finally:
        helios.scale(2, "helios-jobrunner", "helios-collector")
