"""The first command of the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.embedded.home import Home
from cli.embedded.lease import running_stack
from tests.cli.command import ROOT

DEMO = [sys.executable, str(ROOT / "examples" / "demo.py")]


@pytest.mark.timeout(180)
def test_the_demo_misses_first_and_then_hits(tmp_path: Path) -> None:
    """The promise of the README: the second run of the same DAG downloads nothing."""
    home = tmp_path / "demo"
    done = subprocess.run([*DEMO, "--home", str(home)], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {cells[0]: cells[1:] for line in done.stdout.splitlines() if len(cells := re.split(r"\s{2,}", line)) == 3}
    assert rows["status"] == ["SUCCEEDED", "SUCCEEDED"]
    assert rows["external inputs hit"] == ["0", "1"]
    assert rows["external inputs missed"] == ["1", "0"]
    assert rows["cacheHit"][1] == "Hit"
    assert rows["downloaded"][1] == "0 B"
    assert "the whole book" in done.stdout
    assert running_stack(Home(home)) is None


def test_the_demo_removes_no_folder_of_yours(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = subprocess.run([*DEMO, "--home", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert (tmp_path / "mine").read_text() == "mine"
