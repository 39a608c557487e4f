"""Helios where its users are: editors, shells, kubectl, CI. The documentation's own lines are what is run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cli.main import GROUPS
from helios.dag import parse_dag
from helios.dag_format import dag_schema
from helios.run_object import ORDER, run_object
from sdk.records import RunInfo
from tests.cli.command import Helios

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "editors-and-ci.md"
ACTION = ROOT / "ci" / "github" / "helios-run" / "action.yml"
GITLAB = ROOT / "ci" / "gitlab" / "helios-run.yml"
DAG = "dagName: ci\ntasks: [{name: t, image: alpine, command: [sh, -c, 'echo x > o'], outputs: [o]}]\n"


@pytest.fixture
def shell(at_home: Path, tmp_path: Path) -> Any:
    """Runs a script as a CI does, where `helios` is the command of this checkout."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    wrapper = f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c 'from cli.main import main; main()' \"$@\"\n"
    for name in ("helios", "kubectl-helios"):
        (bin_ / name).write_text(wrapper)
        (bin_ / name).chmod(0o755)

    def run(script: str, flags: str = "-eo", **variables: str) -> "subprocess.CompletedProcess[str]":
        environ = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", **variables}
        command = ["bash", "--noprofile", "--norc", flags, "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_every_command_of_the_page_runs(shell: Any, tmp_path: Path) -> None:
    text = PAGE.read_text()
    for block in [each.partition("\n```")[0] for each in text.split("```sh\n")[1:]]:
        done = shell(block)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "flows" / "dag.yaml").read_text().splitlines()[0] in text
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "SUCCEEDED"


def test_a_first_dag_is_valid_and_names_its_schema(helios: Helios, tmp_path: Path) -> None:
    done = helios("init")
    assert done.code == 0
    text = (tmp_path / "dag.yaml").read_text()
    assert parse_dag(text.encode()).warnings == []
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    assert (tmp_path / named[1]).read_bytes() == dag_schema()
    assert helios("init").code == 2, "what is there stays"
    (tmp_path / "dag.yaml").write_text("mine")
    assert helios("init", "--force").code == 0


@pytest.fixture
def helios(tmp_path: Path) -> Helios:
    return Helios(tmp_path, {"HELIOS_REDIS_URL": "redis://127.0.0.1:1/0"})


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_shells_are_told_every_command_and_their_own_parser_takes_it(helios: Helios, name: str) -> None:
    done = helios("completions", name)
    commands = [command.name for group in GROUPS.values() for command in group]
    assert [each for each in commands if each not in done.out] == []
    assert "no-cache" in done.out
    if shutil.which(name):
        subprocess.run([name, "-n"], input=done.out, text=True, check=True)


def test_bash_completes_commands_and_options(helios: Helios) -> None:
    script = helios("completions", "bash").out
    ask = 'COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _helios; echo "${{COMPREPLY[@]}}"'
    for words, expected in (
        ("helios va", "validate"),
        ("helios run --no-c", "--no-cache"),
        ("helios completions z", "zsh"),
    ):
        done = subprocess.run(
            ["bash"], input=f"{script}\n{ask.format(words)}\n", capture_output=True, text=True, check=True
        )
        assert expected in done.stdout.split(), (words, done.stdout, done.stderr)


def test_kubectl_finds_the_plugin(shell: Any) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-helios"] == scripts["helios"]
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    done = shell("kubectl helios validate -", HELIOS_REDIS_URL="redis://127.0.0.1:1/0")
    assert "standard input" in done.stderr + done.stdout


def test_the_github_action_submits_waits_and_tells(shell: Any, tmp_path: Path) -> None:
    """Its steps, as a runner would take them: bash with -eo pipefail, each input as the variable that it becomes."""
    action = yaml.safe_load(ACTION.read_text())
    install, step = action["runs"]["steps"]
    assert install["if"], "nothing is installed where helios is there"
    given = {name: each.get("default", "") for name, each in action["inputs"].items()}
    (tmp_path / "dag.yaml").write_text(DAG)
    given |= {"dag": "dag.yaml", "artifacts-to": "results", "arguments": "--no-cache\n\n--priority=high\n"}
    told = tmp_path / "told"

    def variables() -> dict[str, str]:
        named = {name: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", text) for name, text in step["env"].items()}
        assert all(named.values()), "inputs reach the script as variables alone"
        return {name: given[match[1]] for name, match in named.items() if match}

    done = shell(step["run"], GITHUB_OUTPUT=str(told), **variables())
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("=", 1) for line in told.read_text().splitlines())
    assert outputs["status"] == "SUCCEEDED"
    assert (tmp_path / "results" / "t" / "o").read_text() == "x\n"
    assert {f"${{{{ steps.run.outputs.{name} }}}}" for name in outputs} == {
        each["value"] for each in action["outputs"].values()
    }
    assert "${{" not in step["run"]
    (tmp_path / "dag.yaml").write_text(DAG.replace("echo x > o", "exit 1"))
    told.unlink()
    failed = shell(step["run"], GITHUB_OUTPUT=str(told), **variables())
    assert failed.returncode == 1
    assert "status=FAILED" in told.read_text()


def test_the_gitlab_job_submits_waits_and_keeps_what_came(shell: Any, tmp_path: Path) -> None:
    job = yaml.safe_load(GITLAB.read_text())[".helios-run"]
    (tmp_path / "dag.yaml").write_text(DAG)
    script = "\n".join([*job["before_script"], *job["script"]])
    done = shell(script, **{**job["variables"], "HELIOS_PACKAGE": ""})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "helios-run.json").read_text())["status"] == "SUCCEEDED"
    assert (tmp_path / "artifacts" / "t" / "o").read_text() == "x\n"
    for each in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        yaml.safe_load(each)


RUN_FIELDS = [
    "dagId",
    "dagName",
    "status",
    "startTime",
    "endTime",
    "durationMs",
    "cacheEnabled",
    "memoize",
    "params",
    "cacheHit",
    "taskCount",
    "taskSucceeded",
    "taskFailed",
    "taskUpstreamFailed",
    "taskCancelled",
    "taskSkipped",
    "cacheHitTasks",
    "cachePartialTasks",
    "cacheMissTasks",
    "cacheHitBytes",
    "cacheMissBytes",
    "cacheFetchMs",
    "cacheSavedMs",
    "cachePeerBytes",
    "cacheStoreBytes",
    "nodes",
    "reason",
    "problems",
    "warnings",
]
"""What scripts may rely on. Names may be added at the end of this list; none may go or change its type."""


def test_the_fields_of_runs_as_json_stay_what_they_are() -> None:
    """`helios runs -o json`, whatever a run has or lacks; and the documentation shows all of them."""
    bare, full = run_object({"status": "RUNNING"}), run_object({**dict.fromkeys(ORDER, "1"), "status": "SUCCEEDED"})
    for shown in (bare, full):
        assert list(shown)[: len(RUN_FIELDS)] == RUN_FIELDS
        msgspec.convert(shown, RunInfo)
    shown = (ROOT / "docs" / "cli.md").read_text().split("```json\n")[1].partition("```")[0]
    assert [name for name in json.loads(shown) if name != "tasks"] == list(bare)
