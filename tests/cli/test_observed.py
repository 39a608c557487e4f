"""Local mode's metrics on one port, and its traces: everything real, tasks included."""

import signal
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from helios.trace import span_id
from services.gathered import merged
from tests.cli.command import Helios
from tests.redis_servers import free_port
from tests.waiting import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
DAG = """
dagName: observed
tasks:
  - {name: make, image: none, command: [sh, -c, 'printf %s "$TRACEPARENT" > told'], outputs: [told]}
  - {name: own, image: none, command: [sh, -c, 'test "$TRACEPARENT" = mine'], env: {TRACEPARENT: mine}}
  - {name: read, image: none, command: [cat, told], inputs: [{fromTask: make, name: told}]}
"""


@pytest.fixture
def spans() -> Iterator[tuple[str, list[Any]]]:
    """The URL of a receiver of traces, and what it got."""
    found: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            found.extend(span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", found
    server.shutdown()
    server.server_close()


def test_local_mode_serves_all_its_metrics_on_one_port_and_sends_its_traces(
    tmp_path: Path, spans: tuple[str, list[Any]]
) -> None:
    url, received = spans
    port = free_port()
    helios = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home"), "HELIOS_OTLP_ENDPOINT": url})
    (tmp_path / "dag.yaml").write_text(DAG)

    def samples() -> dict[str, list[Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        found: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    up = helios.start("up", "--replicas", "2", "--metrics", f"127.0.0.1:{port}")
    try:
        replicas = {f"{kind}{number}" for kind in ("submitter", "jobrunner", "collector") for number in ("", "-2")}
        wait_until(
            "all replicas are served",
            lambda: {each.labels["replica"] for each in samples().get("helios_info", ())} == replicas,
            90,
        )
        done = helios("run", "dag.yaml", "--traceparent", f"00-{TRACE}-{PARENT}-01", "-o", "json", timeout=90)
        assert done.code == 0, done.err
        run = done.json()["dagId"]

        def counted(name: str, **labels: str) -> float:
            return sum(each.value for each in samples().get(name, ()) if labels.items() <= each.labels.items())

        # A collector counts what it has committed, which may be after the run's end was seen.
        wait_until("its attempts are counted", lambda: counted("helios_attempts_ended_total", outcome="succeeded") == 3)
        wait_until("its inputs are counted", lambda: counted("helios_cache_inputs_total") == 1)
        for stage in ("queue", "fetch", "run", "publish"):
            wait_until(f"{stage} is timed", lambda stage=stage: counted("helios_stage_seconds_count", stage=stage) > 0)
        assert counted("helios_attempts_ended_total", outcome="succeeded") == 3
        wait_until("the whole trace has come", lambda: any(each.span_id.hex() == span_id(run) for each in received), 60)
        known = {each.span_id.hex(): each for each in received}
        assert len(known) == len(received)
        assert {each.trace_id.hex() for each in received} == {TRACE}
        assert known[span_id(run)].parent_span_id.hex() == PARENT
        for task in ("make", "own", "read"):
            assert known[span_id(run, task, "1")].parent_span_id.hex() == span_id(run)
        for stage in ("queue", "fetch", "run", "publish"):
            assert span_id(run, "read", "1", stage) in known
        got = helios("artifacts", run, "make", "told", "--to", "results")
        assert got.code == 0, got.err
        (told,) = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
        assert told.read_text() == f"00-{TRACE}-{span_id(run, 'make', '1')}-01"
    finally:
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=60)
        helios.end_started()
    assert up.returncode == 0


def test_a_family_of_several_replicas_is_one_with_their_names() -> None:
    text = '# HELP a_total What.\n# TYPE a_total counter\na_total{x="1"} 2.0\n# HELP b B.\n# TYPE b gauge\nb 1.0\n'
    assert merged({"one": text, "two": text}) == (
        "# HELP a_total What.\n# TYPE a_total counter\n"
        'a_total{replica="one",x="1"} 2.0\na_total{replica="two",x="1"} 2.0\n'
        '# HELP b B.\n# TYPE b gauge\nb{replica="one"} 1.0\nb{replica="two"} 1.0\n'
    )
