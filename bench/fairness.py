"""Whether a large run, or very many, starve a small one; what priorities are worth; and what memory it all takes.

    python -m bench.fairness [--json FILE] [--tasks N] [--submissions N]

Real Valkey and the services' own code, one process each; Jobs need no time (bench/instant.py). The small run has ten
tasks and comes when the large one is open. «In one line» is the order without a window: HELIOS_READY_PER_RUN is the
number of tasks, so that all that may run stands in line at once.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from typing import Any

import redis

from bench.pipeline import dag, independent, wait_for_services
from bench.report import Metric, arguments, tell
from bench.servers import peak_bytes, running, service, url_of, valkey
from helios.keys import PRIORITIES, SUBMISSIONS, Keys
from helios.records import ENDED

SMALL_TASKS = 10
CLASS_TASKS = 2_000
"""Tasks of each of the three runs that compete by priority."""
CLASS_BATCH = 16
"""Places that are given at a time then: as few as when Jobs end one by one in a full house."""
PATIENCE_SECONDS = 1_800

KEYS = Keys(0)


@contextmanager
def services(client: redis.Redis, **settings: object) -> Iterator[dict[str, "Popen[bytes]"]]:
    """The three services, fresh, on an empty Redis."""
    client.flushall()
    environ = {"HELIOS_REDIS_URL": url_of(client), "HELIOS_TOKEN_KEY": "bench"}
    environ |= {f"HELIOS_{name.upper()}": str(value) for name, value in settings.items()}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(running(command, environ))
            for name, command in {
                "submitter": service("services.submitter"),
                "jobrunner": service("bench.instant", "jobrunner"),
                "collector": service("bench.instant", "collector"),
            }.items()
        }
        wait_for_services(client)
        submit_and_wait(client, independent(20))
        yield processes


def submit(client: redis.Redis, text: str, **fields: str) -> str:
    run: Any = client.xadd(SUBMISSIONS, {"dag": text, **fields})
    return run


def await_status(client: redis.Redis, run: str, *statuses: str) -> dict[str, str]:
    """The run's hash once it is in one of the states. The wait polls seldom, so as not to take part."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.hget(KEYS.run(run), "status") not in statuses:
        if time.monotonic() > deadline:
            raise TimeoutError(f"run {run} after {PATIENCE_SECONDS} s: {client.hgetall(KEYS.run(run))}")
        time.sleep(0.05)
    fields: Any = client.hgetall(KEYS.run(run))
    return fields


def await_end(client: redis.Redis, run: str) -> float:
    """Seconds from the run's submission to its end, by the Redis server's clock."""
    fields = await_status(client, run, *ENDED)
    assert fields["status"] == "SUCCEEDED", fields
    return (int(fields["endTime"]) - int(run.partition("-")[0])) / 1000


def submit_and_wait(client: redis.Redis, text: str) -> float:
    return await_end(client, submit(client, text))


def small() -> str:
    return independent(SMALL_TASKS)


def behind_a_large_run(client: redis.Redis, tasks: int) -> tuple[float, float]:
    """Seconds that a small run takes which is submitted when one of so many tasks is open, and that one itself."""
    large = submit(client, independent(tasks))
    await_status(client, large, "RUNNING", *ENDED)
    took = await_end(client, submit(client, small()))
    return took, await_end(client, large)


def measure_large(client: redis.Redis, tasks: int, metrics: dict[str, Metric]) -> None:
    with services(client, ready_per_run=10_000) as processes:
        alone = statistics.median(submit_and_wait(client, small()) for _ in range(5))
        before, before_large = behind_a_large_run(client, tasks)
    with services(client) as processes:
        after, after_large = behind_a_large_run(client, tasks)
        peaks = {name: peak_bytes(process) / 1e6 for name, process in processes.items()}
        peaks["Valkey"] = float(client.info("memory")["used_memory_peak"]) / 1e6  # pyright: ignore[reportIndexIssue, reportUnknownArgumentType, reportUnknownMemberType] -- the stubs mix in async
    metrics["small run alone"] = Metric(value=alone, unit="s")
    metrics[f"small run behind {tasks:,} tasks in one line"] = Metric(
        value=before, unit="s", floor=alone, ratio=before / alone
    )
    metrics[f"small run behind {tasks:,} tasks"] = Metric(
        value=after, unit="s", floor=alone, ratio=after / alone, target="≤ ¼ of one line", met=after <= before / 4
    )
    metrics[f"{tasks:,} tasks in one line"] = Metric(value=before_large, unit="s")
    metrics[f"{tasks:,} tasks"] = Metric(
        value=after_large, unit="s", floor=before_large, ratio=after_large / before_large
    )
    tell_memory(metrics, f"{tasks:,} tasks", peaks)


def tell_memory(metrics: dict[str, Metric], what: str, peaks: dict[str, float]) -> None:
    for name, megabytes in peaks.items():
        limit = 512 if name == "Valkey" else 256
        metrics[f"{name}, most memory at {what}"] = Metric(
            value=megabytes, unit="MB", target=f"< {limit} MB", met=megabytes < limit
        )


def measure_classes(client: redis.Redis, metrics: dict[str, Metric], *classes: str) -> None:
    """How launches are shared while all of the classes still wait."""
    with services(client, batch_entries=CLASS_BATCH, ready_per_run=CLASS_BATCH) as processes:
        processes["jobrunner"].send_signal(19)
        tasks = [{"name": f"t{number}"} for number in range(CLASS_TASKS)]
        runs = {each: submit(client, dag(each, tasks), priority=each) for each in classes}
        for run in runs.values():
            await_status(client, run, "RUNNING")
        processes["jobrunner"].send_signal(18)
        ends = {each: await_end(client, run) for each, run in runs.items()}
        launched: list[tuple[str, str]] = []
        for each, run in runs.items():
            pipeline = client.pipeline(transaction=False)
            for number in range(CLASS_TASKS):
                pipeline.hget(KEYS.task(run, f"t{number}"), "launchedAt")
            launched += [(at, each) for at in pipeline.execute()]
    launched.sort()
    until = max(number for number, (_, each) in enumerate(launched) if each == classes[0])
    shares = Counter(each for _, each in launched[: until + 1])
    for each in classes:
        least = {"high": 0.7, "normal": 0.15, "low": 0.05}[each] if len(classes) > 2 else 0.05
        share = shares[each] / (until + 1)
        metrics[f"{each} beside {' and '.join(other for other in classes if other != each)}: share"] = Metric(
            value=share * 100, unit="%", target=f"≥ {least * 100:.0f} %", met=share >= least
        )
    for each in classes:
        metrics[f"{each} beside {' and '.join(other for other in classes if other != each)}: end"] = Metric(
            value=ends[each], unit="s"
        )


def measure_many(client: redis.Redis, submissions: int, metrics: dict[str, Metric]) -> None:
    with services(client, runs_kept_per_dag=10**6, runs_kept_in_all=10**7) as processes:
        pipeline = client.pipeline(transaction=False)
        one = independent(1)
        for _ in range(submissions):
            pipeline.xadd(SUBMISSIONS, {"dag": one})
        begun = time.monotonic()
        runs: list[str] = pipeline.execute()
        last = submit(client, small())
        urgent = submit(client, small(), priority="high")
        took, took_urgent = await_end(client, last), await_end(client, urgent)
        open_most = 0
        while (active := int(client.zcard(KEYS.active))) or client.xlen(SUBMISSIONS):  # pyright: ignore[reportArgumentType] -- as above
            open_most = max(open_most, active)
            time.sleep(0.1)
        all_took = time.monotonic() - begun
        for run in runs:
            pipeline.hget(KEYS.run(run), "status")
        statuses = Counter(pipeline.execute())
        peaks = {name: peak_bytes(process) / 1e6 for name, process in processes.items()}
        peaks["Valkey"] = float(client.info("memory")["used_memory_peak"]) / 1e6  # pyright: ignore[reportIndexIssue, reportUnknownArgumentType, reportUnknownMemberType] -- the stubs mix in async
    lost = submissions - statuses["SUCCEEDED"]
    what = f"{submissions:,} submissions at once"
    metrics[f"{what}: not SUCCEEDED"] = Metric(value=lost, unit="runs", target="0", met=lost == 0)
    metrics[f"{what}: all ended"] = Metric(value=all_took, unit="s")
    metrics[f"small run submitted after {what}"] = Metric(value=took, unit="s")
    metrics[f"the same, priority high, after {what}"] = Metric(value=took_urgent, unit="s")
    tell_memory(metrics, what, peaks)


def main() -> None:
    options = arguments(__doc__ or "", tasks=10_000, submissions=10_000)
    metrics: dict[str, Metric] = {}
    with valkey() as client:
        measure_large(client, options.tasks, metrics)
        measure_classes(client, metrics, *PRIORITIES)
        measure_classes(client, metrics, "normal", "low")
        measure_many(client, options.submissions, metrics)
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
