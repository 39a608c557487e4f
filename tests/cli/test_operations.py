"""docs/operations.md as it is written: its blocks for local mode are run, in order, in one shell."""

import re
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tests.cli.doc_pages import run, script
from tests.embedded.conftest import processes_of
from tests.waiting import wait_until

PAGE = ROOT / "docs" / "operations.md"

SLOW = """\
dagName: under-way
tasks:
  - {name: early, image: alpine, command: [sh, -c, "echo x >> early; cp early o"], outputs: [o]}
  - name: late
    image: alpine
    command: [sh, -c, "cat o; while [ ! -e FOLDER/go ]; do sleep 0.2; done"]
    inputs: [{fromTask: early, name: o}]
"""

WAIT_UNTIL_STORED = """
for i in $(seq 100); do
  helios recover -o json > recover.json
  python - <<'END' && break
import json, sys
runs = json.load(open("recover.json"))
sys.exit(not any(run["taskSucceeded"] == 1 for run in runs))
END
  sleep 0.3
done
"""

BEFORE = {
    "Dead letters": """
python - <<'END'
import os, subprocess, redis
out = subprocess.run(["helios", "env"], capture_output=True, text=True, check=True).stdout
url = [line.partition("=")[2].strip("'\\"") for line in out.splitlines() if "HELIOS_REDIS_URL" in line][0]
client = redis.Redis.from_url(url)
client.xadd("helios:controls", {"run": "1764027260123-0", "action": "nonsense"})
END
for i in $(seq 60); do [ "$(helios dead -o json)" = "[]" ] || break; sleep 0.3; done
helios dead -o json > dead-before.json
""",
    "How to lose Redis entirely": "RUN=$(helios submit slow.yaml)\n" + WAIT_UNTIL_STORED,
}
AFTER = {
    # What was retried is buried again, and that may be after the rest was discarded.
    "Dead letters": """
for i in $(seq 20); do
  helios dead -o json > dead-after.json
  [ "$(cat dead-after.json)" = "[]" ] && break
  helios dead discard --all
done
""",
    "How to lose Redis entirely": """
touch go
for i in $(seq 200); do
  helios show "$RUN" -o json > show.json
  python -c 'import json, sys; sys.exit(json.load(open("show.json"))["status"] == "RUNNING")' && break
  sleep 0.3
done
helios show "$RUN" > shown.txt
kill $UP; wait $UP || true
""",
}
"""What a reader has done before, and looks at afterwards; in a section of several blocks around all of them."""


@pytest.mark.timeout(300)
def test_the_operations_page_works_as_it_is_written(tmp_path: Path) -> None:
    """Dead letters are retried and discarded, a backup is restored, and an emptied Redis is rebuilt."""
    (tmp_path / "slow.yaml").write_text(SLOW.replace("FOLDER", str(tmp_path)))
    said = run(script(PAGE, BEFORE, AFTER), tmp_path, 280)
    assert "nonsense" in (tmp_path / "dead-before.json").read_text()
    assert (tmp_path / "dead-after.json").read_text().strip() == "[]"
    assert "would rebuild 1 run" in said
    assert "rebuilt 1 run" in said
    shown = (tmp_path / "show.json").read_text()
    assert '"taskSkipped": 1' in shown, "what had succeeded is not done again"
    assert '"status": "SUCCEEDED"' in shown
    wait_until("nothing is left running", lambda: not processes_of(tmp_path), 30)


def test_blocks_for_a_cluster_name_commands_that_exist() -> None:
    """Those are not run; at least the `helios` commands in them are known."""
    from cli.main import GROUPS

    known = {command.name for commands in GROUPS.values() for command in commands}
    named = set(re.findall(r"^(?:.*&& )?helios ([a-z]+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named
    assert named <= known
