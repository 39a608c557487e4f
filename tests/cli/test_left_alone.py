"""A run that was submitted and left alone, in local mode without `helios up`."""

from pathlib import Path

import pytest

from cli.embedded.home import Home
from cli.embedded.lease import running_stack
from tests.cli.command import Helios
from tests.waiting import wait_until

SLOW = """\
dagName: slow
tasks:
  - {name: first, image: alpine, command: [sh, -c, "sleep 4; echo done > o"], outputs: [o]}
  - {name: second, image: alpine, command: [cat, o], inputs: [{fromTask: first, name: o}]}
"""


@pytest.mark.timeout(120)
def test_a_submitted_run_goes_on_to_its_end_although_no_command_waits_for_it(tmp_path: Path) -> None:
    """The stack stays while a run has not ended, though its linger is shorter, and stops afterwards."""
    home = Home(tmp_path / "home")
    helios = Helios(tmp_path, {"HELIOS_HOME": str(home.path), "HELIOS_LINGER_SECONDS": "1"})
    run = helios("submit", helios.dag("slow", SLOW)).out.strip()
    wait_until("the stack stops by itself", lambda: running_stack(home) is None, 60)
    shown = helios("show", run, "-o", "json").json()
    assert shown["status"] == "SUCCEEDED"
    assert [task["attempt"] for task in shown["tasks"]] == [1, 1]
    wait_until("the stack stops again", lambda: running_stack(home) is None, 60)
