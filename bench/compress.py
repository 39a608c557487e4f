"""What compression saves on a slow way to the store, and what it costs where there is nothing to save.

    python -m bench.compress [--json FILE] [--megabytes 128] [--megabits 1000]

    object   bytes in the store; its floor is the content
    publish  a process that stores an output; its floor is the same with HELIOS_COMPRESS=off
    fetch    a process that brings it to a node that has never seen it, digest checked and in the cache; the same floor
    processor  what that process used of it

Of a table of random numbers and of random bytes. The store is local mode's own, behind a proxy that lets so many
megabits a second through in each direction, over all connections together. Everything shares this machine's
processors: proxy, store, and the step that is measured. The two ways take turns, and each figure is the best of
ROUNDS.
"""

import json
import multiprocessing
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from backports import zstd

from bench.local import Local, local
from bench.report import Metric, arguments, tell
from helios.podwire import MultipartWanted
from helios.settings import Settings
from services.collector.store import PART_BYTES, Store

AGENT = Path(__file__).parents[1] / "agent"
PACKAGES = str(Path(zstd.__file__).parents[2])
BUCKET = "helios-bench"
ROUNDS = 5
PIECE = 128 * 1024


class Gate:
    """Lets so many bytes a second through, whoever asks."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def pass_through(self, count: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - 0.01) + count / self._rate
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


def carry(source: socket.socket, target: socket.socket, gate: Gate) -> None:
    buffer = memoryview(bytearray(PIECE))
    with suppress(OSError):
        while count := source.recv_into(buffer):
            gate.pass_through(count)
            target.sendall(buffer[:count])
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def be_the_link(listener: socket.socket, store: tuple[str, int], bytes_per_second: float) -> None:
    """A process of its own: a connection to the store for each that comes in."""
    up, down = Gate(bytes_per_second), Gate(bytes_per_second)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(store)
        for pair, gate in (((client, server), up), ((server, client), down)):
            threading.Thread(target=carry, args=(*pair, gate), daemon=True).start()


@contextmanager
def link(endpoint: str, bytes_per_second: float) -> Iterator[str]:
    """The store's address behind the link."""
    place = urlsplit(endpoint)
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(
        target=be_the_link, args=(listener, (place.hostname, place.port), bytes_per_second), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.kill()
        process.join()
        listener.close()


class Endpoint:
    """The pod endpoint of an attempt with one output, then of one with that output as its input."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key = ""
        self.output: dict[str, Any] | None = None
        self.port = 0

    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = {
            "run": "r",
            "task": "t",
            "attempt": 0,
            "cacheEnabled": True,
            "inputs": [],
            "outputs": [],
        }
        if self.output is None:
            plan["outputs"] = [{"name": "data", "key": self.key, "url": self.store.put_url(self.key)}]
        else:
            made = {name: self.output.get(name) for name in ("bytes", "sha256", "archive", "stored")}
            plan["inputs"] = [
                {
                    "name": "data",
                    "mode": "link",
                    "verify": "size",
                    "url": self.store.get_url(BUCKET, self.key),
                    "headUrl": None,
                    "source": self.key,
                    **made,
                }
            ]
        return {**plan, "singlePutLimit": 5 << 30}

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/multipart":
            wanted = msgspec.convert(body, MultipartWanted)
            part_bytes, urls, complete = self.store.multipart(
                self.key, wanted.bytes, part_bytes=wanted.partBytes or PART_BYTES, encoding=wanted.codec
            )
            return {"partBytes": part_bytes, "urls": urls, "completeUrl": complete}
        if path == "/v1/result" and body["outputs"]:
            (self.output,) = body["outputs"]
        return {"status": "committed"}

    @contextmanager
    def serving(self) -> Iterator[None]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.answer(endpoint.plan())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(endpoint.post(self.path, body))

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


class Round:
    """One output on its way into the store and out of it again."""

    def __init__(self, root: Path, endpoint: Endpoint, compress: str) -> None:
        self.root = root
        self.endpoint = endpoint
        self.compress = compress
        for name in ("artifacts", "control", "state", "cache"):
            (root / name).mkdir(parents=True)

    def seconds(self, verb: str) -> dict[str, float]:
        """What it took, and what it took of a processor."""
        env = {
            "PATH": os.environ["PATH"],
            "HELIOS_ENDPOINT": f"http://127.0.0.1:{self.endpoint.port}",
            "HELIOS_TOKEN": "token",
            "HELIOS_RUN_ID": "r",
            "HELIOS_TASK_NAME": "t",
            "HELIOS_ATTEMPT": "0",
            "HELIOS_CACHE_ENABLED": "true",
            "HELIOS_JOB": f"job-{verb}",
            "HELIOS_POD_UID": "pod",
            "HELIOS_NODE": "node",
            "HELIOS_ARTIFACTS": str(self.root / "artifacts"),
            "HELIOS_CONTROL_DIR": str(self.root / "control"),
            "HELIOS_STATE_DIR": str(self.root / "state"),
            "HELIOS_COMPRESS": self.compress,
            "HELIOS_AGENT_LIB": PACKAGES,
        }
        if verb == "fetch":
            env["HELIOS_CACHE_DIR"] = str(self.root / "cache")
        used, began = processor_seconds(), time.monotonic()
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(AGENT), verb], env=env, capture_output=True, text=True, check=False
        )
        elapsed = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)
        return {verb: elapsed, f"{verb}, processor": processor_seconds() - used}

    def publish(self, content: Path) -> dict[str, float]:
        os.link(content, self.root / "artifacts" / "data")
        (self.root / "control" / "started").touch()
        (self.root / "control" / "lock").touch()
        ended = {"exitCode": 0, "signal": None, "timedOut": False, "cpuMs": 0, "peakMemoryBytes": 0}
        (self.root / "control" / "exit").write_text(json.dumps({**ended, "startedAt": 1, "endedAt": 2}))
        return self.seconds("publish")

    def fetch(self) -> dict[str, float]:
        (self.root / "artifacts" / "data").unlink()
        return self.seconds("fetch")


def processor_seconds() -> float:
    """Of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(file: Path, size: int) -> None:
    """Lines of numbers, most of whose digits are random."""
    rows = random.Random(1)
    with file.open("w") as out:
        while out.tell() < size:
            lines = (
                f"{rows.randrange(10**6)}\t{rows.random():.6f}\tsample-{rows.randrange(1000)}\n" for _ in range(20_000)
            )
            out.write("".join(lines))


def noise(file: Path, size: int) -> None:
    with file.open("wb") as out:
        for _ in range(size >> 20):
            out.write(os.urandom(1 << 20))


def measure(here: Local, root: Path, megabytes: int, megabits: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    stack = here.stack
    with ExitStack() as held:
        address = held.enter_context(link(stack.s3_endpoint, megabits * 125_000))
        signer = Store(
            Settings(
                s3_endpoint=address,
                s3_access_key=stack.s3_access_key,
                s3_secret_key=stack.s3_secret_key,
                s3_bucket=BUCKET,
            )
        )
        here.store.make_bucket(BUCKET)
        endpoint = Endpoint(signer)
        held.enter_context(endpoint.serving())
        for name, make in (("table", table), ("random", noise)):
            content = root / name
            make(content, megabytes << 20)
            times: dict[tuple[str, str], list[float]] = {}
            lies: dict[str, int] = {}
            for number in range(ROUNDS):
                for compress in ("auto", "off"):
                    endpoint.key, endpoint.output = f"{name}-{compress}-{number}", None
                    turn = Round(root / endpoint.key, endpoint, compress)
                    for what, seconds in {**turn.publish(content), **turn.fetch()}.items():
                        times.setdefault((what, compress), []).append(seconds)
                    lies[compress] = here.store.stat_object(BUCKET, endpoint.key).size
                    here.store.remove_object(BUCKET, endpoint.key)
                    shutil.rmtree(turn.root)
            metrics[f"{name}, object"] = against(lies["auto"] / 1e6, lies["off"] / 1e6, "MB")
            for what in dict.fromkeys(what for what, _ in times):
                value, floor = (min(times[what, compress]) for compress in ("auto", "off"))
                metrics[f"{name}, {what}"] = against(value, floor, "s")
    return metrics


def against(value: float, floor: float, unit: str) -> Metric:
    return Metric(value=value, unit=unit, floor=floor, ratio=value / floor)


def main() -> None:
    options = arguments("what compression saves, and what it costs", megabytes=128, megabits=1000)
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder, local() as here:
        tell(measure(here, Path(folder), options.megabytes, options.megabits), options.json)


if __name__ == "__main__":
    main()
