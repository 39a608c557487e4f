"""Tests that are given a time leave out what they cannot begin within it, and say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ANY = "tests/agent/test_names_and_logs.py::test_an_accepted_name_is_a_path_strictly_inside"
"""A quick one, which passes by itself."""


@pytest.mark.parametrize(("seconds", "told"), [("0", "1 skipped"), ("900", "1 passed"), ("", "1 passed")])
def test_what_cannot_be_begun_in_time_is_left_out(seconds: str, told: str) -> None:
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", ANY]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TESTS.parent,
        env={**os.environ, "HELIOS_TEST_SECONDS": seconds},
    )
    assert told in done.stdout
    assert ("HELIOS_TEST_SECONDS=0 are over" in done.stdout) == (seconds == "0")
    assert done.returncode == 0
