"""`make audit`: what Helios is built from, and what is wrong with it.

The locks are reviewed without any network: every package pinned, with hashes, from no address of its own, under a
licence that asks nothing of those who use Helios. Then pip-audit asks for advisories, where it is installed and finds
somebody who knows of them. That it asked in vain is said, and never taken for good news.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.output import put

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-image.lock", "requirements-dev.lock")
ADVISORIES_SECONDS = 300

PERMISSIVE = re.compile(
    r"\b(MIT(-0)?|ISC|0?BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla|Zope|ZPL|Unlicense|LGPL|Lesser)\b",
    re.IGNORECASE,
)
"""Words of licences up to the LGPL."""
STRONGER = re.compile(
    r"(?<!L)(?<!Lesser )\b(AGPL|GPL|SSPL|RSAL|BUSL|EUPL|CC-BY-NC)|Affero|Business Source|Proprietary", re.IGNORECASE
)


ONLY_IN_THE_IMAGE = {"async-timeout": "Apache-2.0"}
"""Licences of what the image's lock has for the first releases of Python 3.11, and nothing here installs."""


class Pin(NamedTuple):
    """One package of a lock."""

    lock: str
    text: str
    hashes: int

    @property
    def requirement(self) -> Requirement:
        return Requirement(self.text)

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return self.text.partition(" ")[0].partition("==")[2]

    @property
    def wanted(self) -> bool:
        """Whether it is for the machine that this runs on."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate()


def pins(lock: str, text: str) -> Iterator[Pin]:
    """What a lock asks for. Lines that are no requirement are ones too, of no hash."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            words = line.partition(" --hash=")[0]
            yield Pin(lock, words.strip(), len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)))


def faults_of(pin: Pin) -> Iterator[str]:
    """What keeps a pin from meaning one set of files."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^=*,\s]+( ; .+)?", pin.text):
        yield f"{pin.lock}: {pin.text!r} is not one version"
    if not pin.hashes:
        yield f"{pin.lock}: {pin.text!r} has no hash"


def licence_of(found: PackageMetadata) -> str:
    """What a package says of its licence, in one line."""
    classes = [
        each.rpartition("::")[2].strip() for each in found.get_all("Classifier") or () if each.startswith("License")
    ]
    words = found.get("License-Expression") or "; ".join(classes) or found.get("License") or ""
    return " ".join(words.split())[:60]


def licence_fault(name: str, licence: str) -> str | None:
    if STRONGER.search(licence):
        return f"{name}: its licence is {licence}"
    return None if PERMISSIVE.search(licence) else f"{name}: its licence is not known: {licence!r}"


def review() -> tuple[list[tuple[str, str, str]], list[str]]:
    """Name, version and licence of every package that is wanted here, and the faults."""
    faults: list[str] = []
    rows: dict[str, tuple[str, str, str]] = {}
    for lock in LOCKS:
        text = (PROJECT / lock).read_text(encoding="utf-8")
        if re.search(r"://|^\s*(-i|-f|--\w*index\w*|--find-links|--trusted-host)\b", text, re.MULTILINE):
            faults.append(f"{lock}: it names an address")
        for pin in pins(lock, text):
            wrong = list(faults_of(pin))
            faults += wrong
            if wrong or not pin.wanted or pin.name in rows:
                continue
            try:
                found = metadata(pin.name)
            except PackageNotFoundError:
                if pin.name in ONLY_IN_THE_IMAGE:
                    rows[pin.name] = (pin.name, pin.version, ONLY_IN_THE_IMAGE[pin.name])
                    continue
                faults.append(f"{pin.name}: it is not installed; `make dev` installs it")
                continue
            licence = licence_of(found)
            rows[pin.name] = (pin.name, found["Version"], licence)
            if fault := licence_fault(pin.name, licence):
                faults.append(fault)
            if pin.version != found["Version"]:
                faults.append(f"{pin.name}: {found['Version']} is installed, which is not what {lock} has")
    return sorted(rows.values()), faults


class Advisories(NamedTuple):
    """What pip-audit has found out; `unasked` says of which packages nothing, and why."""

    faults: list[str]
    unasked: str


def advisories() -> Advisories:
    program = shutil.which("pip-audit")
    if program is None:
        return Advisories([], "pip-audit is not installed; put it on PATH, from an environment of its own")
    faults: list[str] = []
    unasked: set[str] = set()
    for lock in LOCKS:
        command = [
            program,
            "--requirement",
            str(PROJECT / lock),
            "--require-hashes",
            "--disable-pip",
            "--format",
            "json",
        ]
        try:
            done = subprocess.run(
                [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=ADVISORIES_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Advisories(faults, f"pip-audit did not answer within {ADVISORIES_SECONDS} s")
        found, without = advisories_in(done.stdout)
        faults += [each for each in found if each not in faults]
        unasked |= without
        if done.returncode and not found:
            return Advisories(faults, f"pip-audit failed: {done.stderr.strip()[-200:]}")
    return Advisories(
        faults, f"no advisories are known for {len(unasked)} packages: {', '.join(sorted(unasked))}" if unasked else ""
    )


def advisories_in(answer: str) -> tuple[list[str], set[str]]:
    """The faults in pip-audit's JSON, and the packages that it left out, which do not show in its exit code."""
    try:
        told: Any = json.loads(answer)
    except ValueError:
        return [], set()
    faults = [
        f"{each['name']} {each['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for each in told["dependencies"]
        for found in each.get("vulns", ())
    ]
    return faults, {each["name"] for each in told["dependencies"] if "skip_reason" in each}


def main() -> int:
    rows, faults = review()
    for row in rows:
        put("{:<24} {:<18} {}".format(*row))
    put(f"\n{len(rows)} packages, each one version with its hashes, from no address of its own")
    known = advisories()
    put("advisories: " + (f"NOT ASKED FOR ALL: {known.unasked}" if known.unasked else "asked for every package"))
    for fault in (*faults, *known.faults):
        put(f"fault: {fault}")
    return 1 if faults or known.faults else 0


if __name__ == "__main__":
    sys.exit(main())
