"""The benchmark with fake nodes, on a small scale. It brings its own cluster, beside the one that other tests use."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.fake_cluster import PROJECT, why_none
from bench.report import Metric

SECONDS = 240


def run_small(figures: Path) -> None:
    command = [sys.executable, "-m", "bench.kwok", "--tasks=200", "--nodes=20", "--cluster=kwok-smoke"]
    with subprocess.Popen(
        [*command, f"--json={figures}"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=SECONDS)
        finally:
            process.terminate()  # not killed: it has a cluster to take down
            process.wait(60)
    assert process.returncode == 0, said


@pytest.mark.timeout(SECONDS + 70)
def test_two_hundred_tasks_on_twenty_fake_nodes_succeed_and_leave_nothing(tmp_path: Path) -> None:
    """Every figure is there; only those that a busy machine cannot spoil are held to their targets."""
    if (reason := why_none()) is not None:
        pytest.skip(reason)
    run_small(tmp_path / "figures.json")
    metrics = msgspec.json.decode((tmp_path / "figures.json").read_bytes(), type=dict[str, Metric])
    (left,) = (metric for name, metric in metrics.items() if "finalizer" in name)
    assert left.met
    assert all(metric.value > 0 for metric in metrics.values() if metric is not left)
