"""The examples are DAGs that run: all are valid, none carries anything without effect."""

import hashlib
from pathlib import Path

import pytest

from helios.dag import parse_dag
from tests.cli.command import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_valid(file: Path) -> None:
    assert parse_dag(file.read_bytes()).warnings == []


def test_the_data_is_what_its_note_says() -> None:
    data = (ROOT / "examples/data/opticks.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() in (ROOT / "examples/data/README.md").read_text(encoding="utf-8")
