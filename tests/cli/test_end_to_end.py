"""The whole product in local mode, through the command line: one embedded stack, held up by `helios up`."""

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from cli.embedded.home import Home
from cli.embedded.lease import running_stack
from cli.object_store import store_client
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.settings import settings_from
from helios.streams import CLIENT_OPTIONS
from tests.cli.command import COMMAND, ROOT, Helios
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

HELLO = """\
dagName: hello
tasks:
  - {name: greet, image: alpine, command: [sh, -c, "echo hello; echo hello > greeting.txt"], outputs: [greeting.txt]}
"""

SLEEPER = """\
dagName: sleeper
tasks:
  - {{name: first, image: alpine, command: [sh, -c, "echo $$ > {pids}; echo sleeping; sleep 600"]}}
  - {{name: second, image: alpine, command: [echo, never], depends_on: [first]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Helios]:
    """The command, with `helios up` running in its home. At the end nothing is left behind."""
    home = tmp_path_factory.mktemp("home") / "helios"
    helios = Helios(folder, {"HELIOS_HOME": str(home)})
    process = helios.start("up")
    told: list[str] = []
    threading.Thread(target=lambda: told.extend(process.stderr or ()), daemon=True).start()
    try:
        wait_until("helios up says that everything runs", lambda: any("Everything runs" in line for line in told), 60)
        stack = running_stack(Home(home))
        assert stack is not None
        family = psutil.Process(stack.supervisor_pid).children(recursive=True)
        yield helios
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        helios.end_started()
    assert code == 0, told
    assert is_gone(stack.supervisor_pid)
    assert [each for each in family if not is_gone(each.pid)] == []


@pytest.fixture(scope="module")
def client(up: Helios) -> Iterator[redis.Redis]:
    stack = running_stack(Home(Path(up.environ["HELIOS_HOME"])))
    assert stack is not None
    with redis.Redis.from_url(stack.redis_url, **CLIENT_OPTIONS) as made:
        yield made


def status_of(client: redis.Redis, run: str) -> str | None:
    return client.hget(Keys(0).run(run), "status")  # pyright: ignore[reportReturnType]


def tasks_of(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in run["tasks"]}


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has waited for yet counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started_pid(file: Path) -> int:
    return int(wait_until("the task has started", lambda: file.exists() and file.read_text().strip(), 60))


def hear(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the narration up to the words."""
    assert process.stderr is not None
    stderr = process.stderr
    wait_until(f"it says {words!r}", lambda: words in stderr.readline(), 60)


def test_a_first_dag_runs_and_says_what_came_of_it(up: Helios) -> None:
    done = up("run", up.dag("hello", HELLO))
    assert done.code == 0, done.err
    assert "SUCCEEDED" in done.out
    assert "greet" in done.out
    assert "images are not used" in done.err
    assert "helios artifacts" in done.err


def test_a_run_as_json_is_one_object_with_every_name_of_the_design(up: Helios) -> None:
    done = up("run", "-", "-o", "json", text=HELLO)
    assert done.code == 0, done.err
    run = done.json()
    assert run["dagName"] == "hello"
    assert run["cacheEnabled"] is True
    assert run["durationMs"] == run["endTime"] - run["startTime"]
    (task,) = run["tasks"]
    assert list(task) == [
        "name",
        "status",
        "attempt",
        "node",
        "cache",
        "cacheHitBytes",
        "cacheMissBytes",
        "fetchMs",
        "savedMs",
        "peerBytes",
        "storeBytes",
        "inputs",
        "startTime",
        "endTime",
        "exitCode",
        "reason",
        "skipped",
        "outputs",
    ]
    assert (task["status"], task["exitCode"], task["cache"], task["reason"]) == ("SUCCEEDED", 0, "N/A", None)
    assert task["outputs"] == [
        {
            "name": "greeting.txt",
            "bytes": 6,
            "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        }
    ]


def memoized(folder: Path, use: str) -> str:
    """Two tasks that note in a file of the test's that they ran."""
    note = f"echo $0 >> {folder / 'ran'}"
    return f"""\
dagName: memoized
tasks:
  - {{name: make, image: alpine, command: [sh, -c, "{note}; echo made > o", make], outputs: [o], memoize: true}}
  - name: use
    image: alpine
    command: [sh, -c, "{note}; cat o > p; echo {use} >> p", use]
    inputs: [{{fromTask: make, name: o}}]
    outputs: [p]
    memoize: true
"""


def test_an_unchanged_dag_runs_nothing_the_second_time_and_what_is_changed_runs_alone(
    up: Helios, tmp_path: Path
) -> None:
    """And the outputs of a task that was skipped are those of the task that ran: for its children, and for people."""

    def run(use: str, *options: str) -> dict[str, Any]:
        done = up("run", "-", "-o", "json", *options, text=memoized(tmp_path, use))
        assert done.code == 0, done.err
        found: dict[str, Any] = done.json()
        return found

    def ran() -> list[str]:
        return (tmp_path / "ran").read_text().split()

    first, second = run("a"), run("a")
    assert ran() == ["make", "use"]
    assert (first["taskSkipped"], second["taskSkipped"], second["taskSucceeded"]) == (0, 2, 2)
    assert tasks_of(second)["use"]["skipped"] == {"run": first["dagId"], "task": "use"}
    assert tasks_of(second)["use"]["outputs"] == tasks_of(first)["use"]["outputs"]
    shown = up("show", second["dagId"]).out
    assert "2 succeeded (2 skipped)" in shown
    assert f"skipped, from run {first['dagId']} task use" in shown
    changed = run("b")
    assert ran() == ["make", "use", "use"]
    assert tasks_of(changed)["make"]["skipped"] == {"run": first["dagId"], "task": "make"}
    assert tasks_of(changed)["use"]["skipped"] is None
    assert up("artifacts", second["dagId"], "use", "p", "--to", str(tmp_path / "to")).code == 0
    assert [file.read_text() for file in (tmp_path / "to").rglob("p")] == ["made\na\n"]
    again = run("b", "--no-memoize")
    assert (again["taskSkipped"], again["memoize"], len(ran())) == (0, False, 5)
    assert "no task is skipped" in up("show", again["dagId"]).out


def test_an_external_input_keeps_no_task_from_being_skipped_until_it_is_another(up: Helios, tmp_path: Path) -> None:
    dag = up.dag(
        "outside",
        f"""\
dagName: outside
tasks:
  - name: count
    image: alpine
    command: [sh, -c, "echo >> {tmp_path / "ran"}; wc -c < data.bin > n"]
    inputs: [{{uri: "s3://outside/data.bin"}}]
    outputs: [n]
    memoize: true
""",
    )

    def run(content: str) -> dict[str, Any]:
        (up.folder / "data.bin").write_text(content)
        assert up("put", "data.bin", "s3://outside/data.bin").code == 0
        done = up("run", dag, "-o", "json")
        assert done.code == 0, done.err
        task: dict[str, Any] = tasks_of(done.json())["count"]
        return {**task, "ran": len((tmp_path / "ran").read_text()), "run": done.json()["dagId"]}

    first, second, other = run("some"), run("some"), run("other")
    assert (first["skipped"], first["ran"]) == (None, 1)
    assert (second["skipped"], second["ran"]) == ({"run": first["run"], "task": "count"}, 1)
    assert second["outputs"] == first["outputs"]
    assert (other["skipped"], other["ran"]) == (None, 2)
    assert other["outputs"] != first["outputs"]


def test_the_second_run_of_a_dag_finds_every_input_in_the_cache(up: Helios, tmp_path: Path) -> None:
    """The promise of `make demo`."""
    put = up("put", str(ROOT / "examples/data/opticks.txt"), "s3://library/opticks.txt")
    assert put.code == 0, put.err
    assert put.out == "s3://library/opticks.txt\n"
    runs = [up("run", str(ROOT / "examples/opticks.yaml"), "-o", "json").json() for _ in range(2)]
    assert runs[0]["cacheHit"] in ("Miss", "Partial")
    assert [each["cause"] for each in tasks_of(runs[0])["split"]["inputs"]] == ["never-here"]
    assert runs[1]["cacheHit"] == "Hit"
    assert runs[1]["cacheMissBytes"] == 0
    assert runs[1]["cacheHitTasks"] == runs[1]["taskCount"] == 9
    assert [each["source"] for each in tasks_of(runs[0])["split"]["inputs"]] == ["store"]
    assert {each["source"] for task in runs[1]["tasks"] for each in task["inputs"]} == {"cache"}
    assert runs[0]["cacheStoreBytes"] == runs[0]["cacheMissBytes"]
    assert runs[1]["cacheStoreBytes"] == runs[1]["cachePeerBytes"] == 0

    fetched = up("artifacts", runs[1]["dagId"], "report", "report.txt", "--to", str(tmp_path))
    assert fetched.code == 0, fetched.err
    assert "the whole book" in (tmp_path / "report.txt").read_text()


def test_the_critical_path_of_a_run_is_all_of_its_time(up: Helios) -> None:
    """From submission to end nothing is left out; the last task of the DAG is what it ends with."""
    run = up("run", str(ROOT / "examples/opticks.yaml"), "-o", "json").json()
    found = up("critical", run["dagId"], "-o", "json").json()
    assert found["ms"] == run["durationMs"] == sum(step["ms"] for step in found["path"])
    assert (found["path"][0]["task"], found["path"][-1]["task"]) == ("split", "report")
    for step in found["path"]:
        assert sum(ms for ms in step["phases"].values() if ms is not None) == step["ms"]
        assert all(step["phases"][name] is not None for name in ("queue", "create", "fetch", "run", "settle"))
        assert step["phases"]["schedule"] is step["phases"]["pull"] is None
    assert found["allCached"]["unknown"] == 0


def test_what_runs_moved_is_added_up_for_their_dag_and_node(up: Helios) -> None:
    before = up("cache", "stats", "--dag", "opticks", "-o", "json").json()["total"]
    run = up("run", str(ROOT / "examples/opticks.yaml"), "-o", "json").json()
    after = up("cache", "stats", "--dag", "opticks", "-o", "json").json()["total"]
    assert after["runs"] == before["runs"] + 1
    assert after["hitBytes"] - before["hitBytes"] == run["cacheHitBytes"] > 0
    assert "local" in up("cache", "stats").out


def test_no_cache_fetches_every_input_anew(up: Helios) -> None:
    (up.folder / "small.txt").write_text("small")
    assert up("put", "small.txt", "s3://library/small.txt").code == 0
    dag = up.dag(
        "reader",
        """\
dagName: reader
tasks: [{name: read, image: alpine, command: [cat, small.txt], inputs: [{uri: "s3://library/small.txt"}]}]
""",
    )
    assert up("run", dag, "-o", "json").json()["cacheHit"] == "Miss"
    uncached = up("run", dag, "--no-cache", "-o", "json").json()
    assert (uncached["cacheEnabled"], uncached["cacheHit"], uncached["cacheMissBytes"]) == (False, "N/A", 5)


def test_a_failing_task_fails_the_run_and_what_is_below_it(up: Helios) -> None:
    dag = up.dag(
        "chain",
        """\
dagName: chain
tasks:
  - {name: one, image: alpine, command: ["true"]}
  - {name: two, image: alpine, command: [sh, -c, "echo it is broken >&2; exit 3"], depends_on: [one]}
  - {name: three, image: alpine, command: ["true"], depends_on: [two]}
""",
    )
    done = up("run", dag, "-o", "json")
    assert done.code == 1
    run = done.json()
    tasks = tasks_of(run)
    assert (run["status"], run["taskFailed"], run["taskUpstreamFailed"]) == ("FAILED", 1, 1)
    assert [tasks[name]["status"] for name in ("one", "two", "three")] == ["SUCCEEDED", "FAILED", "UPSTREAM_FAILED"]
    assert tasks["two"]["exitCode"] == 3
    assert "code 3" in done.err
    assert "it is broken" in done.err
    assert done.err.rstrip().endswith(f"helios logs {run['dagId']} two")
    shown = up("show", "@latest")
    assert shown.code == 0
    assert "code 3" in shown.out


def test_a_missing_output_fails_its_task_and_its_children_do_not_start(up: Helios) -> None:
    """Exit code 0 is not enough: what was promised must be stored."""
    dag = up.dag(
        "promise",
        """\
dagName: promise
tasks:
  - {name: make, image: alpine, command: ["true"], outputs: [promised]}
  - {name: use, image: alpine, command: [cat, promised], inputs: [{fromTask: make, name: promised}]}
""",
    )
    done = up("run", dag, "-o", "json")
    assert done.code == 1
    tasks = tasks_of(done.json())
    assert (tasks["make"]["status"], tasks["make"]["exitCode"]) == ("FAILED", 0)
    assert "'promised' was not written" in tasks["make"]["reason"]
    assert (tasks["use"]["status"], tasks["use"]["attempt"]) == ("UPSTREAM_FAILED", 0)


def test_a_task_is_tried_again_as_often_as_its_retries_say(up: Helios, tmp_path: Path) -> None:
    dag = up.dag(
        "flaky",
        f"""\
dagName: flaky
tasks:
  - name: second-time
    image: alpine
    command: [sh, -c, "echo attempt $HELIOS_ATTEMPT; test -e {tmp_path}/seen || {{ touch {tmp_path}/seen; exit 1; }}"]
    retries: {{count: 2}}
  - {{name: never, image: alpine, command: ["false"], retries: {{count: 1}}}}
""",
    )
    done = up("run", dag, "-o", "json")
    assert done.code == 1
    tasks = tasks_of(done.json())
    assert (tasks["second-time"]["status"], tasks["second-time"]["attempt"]) == ("SUCCEEDED", 2)
    assert (tasks["never"]["status"], tasks["never"]["attempt"]) == ("FAILED", 2)
    assert up("logs", "@latest", "second-time", "--attempt", "1").out == "attempt 1\n"
    assert up("logs", "@latest", "second-time").out == "attempt 2\n"


def test_an_invalid_dag_is_refused_with_every_problem(up: Helios) -> None:
    dag = up.dag(
        "invalid",
        """\
dagName: invalid
tasks:
  - {name: a, image: alpine, command: ["true"], depends_on: [b]}
  - {name: b, image: alpine, command: ["true"], depends_on: [a, nowhere]}
""",
    )
    done = up("run", dag)
    assert done.code == 2
    assert done.out == ""
    assert "nowhere" in done.err
    assert "cycle" in done.err
    submitted = up("submit", dag)
    assert submitted.code == 2
    assert "nowhere" in submitted.err
    shown = up("show", submitted.out.strip(), "-o", "json").json()
    assert shown["status"] == "REJECTED"
    assert any("cycle" in problem for problem in shown["problems"])
    assert shown["tasks"] == []


def test_a_raw_xadd_is_a_submission_and_its_id_is_the_run(up: Helios, client: redis.Redis) -> None:
    entry = client.xadd(SUBMISSIONS, {"dag": HELLO, "useCache": "true"})
    wait_until("the run has ended", lambda: status_of(client, str(entry)) == "SUCCEEDED", 60)
    assert up("show", str(entry), "-o", "json").json()["status"] == "SUCCEEDED"


def test_a_rejected_submission_is_read_with_one_command(client: redis.Redis, up: Helios) -> None:
    entry = str(client.xadd(SUBMISSIONS, {"dag": "dagName: x\ntasks: []\n"}))
    problems = wait_until("the problems are there", lambda: client.hget(Keys(0).run(entry), "problems"), 60)
    assert "tasks" in str(problems)
    assert "tasks" in up("show", entry).out


def test_a_run_is_cancelled_by_one_entry_of_controls(up: Helios, client: redis.Redis, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    run = up("submit", "-", text=SLEEPER.format(pids=pids)).out.strip()
    pid = started_pid(pids)
    client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    wait_until("the run is cancelled", lambda: status_of(client, run) == "CANCELLED", 60)
    wait_until("the task's process is gone", lambda: is_gone(pid), 60)
    shown = up("show", run, "-o", "json").json()
    assert shown["taskCancelled"] == 2


def test_a_run_is_cancelled_by_the_command(up: Helios, client: redis.Redis, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    watcher = up.start("run", up.dag("sleeper", SLEEPER.format(pids=pids)), "-o", "json")
    pid = started_pid(pids)
    cancelled = up("cancel", "@latest")
    assert cancelled.code == 0
    assert "CANCELLED" in cancelled.err
    out, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 4, err
    assert json.loads(out)["status"] == "CANCELLED"
    wait_until("the task's process is gone", lambda: is_gone(pid), 60)
    again = up("cancel", json.loads(out)["dagId"])
    assert again.code == 0
    assert "ended already" in again.err


def test_a_task_is_made_for_each_thing_that_another_has_found(up: Helios, tmp_path: Path) -> None:
    shown = up("run", str(ROOT / "examples/found.yaml"), "-p", "words=to be or not to be")
    assert shown.code == 0, shown.err
    assert "length-not  SUCCEEDED" in shown.err
    latest = json.loads(up("runs", "found", "--limit", "1", "-o", "json").out)[0]["dagId"]
    assert up("logs", latest, "table").out.splitlines() == ["be 2", "not 3", "or 2", "to 2"]
    assert "made 4 tasks" in up("show", latest).out
    assert "4 items of find/words.json" in up("why", latest, "length").out
    assert "as the last time of 4 items" in up("plan", str(ROOT / "examples/found.yaml")).out
    assert "length" in up("critical", latest).out
    empty = up("run", str(ROOT / "examples/found.yaml"), "-p", "words=")
    assert (empty.code, "made no tasks: its list is empty" in empty.out) == (0, True), empty.err
    bad = tmp_path / "bad.yaml"
    bad.write_text((ROOT / "examples/found.yaml").read_text().replace("[&]", "&"))
    failed = up("run", str(bad))
    assert failed.code == 1
    assert "the output 'words.json' of task 'find' is not a JSON list" in failed.out + failed.err


def test_a_loop_of_argo_over_what_a_task_has_found_has_its_items_as_they_are(up: Helios) -> None:
    done = up("import", "argo", str(ROOT / "tests/cli/imports/loops.yaml"), "--to", "loops.yaml")
    assert done.code == 0, done.err
    shown = up("run", "loops.yaml", "-o", "json")
    assert shown.code == 0, shown.err
    run = shown.json()
    tasks = tasks_of(run)
    said = {
        "plain": "plain",
        "1": 'it\'s "quoted" -n *',
        "2": "$HOME ${x} $(date) `date` \\n ${item} ${params.x}",
        "3": " two  spaces\nand lines\n",
        "7.50": "7.50",
        "true": "true",
        "6": "",
    }
    for key, text in said.items():
        assert up("logs", run["dagId"], f"say.each-{key}").out == f"<{text}|{text}>${{item}}\n"
    assert {name for name in tasks if name.startswith("say.")} == {"say.each", *(f"say.each-{key}" for key in said)}
    told = up("logs", run["dagId"], "say-again-0").out
    assert told == '<$"$x" ${x}\n|0"$x" ${x}\n>\nfailed with 3, which its workflow allows\n'
    assert up("logs", run["dagId"], "fruit-0").out == '3 of it\'s a "pear"\n'
    assert {name for name in tasks if name.startswith(("fruit", "none"))} == {"fruit", "fruit-0", "none"}
    last = max(tasks[name]["endTime"] for name in tasks if name != "last")
    assert last <= tasks["last"]["startTime"]


def test_what_comes_last_is_told_how_the_others_ended_and_outlives_a_cancel(
    up: Helios, client: redis.Redis, tmp_path: Path
) -> None:
    shown = up("run", str(ROOT / "examples/clean-up.yaml"))
    assert shown.code == 0, shown.err
    run = up("runs", "--limit", "1", "-o", "json")
    latest = json.loads(run.out)[0]["dagId"]
    assert f"run {latest}: SUCCEEDED" in up("logs", latest, "report").out
    told = tmp_path / "told"
    (tmp_path / "hangs.json").write_text(
        json.dumps(
            {
                "dagName": "hangs",
                "tasks": [{"name": "long", "image": "none", "command": ["sleep", "600"]}],
                "onExit": {
                    "name": "last",
                    "image": "none",
                    "command": ["sh", "-c", f"echo $HELIOS_RUN_STATUS > {told}; sleep 600"],
                },
            }
        )
    )
    latest = up("submit", str(tmp_path / "hangs.json")).out.strip()
    wait_until("its task runs", lambda: client.hget(Keys(0).task(latest, "long"), "phase") == "Running", 60)
    assert "its onExit task last goes on" in up("cancel", latest).err
    wait_until("onExit runs", lambda: told.exists() and told.read_text() == "CANCELLED\n", 60)
    assert "its onExit task last goes on" in up("cancel", latest).err
    assert "CANCELLED" in up("cancel", latest, "--on-exit").err
    wait_until("the run has ended", lambda: status_of(client, latest) == "CANCELLED", 60)


def test_ctrl_c_cancels_the_run_and_leaves_no_process(up: Helios, client: redis.Redis, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    process = up.start("run", up.dag("sleeper", SLEEPER.format(pids=pids)))
    pid = started_pid(pids)
    hear(process, "RUNNING")  # the task may be at work before the command has seen that its run was accepted
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "CANCELLED" in out
    assert "Traceback" not in err
    wait_until("the task's process is gone", lambda: is_gone(pid), 60)


def test_a_log_is_followed_to_its_end(up: Helios, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    dag = f"""\
dagName: talker
tasks: [{{name: talk, image: alpine, command: [sh, -c, "echo before; cat {gate}; echo after"]}}]
"""
    run = up("submit", "-", text=dag).out.strip()
    follower = up.start("logs", run, "talk", "--follow")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "before\n"
    gate.write_text("between\n")
    out, err = follower.communicate(timeout=60)
    assert out == "between\nafter\n", err
    assert follower.returncode == 0
    assert up("logs", run, "talk", "--tail", "1").out == "after\n"
    assert up("logs", run, "talk").out == "before\nbetween\nafter\n"
    assert "Init container starting" in up("logs", run, "talk", "--step", "fetch").out


def test_outputs_are_fetched_whole_and_folders_unpacked(up: Helios, tmp_path: Path) -> None:
    dag = """\
dagName: maker
tasks:
  - name: make
    image: alpine
    command: [sh, -c, "mkdir -p tree/inner; echo leaf > tree/inner/leaf; echo flat > flat.txt"]
    outputs: [tree, flat.txt]
"""
    assert up("run", "-", text=dag).code == 0
    listed = up("artifacts", "@latest", "-o", "json").json()
    assert {each["name"] for each in listed} == {"tree", "flat.txt"}
    assert "flat.txt" in up("artifacts", "@latest").out
    fetched = up("artifacts", "@latest", "--to", str(tmp_path))
    assert fetched.code == 0, fetched.err
    assert (tmp_path / "make" / "flat.txt").read_text() == "flat\n"
    assert (tmp_path / "make" / "tree" / "inner" / "leaf").read_text() == "leaf\n"
    assert sorted(path.name for path in (tmp_path / "make").iterdir()) == ["flat.txt", "tree"]
    one = up("artifacts", "@latest", "make", "flat.txt", "--to", str(tmp_path / "make"))
    assert one.code == 0
    assert "0 B fetched" in one.err
    assert "same content" in one.err


def test_outputs_that_shrink_take_less_of_the_store_and_reach_everyone_whole(up: Helios, tmp_path: Path) -> None:
    """The next task, with the cache and without it, and the user; what does not shrink lies there as it is."""
    dag = """\
dagName: shrinks
tasks:
  - name: make
    image: alpine
    command: [sh, -c, "seq 300000 > table; mkdir tree; seq 100000 > tree/a; head -c 300000 /dev/urandom > noise"]
    outputs: [table, tree, noise]
  - name: check
    image: alpine
    command: [sh, -c, "seq 300000 | cmp - table && seq 100000 | cmp - in/a && test $(wc -c < noise) = 300000"]
    inputs:
      - {fromTask: make, name: table}
      - {fromTask: make, name: tree, as: in}
      - {fromTask: make, name: noise}
"""
    for options in ([], ["--no-cache"]):
        done = up("run", "-", *options, text=dag)
        assert done.code == 0, done.err
        listed = {each["name"]: each for each in up("artifacts", "@latest", "-o", "json").json()}
        table = "".join(f"{number}\n" for number in range(1, 300_001)).encode()
        assert (listed["table"]["bytes"], listed["table"]["sha256"]) == (len(table), hashlib.sha256(table).hexdigest())
        assert [listed[name]["codec"] for name in ("table", "tree", "noise")] == ["zstd", "zstd", None]
        stack = running_stack(Home(Path(up.environ["HELIOS_HOME"])))
        assert stack is not None
        store = store_client(settings_from(stack.environ))
        for each in listed.values():
            bucket, _, key = each["uri"].removeprefix("s3://").partition("/")
            assert store.stat_object(bucket, key).size == each["storedBytes"]
            assert (each["storedBytes"] < 0.8 * each["bytes"]) is (each["codec"] is not None)
    assert up("artifacts", "@latest", "--to", str(tmp_path)).code == 0
    assert (tmp_path / "make" / "table").read_bytes() == table
    tree = (tmp_path / "make" / "tree" / "a").read_bytes()
    assert tree.splitlines() == table.splitlines()[:100_000]
    assert sorted(path.name for path in (tmp_path / "make").iterdir()) == ["noise", "table", "tree"]


def test_what_is_in_an_outputs_place_is_replaced_with_force_only(up: Helios, tmp_path: Path) -> None:
    dag = """\
dagName: maker
tasks:
  - name: make
    image: alpine
    command: [sh, -c, "mkdir tree; echo leaf > tree/leaf; echo flat > flat"]
    outputs: [tree, flat]
"""
    assert up("run", "-", text=dag).code == 0
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine").write_text("mine")
    (tmp_path / "flat").write_text("mine")
    refused = up("artifacts", "@latest", "make", "--to", str(tmp_path))
    assert refused.code == 1
    assert refused.err.count("is there already") == 2
    assert "--force" in refused.err
    assert (tmp_path / "flat").read_text() == "mine"
    assert (tmp_path / "tree" / "mine").read_text() == "mine"
    forced = up("artifacts", "@latest", "make", "--to", str(tmp_path), "--force")
    assert forced.code == 0, forced.err
    assert (tmp_path / "flat").read_text() == "flat\n"
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["leaf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flat", "tree"]


def test_an_interrupted_fetch_goes_on_and_a_wrong_part_is_found_out(up: Helios, tmp_path: Path) -> None:
    dag = """\
dagName: maker
tasks: [{name: make, image: alpine, command: [sh, -c, "printf 0123456789 > ten"], outputs: [ten]}]
"""
    assert up("run", "-", text=dag).code == 0
    (output,) = up("artifacts", "@latest", "-o", "json").json()
    part = tmp_path / f".ten.{output['sha256'][:16]}.part"
    part.write_text("wrong")
    wrong = up("artifacts", "@latest", "make", "--to", str(tmp_path))
    assert wrong.code == 1
    assert "sha256" in wrong.err
    assert list(tmp_path.iterdir()) == []
    part.write_text("01234")
    assert up("artifacts", "@latest", "make", "--to", str(tmp_path)).code == 0
    assert (tmp_path / "ten").read_text() == "0123456789"
    assert not part.exists()


def test_two_runs_go_on_at_once(up: Helios) -> None:
    processes = [up.start("run", up.dag(f"both-{number}", HELLO), "-o", "json") for number in range(2)]
    runs = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert runs[0]["dagId"] != runs[1]["dagId"]
    assert [run["status"] for run in runs] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_request_id_stands_for_one_run(up: Helios) -> None:
    first, second = (up("submit", "-", "--request-id", "once", text=HELLO) for _ in range(2))
    assert first.code == second.code == 0
    assert first.out == second.out
    assert "no second one" in second.err
    other = up("submit", "-", "--request-id", "once", text=HELLO.replace("hello", "other"))
    assert other.code == 2
    assert "another DAG" in other.err


def test_submit_prints_the_id_and_nothing_else(up: Helios) -> None:
    watched = up("submit", "-", "--watch", text=HELLO)
    assert watched.code == 0
    assert len(watched.out.splitlines()) == 1
    assert "SUCCEEDED" in watched.err


def test_runs_are_listed_newest_first(up: Helios) -> None:
    ids = [up("submit", "-", text=HELLO).out.strip() for _ in range(3)]
    listed = up("runs", "hello", "--limit", "3", "-o", "json").json()
    assert [run["dagId"] for run in listed] == ids[::-1]
    assert "tasks" not in listed[0]
    assert up("runs", "--limit", "1").out.splitlines()[1].startswith(ids[-1])
    assert up("show", "@latest", "-o", "json").json()["dagId"] == ids[-1]


def test_what_is_not_there_is_named_with_the_next_step(up: Helios) -> None:
    for words in (("show", "1-1"), ("logs", "1-1", "x"), ("cancel", "1-1"), ("artifacts", "1-1")):
        done = up(*words)
        assert done.code == 2
        assert "helios runs" in done.err
    assert up("show", "latest").code == 2
    up("run", "-", text=HELLO)
    task = up("logs", "@latest", "gret")
    assert task.code == 2
    assert "'greet'" in task.err


def test_doctor_finds_everything_well(up: Helios) -> None:
    done = up("doctor")
    assert done.code == 0, done.out
    assert "failed" not in done.out
    checks = {each["check"] for each in up("doctor", "-o", "json").json()}
    assert {"redis", "redis writable", "submitter", "s3", "cache", "dead letters", "runs"} <= checks


def test_env_is_what_servers_own_tools_need(up: Helios) -> None:
    exports = up("env").out
    shown = subprocess.run(
        ["sh", "-c", f"{exports}\necho $HELIOS_REDIS_URL"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("redis://")


def test_a_dag_of_the_first_version_runs_as_it_is(up: Helios) -> None:
    dag = up.dag(
        "first-version",
        """\
apiVersion: v1
dagName: first-version
artifactRepository: {bucket: old}
serviceAccountName: runner
tasks:
  - name: make
    type: command
    image: alpine
    command: [sh, -c, 'echo "$GREETING" > $OUT && test -s /artifacts/data.txt']
    env: [{name: GREETING, value: hi}, {name: OUT, value: /artifacts/data.txt}]
    outputs: [data.txt]
  - name: use
    type: command
    image: alpine
    command: [cat, /artifacts/data.txt]
    depends_on: [make]
    inputs: [{fromTask: make, name: data.txt}]
    retries: {count: 1}
""",
    )
    done = up("run", dag, "-o", "json")
    assert done.code == 0, done.err
    assert "warning" in done.err
    assert done.json()["warnings"]
    assert up("logs", "@latest", "use").out == "hi\n"


def test_the_documented_example_with_every_field_runs(up: Helios, folder: Path) -> None:
    """What a reader copies from docs/dag.md works, once its object and its secret are there."""
    text = (ROOT / "docs" / "dag.md").read_text(encoding="utf-8").partition("## An example with every field")[2]
    (folder / "moby.txt").write_text("Call me Ishmael.\n" * 100)
    assert up("put", "moby.txt", "s3://corpora/moby.txt").code == 0
    secret = Path(up.environ["HELIOS_HOME"]) / "secrets" / "api-login" / "token"
    secret.parent.mkdir(parents=True)
    secret.write_text("t")
    done = up("run", up.dag("documented", text.split("```yaml\n")[1].split("```")[0]), "-o", "json")
    assert done.code == 0, done.err


def test_a_second_ctrl_c_leaves_at_once(up: Helios, client: redis.Redis, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    stubborn = SLEEPER.replace("sleep 600", "trap '' TERM INT; while true; do sleep 1; done")
    process = up.start("run", up.dag("stubborn", stubborn.format(pids=pids)))
    started_pid(pids)
    hear(process, "RUNNING")
    process.send_signal(signal.SIGINT)
    hear(process, "cancelling")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    run = up("runs", "sleeper", "--limit", "1", "-o", "json").json()[0]["dagId"]
    wait_until("the run is cancelled all the same", lambda: status_of(client, run) == "CANCELLED", 60)


def test_the_exit_code_tells_how_the_run_ended_though_nobody_reads_the_report(up: Helios) -> None:
    read, write = os.pipe()
    os.close(read)
    dag = up.dag("fails", "dagName: fails\ntasks: [{name: a, image: i, command: ['false']}]\n")
    process = subprocess.Popen(
        [*COMMAND, "run", dag], cwd=up.folder, env=up.environ, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "BrokenPipe" not in err
