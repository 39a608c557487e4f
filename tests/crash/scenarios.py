"""What happens in a case, but for the crash: submissions, and what they come to."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.records import ENDED
from tests.waiting import wait_until

SECONDS = 25.0
"""So long a case may take; without a crash it takes about one second."""

INPUT = "input.txt"
INPUT_BYTES = b"a line\n" * 1000

Drive = Callable[[redis.Redis, str, str], list[str]]
"""Given a client, the bucket and a name of the case's own: the runs that it made, all ended."""


class Scenario(NamedTuple):
    name: str
    drive: Drive
    services: tuple[str, ...] = ("submitter", "jobrunner", "collector")


def _task(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "alpine:3.20", "command": ["sh", "-c", script], **more}


def _submit(client: redis.Redis, name: str, tasks: list[dict[str, Any]], **more: str) -> str:
    document = json.dumps({"dagName": name, "tasks": tasks})
    return client.xadd(SUBMISSIONS, {"dag": document, **more})


def _ended(client: redis.Redis, *runs: str) -> list[str]:
    def all_ended() -> bool:
        return all(client.hget(Keys(0).run(run), "status") in ENDED for run in runs)

    wait_until("every run has ended", all_ended, SECONDS)
    return list(runs)


def diamond(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """An external input, artifacts from task to task, a failure that is tried again, two parents of one child."""
    left = "grep -q a left.txt; echo attempt $HELIOS_ATTEMPT; test $HELIOS_ATTEMPT = 2 && echo done > left-done.txt"
    tasks = [
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
            retries={"count": 1},
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
    return _ended(client, _submit(client, name, tasks))


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
    wait_until("its task has a Job", lambda: client.hget(task, "status") == "RUNNING", SECONDS)
    client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    return _ended(client, run)


def memo(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A task that runs and is remembered; then the same work in another run, which is skipped."""
    image = f"alpine@sha256:{'0' * 64}"
    task = _task("work", f"echo {name} > made.txt", memoize=True, outputs=["made.txt"]) | {"image": image}
    (first,) = _ended(client, _submit(client, name, [task]))
    launched = Keys(0).launched
    # Its success is remembered when its pod is wrapped up.
    wait_until("the first is wrapped up", lambda: client.xlen(launched) == 0, SECONDS)
    return [first, *_ended(client, _submit(client, f"{name}-again", [task]))]


def ingress(client: redis.Redis, bucket: str, name: str) -> list[str]:
    """A submission and its repetition, another DAG under the same request id, and one that is no DAG."""
    tasks, again = [_task("only", "true")], f"request-{name}"
    first = _submit(client, name, tasks, requestId=again)
    alias = _submit(client, name, tasks, requestId=again)
    conflict = _submit(client, f"{name}-conflict", [_task("other", "true")], requestId=again)
    broken = client.xadd(SUBMISSIONS, {"dag": "tasks: ["})
    _ended(client, first, conflict, broken)
    return [first, alias, conflict, broken]


EXHAUSTIVE = (
    Scenario("diamond", diamond),
    Scenario("failure", failure),
    Scenario("cancel", cancel),
    Scenario("memo", memo),
    Scenario("ingress", ingress, ("submitter",)),
)
