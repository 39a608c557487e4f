"""The alarms and the dashboard of k8s/overlays/monitoring, against the services' real metrics, by Prometheus itself."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helios.measures import MEASURES
from tests.redis_servers import free_port
from tests.services.served import COMMANDS, Served, run_dag, serving
from tests.stage import dag_text
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s" / "components" / "monitoring"
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")

ALERTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # What makes each alarm ring, as series in promtool's notation, and the labels that it rings with.
    "HeliosMetricsMissing": ({}, {}),
    "HeliosRedisUnreachable": ({"helios_cluster_redis_up": "0x90"}, {}),
    "HeliosServiceDown": ({'helios_cluster_replicas{service="submitter"}': "0x90"}, {"service": "submitter"}),
    "HeliosServiceNotReady": (
        {'helios_cluster_replicas_waiting{service="jobrunner"}': "1x90"},
        {"service": "jobrunner"},
    ),
    "HeliosSubmissionsWait": (
        {'helios_cluster_stream_lag{stream="submissions",group="submitter"}': "60x90"},
        {"stream": "submissions"},
    ),
    "HeliosReadyTasksPileUp": (
        {'helios_cluster_stream_lag{stream="tasks:ready",group="jobrunner"}': "600+10x90"},
        {"stream": "tasks:ready"},
    ),
    "HeliosWorkBehind": (
        {'helios_cluster_stream_lag{stream="tasks:finished",group="submitter"}': "900x90"},
        {"stream": "tasks:finished", "group": "submitter"},
    ),
    "HeliosEntryStuck": (
        {'helios_cluster_stream_oldest_pending_seconds{stream="tasks:ready",group="jobrunner"}': "400+60x90"},
        {"stream": "tasks:ready", "group": "jobrunner"},
    ),
    "HeliosDeadLetters": ({"helios_cluster_dead_letters": "2x90"}, {}),
    "HeliosNothingMoves": (
        {
            "helios_cluster_runs_active": "3x90",
            "helios_cluster_jobs": "0x90",
            'helios_transitions_total{transition="launch",outcome="applied"}': "500x90",
        },
        {},
    ),
    "HeliosRedisMemoryHigh": (
        {"helios_cluster_redis_memory_bytes": "90x90", "helios_cluster_redis_memory_limit_bytes": "100x90"},
        {},
    ),
    "HeliosTransitionsFail": (
        {'helios_transitions_total{transition="launch",outcome="failed"}': "0+3x90"},
        {"transition": "launch"},
    ),
    "HeliosKubernetesErrors": (
        {
            'helios_api_requests_total{verb="POST",answer="2xx"}': "0+6x90",
            'helios_api_requests_total{verb="POST",answer="none"}': "0+6x90",
        },
        {},
    ),
    "HeliosStoreErrors": (
        {
            'helios_store_requests_total{method="GET",answer="2xx"}': "0+6x90",
            'helios_store_requests_total{method="GET",answer="none"}': "0+6x90",
        },
        {},
    ),
    "HeliosLooksFail": ({'helios_looks_failed_total{look="Recorder.look"}': "0+2x90"}, {"look": "Recorder.look"}),
    "HeliosAttemptsDisrupted": (
        {
            'helios_attempts_ended_total{outcome="succeeded"}': "0+2x90",
            'helios_attempts_ended_total{outcome="disrupted"}': "0+2x90",
        },
        {},
    ),
    "HeliosStartsSlow": (
        {
            'helios_stage_seconds_bucket{stage="pull",le="10.0"}': "0x90",
            'helios_stage_seconds_bucket{stage="pull",le="300.0"}': "0x90",
            'helios_stage_seconds_bucket{stage="pull",le="600.0"}': "0+3x90",
            'helios_stage_seconds_bucket{stage="pull",le="+Inf"}': "0+3x90",
        },
        {"stage": "pull"},
    ),
    "HeliosNodeDiskLow": (
        {
            'helios_cluster_node_disk_free_bytes{node="n1"}': "1000000000x90",
            'helios_cluster_node_heard_seconds{node="n1"}': "10x90",
        },
        {"node": "n1"},
    ),
    "HeliosCorruptBlobs": (
        {'helios_cluster_node_cache_corrupt_blobs_total{node="n1"}': "0+1x90"},
        {"node": "n1"},
    ),
    "HeliosTracesDropped": ({'helios_traces_total{outcome="dropped"}': "0+1x90"}, {}),
}

HEALTHY = {
    "helios_cluster_read_timestamp_seconds": "0+60x90",
    "helios_cluster_redis_up": "1x90",
    **{f'helios_cluster_replicas{{service="{service}"}}': "2x90" for service in COMMANDS},
    **{f'helios_cluster_replicas_waiting{{service="{service}"}}': "0x90" for service in COMMANDS},
    'helios_cluster_stream_lag{stream="submissions",group="submitter"}': "10x90",
    'helios_cluster_stream_lag{stream="tasks:ready",group="jobrunner"}': "5000-10x90",
    'helios_cluster_stream_lag{stream="tasks:finished",group="submitter"}': "20x90",
    'helios_cluster_stream_oldest_pending_seconds{stream="jobs:launched",group="collector"}': "3600+60x90",
    'helios_cluster_stream_oldest_pending_seconds{stream="tasks:finished",group="submitter"}': "2x90",
    "helios_cluster_dead_letters": "0x90",
    "helios_cluster_runs_active": "3x90",
    "helios_cluster_jobs": "20x90",
    'helios_transitions_total{transition="launch",outcome="applied"}': "0+100x90",
    'helios_transitions_total{transition="launch",outcome="failed"}': "4x90",
    "helios_cluster_redis_memory_bytes": "70x90",
    "helios_cluster_redis_memory_limit_bytes": "100x90",
    'helios_api_requests_total{verb="POST",answer="2xx"}': "0+100x90",
    'helios_api_requests_total{verb="DELETE",answer="4xx"}': "0+50x90",
    'helios_api_requests_total{verb="POST",answer="5xx"}': "0+1x90",
    'helios_store_requests_total{method="GET",answer="2xx"}': "0+100x90",
    'helios_store_requests_total{method="HEAD",answer="4xx"}': "0+100x90",
    'helios_looks_failed_total{look="Recorder.look"}': "3x90",
    'helios_attempts_ended_total{outcome="succeeded"}': "0+100x90",
    'helios_attempts_ended_total{outcome="disrupted"}': "0+1x90",
    'helios_stage_seconds_bucket{stage="pull",le="10.0"}': "0+100x90",
    'helios_stage_seconds_bucket{stage="pull",le="+Inf"}': "0+100x90",
    'helios_cluster_node_disk_free_bytes{node="n1"}': "50000000000x90",
    'helios_cluster_node_disk_free_bytes{node="gone"}': "1000000000x90",
    'helios_cluster_node_heard_seconds{node="n1"}': "10x90",
    'helios_cluster_node_heard_seconds{node="gone"}': "3000+60x90",
    'helios_cluster_node_cache_corrupt_blobs_total{node="n1"}': "7x90",
    'helios_traces_total{outcome="dropped"}': "0x90",
}
"""An hour and a half of a Helios that has much to do and nothing to complain of."""


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    return group["rules"]


def panels() -> list[tuple[str, str]]:
    """Title and query of every panel, with Grafana's variables filled in."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def queries() -> list[tuple[str, str]]:
    return [*panels(), *((rule["alert"], rule["expr"]) for rule in rules())]


def names_in(query: str) -> set[str]:
    found = re.findall(r"\b(?:helios|process)_[a-z_]+", query)
    return {SUFFIXES.sub("", each) if SUFFIXES.sub("", each) in MEASURED else each for each in found}


MEASURED = {measure.name: measure for measure in MEASURES}


def test_every_query_asks_for_metrics_and_labels_that_there_are() -> None:
    for title, query in queries():
        names = names_in(query)
        assert names, title
        for name in names - OF_PROCESSES:
            assert name in MEASURED, f"{title}: {name}"
        known = {label for name in names & MEASURED.keys() for label in MEASURED[name].labels} | {
            "le",
            "job",
            "instance",
        }
        asked = {each.strip() for group in re.findall(r"by \(([^)]*)\)", query) for each in group.split(",")}
        asked |= set(re.findall(r"([a-z_]+)(?:=~|!~|!=|=)\"", query))
        assert asked <= known, f"{title}: {asked - known}"


def test_what_every_collector_serves_alike_is_never_added_up() -> None:
    """Or else two replicas would show twice the lag: the innermost aggregation of such a figure is `max`."""
    for title, query in queries():
        for match in re.finditer(r"helios_cluster_[a-z_]+", query):
            around = re.findall(r"([a-z_]+)(?: by \([^)]*\))? ?(?=\()", query[: match.start()])
            innermost = [each for each in around if each in ("max", "sum", "count", "avg", "absent")][-1:]
            assert innermost in (["max"], ["absent"]), f"{title}: {query}"


def test_every_metric_of_ours_is_on_the_dashboard_or_rings() -> None:
    """What nobody looks at need not be counted. Versions and readiness are for whoever asks."""
    shown = {name for _, query in queries() for name in names_in(query)}
    assert MEASURED.keys() - shown == {
        "helios_info",
        "helios_service_waiting",
        "helios_cluster_runs_stored",
        "helios_cluster_node_cache_blobs",
        "helios_cluster_node_cache_evicted_blobs_total",
        "helios_cluster_node_cache_scrubbed_bytes_total",
    }


def test_every_alarm_is_explained_and_has_a_test() -> None:
    explained = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules():
        assert rule["alert"] in ALERTS
        assert f"`{rule['alert']}`" in explained, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert ALERTS.keys() == {rule["alert"] for rule in rules()}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return found


def rule_file(folder: Path) -> Path:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]))
    return file


def test_alarms_ring_when_they_should_and_never_while_all_is_well(promtool: str, tmp_path: Path) -> None:
    """Each by its own trouble alone, on top of what is healthy."""
    expressions = {rule["alert"]: rule for rule in rules()}

    def case(name: str, changed: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
        """Without a name: nothing rings."""
        series = {} if name == "HeliosMetricsMissing" else {**HEALTHY, **changed}
        labels = {"severity": expressions[name]["labels"]["severity"] if name else "", **labels}
        told = ", ".join(f'{label}="{value}"' for label, value in labels.items())
        firing = f'ALERTS{{alertname=~"{name or ".*"}",alertstate="firing"}}'
        return {
            "interval": "1m",
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            # What an alarm says changes with the numbers: whether it rings is what counts.
            "promql_expr_test": [
                {
                    "expr": f"count by ({', '.join(labels)}) ({firing})",
                    "eval_time": "80m",
                    "exp_samples": [{"labels": f"{{{told}}}", "value": 1}] if name else [],
                }
            ],
        }

    tests = [case(name, changed, labels) for name, (changed, labels) in ALERTS.items()]
    tests.append(case("", {}, {}))
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rule_file(tmp_path))], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A real one that scrapes the services every second."""

    def __init__(self, program: str, folder: Path, served: Served) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rule_file(folder))],
            "scrape_configs": [
                {"job_name": f"helios-{service}", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for service, port in served.ports.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [
                *(program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
                *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> list[Any]:
        return self.ask("query", query=query)["result"]

    def up(self) -> bool:
        try:
            return len([each for each in self.value("up") if each["value"][1] == "1"]) == len(COMMANDS)
        except OSError:
            return False


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Served]]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus: apt-get install prometheus")
    with serving(tmp_path_factory.mktemp("served")) as served:
        prometheus = Prometheus(program, tmp_path_factory.mktemp("prometheus"), served)
        try:
            wait_until("prometheus scrapes all services", prometheus.up, 60)
            yield prometheus, served
        finally:
            prometheus.process.terminate()
            prometheus.process.wait(20)


NOTHING_HERE = (
    *("helios_cluster_node_", "helios_api_", "helios_store_", "helios_cache_", "helios_input_", "helios_looks_failed"),
    *("helios_entries_failed", "helios_dead_letters_total", "helios_entries_redelivered", 'outcome="failed"'),
)
"""What instant Jobs on no node never do."""


def test_prometheus_answers_every_query_of_the_dashboard(scraped: tuple[Prometheus, Served]) -> None:
    """Every query is one that it understands, and those of what these services do have something to show."""
    prometheus, served = scraped
    ended = "sum(helios_runs_ended_total)"
    for _ in range(2):
        before = prometheus.value(ended)
        known = float(before[0]["value"][1]) if before else 0.0
        run_dag(served, dag_text({"a": [], "b": ["a"]}, name="shown"))
        wait_until(
            "prometheus has seen the run's end",
            lambda known=known: (found := prometheus.value(ended)) and float(found[0]["value"][1]) > known,
        )
    wait_until("redis was read", lambda: prometheus.value("helios_cluster_jobs"))
    wait_until("a rate can be told", lambda: prometheus.value("rate(helios_run_seconds_bucket[1m])"))
    asked = [query for _, query in panels() if "> 0" not in query and not any(each in query for each in NOTHING_HERE)]
    for query in asked:
        # After a scrape that took too long there is nothing until the next one.
        wait_until(f"there is an answer to {query}", lambda query=query: prometheus.value(query))
    for _, query in panels():
        prometheus.value(query)


def test_prometheus_takes_the_metrics_as_they_were_declared(scraped: tuple[Prometheus, Served]) -> None:
    prometheus, _ = scraped
    known = prometheus.ask("metadata")
    # OpenMetrics, which Prometheus asks for, names a counter's family without its `_total`.
    families = {name: name.removesuffix("_total") for name in MEASURED}
    told = {name: known[family] for name, family in families.items() if family in known}
    assert len(told) > 25, "it leaves out what has no series yet"
    for name, each in told.items():
        assert {(one["type"], one["help"]) for one in each} == {(MEASURED[name].kind, MEASURED[name].help)}


def test_no_alarm_rings_for_services_that_are_well(scraped: tuple[Prometheus, Served]) -> None:
    prometheus, _ = scraped
    assert [each["metric"]["alertname"] for each in prometheus.value('ALERTS{alertstate="firing"}')] == []
    states = [rule["health"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    wait_until(
        "every rule was evaluated",
        lambda: all(rule["health"] == "ok" for group in prometheus.ask("rules")["groups"] for rule in group["rules"]),
    )
    assert len(states) == len(ALERTS)


def test_the_docs_list_every_metric_as_it_is() -> None:
    lines = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    listed = [line for line in lines if line.startswith("| `helios_")]
    wanted = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.help} |"
        for each in MEASURES
    ]
    assert sorted(listed) == sorted(wanted)
