"""The three services as processes that serve their metrics, and what they serve."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from helios.keys import SUBMISSIONS, keys_of_run
from tests.redis_servers import Valkey, free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Served:
    """One process of each service with its metrics."""

    def __init__(self, server: Valkey, folder: Path) -> None:
        self.server = server
        self.ports = {service: free_port() for service in COMMANDS}
        self.processes = {service: self._start(service, folder) for service in COMMANDS}

    def _start(self, service: str, folder: Path) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "HELIOS_REDIS_URL": self.server.url,
            "HELIOS_REPLICA": f"{service}-0",
            "HELIOS_TOKEN_KEY": "k",
            "HELIOS_LOG_LEVEL": "warning",
            "HELIOS_METRICS_BIND": f"127.0.0.1:{self.ports[service]}",
            "PYTHONPATH": str(ROOT),
        }
        with (folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *COMMANDS[service]], cwd=ROOT, env=environment, stderr=log, stdin=subprocess.DEVNULL
            )

    def text(self, service: str, accept: str = "") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[service]}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()

    def samples(self, service: str) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text(service))
            for sample in family.samples
        }

    def value(self, service: str, name: str, **labels: str) -> float | None:
        return self.samples(service).get((name, frozenset(labels.items())))

    def answers(self, service: str) -> bool:
        try:
            return bool(self.text(service))
        except OSError:
            return False


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A Valkey and the services on it, ended at the end."""
    server = Valkey(folder)
    server.start()
    found = Served(server, folder)
    try:
        for service in COMMANDS:
            wait_until(f"the {service} serves metrics", lambda service=service: found.answers(service), 60)
        yield found
    finally:
        for process in found.processes.values():
            process.terminate()
        for process in found.processes.values():
            process.wait(20)
        server.kill()


def run_dag(served: Served, text: str | bytes) -> str:
    client = served.server.client()
    run = str(client.xadd(SUBMISSIONS, {"dag": text}))
    key = keys_of_run(run, 1).run(run)
    wait_until("the run ends", lambda: client.hget(key, "status") in ("SUCCEEDED", "FAILED", "REJECTED"), 60)
    return run
