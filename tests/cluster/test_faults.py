"""What breaks under running tasks, and that every run ends all the same, right. Only on a cluster of the tests' own.

With HELIOS_LONG=1 (make test-cluster-long) outages are longer and runs larger; otherwise just long enough to matter.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.caches import gate
from tests.cluster.dags import dag, many, script
from tests.cluster.installed import DEPLOYMENTS, Installed, Run
from tests.cluster.kubectl import Kubectl
from tests.waiting import wait_until

LONG = bool(os.environ.get("HELIOS_LONG"))
OUTAGE_SECONDS = 60 if LONG else 15
API_OUTAGE_SECONDS = 20 if LONG else 10
TASKS = 100 if LONG else 30


@pytest.fixture(autouse=True)
def whole(helios: Installed) -> Iterator[None]:
    """Each test begins and ends with everything in order."""
    if helios.cluster.home is None:
        pytest.skip("this cluster is not ours to break")
    yield
    helios.wait_ready()


def let_pass(seconds: float) -> None:
    """An outage has a length, and nothing to wait for meanwhile."""
    end = time.monotonic() + seconds
    wait_until(f"{seconds:g} s have passed", lambda: time.monotonic() >= end, seconds + 5)


def right(run: Run, count: int) -> None:
    """All succeeded, each counted once."""
    assert run["status"] == "SUCCEEDED", run["tasks"]
    assert (run["taskCount"], run["taskSucceeded"], run["taskFailed"]) == (count, count, 0)
    assert [task["status"] for task in run["tasks"]] == ["SUCCEEDED"] * count


def test_results_of_jobs_that_ended_while_no_collector_ran(helios: Installed) -> None:
    count = 6
    with gate() as (wait, opened):
        first = many(helios, "unwatched", count, f"{wait}; echo $N > n", outputs=["n"])
        last = script(
            helios,
            "sum",
            "cat *.n | sort -n | tr '\n' ' ' > all",
            inputs=[{"fromTask": task["name"], "name": "n", "as": f"{task['name']}.n"} for task in first["tasks"]],
            outputs=["all"],
        )
        run = helios.submit(dag("unwatched", *first["tasks"], last))
        opened.until_waiting(count)
        helios.scale(0, "helios-collector")
        try:
            opened.set()
            wait_until(
                "the tasks have ended while nobody watches",
                lambda: [exit_code(pod, "task") for pod in helios.task_pods(run)] == [0] * count,
                90,
            )
            let_pass(OUTAGE_SECONDS)
        finally:
            helios.scale(2, "helios-collector")
    found = helios.end_of(run, 240)
    right(found, count + 1)
    assert [task["attempt"] for task in found["tasks"]] == [1] * (count + 1)


def exit_code(pod: dict[str, Any], container: str) -> int | None:
    for each in pod["status"].get("containerStatuses", ()):
        if each["name"] == container:
            return each["state"].get("terminated", {}).get("exitCode")
    return None


def test_the_api_server_away(helios: Installed) -> None:
    run = helios.submit(many(helios, "unheard", TASKS, "sleep 1; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    helios.cluster.tool("stop-part", "apiserver")
    try:
        let_pass(API_OUTAGE_SECONDS)
    finally:
        helios.cluster.tool("start-part", "apiserver")
    right(helios.end_of(run, 240), TASKS)


def test_redis_killed(helios: Installed) -> None:
    run = helios.submit(many(helios, "forgotten", TASKS, "sleep 1; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    helios.kill(helios.services.get("pod", "helios-redis-0"))
    right(helios.end_of(run, 240), TASKS)


def test_a_jobrunner_and_a_collector_killed(helios: Installed) -> None:
    run = helios.submit(many(helios, "orphans", TASKS, "sleep 1; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    for name in ("helios-jobrunner", "helios-collector", "helios-submitter"):
        helios.kill(helios.pods_of_service(name)[0])
    found = helios.end_of(run, 240)
    right(found, TASKS)
    assert [task["attempt"] for task in found["tasks"]] == [1] * TASKS, "nothing was done twice"


def test_a_node_crashes_under_running_tasks(helios: Installed) -> None:
    """The tasks on it are repeated elsewhere, at the cost of nobody's retries, and half of Helios with them."""
    with gate() as (wait, opened):
        long = [script(helios, f"long{n}", f"{wait}; echo done > n", outputs=["n"]) for n in range(6)]
        run = helios.submit(dag("crashed", *long))
        opened.until_waiting(len(long))
        nodes = helios.at_work(run, len(long))
        there = {name for name, node in nodes.items() if node == "node2"}
        assert there, f"the scheduler put no task on node2: {nodes}"
        helios.cluster.tool("stop-node", "node2")
        try:
            opened.set()
            found = helios.end_of(run, 240)
            right(found, 6)
            assert {task["attempt"] for task in found["tasks"] if task["name"] in there} == {2}
            assert {task["node"] for task in found["tasks"]} == {"node1"}
        finally:
            helios.cluster.tool("start-node", "node2")
            helios.services.wait_for("node", "node2", "Ready", 90)
    left = wait_until("no pod of the run is left", lambda: not helios.task_pods(run) or None, 120)
    assert left


def test_two_of_each_and_none_left(helios: Installed) -> None:
    """Every service at once gone and back: nothing is lost."""
    run = helios.submit(many(helios, "restarted", TASKS // 2, "sleep 1; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    for name in DEPLOYMENTS:
        for pod in helios.pods_of_service(name):
            helios.kill(pod)
    right(helios.end_of(run, 240), TASKS // 2)


def test_a_rolling_restart_of_everything_under_a_run(helios: Installed) -> None:
    """As `kubectl apply` of a new version does it: each replica hands back what it has, and no task is begun twice."""
    run = helios.submit(many(helios, "rolled", TASKS, "sleep 1; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    agents = Kubectl(helios.agents.namespace)
    for name in DEPLOYMENTS:
        helios.services.run("rollout", "restart", f"deployment/{name}")
    agents.run("rollout", "restart", f"daemonset/{helios.agents.daemonset}")
    helios.wait_ready()
    helios.wait_agents()
    found = helios.end_of(run, 240)
    right(found, TASKS)
    assert [task["attempt"] for task in found["tasks"]] == [1] * TASKS


def test_redis_emptied_under_a_run_and_the_run_rebuilt(helios: Installed) -> None:
    """What docs/operations.md says of a lost Redis: what had succeeded stays done, and the Job that runs goes on."""
    with gate() as (wait, opened):
        run = helios.submit(
            dag(
                "lost",
                script(helios, "early", "echo one > o", outputs=["o"]),
                script(helios, "slow", f"{wait}; echo two > p", outputs=["p"]),
                script(
                    helios,
                    "last",
                    "cat o p",
                    inputs=[{"fromTask": "early", "name": "o"}, {"fromTask": "slow", "name": "p"}],
                ),
            )
        )
        wait_until("what has succeeded is stored", lambda: rebuildable(helios, run).get("taskSucceeded") == 1, 90)
        opened.until_waiting(1)
        at_gate = pods_of(helios, run, "slow")
        for path in helios.redis_folder().iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        helios.kill(helios.services.get("pod", "helios-redis-0"))
        wait_until("Redis is there and empty", lambda: rebuildable(helios, run).get("known") is False, 90)
        helios.wait_ready()
        done = helios.helios("recover", "--apply")
        assert done.returncode == 0, done.stderr
        assert pods_of(helios, run, "slow") == at_gate, "the Job goes on"
        opened.set()
        found = helios.end_of(run, 240)
    right(found, 3)
    tasks = {task["name"]: task for task in found["tasks"]}
    assert found["taskSkipped"] == 1
    assert {task["attempt"] for task in tasks.values()} == {1}
    assert "one\ntwo" in helios.logs(run, "last")


def rebuildable(helios: Installed, run: str) -> dict[str, Any]:
    """What `helios recover` says of the run; nothing while Redis does not answer."""
    done = helios.helios("recover", "-o", "json")
    return next((each for each in json.loads(done.stdout or "[]") if each["run"] == run), {})


def pods_of(helios: Installed, run: str, task: str) -> list[str]:
    """The task's pods, by name."""
    pods = helios.task_pods(run)
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["annotations"]["helios.dev/task"] == task]
