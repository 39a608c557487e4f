"""What happens in a case, but for the crash: submissions, and what they come to."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import redis

from bench.replay import BUCKET, file_name, read_workflow, scaled_sizes, to_dag
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.records import ENDED
from tests.crash.final import State
from tests.waiting import wait_until

SECONDS = 25.0
"""So long a case may take; without a crash it takes about one second."""

INPUT = "input.txt"
INPUT_BYTES = b"a line\n" * 1000
LARGE = "large.bin"
LARGE_BYTES = random.Random(8).randbytes(5 * 1024**2 + 4096)
"""Above the least limit of a single PUT, so that it is stored in parts; and it does not shrink."""

Drive = Callable[[redis.Redis, str, str], list[str]]
"""Given a client, the bucket and a name of the case's own: the runs that it made, all ended."""


def _as_it_is(state: State) -> State:
    return state


class Scenario(NamedTuple):
    """`victims` are services, or steps of a task's first attempt as in `top/fetch`. `compared`: what of a state is."""

    name: str
    drive: Drive
    victims: tuple[str, ...] = ("submitter", "jobrunner", "collector")
    compared: Callable[[State], State] = _as_it_is


def _task(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "alpine:3.20", "command": ["sh", "-c", script], **more}


def _submit(
    client: redis.Redis, name: str, tasks: list[dict[str, Any]], on_exit: dict[str, Any] | None = None, **more: str
) -> str:
    document = json.dumps({"dagName": name, "tasks": tasks, **({"onExit": on_exit} if on_exit else {})})
    return client.xadd(SUBMISSIONS, {"dag": document, **more})


def _ended(client: redis.Redis, *runs: str, seconds: float = SECONDS) -> list[str]:
    def all_ended() -> bool:
        return all(client.hget(Keys(0).run(run), "status") in ENDED for run in runs)

    wait_until("every run has ended", all_ended, seconds)
    return list(runs)


def diamond(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """An external input, artifacts from task to task, a failure that is tried again, two parents of one child."""
    left = "grep -q a left.txt; echo attempt $HELIOS_ATTEMPT; test $HELIOS_ATTEMPT = 2 && echo done > left-done.txt"
    return _ended(client, _submit(client, name, _diamond(bucket, left, left_retries=1)))


def repeated(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """The same shape, all of it to be tried again: for when a step of a pod is killed, which its attempt dies of."""
    tasks = _diamond(bucket, "echo done > left-done.txt", left_retries=2)
    return _ended(client, _submit(client, name, [{**task, "retries": {"count": 2}} for task in tasks]))


def _diamond(bucket: str, left: str, left_retries: int) -> list[dict[str, Any]]:
    return [
        _task(
            "top",
            "cat input.txt > left.txt; echo other > right.txt; echo hello",
            inputs=[{"uri": f"s3://{bucket}/{INPUT}", "as": INPUT}],
            outputs=["left.txt", "right.txt"],
        ),
        _task(
            "left",
            left,
            inputs=[{"fromTask": "top", "name": "left.txt"}],
            outputs=["left-done.txt"],
            retries={"count": left_retries},
        ),
        _task(
            "right",
            "cat right.txt > right-done.txt",
            inputs=[{"fromTask": "top", "name": "right.txt"}],
            outputs=["right-done.txt"],
        ),
        _task(
            "bottom",
            "cat left-done.txt right-done.txt | tee all.txt",
            inputs=[
                {"fromTask": "left", "name": "left-done.txt"},
                {"fromTask": "right", "name": "right-done.txt"},
            ],
            outputs=["all.txt"],
        ),
    ]


def failure(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A task that fails for good after a retry, and takes what is below it with it."""
    tasks = [
        _task("first", "echo one; exit 3", retries={"count": 1}),
        _task("second", "true", depends_on=["first"]),
        _task("third", "true", depends_on=["second"]),
        _task("beside", "echo beside"),
    ]
    return _ended(client, _submit(client, name, tasks))


def cancel(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A run that is cancelled while one task has its Job and another waits for it."""
    run = _submit(client, name, [_task("long", "sleep 60"), _task("after", "true", depends_on=["long"])])
    task = Keys(0).task(run, "long")
    wait_until("its task runs", lambda: client.hget(task, "phase") == "Running", SECONDS)
    client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    return _ended(client, run)


def grows(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A task makes a list, a task is made for each of its items, and another collects what they made."""
    tasks = [
        _task("list", """echo '["a", "b"]' > parts.json""", outputs=["parts.json"]),
        _task(
            "work",
            "echo ${item} > made.txt",
            forEach={"fromTask": "list", "name": "parts.json"},
            outputs=["made.txt"],
        ),
        _task("all", "cat parts/*", inputs=[{"fromTask": "work", "name": "made.txt", "as": "parts"}]),
    ]
    return _ended(client, _submit(client, name, tasks))


def on_exit(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """What runs last, with a retry of its own: after a failure, and after a cancel, which does not end it."""
    script = "echo $HELIOS_RUN_STATUS $HELIOS_FAILED_TASKS; test $HELIOS_ATTEMPT = 2"
    last = _task("last", script, retries={"count": 1})
    failing = [_task("first", "exit 3"), _task("second", "true", depends_on=["first"]), _task("beside", "true")]
    failed = _submit(client, name, failing, last)
    run = _submit(client, name, [_task("long", "sleep 60"), _task("after", "true", depends_on=["long"])], last)
    task = Keys(0).task(run, "long")
    wait_until("its task runs", lambda: client.hget(task, "phase") == "Running", SECONDS)
    client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    return _ended(client, failed, run)


def memo(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A task that runs and is remembered; then the same work in another run, which is skipped."""
    image = f"alpine@sha256:{'0' * 64}"
    task = _task("work", f": {name}; echo made > made.txt", memoize=True, outputs=["made.txt"]) | {"image": image}
    (first,) = _ended(client, _submit(client, name, [task]))
    launched = Keys(0).launched
    # Its success is remembered when its pod is wrapped up.
    wait_until("the first is wrapped up", lambda: client.xlen(launched) == 0, SECONDS)
    return [first, *_ended(client, _submit(client, f"{name}-again", [task]))]


def parts(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """An output that is stored in parts, an upload that the collector opens."""
    task = _task(
        "copy",
        f"cp {LARGE} copy.bin",
        inputs=[{"uri": f"s3://{bucket}/{LARGE}", "as": LARGE}],
        outputs=["copy.bin"],
        retries={"count": 2},
    )
    return _ended(client, _submit(client, name, [task]))


def ingress(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A submission and its repetition, another DAG under the same request id, and one that is no DAG."""
    tasks, again = [_task("only", "true")], f"request-{name}"
    first = _submit(client, name, tasks, requestId=again)
    alias = _submit(client, name, tasks, requestId=again)
    conflict = _submit(client, f"{name}-conflict", [_task("other", "true")], requestId=again)
    broken = client.xadd(SUBMISSIONS, {"dag": "tasks: ["})
    _ended(client, first, conflict, broken)
    return [first, alias, conflict, broken]


def replay(file: Path, longest_seconds: float = 0.05, megabytes: float = 1.0) -> Scenario:
    """A recorded workflow (bench/replay.py), its sizes and times scaled down."""
    workflow = read_workflow(file.read_bytes())
    document = to_dag(workflow, scaled_sizes(workflow, megabytes), longest_seconds)

    def drive(client: redis.Redis, bucket: str, name: str) -> list[str]:
        return _ended(client, _submit(client, name, document["tasks"]), seconds=4 * SECONDS)

    return Scenario("workload", drive, compared=whoever_brought_it)


def seed(store: Any, file: Path, megabytes: float = 1.0) -> None:
    """Put a recorded workflow's external inputs where `replay` wants them."""
    workflow = read_workflow(file.read_bytes())
    sizes = scaled_sizes(workflow, megabytes)
    if not store.bucket_exists(BUCKET):
        store.make_bucket(BUCKET)
    for each in workflow.external:
        size = sizes.get(each, 1)
        store.put_object(BUCKET, f"{workflow.name}/{file_name(each)}", io.BytesIO(b"x" * size), size)


def whoever_brought_it(state: State) -> State:
    """Of an input that several tasks read at the same time one brings it and the others wait: which, is chance."""
    kept: State = {}
    for part, found in state.items():
        if part in ("sums", "events"):
            continue
        if part.startswith("record of "):
            found = {name: found[name] for name in ("exitCode", "outputs")}
        elif isinstance(found, dict):
            found = {name: each for name, each in found.items() if name not in ACCOUNTS}
        kept[part] = found
    kept["run"]["bytes"] = sum(int(state["run"][name]) for name in ("cacheHitBytes", "cacheMissBytes"))
    kept["ends"] = sorted(
        (e["task"], e["attempt"], e["status"]) for e in map(json.loads, state["events"]) if e["type"] == "TaskEnded"
    )
    return kept


ACCOUNTS = (
    *("cache", "cacheHit", "cacheHitTasks", "cachePartialTasks", "cacheMissTasks", "cacheHitBytes", "cacheMissBytes"),
    *("cachePeerBytes", "cacheStoreBytes", "hitBytes", "missBytes"),
)

STEPS = tuple(f"{task}/{step}" for task in ("top", "bottom") for step in ("fetch", "publish"))

EXHAUSTIVE = (
    Scenario("diamond", diamond),
    Scenario("failure", failure),
    Scenario("memo", memo),
    Scenario("cancel", cancel),
    Scenario("on-exit", on_exit),
    Scenario("grows", grows, ("collector",)),
    Scenario("parts", parts, ("collector", "copy/fetch", "copy/publish")),
    Scenario("ingress", ingress, ("submitter",)),
    Scenario("repeated", repeated, STEPS),
)


def all_of(workload: Path | None) -> list[Scenario]:
    return [*EXHAUSTIVE, *([replay(workload)] if workload else [])]
