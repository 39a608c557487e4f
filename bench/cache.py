"""What the node's cache costs, against the plain way of doing the same. Takes no arguments; `--json FILE` writes the
figures too.

    hit      fetch of a cached input, 1 KB against 1 GB: a hit must not depend on the size
    cold     fetch of a 1 GB input that was never here (download, digest, into the cache) against `curl -o` of the same
    presigned URL start    `python -I -S agent version` against a bare `python -I -S -c pass`

Runs its own S3 (weed) unless HELIOS_S3_ENDPOINT, HELIOS_S3_ACCESS_KEY and HELIOS_S3_SECRET_KEY name one. Needs about 4
GB of disk in the folder for temporary files and takes about a minute. Everything it makes or starts is gone at its end.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minio import Minio

from agent.fetch import fetch
from agent.logs import Log
from agent.settings import Attempt, FetchSettings

AGENT = Path(__file__).parents[1] / "agent"
BUCKET = "helios-bench"
BIG = 1 << 30
SMALL = 1 << 10
ROUNDS = 5
HITS = 61


@dataclass(frozen=True)
class Metric:
    """One figure; `floor` is the plain way's, `ratio` value over floor, `target` what `value` or `ratio` must not
    exceed.
    """

    value: float
    unit: str
    floor: float | None
    ratio: float | None
    target: float
    met: bool


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
    return {"cache_hit_1gb_over_1kb": Metric(big - small, "ms", None, None, 2.0, apart <= 2.0)} | {
        "cache_hit_1gb": Metric(big, "ms", small, big / small, small + 2.0, big <= small + 2.0)
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
    return {"cache_cold_1gb": Metric(value, "s", floor, value / floor, 1.3, value / floor <= 1.3)}


def measure_start() -> dict[str, Metric]:
    took = {"agent": [1.0], "bare": [1.0]}
    commands = {"agent": [str(AGENT), "version"], "bare": ["-c", "pass"]}
    for _ in range(21):
        for name, command in commands.items():
            took[name].append(timed([sys.executable, "-I", "-S", *command], {}) * 1000)
    value, floor = statistics.median(took["agent"][1:]), statistics.median(took["bare"][1:])
    return {"agent_start": Metric(value, "ms", floor, value / floor, 60.0, value <= 60.0)}


def timed(command: list[str], env: dict[str, str] | None) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stdout.decode()[-2000:]}")
    return took


def shown(seconds: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in seconds) + " s"


@contextmanager
def object_store(root: Path) -> Iterator[Minio]:
    """The S3 to measure against: the one named by the environment, or weed on free ports, killed afterwards."""
    named = os.environ.get("HELIOS_S3_ENDPOINT")
    if named:
        pieces = urlsplit(named)
        keys = [os.environ.get(f"HELIOS_S3_{name}_KEY") for name in ("ACCESS", "SECRET")]
        yield Minio(pieces.netloc, access_key=keys[0], secret_key=keys[1], secure=pieces.scheme == "https")
        return
    with weed(root) as client:
        yield client


@contextmanager
def weed(root: Path) -> Iterator[Minio]:
    data = root / "weed"
    data.mkdir()
    identity = {
        "name": "helios",
        "credentials": [{"accessKey": "helios", "secretKey": "helios-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = free_ports(4)
    options = [
        *(f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={data / 's3.json'}"),
        *(f"-{name}.port={port}" for name, port in zip(("master", "volume", "filer", "s3"), ports, strict=True)),
        *("-master.volumeSizeLimitMB=1024", "-volume.max=0", "-volume.preStopSeconds=0", "-master.telemetry=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with (data / "log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("weed")), "server", *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=data, start_new_session=True)
    try:
        client = Minio(f"127.0.0.1:{ports[3]}", access_key="helios", secret_key="helios-secret", secure=False)
        deadline = time.monotonic() + 60
        while not answers(client):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("weed does not answer: " + (data / "log").read_text()[-2000:])
            time.sleep(0.1)
        yield client
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(client: Minio) -> bool:
    with suppress(Exception):
        client.list_buckets()
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Free ports whose neighbours 10,000 above, where weed puts its gRPC servers, are free too."""
    found: list[int] = []
    candidate = 26000 + os.getpid() % 5000
    while len(found) < count:
        candidate += 1
        with socket.socket() as low, socket.socket() as high, suppress(OSError):
            low.bind(("127.0.0.1", candidate))
            high.bind(("127.0.0.1", candidate + 10000))
            found.append(candidate)
    return found


def upload(client: Minio, root: Path) -> None:
    if not client.bucket_exists(BUCKET):
        client.make_bucket(BUCKET)
    for key, size in (("small", SMALL), ("big", BIG)):
        path = root / key
        with path.open("wb") as file:
            for _ in range(-(-size // (1 << 20))):
                file.write(os.urandom(min(size, 1 << 20)))
        for attempt in range(20):
            # weed takes reads before its first volume is ready for writes.
            try:
                client.fput_object(BUCKET, key, str(path), part_size=64 << 20)
                break
            except Exception:
                if attempt == 19:
                    raise
                time.sleep(0.5)
        path.unlink()


def table(metrics: dict[str, Metric]) -> str:
    rows = [("metric", "value", "floor", "ratio", "target", "met")]
    for name, metric in metrics.items():
        floor = "" if metric.floor is None else f"{metric.floor:.2f} {metric.unit}"
        ratio = "" if metric.ratio is None else f"{metric.ratio:.2f}"
        target = f"{metric.target:.2f}"
        rows.append((name, f"{metric.value:.2f} {metric.unit}", floor, ratio, target, "yes" if metric.met else "NO"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the node's cache costs.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="helios-bench-")))
        client = stack.enter_context(object_store(root))
        upload(client, root)

        def sign(method: str, key: str) -> str:
            return client.get_presigned_url(method, BUCKET, key)

        pod = Pod(root, sign)
        stack.enter_context(pod.serving())
        metrics = measure_start() | measure_cold(pod, sign, root) | measure_hits(pod)
        if os.environ.get("HELIOS_S3_ENDPOINT"):
            for key in ("small", "big"):
                client.remove_object(BUCKET, key)
    print(table(metrics))
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({name: asdict(metric) for name, metric in metrics.items()}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
