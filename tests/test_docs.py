"""The documentation names only what exists."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["faults.md", "limits.md"])
def test_every_test_that_the_page_names_exists(page: str) -> None:
    """A promise whose test was renamed or deleted is noticed."""
    named = set(re.findall(r"`(test_\w+)`", (PROJECT / "docs" / page).read_text()))
    written = {
        name
        for file in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert named, "the page names no test at all"
    assert named <= written, f"named, but not there: {sorted(named - written)}"


def test_every_file_linked_from_the_readme_exists() -> None:
    text = (PROJECT / "README.md").read_text()
    linked = set(re.findall(r"\]\(((?:docs|examples|bench)/[^)#]+)\)", text))
    paths = set(re.findall(r"\*\*((?:services|helios|agent|cli)/[\w./]+)\*\*", text))
    missing = [path for path in sorted(linked | paths) if not (PROJECT / path).exists()]
    assert not missing
