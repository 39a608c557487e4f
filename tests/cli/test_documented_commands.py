"""Every `helios` command of the documentation is understood as it stands, and every page's commands are run."""

import keyword
import re
import shlex
import shutil
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

from cli.main import GROUPS
from tests.cli.command import ROOT
from tests.cli.doc_pages import run
from tests.embedded.conftest import processes_of
from tests.test_docs import all_tests
from tests.waiting import wait_until

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

DAG = """\
dagName: documented
tasks:
  - {name: report, image: alpine, command: [sh, -c, "echo hello > report"], outputs: [report]}
"""

RUN_BY = {
    "README.md": ("test_the_readmes_and_the_command_lines_blocks_work",),
    "cli.md": ("test_the_readmes_and_the_command_lines_blocks_work",),
    "editors-and-ci.md": ("test_every_command_of_the_page_runs",),
    "http.md": ("test_every_curl_line_of_the_page_does_what_it_says",),
    "import.md": ("test_every_command_of_the_page_runs",),
    "install.md": ("test_every_way_to_install_gives_a_helios_that_runs_a_dag",),
    "kubernetes.md": ("test_the_demo_misses_then_hits", "test_uninstalling_under_a_running_task_leaves_nothing"),
    "operations.md": ("test_the_operations_page_works_as_it_is_written",),
    "triggers.md": (
        "test_every_line_of_the_page_of_triggers_does_what_it_says",
        "test_a_real_minio_tells_a_trigger_of_an_object",
    ),
    "tutorial.md": ("test_the_tutorial_works_as_it_is_written_and_shows_what_it_says",),
}
"""Pages with blocks of commands, and the tests that run them. Where they are for a cluster, its fixtures do; what
install.md has downloads much, so that `make test-install` runs it.
"""


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```sh[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> set[tuple[str, bool]]:
    """Up to what the shell takes: those of blocks, and (True) those named in the text, which may lack their words."""
    found: set[tuple[str, bool]] = set()
    for line in "\n".join(blocks(page)).splitlines():
        for each in re.findall(r"(?:^|[/(]|&& )(helios [a-z][^#|&>)]*)", line):
            found.add((each.strip(), False))
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for each in re.findall(r"`(helios [a-z][^`]*)`", text):
        if not re.search(r"[\[…]|[a-z]\|[a-z]", each):
            found.add((re.split(r" [|>&] ", each)[0], True))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    """Its name, its options, and how many words it takes."""
    app = App(name="helios", version_flags=[])
    for each in (command.name for group in GROUPS.values() for command in group):
        module = f"{each}_" if keyword.iskeyword(each) else each
        app.command(f"cli.commands.{module}:{module}", name=each)
    odd: list[str] = []
    for text, named in sorted(commands(page)):
        try:
            app.parse_args(shlex.split(text)[1:], exit_on_error=False, print_error=False)
        except MissingArgumentError as error:
            odd += [] if named else [f"{text}: {' '.join(str(error).split())}"]
        except CycloptsError as error:
            odd.append(f"{text}: {' '.join(str(error).split())}")
    assert odd == []


def test_every_page_with_commands_has_a_test_that_runs_them() -> None:
    assert {page.name for page in PAGES if blocks(page)} == set(RUN_BY)
    cluster = {
        name
        for file in (ROOT / "tests" / "cluster").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert {each for tests in RUN_BY.values() for each in tests} <= all_tests() | cluster


@pytest.mark.timeout(180)
def test_the_readmes_and_the_command_lines_blocks_work(tmp_path: Path) -> None:
    """In one shell, with the servers of `helios up`. The dashboard, which does not end by itself, has its own tests."""
    missing = [program for program in ("jq", "redis-cli") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not there")
    (tmp_path / "dag.yaml").write_text(DAG)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(tmp_path / "bin")
    ours, streams = (each for each in blocks(ROOT / "README.md") if "helios run" in each or "helios env" in each)
    lines, scripting = blocks(ROOT / "docs" / "cli.md")
    alone = [line for line in ours.splitlines() if not re.search(r"helios (tui|up)\b", line)]
    # What the reader puts in: the id that XADD printed, and the address that docs/cli.md leaves to its reader.
    streams = streams.replace(" useCache true  ", ' useCache true | tee id; RUN="$(cat id)"').replace("<id>", '"$RUN"')
    streams = streams.replace("""'helios:{p0}:run:"$RUN"'""", '"helios:{p0}:run:$RUN"')
    scripting = scripting.replace("redis-cli ", 'redis-cli -u "$HELIOS_REDIS_URL" ')
    text = "\n".join(
        [
            *("set -eu", "helios up > up.log 2>&1 &", "UP=$!", "trap 'kill $UP; wait $UP || true' EXIT"),
            "for i in $(seq 300); do grep -q 'Everything runs' up.log && break; sleep 0.2; done",
            *alone,
            *("helios run dag.yaml", lines, streams, scripting),
            'test "$(cat results/report)" = hello || find results',
            'ended() { helios show $run -o json | jq -e \'.status == "SUCCEEDED" or .status == "CANCELLED"\'; }',
            "for i in $(seq 100); do ended && break; sleep 0.2; done",
        ]
    )
    said = run(text, tmp_path, 170)
    assert said.rstrip().endswith("true"), said[-2000:]
    wait_until("nothing is left running", lambda: not processes_of(tmp_path), 30)
