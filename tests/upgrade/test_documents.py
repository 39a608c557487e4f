"""Pods, agents and services of two versions: each reads what the other says, with fields it does not know, and without
fields that it may have itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upgrade.documents import WANTED
from tests.upgrade.trees import FIELD, ROOT, later_version

PROGRAM = Path(__file__).parent / "documents.py"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return later_version(tmp_path_factory.mktemp("later"))


def _run(tree: Path, *arguments: str, lines: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], cwd=tree, env=environment, input=lines, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _read(tree: Path, lines: str) -> dict[str, str]:
    found = [json.loads(line) for line in _run(tree, "read", lines=lines).splitlines()]
    return {each["kind"]: each["got"] for each in found}


def test_what_a_later_version_says_is_read_here(later: Path) -> None:
    """A newer collector's plan by an older agent, a newer pod's report by an older collector, and what is stored."""
    lines = _run(later, "say")
    texts = {document["kind"]: document["text"] for document in map(json.loads, lines.splitlines())}
    # A token is signed text; what it holds is longer by a field.
    assert {kind for kind, text in texts.items() if FIELD not in text} == {"token"}
    assert _read(ROOT, lines) == WANTED


def test_what_this_version_says_is_read_by_a_later_one(later: Path) -> None:
    """The reverse: the later version's own fields are missing."""
    lines = _run(ROOT, "say")
    assert FIELD not in lines
    assert _read(later, lines) == WANTED


REQUIRED = {
    "plan": {"run", "task", "attempt", "cacheEnabled", "inputs", "outputs", "singlePutLimit"},
    "report": {"run", "task", "attempt", "podUid"},
    "fetch message": {"ok", "hits", "misses", "hitBytes", "missBytes"},
    "publish message": {"ok"},
    "record": {"outputs"},
    "node report": {"node", "epoch", "seq"},
    "event": {"type", "run", "task", "attempt", "status", "cache", "cacheHitBytes", "cacheMissBytes", "node"},
    "dag": {"dagName", "tasks"},
}
"""What every version has said since the first; all else may be missing."""


def test_what_lacks_every_optional_field_is_read_here() -> None:
    lines: list[str] = []
    for document in map(json.loads, _run(ROOT, "say").splitlines()):
        required = REQUIRED.get(document["kind"])
        if required is not None:
            fields = {name: value for name, value in json.loads(document["text"]).items() if name in required}
            assert fields.keys() == required
            document["text"] = json.dumps(fields)
        lines.append(json.dumps(document))
    assert _read(ROOT, "\n".join(lines)) == WANTED
