"""What the HTTP API takes: a POST at a given rate, and a DAG's metrics over 100 runs.

    python -m bench.http_api [--json FILE] [--rate N] [--seconds N]

Real Valkey and one replica of the API; submissions stay in their stream, so what is measured is the API's part.
Requests start at fixed times whether or not earlier ones were answered, and a latency counts from when its request was
due, so a pause of the server is seen by every request that it held up. The floor is the same number of bare XADDs,
sent in the same way straight to Redis.
"""

import asyncio
import hashlib
import time
import urllib.request
from collections.abc import Awaitable, Callable

import redis
import redis.asyncio

from bench.report import Metric, arguments, tell
from bench.servers import free_port, running, service, url_of, valkey
from helios.dag import parse_dag
from helios.keys import SUBMISSIONS, Keys
from helios.transitions import commit_one
from services.submitter.accept import open_calls

TOKEN = "bench-" + "t" * 40
CONNECTIONS = 32
RUNS = 100
ASKS = 200
POST_TARGET_MS = 20.0
METRICS_TARGET_MS = 50.0

DAG = """\
dagName: bench
tasks:
  - {name: fetch, image: "alpine:3.20", command: [sh, -c, "echo 1 > out.txt"], outputs: [out.txt]}
  - {name: left, image: "alpine:3.20", command: [cat, /artifacts/out.txt], inputs: [{fromTask: fetch, name: out.txt}]}
  - {name: right, image: "alpine:3.20", command: [cat, /artifacts/out.txt], inputs: [{fromTask: fetch, name: out.txt}]}
  - {name: join, image: "alpine:3.20", command: ["true"], depends_on: [left, right]}
"""


class Connection:
    """One kept-open HTTP/1.1 connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> int:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        return int(answer.split(b" ", 2)[1])


async def at_rate(rate: int, seconds: int, one: Callable[[], Awaitable[None]]) -> list[float]:
    """Milliseconds of each, from when it was due."""
    took: list[float] = []
    began = time.perf_counter() + 0.1

    async def run(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await one()
        took.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        for number in range(rate * seconds):
            due = began + number / rate
            while due - time.perf_counter() > 0.05:
                await asyncio.sleep(0.02)
            group.create_task(run(due))
    return sorted(took)


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


async def posts(port: int, rate: int, seconds: int) -> list[float]:
    pool: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        pool.put_nowait(Connection(port))

    async def one() -> None:
        connection = await pool.get()
        status = await connection.ask("POST", "/api/v1/dags", DAG.encode())
        assert status == 202, status
        pool.put_nowait(connection)

    await at_rate(rate, 2, one)
    return await at_rate(rate, seconds, one)


async def bare(url: str, rate: int, seconds: int) -> list[float]:
    client = redis.asyncio.Redis.from_url(url, max_connections=CONNECTIONS * 4)

    async def one() -> None:
        await client.xadd(SUBMISSIONS, {"dag": DAG})

    took = await at_rate(rate, seconds, one)
    await client.aclose()
    return took


async def metrics(port: int) -> list[float]:
    connection = Connection(port)
    took: list[float] = []
    for _ in range(ASKS):
        began = time.perf_counter()
        status = await connection.ask("GET", f"/api/v1/dags/bench/metrics?limit={RUNS}")
        assert status == 200, status
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def fill(client: redis.Redis) -> None:
    parsed = parse_dag(DAG.encode())
    for number in range(RUNS):
        for call in open_calls(Keys(0), f"{1_764_027_260_000 + number}-0", parsed, None):
            commit_one(client, call)


def await_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the API is not ready")


def main() -> None:
    given = arguments(__doc__ or "", rate=200, seconds=20)
    port = free_port()
    found: dict[str, Metric] = {}
    with valkey() as client:
        environ = {
            "HELIOS_REDIS_URL": url_of(client),
            "HELIOS_HTTP_BIND": f"127.0.0.1:{port}",
            "HELIOS_HTTP_TOKENS": f"bench:read+submit:{hashlib.sha256(TOKEN.encode()).hexdigest()}",
            "HELIOS_HTTP_REQUESTS_PER_SECOND": "100000",
            "HELIOS_S3_ACCESS_KEY": "bench",
            "HELIOS_S3_SECRET_KEY": "bench-secret",
        }
        with running(service("services.api"), environ):
            await_ready(port)
            floor = asyncio.run(bare(url_of(client), given.rate, given.seconds))
            took = asyncio.run(posts(port, given.rate, given.seconds))
            client.delete(SUBMISSIONS)
            fill(client)
            asks = asyncio.run(metrics(port))
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        value, least = percentile(took, share), percentile(floor, share)
        is_p99 = name == "p99"
        found[f"POST /api/v1/dags at {given.rate}/s, {name}"] = Metric(
            value=value,
            unit="ms",
            floor=least,
            ratio=value / least,
            target=f"< {POST_TARGET_MS:g}" if is_p99 else None,
            met=value < POST_TARGET_MS if is_p99 else None,
        )
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = percentile(asks, share)
        found[f"metrics of {RUNS} runs, {name}"] = Metric(
            value=value,
            unit="ms",
            target=f"< {METRICS_TARGET_MS:g}" if name == "p99" else None,
            met=value < METRICS_TARGET_MS if name == "p99" else None,
        )
    tell(found, given.json)


if __name__ == "__main__":
    main()
