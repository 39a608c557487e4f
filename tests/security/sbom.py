"""`make sbom`: what Helios is built from, as CycloneDX 1.5 JSON, out of the locks alone.

The same locks give the same bytes: no time, no random number, and no package that merely happens to be installed.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from cli.output import put
from helios.version import VERSION
from tests.security.audit import PROJECT, pins

SHIPPED = {"requirements.lock": "command line and local mode", "requirements-image.lock": "image"}
"""The locks of what users run; tests and tools are not in it."""


def hashes_of(text: str) -> dict[str, list[str]]:
    """Of each requirement of a lock, `name==version`, the digests of all its files."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return {
        line.split(" ", 1)[0]: re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
        for line in joined.splitlines()
        if line.strip() and not line.startswith("#")
    }


def components(project: Path = PROJECT) -> list[dict[str, Any]]:
    """One for each name and version over all locks, sorted."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for lock, use in SHIPPED.items():
        text = (project / lock).read_text()
        hashes = hashes_of(text)
        for pin in pins(lock, text):
            purl = f"pkg:pypi/{pin.name}@{pin.version}"
            each = found.setdefault(
                (pin.name, pin.version),
                {
                    "type": "library",
                    "bom-ref": purl,
                    "name": pin.name,
                    "version": pin.version,
                    "purl": purl,
                    "hashes": [],
                    "properties": [],
                },
            )
            digests = {known["content"] for known in each["hashes"]} | set(hashes[pin.text.split(" ", 1)[0]])
            each["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in sorted(digests)]
            each["properties"].append({"name": "helios:used-by", "value": use})
            marker = pin.requirement.marker
            if marker is not None:
                each["properties"].append({"name": "helios:only-where", "value": str(marker)})
    return [found[key] for key in sorted(found)]


def document(project: Path = PROJECT) -> dict[str, Any]:
    parts = components(project)
    content = json.dumps(parts, sort_keys=True)
    helios = f"pkg:pypi/helios@{VERSION}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": helios,
                "name": "helios",
                "version": VERSION,
                "purl": helios,
            }
        },
        "components": parts,
        "dependencies": [{"ref": helios, "dependsOn": [each["bom-ref"] for each in parts]}],
    }


if __name__ == "__main__":
    put(json.dumps(document(), indent=2, ensure_ascii=False))
