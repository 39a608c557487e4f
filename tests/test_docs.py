"""The documentation names only what exists."""

import importlib.util
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def all_tests() -> set[str]:
    return {
        name
        for file in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def test_the_reference_is_what_the_code_says() -> None:
    """`python docs/make_reference.py` writes it."""
    specification = importlib.util.spec_from_file_location("make_reference", PROJECT / "docs" / "make_reference.py")
    assert specification is not None
    assert specification.loader is not None
    pages = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(pages)
    for name, page in pages.PAGES.items():
        assert (PROJECT / "docs" / "reference" / name).read_text() == page()


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", text))


@pytest.mark.parametrize("page", ["faults.md", "limits.md", "security.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    """A promise whose test was renamed or deleted is noticed."""
    named, written = names_in((PROJECT / "docs" / page).read_text()), all_tests()
    assert named, "the page names no test at all"
    assert named <= written, f"named, but not there: {sorted(named - written)}"


def test_every_threat_names_what_shows_that_it_is_stopped() -> None:
    """In each table of threats, the row of each; but for the headings, and the column of what is left."""
    threats = (PROJECT / "docs" / "security.md").read_text().partition("## The threats")[2].partition("\n## ")[0]
    rows = [line for line in threats.splitlines() if line.startswith("| ") and "shown by |" not in line]
    assert len(rows) > 40
    assert [row for row in rows if not names_in(row)] == []


def test_every_place_that_a_page_links_to_is_there() -> None:
    """Files, and headings in them."""
    missing: list[str] = []
    for page in (PROJECT / "docs").glob("*.md"):
        for file, heading in re.findall(r"\]\(([\w.]*\.md)?(?:#([\w-]+))?\)", page.read_text()):
            target = page.with_name(file) if file else page
            if not target.exists() or (heading and heading not in headings(target.read_text())):
                missing.append(f"{page.name}: {file}#{heading}")
    assert missing == []


def headings(text: str) -> set[str]:
    """As links name them: lower case, without what is no letter, digit or hyphen."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.replace("`", "")).strip().lower().replace(" ", "-") for each in found}


def test_every_file_linked_from_the_readme_exists() -> None:
    text = (PROJECT / "README.md").read_text()
    linked = set(re.findall(r"\]\(((?:docs|examples|bench)/[^)#]+)\)", text))
    paths = set(re.findall(r"\*\*((?:services|helios|agent|cli)/[\w./]+)\*\*", text))
    missing = [path for path in sorted(linked | paths) if not (PROJECT / path).exists()]
    assert not missing
