"""What the keeper of a full node costs: processor time and memory of `python -m agent keep` at 100,000 blobs.

    python -m bench.keeper [--json FILE] [--blobs N] [--seconds N]

The real process with its default settings, over that many small blobs with the refs that fetch leaves; it tells a real
collector, and Valkey, what it holds, asks it before it evicts, and listens for other nodes. In the steady
part blobs come at 10 a second, which is a third of the cache in an hour, all pending at first, and the scrub runs. Then
the limit is passed and a tenth of them is evicted. The share of one core is that of the steady part, and what evicting
as many as come takes beside it; starting is told by itself.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import redis

from agent.saved import read_saved, whole
from agent.stamp import boot_id, durable_ns, pending_ns
from agent.store import Store
from bench.report import Metric, arguments, tell
from bench.servers import PROJECT, free_port, running, service, url_of, valkey
from helios.keys import node_blobs

BLOB_BYTES = 64
COMING_PER_SECOND = 10
HIGH, LOW = 0.95, 0.85
DEADLINE_SECONDS = 300.0

KEY = "a key of the benchmark's own"
CORE_SHARE = 0.02
MEGABYTES = 40


def put(cache: Path, number: int, size: int, *, pending: bool) -> None:
    """One blob, as fetch leaves it or as it is once it was settled."""
    data = str(number).encode().ljust(size, b".")
    digest = hashlib.sha256(data).hexdigest()
    folder = cache / "blobs" / "sha256" / digest[:2]
    beside = cache / "tmp" / digest
    beside.write_bytes(data)
    beside.chmod(0o444)
    boot = boot_id()
    seal = pending_ns(digest, boot) if pending and boot else durable_ns(digest)
    os.utime(beside, ns=(seal, seal))
    beside.rename(folder / digest)
    ref = hashlib.sha256(f"content\n{digest}".encode()).hexdigest()
    (cache / "refs" / ref).write_text(json.dumps({"v": 1, "sha256": digest, "bytes": size, "ms": 20 + number % 1000}))


def filled(cache: Path, blobs: int) -> None:
    cache.mkdir()
    store = Store(str(cache), "bench")
    store.prepare()
    store.drop_view()
    for number in range(256):
        (cache / "blobs" / "sha256" / f"{number:02x}").mkdir()
    for number in range(blobs):
        put(cache, number, BLOB_BYTES, pending=False)


def processor_seconds(pid: int) -> float:
    """Of the process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def wait_for(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE_SECONDS:.0f} s: {what}")
        time.sleep(0.05)


@contextmanager
def collector(folder: Path) -> Generator[tuple[redis.Redis, str]]:
    """A collector that keepers can speak with; yields a client of its Valkey, and the address of its endpoint."""
    place = f"127.0.0.1:{free_port()}"
    with valkey() as client:
        environ = {
            "HELIOS_REDIS_URL": url_of(client),
            "HELIOS_LOCAL_DIR": str(folder),
            "HELIOS_TOKEN_KEY": "bench",
            "HELIOS_KEEPER_KEY": KEY,
            "HELIOS_POD_ENDPOINT_BIND": place,
        }
        with running(service("services.collector"), environ):
            yield client, f"http://{place}"


def measure(cache: Path, blobs: int, seconds: int, client: redis.Redis, endpoint: str) -> dict[str, Metric]:
    filled(cache, blobs)
    coming = seconds * COMING_PER_SECOND
    limit = int((blobs + coming + 1) * BLOB_BYTES / HIGH)
    env = {
        "PATH": os.environ["PATH"],
        "MALLOC_ARENA_MAX": "1",  # as in k8s/base/cache.yaml
        "HELIOS_CACHE_DIR": str(cache),
        "HELIOS_NODE": "bench",
        "HELIOS_CACHE_LIMIT_BYTES": str(limit),
        "HELIOS_CACHE_HIGH": str(HIGH),
        "HELIOS_CACHE_LOW": str(LOW),
        "HELIOS_CACHE_FREE_BYTES": "0",
        "HELIOS_ENDPOINT": endpoint,
        "HELIOS_KEEPER_KEY": KEY,
        "HELIOS_KEEPER_BIND": "127.0.0.1:0",
    }
    command = [sys.executable, "-I", "-S", str(PROJECT / "agent"), "keep"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # its first inventory; the few that follow fit the pipe
        wait_for(lambda: client.hlen(node_blobs("bench")) == blobs, "all is told")
        start = processor_seconds(process.pid)
        began = time.monotonic()
        for number in range(coming):
            put(cache, blobs + number, BLOB_BYTES, pending=True)
            time.sleep(max(0.0, began + (number + 1) / COMING_PER_SECOND - time.monotonic()))
        steady = processor_seconds(process.pid) - start
        took = time.monotonic() - began
        put(cache, blobs + coming, BLOB_BYTES + int(limit * (1 - HIGH)), pending=True)
        before = processor_seconds(process.pid)
        wait_for((cache / "evicted.json").exists, "the eviction")
        evicting = processor_seconds(process.pid) - before
        evicted = whole(read_saved(str(cache / "evicted.json")), "blobs")
        wait_for(lambda: client.hlen(node_blobs("bench")) == blobs + coming + 1 - evicted, "what went is told")
        peak = peak_megabytes(process.pid)
    finally:
        process.kill()
        process.wait()
    each = evicting / evicted
    share = steady / took + each * COMING_PER_SECOND
    return {
        "processor time until all is told": Metric(value=start, unit="s"),
        "share of a core, steady": Metric(value=100 * steady / took, unit="%"),
        f"processor time of evicting {evicted:,} blobs": Metric(value=evicting, unit="s"),
        "share of a core with as many evicted as come": Metric(
            value=100 * share, unit="%", target=f"< {100 * CORE_SHARE:g}", met=share < CORE_SHARE
        ),
        "resident memory at its peak": Metric(value=peak, unit="MB", target=f"< {MEGABYTES}", met=peak < MEGABYTES),
    }


def main() -> None:
    options = arguments(__doc__ or "", blobs=100_000, seconds=120)
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as made:
        folder = Path(made)
        with collector(folder / "node") as (client, endpoint):
            tell(measure(folder / "cache", options.blobs, options.seconds, client, endpoint), options.json)


if __name__ == "__main__":
    main()
