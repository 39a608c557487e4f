"""Other versions of Helios, as folders to run from: a later one, made from this tree, and earlier ones from git.

The later version is this one with everything that the rules of docs/design.md (Upgrades) let a version add: a field in
every struct that travels or is stored, in every entry and every record, in what the agent and the endpoint say to each
other, and events of a kind that nobody here knows. So the test needs no history, and no second version that really is.
"""

import ast
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("helios", "services", "agent", "cli", "tui", "bench")
LATER = "99.0.0"
FIELD = "ofALaterVersion"

STRUCTS = ("events", "messages", "records", "podwire", "dag", "memo", "localjobs", "tokens")
"""Modules of helios whose structs travel or are stored."""


def later_version(folder: Path) -> Path:
    """A tree of the later version in the folder."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _substitute(folder / "helios/version.py", r'VERSION = "[^"]*"', f'VERSION = "{LATER}"')
    for module in STRUCTS:
        _add_field(folder / f"helios/{module}.py")
    for script in sorted((folder / "helios/transitions").glob("*.lua")):
        _add_to_script(script)
    for module in ("report", "manifest"):
        _substitute(folder / f"agent/{module}.py", r'"v": 1,', f'"v": 1, "{FIELD}": {{"a": [1]}},')
    return folder


def earlier_version(folder: Path, commit: str) -> Path | None:
    """The tree of a commit, None where this clone does not have it."""
    found = subprocess.run(
        ["git", "archive", "--format=tar", commit, *PACKAGES], cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode != 0:
        return None
    subprocess.run(["tar", "-x", "-C", folder], input=found.stdout, check=True)
    return folder


def _substitute(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count, f"{path} has nothing like {pattern} any more"
    path.write_text(text)


def _add_field(path: Path) -> None:
    """One more field, with a default, at the end of each struct that is no other's base."""
    text = path.read_text()
    lines = text.splitlines()
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    bases = {name for node in classes for name in map(_base, node.bases)}
    added = 0
    for node in reversed(classes):
        is_struct = any(name in ("Struct", "Event") for name in map(_base, node.bases))
        if is_struct and node.name not in bases:
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign | ast.Expr | ast.Assign)]
            place = max((each.end_lineno or 0) for each in fields) if fields else node.body[-1].end_lineno or 0
            # By a factory, so that it is written although it is the default.
            lines.insert(place, f'    {FIELD}: str = __import__("msgspec").field(default_factory=lambda: "x")')
            added += 1
    assert added, f"{path} has no structs any more"
    path.write_text("\n".join(lines) + "\n")


def _base(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _add_to_script(path: Path) -> None:
    """One more field in each entry and each hash that the script writes; beside each event one of an unknown kind."""
    text = path.read_text()
    text = re.sub(r"(redis\.call\('XADD', \w+, '\*', )('run')", rf"\1'{FIELD}', 'x', \2", text)
    text = re.sub(r"(redis\.call\('HSET', [^,]+, )('[a-zA-Z]+')", rf"\1'{FIELD}', 'x', \2", text)
    event = '{"type":"SomethingElse","run":"0-1","of":["a later version"]}'
    text = re.sub(
        r"^( *)(redis\.pcall\('XADD', events, 'MAXLEN', '~', [^,]+, '\*', 'event', )(event|ARGV\[\d+\])\)$",
        rf"\1\2\3)\n\1\2'{event}')",
        text,
        flags=re.MULTILINE,
    )
    path.write_text(text)
