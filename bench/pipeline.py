"""How fast the pipeline is when Jobs need no time: from XADD to finalised metrics, through all three services.

    python -m bench.pipeline [--json FILE] [--tasks N]

Real Valkey, one process for each service, the services' own code; only the launcher and the pods are instant. The floor
is measured in the same run: one fenced Lua transition for each entry, pipelined in batches, by raw redis-py.
"""

import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from bench.report import Metric, arguments, tell
from bench.servers import resident_bytes, running, service, url_of, valkey
from helios.heartbeat import live_services
from helios.keys import SUBMISSIONS, keys_of_run
from helios.records import ENDED

TRANSITIONS_PER_TASK = 3
"""launch, end_attempt and settle; the opening and the end of a run are shared by its tasks."""
BATCH = 256
RUN_SECONDS = 120


def floor_rate(client: redis.Redis, entries: int) -> float:
    """Transitions a second of one process that does nothing else."""
    script = client.script_load(Path(__file__).with_name("floor.lua").read_text())
    pipeline = client.pipeline(transaction=False)
    for number in range(entries):
        pipeline.hset(f"floor:task:{number}", mapping={"status": "READY", "attempt": "1"})
        pipeline.xadd("floor:in", {"run": "1", "task": str(number), "attempt": "1"})
    pipeline.execute()
    client.xgroup_create("floor:in", "floor", id="0")
    begun = time.perf_counter()
    done = 0
    while done < entries:
        reply: Any = client.xreadgroup("floor", "one", {"floor:in": ">"}, count=BATCH)
        pipeline = client.pipeline(transaction=False)
        for entry, fields in reply[0][1]:
            pipeline.execute_command(
                "EVALSHA", script, 3, f"floor:task:{fields['task']}", "floor:in", "floor:out",
                "floor", entry, "1", fields["task"],
            )  # fmt: skip
        done += sum(pipeline.execute())
    return entries / (time.perf_counter() - begun)


def floor_hop_ms(client: redis.Redis, hops: int) -> float:
    """Milliseconds from one entry's read to the next's, when each transition emits the entry that follows."""
    script = client.script_load(Path(__file__).with_name("floor.lua").read_text())
    pipeline = client.pipeline(transaction=False)
    for number in range(hops):
        pipeline.hset(f"hop:task:{number}", mapping={"status": "READY", "attempt": "1"})
    pipeline.execute()
    client.xgroup_create("hop", "floor", id="0", mkstream=True)
    client.xadd("hop", {"run": "1", "task": "0", "attempt": "1"})
    begun = time.perf_counter()
    for number in range(hops):
        reply: Any = client.xreadgroup("floor", "one", {"hop": ">"}, count=BATCH, block=1000)
        entry = reply[0][1][0][0]
        client.execute_command(
            "EVALSHA", script, 3, f"hop:task:{number}", "hop", "hop", "floor", entry, "1", str(number + 1)
        )
    return (time.perf_counter() - begun) / hops * 1000


def submit_and_wait(client: redis.Redis, dag: str, tasks: int) -> tuple[float, float]:
    """Seconds from XADD until the run was open, and until its metrics were final, by the Redis server's own clock.

    The wait polls seldom, so as not to take part in what it measures.
    """
    run: Any = client.xadd(SUBMISSIONS, {"dag": dag})
    key = keys_of_run(run, 1).run(run)
    deadline = time.monotonic() + RUN_SECONDS
    while (status := client.hget(key, "status")) not in ENDED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"run {run} is {status} after {RUN_SECONDS} s")
        time.sleep(0.05)
    fields: Any = client.hgetall(key)
    assert fields["status"] == "SUCCEEDED", fields
    assert fields["taskSucceeded"] == str(tasks), fields
    submitted = int(run.partition("-")[0])
    return (int(fields["startTime"]) - submitted) / 1000, (int(fields["endTime"]) - submitted) / 1000


def dag(name: str, tasks: list[dict[str, Any]]) -> str:
    return json.dumps({"dagName": name, "tasks": [{"image": "none", "command": ["true"], **task} for task in tasks]})


def independent(count: int) -> str:
    return dag("independent", [{"name": f"t{number}"} for number in range(count)])


def fan(count: int) -> str:
    middle = [f"t{number}" for number in range(count)]
    return dag(
        "fan",
        [
            {"name": "first"},
            *({"name": name, "depends_on": ["first"]} for name in middle),
            {"name": "last", "depends_on": middle},
        ],
    )


def chain(count: int) -> str:
    return dag(
        "chain",
        [{"name": f"t{number}", **({"depends_on": [f"t{number - 1}"]} if number else {})} for number in range(count)],
    )


def as_yaml(text: str) -> str:
    import yaml

    return yaml.dump(json.loads(text), Dumper=yaml.CSafeDumper)


def main() -> None:
    options = arguments(__doc__ or "", tasks=10_000)
    metrics: dict[str, Metric] = {}
    with valkey() as client, ExitStack() as stack:
        rates = [floor_rate_fresh(client, options.tasks)]
        hops = [floor_hop_fresh(client)]
        environ = {"HELIOS_REDIS_URL": url_of(client), "HELIOS_TOKEN_KEY": "bench"}
        processes = {
            name: stack.enter_context(running(command, environ))
            for name, command in {
                "submitter": service("services.submitter"),
                "jobrunner": service("bench.instant", "jobrunner"),
                "collector": service("bench.instant", "collector"),
            }.items()
        }
        wait_for_services(client)
        for name, process in processes.items():
            idle = resident_bytes(process) / 1e6
            metrics[f"{name} idle"] = Metric(value=idle, unit="MB", target="< 60 MB", met=idle < 60)
        submit_and_wait(client, independent(200), 200)
        independent_rates, fan_rates, hop_times = [], [], []
        accepted_json, _ = submit_and_wait(client, independent(options.tasks), options.tasks)
        accepted_yaml, _ = submit_and_wait(client, as_yaml(independent(options.tasks)), options.tasks)
        for _ in range(3):
            _, total = submit_and_wait(client, independent(options.tasks), options.tasks)
            independent_rates.append(options.tasks / total)
            _, total = submit_and_wait(client, fan(1000), 1002)
            fan_rates.append(1002 / total)
            accepted, total = submit_and_wait(client, chain(200), 200)
            hop_times.append((total - accepted) / 200 * 1000)
            rates.append(floor_rate_fresh(client, options.tasks))
            hops.append(floor_hop_fresh(client))
    floor, hop = statistics.median(rates), statistics.median(hops)
    share = floor / TRANSITIONS_PER_TASK
    metrics["floor"] = Metric(value=floor, unit="transitions/s")
    metrics["floor / transitions per task"] = Metric(value=share, unit="tasks/s")
    for name, measured in ((f"{options.tasks:,} independent tasks", independent_rates), ("1 → 1,000 → 1", fan_rates)):
        rate = statistics.median(measured)
        metrics[name] = Metric(
            value=rate, unit="tasks/s", floor=share, ratio=rate / share, target="≥ 0.4 × floor", met=rate >= 0.4 * share
        )
    measured_hop = statistics.median(hop_times)
    metrics["hop of a chain of 200"] = Metric(
        value=measured_hop,
        unit="ms",
        floor=hop,
        ratio=measured_hop / hop,
        target="≤ 7 × floor",
        met=measured_hop <= 7 * hop,
    )
    for name, seconds, limit in (("JSON", accepted_json, 2), ("YAML", accepted_yaml, 4)):
        metrics[f"{options.tasks:,} tasks accepted, {name}"] = Metric(
            value=seconds, unit="s", target=f"< {limit} s", met=seconds < limit
        )
    tell(metrics, options.json)


def floor_rate_fresh(client: redis.Redis, entries: int) -> float:
    rate = floor_rate(client, entries)
    _forget(client, "floor:*")
    return rate


def floor_hop_fresh(client: redis.Redis) -> float:
    hop = floor_hop_ms(client, 500)
    _forget(client, "hop*")
    return hop


def _forget(client: redis.Redis, pattern: str) -> None:
    keys = list(client.scan_iter(match=pattern, count=1000))
    for start in range(0, len(keys), 1000):
        client.unlink(*keys[start : start + 1000])


def wait_for_services(client: redis.Redis) -> None:
    deadline = time.monotonic() + 20
    while len({beat["service"] for beat in live_services(client)}) < 3:
        if time.monotonic() > deadline:
            raise TimeoutError("the services did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
