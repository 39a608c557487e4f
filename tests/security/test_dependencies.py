"""What Helios is built from is one set of files, under licences that ask nothing of its users."""

import json
from email.message import Message

import pytest

from tests.security.audit import LOCKS, PROJECT, advisories_in, faults_of, licence_fault, licence_of, pins, review

HASH = "--hash=sha256:" + "0" * 64


def test_every_dependency_is_pinned_with_hashes_and_free_to_use() -> None:
    rows, faults = review()
    assert len(rows) > 50
    assert faults == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"some>=1 \\\n    {HASH}", "is not one version"),
        (f"some==1.* \\\n    {HASH}", "is not one version"),
        (f"some @ file:///some.whl {HASH}", "is not one version"),
        (f"some \\\n    {HASH}", "is not one version"),
        ("some==1", "has no hash"),
        ("some==1 --hash=md5:0", "has no hash"),
        ("-r others.txt", "has no hash"),
    ],
)
def test_a_pin_that_means_more_than_one_set_of_files_is_a_fault(line: str, fault: str) -> None:
    (pin,) = pins("a.lock", line)
    assert any(fault in each for each in faults_of(pin))


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "AGPL-3.0", "GNU Affero General Public License", "SSPL-1.0", "", "ask us"]
)
def test_a_licence_that_binds_users_or_is_not_told_is_a_fault(licence: str) -> None:
    assert licence_fault("some", licence)


@pytest.mark.parametrize("licence", ["MIT", "BSD-3-Clause", "LGPL-2.1-or-later", "MPL-2.0", "Apache Software License"])
def test_a_licence_up_to_the_lgpl_is_none(licence: str) -> None:
    found = Message()
    found["License-Expression"] = licence
    assert licence_of(found) == licence  # pyright: ignore[reportArgumentType] -- what metadata() gives is a Message
    assert licence_fault("some", licence) is None


def test_advisories_that_were_asked_for_in_vain_are_not_taken_for_none() -> None:
    """pip-audit's exit code is 0 where its source knows nothing of a package."""
    known = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    unknown = {"name": "b", "skip_reason": "Dependency not found"}
    assert advisories_in(json.dumps({"dependencies": [known, unknown]})) == (["a 1: CVE-1, fixed in 2"], {"b"})


def test_everything_that_installs_goes_by_the_locks() -> None:
    """The image, `make dev` and the tests' own environment alike."""
    for file in ("Makefile", "Dockerfile"):
        text = (PROJECT / file).read_text()
        installs = [line for line in text.replace("\\\n", " ").splitlines() if "pip install" in line]
        assert installs
        for line in installs:
            by_lock = "--require-hashes" in line and any(lock in line for lock in LOCKS)
            assert by_lock or "--no-deps --no-build-isolation --editable ." in line, line
