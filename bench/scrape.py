"""How long a scrape of each service takes, while the services work.

    python -m bench.scrape [--json FILE] [--tasks N] [--nodes N]

Real Valkey, one process for each service, instant Jobs as in bench.pipeline; there are nodes whose keepers told of
their caches. Each service is scraped one after the other, by an HTTP connection of its own as Prometheus does, first
at rest, then while a run goes through them.
"""

import time
import urllib.request
from contextlib import ExitStack
from typing import Any

import redis

from bench.pipeline import independent, submit_and_wait, wait_for_services
from bench.report import Metric, arguments, tell
from bench.servers import free_port, running, service, url_of, valkey
from helios.keys import NODES, SUBMISSIONS, keys_of_run, node_cache
from helios.records import ENDED

SCRAPES = 300
TARGET_MS = 10.0
COMMANDS = {
    "submitter": service("services.submitter"),
    "jobrunner": service("bench.instant", "jobrunner"),
    "collector": service("bench.instant", "collector"),
}


def scrape_ms(port: int) -> tuple[float, int]:
    """Milliseconds of one scrape, and its bytes."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        size = len(answer.read())
    return (time.perf_counter() - began) * 1000, size


def at(share: float, values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def tell_of_nodes(client: redis.Redis, count: int) -> None:
    now = int(time.time() * 1000)
    pipeline = client.pipeline(transaction=False)
    for number in range(count):
        name = f"node-{number}"
        fields: dict[Any, Any] = {"blobs": 1000, "bytes": 10**12, "freeBytes": 10**11, "evictedBytes": 10**10}
        pipeline.hset(node_cache(name), mapping={**fields, "evictedBlobs": 5, "corruptBlobs": 0, "limitBytes": 0})
        pipeline.zadd(NODES, {name: now})
    pipeline.execute()


def wait_for_figures(port: int) -> None:
    """Until the collector, which reads them once it is scraped, has Redis's figures of the nodes in its answer."""
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            if b'node="node-0"' in answer.read():
                return
        if time.monotonic() > deadline:
            raise TimeoutError("the collector does not tell of its nodes")
        time.sleep(0.5)


def main() -> None:
    options = arguments(__doc__ or "", tasks=10_000, nodes=50)
    metrics: dict[str, Metric] = {}
    with valkey() as client, ExitStack() as stack:
        tell_of_nodes(client, options.nodes)
        ports = {name: free_port() for name in COMMANDS}
        for name, command in COMMANDS.items():
            environ = {"HELIOS_REDIS_URL": url_of(client), "HELIOS_TOKEN_KEY": "bench"}
            stack.enter_context(running(command, {**environ, "HELIOS_METRICS_BIND": f"127.0.0.1:{ports[name]}"}))
        wait_for_services(client)
        submit_and_wait(client, independent(200), 200)
        wait_for_figures(ports["collector"])
        for name, port in ports.items():
            found = [scrape_ms(port) for _ in range(SCRAPES)]
            add(metrics, f"{name}, at rest", [ms for ms, _ in found], at_rest=True)
            metrics[f"{name}, its size"] = Metric(value=found[-1][1] / 1000, unit="kB")
        run: Any = client.xadd(SUBMISSIONS, {"dag": independent(options.tasks)})
        busy: dict[str, list[float]] = {name: [] for name in ports}
        while client.hget(keys_of_run(run, 1).run(run), "status") not in ENDED:
            for name, port in ports.items():
                busy[name].append(scrape_ms(port)[0])
            time.sleep(0.05)
        for name, values in busy.items():
            add(metrics, f"{name}, at work", values)
    tell(metrics, options.json)


def add(metrics: dict[str, Metric], name: str, values: list[float], *, at_rest: bool = False) -> None:
    """At rest nearly every scrape is held to the target; while others want all processors, half of them are."""
    for title, share, is_held in ((name, 0.5, True), (f"{name}, p99", 0.99, at_rest)):
        ms = at(share, values)
        target, met = (f"< {TARGET_MS:.0f} ms", ms < TARGET_MS) if is_held else (None, None)
        metrics[title] = Metric(value=ms, unit="ms", target=target, met=met)


if __name__ == "__main__":
    main()
