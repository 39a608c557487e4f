"""`helios schedule` in local mode, as people use it. What a schedule does is tests/services/test_schedule.py's."""

from pathlib import Path

import pytest

from tests.cli.command import Helios

DAG = """\
dagName: nightly-copy
params: {day: null}
tasks:
  - {name: only, image: alpine, command: [sh, -c, 'echo x > o'], outputs: [o]}
"""
DAY = ("-p", "day=${schedule.date}")
NEVER_SOON = "0 3 29 2 *"


@pytest.mark.timeout(120)
def test_a_schedule_is_added_looked_at_paused_resumed_and_removed(tmp_path: Path) -> None:
    helios = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home"), "HELIOS_LINGER_SECONDS": "5"})
    file = tmp_path / "nightly.yaml"
    file.write_text(DAG)
    added = helios("schedule", "add", "nightly", NEVER_SOON, str(file), "--timezone", "Europe/Berlin", *DAY)
    assert added.code == 0, added.err
    assert added.out.count("-02-29 0") == 5, added.out
    assert helios("schedule", "pause", "nightly").code == 0
    (listed,) = helios("schedule", "list", "-o", "json").json()
    assert (listed["name"], listed["dagName"], listed["paused"]) == ("nightly", "nightly-copy", True)
    assert listed["params"] == {"day": "${schedule.date}"}
    assert helios("schedule", "resume", "nightly").code == 0
    assert "Europe/Berlin" in helios("schedule", "show", "nightly").out
    assert helios("schedule", "remove", "nightly").code == 0
    assert helios("schedule", "list", "-o", "json").json() == []


def test_what_is_no_schedule_is_refused_with_the_next_step(tmp_path: Path) -> None:
    helios = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home"), "HELIOS_LINGER_SECONDS": "5"})
    file = tmp_path / "nightly.yaml"
    file.write_text(DAG)
    broken = tmp_path / "broken.yaml"
    broken.write_text("dagName: x\n")
    for words, said in (
        (("add", "nightly", "99 * * * *", str(file)), "no cron expression"),
        (("add", "nightly", NEVER_SOON, str(file), "--timezone", "Europe/Berlinn"), "Berlinn"),
        (("add", "nightly", NEVER_SOON, str(broken)), "tasks"),
        (("add", "nightly", NEVER_SOON, str(file)), "has no default"),
        (("add", "nightly", NEVER_SOON, str(file), "-p", "day=${schedule.year}"), "there is no ${schedule.year}"),
        (("remove", "nightly"), "no schedule of that name"),
    ):
        refused = helios("schedule", *words)
        assert refused.code == 2, refused
        assert said in refused.err
        assert "next:" in refused.err
