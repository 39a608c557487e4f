"""Helios on real nodes, with the manifests of k8s/ as they are."""

import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from tests.cluster.dags import dag, on, script
from tests.cluster.installed import ROOT, Installed, Run
from tests.waiting import wait_until

DEMO = ROOT / "examples" / "opticks.yaml"
BOOK = ROOT / "examples" / "data" / "opticks.txt"


@pytest.fixture(scope="module")
def node(helios: Installed) -> str:
    """The one that tasks are held to."""
    return helios.services.ready_nodes()[0]


@pytest.fixture(scope="module")
def book(helios: Installed) -> str:
    """Where the store has the demo's input."""
    done = helios.helios("put", "--make-bucket", str(BOOK), "s3://library/opticks.txt")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def demo(helios: Installed, node: str, book: str) -> tuple[Run, Run]:
    """`make demo`'s DAG twice, its tasks held to one node; its images are replaced by one that the nodes have."""
    found = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    for task in found["tasks"]:
        task.update(image=helios.cluster.image, **on(node))
    return helios.succeed(found), helios.succeed(found)


def test_the_demo_misses_then_hits(demo: tuple[Run, Run], node: str) -> None:
    first, second = demo
    count = first["taskCount"]
    # What the tasks made for each other may be in their node's cache on the first run already.
    assert first["cacheHit"] in ("Miss", "Partial")
    assert {each["cause"] for task in first["tasks"] for each in task["inputs"]} <= {"never-here", "warm"}
    assert (second["cacheHit"], second["cacheHitTasks"], second["cacheMissBytes"]) == ("Hit", count, 0)
    assert {each["cause"] for task in second["tasks"] for each in task["inputs"]} <= {"cached", "warm"}
    assert first["cacheMissBytes"] + first["cacheHitBytes"] == second["cacheHitBytes"] > BOOK.stat().st_size
    assert (first["nodes"], second["nodes"]) == (node, node)


def test_the_demos_report_is_what_its_commands_make(demo: tuple[Run, Run], helios: Installed, tmp_path: Path) -> None:
    """The same commands, run one after the other in folders, without Helios."""
    expected = by_hand(yaml.safe_load(DEMO.read_text(encoding="utf-8")), tmp_path)
    for n, run in enumerate(demo):
        done = helios.helios("artifacts", run["dagId"], "report", "report.txt", "--to", str(tmp_path / f"run{n}"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"run{n}" / "report.txt").read_bytes() == expected
        (output,) = run["tasks"][-1]["outputs"]
        assert output["sha256"] == hashlib.sha256(expected).hexdigest()


def by_hand(found: dict[str, Any], folder: Path) -> bytes:
    for task in found["tasks"]:
        where = folder / task["name"]
        where.mkdir()
        for each in task["inputs"]:
            source = folder / each["fromTask"] / each["name"] if "fromTask" in each else BOOK
            (where / each.get("as", source.name)).write_bytes(source.read_bytes())
        _, *arguments = task["command"]
        subprocess.run([sys.executable, *arguments], cwd=where, check=True, capture_output=True)
    return (folder / "report" / "report.txt").read_bytes()


def test_logs_have_their_published_form(demo: tuple[Run, Run], helios: Installed) -> None:
    first, second = (helios.logs(run["dagId"], "split", "fetch").splitlines() for run in demo)
    for lines in (first, second):
        assert lines[0] == "[HELIOS] Init container starting for task 'split'"
        assert lines[-1] == "[HELIOS] Init container completed."
    assert "[HELIOS] Cache miss for 'opticks.txt'; downloading from MinIO..." in first
    assert any(line.startswith("[HELIOS] Cache hit for 'opticks.txt' -> /") for line in second)
    assert "book 1-1: 26,608 words" in helios.logs(demo[0]["dagId"], "split")


def test_no_pod_knows_a_credential_but_its_attempts_token(helios: Installed, book: str) -> None:
    waiting = script(helios, "waiting", "sleep 600", inputs=[{"uri": book}], outputs=["result"])
    run = helios.submit(dag("waiting", waiting))
    try:
        helios.at_work(run, 1)
        (pod,) = helios.task_pods(run)
    finally:
        helios.helios("cancel", run)
    secrets = {
        value
        for path in (helios.folder / "secrets").glob("*.env")
        for name, value in helios.credentials(path.stem).items()
        if name in ("password", "HELIOS_TOKEN_KEY", "HELIOS_S3_SECRET_KEY", "MINIO_ROOT_PASSWORD")
    } | {str(urlsplit(helios.redis_url(user)).password) for user in ("client", "jobrunner", "collector", "submitter")}
    text = json.dumps(pod)
    assert len(secrets) > 8
    assert not [secret for secret in secrets if secret in text]
    *ours, task = pod["spec"]["containers"]
    if helios.form == "csi":
        assert [list(each) for each in pod["spec"]["volumes"]] == [["csi", "name"]]
        assert (ours, pod["spec"].get("initContainers")) == ([], None)
        token = pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["token"]
    else:
        (token,) = {token_of(each) for each in ours}
    assert token
    assert token not in json.dumps(task)
    assert not any("projected" in volume or "secret" in volume for volume in pod["spec"]["volumes"])


def token_of(container: dict[str, Any]) -> str | None:
    return next((each["value"] for each in container["env"] if each["name"] == "HELIOS_TOKEN"), None)


def test_a_memoized_task_that_succeeded_under_the_same_image_is_not_run_again(helios: Installed) -> None:
    """What the image's tag stands for is known from the pods that ran it."""
    word = uuid.uuid4().hex
    make = script(helios, "make", f"echo {word} > word", outputs=["word"], memoize=True)
    use = script(helios, "use", f"grep {word} word", inputs=[{"fromTask": "make", "name": "word"}])
    first = helios.succeed(dag("memoized", make, use))
    wait_until("its pods are wrapped up", lambda: not held(helios.task_pods(first["dagId"])), 90)
    second = helios.succeed(dag("memoized", make, use))
    assert (first["taskSkipped"], second["taskSkipped"]) == (0, 1), helios.helios("why", second["dagId"], "make").stdout
    (task,) = (each for each in second["tasks"] if each["name"] == "make")
    assert task["skipped"]["run"] == first["dagId"]
    assert len(helios.task_pods(second["dagId"])) == 1
    assert helios.succeed(dag("memoized", make, use), "--no-memoize")["taskSkipped"] == 0


def held(pods: list[dict[str, Any]]) -> list[str]:
    """Pods whose end is not dealt with yet."""
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"].get("finalizers")]


def test_a_task_is_made_for_each_thing_that_another_has_found(helios: Installed) -> None:
    name = f"found-{uuid.uuid4().hex[:8]}"
    found = script(helios, "list", """echo '["a", "b", 3]' > found.json""", outputs=["found.json"])
    work = script(
        helios,
        "work",
        "echo ${item} > made",
        forEach={"fromTask": "list", "name": "found.json"},
        outputs=["made"],
        memoize=True,
    )
    merge = script(helios, "merge", "cat parts/a parts/b parts/3 | tee all", outputs=["all"])
    merge["inputs"] = [{"fromTask": "work", "name": "made", "as": "parts"}]
    growing = dag(name, found, work, merge)
    first = helios.succeed(growing)
    wait_until("its pods are wrapped up", lambda: not held(helios.task_pods(first["dagId"])), 90)
    second = helios.succeed(growing)
    assert [task["name"] for task in first["tasks"]] == ["list", "work", "work-a", "work-b", "work-3", "merge"]
    assert helios.logs(first["dagId"], "merge").split() == ["a", "b", "3"]
    assert (first["taskSkipped"], second["taskSkipped"]) == (0, 3)


def test_a_failed_task_stops_what_is_below_it(helios: Installed) -> None:
    first = script(helios, "first", "echo one > a", outputs=["a"])
    middle = script(
        helios,
        "middle",
        "cat a; echo on stderr >&2; exit 3",
        inputs=[{"fromTask": "first", "name": "a"}],
        outputs=["b"],
        retries={"count": 2},
    )
    last = script(helios, "last", "cat b", inputs=[{"fromTask": "middle", "name": "b"}])
    run = helios.run(dag("failing", first, middle, last))
    states = {task["name"]: (task["status"], task["attempt"]) for task in run["tasks"]}
    assert run["status"] == "FAILED"
    assert states["first"] == ("SUCCEEDED", 1)
    assert states["middle"] == ("FAILED", 3)
    assert states["last"][0] == "UPSTREAM_FAILED"
    assert (run["taskSucceeded"], run["taskFailed"], run["taskUpstreamFailed"]) == (1, 1, 1)
    assert run["durationMs"] == run["endTime"] - run["startTime"] > 0
    middle_now = run["tasks"][1]
    assert middle_now["exitCode"] == 3
    assert "3" in middle_now["reason"]
    assert set(helios.logs(run["dagId"], "middle").splitlines()) == {"one", "on stderr"}


def test_a_task_that_needs_more_memory_than_it_may_have_is_out_of_memory(helios: Installed) -> None:
    greedy = script(helios, "greedy", "head -c 200m /dev/zero | tail -n 1", resources={"limits": {"memory": "32Mi"}})
    run = helios.run(dag("greedy", greedy))
    assert run["tasks"][0]["reason"].startswith("OOMKilled")


@pytest.fixture
def inside(helios: Installed, node: str, book: str) -> dict[str, str]:
    """What a task prints that tries to get at what is not its own, line by line as NAME=WHAT."""
    redis_host, redis_port = helios.services.get("service", "helios-redis")["spec"]["clusterIP"], 6379
    minio = helios.services.get("service", "helios-minio")["spec"]["clusterIP"]
    collector = helios.services.get("service", "helios-collector")["spec"]["clusterIP"]
    environment = {
        "REDIS": f"{redis_host} {redis_port}",
        "MINIO": f"http://{minio}:9000",
        "POD": f"http://{collector}:8414",
    }
    other = script(helios, "other", "sleep 600", inputs=[{"uri": book, "as": "other.txt"}], **on(node))
    curious = script(helios, "curious", CURIOUS, env=environment, inputs=[{"uri": book}], **on(node))
    neighbour = helios.submit(dag("neighbour", other))
    try:
        helios.at_work(neighbour, 1)
        run = helios.succeed(dag("curious", curious))
    finally:
        helios.helios("cancel", neighbour)
    lines = helios.logs(run["dagId"], "curious").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


CURIOUS = """
say() { echo "$1=$(echo $2 | tr -d '\\n\\r')"; }
real=$(readlink -f opticks.txt)
say user "$(id -u)"
say write "$( (echo x >> $real) 2>&1)"
say chmod "$(chmod 777 $real 2>&1)"
say unlink "$(rm -f $real 2>&1)"
say remount "$(mount -o remount,rw $(dirname $real) 2>&1)"
say intact "$(sha256sum < opticks.txt)"
say views "$(ls /var/helios/cache/views | wc -l)"
say blobs "$(ls /var/helios/cache/blobs 2>&1)"
say up "$(ls -d $(dirname $real)/../../* 2>&1)"
say redis "$(printf 'PING\\r\\nKEYS *\\r\\nQUIT\\r\\n' | nc $REDIS 2>&1)"
say store "$(wget -q -O - $MINIO/library/opticks.txt 2>&1 | head -c 200)"
say listing "$(wget -q -O - $MINIO/helios/ 2>&1 | head -c 200)"
say plan "$(wget -q -O - $POD/v1/plan 2>&1 | head -c 200)"
say token "$(env | grep -i -c -e token -e secret -e password -e access || true)"
say account "$(ls /var/run/secrets 2>&1)"
say others "$(cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c HELIOS_TOKEN || true)"
say state "$(ls /helios 2>&1)"
say hidden "$(ls /artifacts/.helios 2>&1)"
say flags "$(awk '$2 == "/artifacts/.helios/inputs" { print $4 }' /proc/mounts)"
say wrapper "$( (echo x > $(ls -d /helios/exec/exec /artifacts/.helios/exec 2>/dev/null)) 2>&1)"
"""


def test_a_task_gets_at_nothing_that_is_not_its_own(helios: Installed, inside: dict[str, str]) -> None:
    """Even as root, where that is possible: every refusal is asserted, so that one that becomes permission fails."""
    is_root = helios.form == "init"
    assert inside["user"] == ("0" if is_root else "1000")
    # Who is not root may be refused for the file's mode already.
    refusals = ("Read-only file system", *(() if is_root else ("Permission denied", "Operation not permitted")))
    for door in ("write", "chmod", "unlink"):
        assert any(each in inside[door] for each in refusals), inside[door]
    assert is_root or {"ro", "nosuid", "nodev"} <= set(inside["flags"].split(","))
    assert inside["remount"]
    assert inside["intact"].split()[0] == hashlib.sha256(BOOK.read_bytes()).hexdigest()
    assert inside["views"] == ("1" if is_root else "0")
    assert "No such file" in inside["blobs"]
    assert inside["up"].count("/") <= 8
    assert "NOAUTH" in inside["redis"]
    assert "PONG" not in inside["redis"]
    for door in ("store", "listing"):
        assert "403" in inside[door]
    assert "401" in inside["plan"]
    assert inside["token"] == "0"
    assert "No such file" in inside["account"]
    assert inside["others"] == "0"
    if is_root:
        assert set(inside["state"].split()) == {"control", "exec"}
        assert "Read-only file system" in inside["wrapper"]
    else:
        assert set(inside["hidden"].split()) == {"control", "exec", "inputs"}
        assert "Read-only file system" in inside["wrapper"] or "Permission denied" in inside["wrapper"]


def test_the_user_that_may_submit_may_do_nothing_else(helios: Installed) -> None:
    with helios.redis("submit") as submitter:
        run = submitter.xadd("helios:submissions", {"dag": json.dumps(dag("by-hand", script(helios, "one", "true")))})
        with pytest.raises(redis.exceptions.NoPermissionError):
            submitter.hgetall(f"helios:{{p0}}:run:{run}")
        with pytest.raises(redis.exceptions.NoPermissionError):
            submitter.xadd("helios:controls", {"run": str(run), "action": "cancel"})
    assert helios.end_of(str(run))["status"] == "SUCCEEDED"


def test_cancel_leaves_no_job(helios: Installed) -> None:
    run = helios.submit(dag("cancelled", *(script(helios, f"t{n}", "sleep 600") for n in range(4))))
    helios.at_work(run, 2)
    done = helios.helios("cancel", run)
    assert done.returncode == 0, done.stderr
    found = helios.end_of(run)
    assert (found["status"], found["taskCancelled"]) == ("CANCELLED", 4)
    for kind in ("jobs", "pods"):
        wait_until(
            f"no {kind} are left", lambda kind=kind: not helios.tasks.labelled(kind, {"helios.dev/run": run}), 90
        )
