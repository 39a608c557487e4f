"""docs/tutorial.md as it is written."""

from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tests.cli.doc_pages import run, script
from tests.embedded.conftest import processes_of
from tests.waiting import wait_until


@pytest.mark.timeout(150)
def test_the_tutorial_works_as_it_is_written_and_shows_what_it_says(tmp_path: Path) -> None:
    run(script(ROOT / "docs" / "tutorial.md"), tmp_path, 140)
    assert "Partial" in (tmp_path / "first.txt").read_text()
    assert "Hit" in (tmp_path / "second.txt").read_text()
    assert "changed" in (tmp_path / "why.txt").read_text()
    assert "skipped" in (tmp_path / "skipped.txt").read_text().lower()
    wait_until("nothing is left running", lambda: not processes_of(tmp_path), 30)
