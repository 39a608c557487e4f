"""What the node's cache costs, against the plain way of doing the same; then what it saves a whole run.

    python -m bench.cache [--json FILE]

    start  `python -I -S agent version` against a bare `python -I -S -c pass`
    cold   fetch of a 1 GB input that was never here (download, digest, into the cache) against `curl -o` of the URL
    hit    fetch of a cached input, 1 KB against 1 GB: a hit must not depend on the size
    runs   a DAG whose tasks read large artifacts, run with the cache and without

The object store is local mode's own. Needs about 5 GB of disk in the folder for temporary files and takes about two
minutes; everything it makes or starts is gone at its end.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.fetch import fetch
from agent.logs import Log
from agent.settings import Attempt, FetchSettings
from bench.local import Local, local, succeeded
from bench.report import Metric, arguments, tell

AGENT = Path(__file__).parents[1] / "agent"
BUCKET = "helios-bench"
BIG = 1 << 30
SMALL = 1 << 10
ROUNDS = 5
HITS = 61
RUNS = 3
ARTIFACTS = 3
ARTIFACT_BYTES = 200_000_000
READERS = 4


class Pod:
    """A pod's surroundings: its folders, and an endpoint that plans one input."""

    def __init__(self, root: Path, sign: Callable[[str, str], str]) -> None:
        self.root = root
        self.cache = root / "cache"
        self._sign = sign
        self._count = 0
        self.key = ""
        self.port = 0

    def plan(self) -> dict[str, Any]:
        planned = {
            "name": "data",
            "mode": "link",
            "verify": "size",
            "url": self._sign("GET", self.key),
            "headUrl": self._sign("HEAD", self.key),
            "source": f"http://s3/{BUCKET}/{self.key}",
            "sha256": None,
            "bytes": None,
            "archive": False,
        }
        whose = {"run": "r", "task": "t", "attempt": 0, "cacheEnabled": True}
        return {**whose, "inputs": [planned], "outputs": [], "singlePutLimit": 5 << 30}

    def settings(self) -> FetchSettings:
        """Settings of the next pod, with fresh folders and the same cache."""
        self._count += 1
        folder = self.root / f"pod-{self._count}"
        for name in ("artifacts", "state"):
            (folder / name).mkdir(parents=True)
        return FetchSettings(
            attempt=Attempt(f"http://127.0.0.1:{self.port}", "token", "r", "t", 0, "pod", "node", 10.0),
            cache_enabled=True,
            cache_dir=str(self.cache),
            job=f"job-{self._count}",
            artifacts=str(folder / "artifacts"),
            state_dir=str(folder / "state"),
            termination_log=str(folder / "message"),
            parallel=4,
            wrapper=None,
            gate_dir=None,
            lib_dir=None,
            volume=None,
        )

    def env(self) -> dict[str, str]:
        settings = self.settings()
        return {
            "HELIOS_ENDPOINT": settings.attempt.endpoint,
            "HELIOS_TOKEN": "token",
            "HELIOS_RUN_ID": "r",
            "HELIOS_TASK_NAME": "t",
            "HELIOS_ATTEMPT": "0",
            "HELIOS_CACHE_ENABLED": "true",
            "HELIOS_CACHE_DIR": settings.cache_dir,
            "HELIOS_JOB": settings.job,
            "HELIOS_POD_UID": "pod",
            "HELIOS_NODE": "node",
            "HELIOS_ARTIFACTS": settings.artifacts,
            "HELIOS_STATE_DIR": settings.state_dir,
        }

    @contextmanager
    def serving(self) -> Iterator[None]:
        pod = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: object) -> None:
                del format, args

            def do_GET(self) -> None:
                body = json.dumps(pod.plan()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def measure_hits(pod: Pod) -> dict[str, Metric]:
    """Medians of many hits, the two sizes in turn, so that noise meets both alike."""
    took: dict[str, list[float]] = {"small": [], "big": []}
    for key in took:
        pod.key = key
        fetch(pod.settings(), Log(lambda _: None))
    for _ in range(HITS):
        for key, times in took.items():
            pod.key = key
            settings = pod.settings()
            began = time.perf_counter()
            manifest = fetch(settings, Log(lambda _: None))
            times.append((time.perf_counter() - began) * 1000)
            if manifest["hits"] != 1:
                raise SystemExit(f"not a hit: {manifest}")
    small, big = statistics.median(took["small"]), statistics.median(took["big"])
    apart = abs(big - small)
    return {
        "hit of 1 KB": Metric(value=small, unit="ms"),
        "hit of 1 GB": Metric(
            value=big, unit="ms", floor=small, ratio=big / small, target="within 2 ms of the floor", met=apart <= 2.0
        ),
    }


def measure_cold(pod: Pod, sign: Callable[[str, str], str], root: Path) -> dict[str, Metric]:
    """The best of a few rounds of each, in turn; what the round before left to write is on the disk before the next
    begins.
    """
    pod.key = "big"
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        os.sync()
        target = root / "by-curl"
        plain.append(timed(["curl", "-sf", "-o", str(target), sign("GET", "big")], None))
        target.unlink()
        shutil.rmtree(pod.cache, ignore_errors=True)
        os.sync()
        ours.append(timed([sys.executable, "-I", "-S", str(AGENT), "fetch"], pod.env()))
    value, floor = min(ours), min(plain)
    print(f"  cold 1 GB, rounds: fetch {shown(ours)}, curl {shown(plain)}")
    ratio = value / floor
    return {
        "cold 1 GB, against curl": Metric(
            value=value, unit="s", floor=floor, ratio=ratio, target="≤ 1.3 × floor", met=ratio <= 1.3
        )
    }


def measure_start() -> dict[str, Metric]:
    took = {"agent": [1.0], "bare": [1.0]}
    commands = {"agent": [str(AGENT), "version"], "bare": ["-c", "pass"]}
    for _ in range(21):
        for name, command in commands.items():
            took[name].append(timed([sys.executable, "-I", "-S", *command], {}) * 1000)
    value, floor = statistics.median(took["agent"][1:]), statistics.median(took["bare"][1:])
    return {"start of the agent": Metric(value=value, unit="ms", floor=floor, ratio=value / floor)}


def timed(command: list[str], env: dict[str, str] | None) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stdout.decode()[-2000:]}")
    return took


def shown(seconds: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in seconds) + " s"


def upload(place: Local) -> None:
    for key, size in (("small", SMALL), ("big", BIG)):
        place.put(BUCKET, key, NoiseFile(size), size)


class NoiseFile(io.RawIOBase):
    """A file of random bytes that is nowhere on the disk: `read` hands out blocks until `size` bytes are gone."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        self.left -= wanted
        return os.urandom(wanted)


def workload() -> dict[str, Any]:
    """Tasks that each read all of the same large artifacts, and pass one of their own on to a last one."""
    names = [f"artifact-{number}" for number in range(ARTIFACTS)]
    readers = [f"read-{number}" for number in range(READERS)]
    external = [{"uri": f"s3://{BUCKET}/{name}", "as": name} for name in names]
    return {
        "dagName": "large-artifacts",
        "tasks": [
            *(
                {
                    "name": reader,
                    "image": "alpine:3.20",
                    "command": ["sh", "-c", f"wc -c {' '.join(names)} > sizes; head -c 8000000 {names[0]} > sample"],
                    "inputs": external,
                    "outputs": ["sizes", "sample"],
                }
                for reader in readers
            ),
            {
                "name": "join",
                "image": "alpine:3.20",
                "command": ["sh", "-c", "cat *.sizes | tail -n 1 > total"],
                "inputs": [{"fromTask": reader, "name": "sizes", "as": f"{reader}.sizes"} for reader in readers],
                "outputs": ["total"],
            },
        ],
    }


def measure_runs(place: Local) -> dict[str, Metric]:
    """Average durations of the same DAG's runs with everything cached, and with the cache off, in turn."""
    for number in range(ARTIFACTS):
        place.put(BUCKET, f"artifact-{number}", NoiseFile(ARTIFACT_BYTES), ARTIFACT_BYTES)
    run, tasks = place.run(workload())
    succeeded(run, tasks)
    durations: dict[bool, list[float]] = {True: [], False: []}
    for use_cache in [True, False] * RUNS:
        run, tasks = place.run(workload(), use_cache=use_cache)
        succeeded(run, tasks)
        if use_cache and run["cacheHit"] != "Hit":
            raise RuntimeError(f"a run that should have hit is {run['cacheHit']}")
        durations[use_cache].append(run["durationMs"] / 1000)
    cached, uncached = (statistics.mean(durations[use_cache]) for use_cache in (True, False))
    return {
        "cached runs: average": Metric(value=cached, unit="s", floor=uncached, ratio=cached / uncached),
        "non-cached runs: average": Metric(value=uncached, unit="s"),
        "gain": Metric(value=(1 - cached / uncached) * 100, unit="%"),
    }


def main() -> None:
    options = arguments(__doc__ or "")
    with local() as place, ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="helios-bench-")))
        upload(place)

        def sign(method: str, key: str) -> str:
            return place.store.get_presigned_url(method, BUCKET, key)

        pod = Pod(root, sign)
        stack.enter_context(pod.serving())
        metrics = measure_start() | measure_cold(pod, sign, root) | measure_hits(pod)
        shutil.rmtree(root / "cache", ignore_errors=True)
        metrics |= measure_runs(place)
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
