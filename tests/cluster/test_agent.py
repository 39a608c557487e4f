"""The nodes' agents, in the csi form: whatever kills one, and whenever, no task notices; and tasks that go too far do
not get there. Only on a cluster of the tests' own.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.caches import MIB, NODES, Object, gate, inputs, keepers_with, reader, task_of
from tests.cluster.dags import dag, many, on, script
from tests.cluster.installed import Installed, Run
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.store_link import StoreLink
from tests.waiting import wait_until

LINKS = 8


@pytest.fixture(autouse=True)
def whole(helios: Installed) -> Iterator[None]:
    if helios.form != "csi":
        pytest.skip("there are no agents in this form")
    if helios.cluster.home is None:
        pytest.skip("this cluster is not ours to break")
    yield
    helios.wait_agents()
    helios.wait_ready()


def kill_agent(helios: Installed, node: str) -> None:
    """SIGKILL. Its pod is deleted as well, since kubelet would start one that dies often later and later."""
    agent = helios.keeper(node)
    helios.kill(agent)
    Kubectl(helios.agents.namespace).delete("pod", agent["metadata"]["name"], wait=False)


def first_time(run: Run) -> None:
    """All succeeded, and nothing was done twice."""
    assert run["status"] == "SUCCEEDED", run["tasks"]
    assert {task["attempt"] for task in run["tasks"]} == {1}


def test_the_tasks_namespace_enforces_the_restricted_level(helios: Installed) -> None:
    labels = Kubectl().get("namespace", "helios-tasks")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    with pytest.raises(KubectlFailed, match="violates PodSecurity"):
        helios.tasks.run("run", "rooted", f"--image={helios.cluster.task_image}", "--restart=Never", "--", "true")


def test_the_doctor_finds_an_agent_on_every_node(helios: Installed) -> None:
    done = helios.helios("doctor")
    assert "cache.helios.dev" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout


def test_an_agent_killed_while_tasks_run(helios: Installed) -> None:
    """Its successor finds the volumes again and stores what the tasks write, also of those that end meanwhile."""
    with gate() as (wait, opened), gate() as (wait_shortly, opened_now):
        later = [script(helios, f"later{n}", f"{wait}; echo {n} > n", outputs=["n"], **on("node2")) for n in range(4)]
        meanwhile = [
            script(helios, f"now{n}", f"{wait_shortly}; sleep {n}; echo {n} > n", outputs=["n"], **on("node2"))
            for n in range(6)
        ]
        run = helios.submit(dag("killed", *later, *meanwhile))
        opened.until_waiting(len(later))
        opened_now.until_waiting(len(meanwhile))
        opened_now.set()
        kill_agent(helios, "node2")
        helios.wait_agents()
        opened.set()
        first_time(helios.end_of(run))


def test_an_agent_killed_while_it_fetches(helios: Installed, tmp_path: Path) -> None:
    each = Object(helios, tmp_path, 64 * MIB)
    part = helios.cache_folder("node2") / "tmp"
    with StoreLink(helios).limited("64mbit"):
        run = helios.submit(dag("fetching", reader(helios, "read", each, **on("node2"))))
        wait_until("some of it is there", lambda: any(size_of(file) > 0 for file in part.iterdir()), 120)
        kill_agent(helios, "node2")
    found = helios.end_of(run)
    first_time(found)
    assert inputs(found, "read")[each.name]["bytes"] == each.size


def size_of(file: Path) -> int:
    """Nothing where it has gone since it was listed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def test_an_agent_killed_while_it_stores(helios: Installed, tmp_path: Path) -> None:
    size = 512 * MIB
    make = script(
        helios, "make", f"head -c {size} /dev/urandom > data; sha256sum < data", outputs=["data"], **on("node2")
    )
    run = helios.submit(dag("storing", make))
    volumes = helios.cache_folder("node2") / "volumes"
    wait_until("the task is over", lambda: any(volumes.glob("*/control/exit")), 120)
    kill_agent(helios, "node2")
    found = helios.end_of(run)
    first_time(found)
    (output,) = task_of(found, "make")["outputs"]
    assert (output["bytes"], output["sha256"]) == (size, helios.logs(run, "make").split()[0])
    done = helios.helios("artifacts", run, "make", "data", "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "data").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == output["sha256"]


def test_agents_killed_again_and_again(helios: Installed) -> None:
    """At any step of some task: with an input each, from the task before."""
    chains = [
        script(
            helios,
            f"c{chain}t{n}",
            f"sleep 2; cat in > out; echo {n} >> out" if n else "echo 0 > out",
            outputs=["out"],
            inputs=[{"fromTask": f"c{chain}t{n - 1}", "name": "out", "as": "in"}] if n else [],
        )
        for chain in range(6)
        for n in range(LINKS)
    ]
    run = helios.submit(dag("again", *chains))
    kills = 0
    while kills < 6 and helios.show(run)["status"] == "RUNNING":
        for node in NODES:
            kill_agent(helios, node)
            kills += 1
        helios.wait_agents()
    assert kills > 2, "the run was over before the agents' successors were killed"
    found = helios.end_of(run, 300)
    first_time(found)
    for chain in range(6):
        (output,) = task_of(found, f"c{chain}t{LINKS - 1}")["outputs"]
        assert output["sha256"] == hashlib.sha256("".join(f"{n}\n" for n in range(LINKS)).encode()).hexdigest()


def test_agents_that_are_replaced_under_running_tasks(helios: Installed) -> None:
    """As an upgrade does."""
    run = helios.submit(many(helios, "upgraded", 12, "sleep 8; echo $N > n", outputs=["n"]))
    helios.at_work(run, 2)
    Kubectl(helios.agents.namespace).run("rollout", "restart", f"daemonset/{helios.agents.daemonset}")
    helios.wait_agents()
    first_time(helios.end_of(run))


def test_a_pod_that_is_deleted_is_repeated_and_leaves_no_mount(helios: Installed) -> None:
    with gate() as (wait, opened):
        run = helios.submit(
            dag("deleted", script(helios, "one", f"{wait}; echo x > out", outputs=["out"], **on("node2")))
        )
        helios.at_work(run, 1)
        (pod,) = helios.task_pods(run)
        helios.tasks.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
        wait_until("another pod is there", lambda: uid_of(helios, run) not in ("", pod["metadata"]["uid"]), 90)
        opened.set()
        found = helios.end_of(run)
    assert found["status"] == "SUCCEEDED"
    assert task_of(found, "one")["attempt"] == 2
    volumes = helios.cache_folder("node2") / "volumes"
    wait_until(
        "its volume is gone", lambda: not [each for each in volumes.iterdir() if each.name.startswith("csi-")], 90
    )


def uid_of(helios: Installed, run: str) -> str:
    pods = [pod for pod in helios.task_pods(run) if not pod["metadata"].get("deletionTimestamp")]
    return pods[0]["metadata"]["uid"] if pods else ""


def test_a_task_that_writes_more_than_it_may_fails_with_that_reason(helios: Installed) -> None:
    with keepers_with(helios, HELIOS_VOLUME_BYTES=str(20 * MIB)):
        fine = script(helios, "fine", f"head -c {10 * MIB} /dev/zero > out", outputs=["out"])
        assert helios.run(dag("fine", fine))["status"] == "SUCCEEDED"
        greedy = script(helios, "greedy", f"head -c {40 * MIB} /dev/zero > out; sleep 600", outputs=["out"])
        run = helios.run(dag("greedy", greedy))
    task = task_of(run, "greedy")
    assert task["status"] == "FAILED"
    assert "HELIOS_VOLUME_BYTES" in task["reason"]
    wait_until("its pod is gone", lambda: not helios.task_pods(run["dagId"]), 90)


ATTACKS = """
echo fine > good
ln -s /etc/passwd link
rm -rf .helios/control/lock .helios/control/started || true
echo '{"exitCode":0}' > .helios/control/exit || true
mount --bind / .helios/inputs || true
(sleep 1; echo changed > good) &
"""


@pytest.mark.parametrize(("output", "status"), [("good", "SUCCEEDED"), ("link", "FAILED")])
def test_a_task_that_attacks_its_volume_harms_only_itself(helios: Installed, output: str, status: str) -> None:
    run = helios.run(dag("attack", script(helios, "attack", ATTACKS, outputs=[output])))
    task = task_of(run, "attack")
    assert task["status"] == status, task
    if status == "SUCCEEDED":
        assert task["outputs"][0]["sha256"] == hashlib.sha256(b"fine\n").hexdigest()
    else:
        assert "link" in task["reason"]


def test_a_missing_input_is_the_tasks_reason_and_its_pod_goes(helios: Installed) -> None:
    task: dict[str, Any] = script(helios, "lost", "true", inputs=[{"uri": "s3://cachetest/never-there"}])
    run = helios.run(dag("lost", task))
    found = task_of(run, "lost")
    assert found["status"] == "FAILED"
    assert "never-there" in found["reason"]
    assert any("never-there" in line for line in helios.logs(run["dagId"], "lost", "fetch").splitlines())
    wait_until("its pod is gone", lambda: not helios.task_pods(run["dagId"]), 90)
