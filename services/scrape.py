"""Serves what a process has counted (helios/measures.py) as Prometheus metrics: `GET /metrics`, on a port of its own.

Rules: an answer is made of this process's memory alone, so a scrape waits neither for Redis nor for any loop. And who
scrapes can hold up nobody else: the listener has threads of its own, few connections and little patience.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from waitress.server import create_server

from helios.measures import INFO, MEASURES, SERVED, Count, Level, Measure, Spread
from helios.version import VERSION

PATH = "/metrics"
UNIX = "unix:"

LISTENING: dict[str, Any] = {
    "threads": 2,
    "connection_limit": 20,
    "channel_timeout": 30,
    "cleanup_interval": 5,
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 1024,
    "asyncore_use_poll": True,
    "ident": "helios",
    "clear_untrusted_proxy_headers": True,
}

END = b"# EOF\n"
"""How OpenMetrics ends."""

Encode = Callable[[Any], bytes]
"""From a registry to the text of one format."""
Rendered = Callable[[str, Encode], bytes]
"""The same of what somebody has read before: by the format's name, and how it is made."""

RENDERED: list[Rendered] = []
"""What is served beside what this process has counted."""


class Counted(Collector):
    """What this process has counted."""

    def collect(self) -> Iterable[Metric]:
        return [family for measure in MEASURES if (family := family_of(measure)) is not None]


def family_of(measure: Measure) -> Metric | None:
    """The measure as the exposition knows it; None for one that is served by somebody else, or has no number yet."""
    match measure:
        case Count(name=name, help=help, labels=labels):
            counter = CounterMetricFamily(name, help, labels=labels)
            for values, number in measure.read().items():
                counter.add_metric(values, number)
            return counter
        case Spread(name=name, help=help, labels=labels):
            histogram = HistogramMetricFamily(name, help, labels=labels)
            for values, (counts, total) in measure.read().items():
                buckets: list[tuple[str, float]] = []
                below = 0.0
                for bound, count in zip((*measure.bounds, float("inf")), counts, strict=True):
                    below += count
                    buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), below))
                histogram.add_metric(values, buckets, total)
            return histogram
        case Level(name=name, help=help, labels=labels):
            numbers = measure.read()
            gauge = GaugeMetricFamily(name, help, labels=labels)
            for values, number in numbers.items():
                gauge.add_metric(values, number)
            return gauge if numbers else None
        case _:
            return None


def registry_of(service: str) -> CollectorRegistry:
    """What a service serves, its process's own figures included."""
    INFO.source = lambda: {(service, VERSION): 1}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counted())
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Application:
    """WSGI: the metrics at one path, and nothing else."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ.get("PATH_INFO") != PATH:
            return _answer(start_response, "404 Not Found", "text/plain; charset=utf-8", b"metrics are at /metrics\n")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", "text/plain; charset=utf-8", b"")
        encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        parts = [encode(self.registry), *(rendered(kind, encode) for rendered in RENDERED)]
        body = b"".join(part.removesuffix(END) for part in parts) + (END if parts[0].endswith(END) else b"")
        return _answer(start_response, "200 OK", kind, body)


def _answer(start_response: Callable[..., Any], status: str, kind: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [body]


def serve_metrics(service: str, bind: str) -> None:
    """Serve until the process ends, on threads of its own. Raises OSError or ValueError where `bind` cannot be had."""
    listen(Application(registry_of(service)), bind)
    SERVED.set()


def listen(application: Any, bind: str) -> None:
    """The same of any WSGI application."""
    server: Any = create_server(application, sockets=[_listener(bind)], **LISTENING)
    threading.Thread(target=server.run, name="metrics", daemon=True).start()


def _listener(bind: str) -> socket.socket:
    if bind.startswith(UNIX):
        path = Path(bind.removeprefix(UNIX))
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
    else:
        host, _, port = bind.rpartition(":")
        if not port.isdecimal():
            raise ValueError("it takes host:port, or unix:/path")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
    return listener
