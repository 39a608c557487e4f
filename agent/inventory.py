"""What a node's cache holds, left by the keeper in the cache's folder. The keeper has no way to the services, so fetch
takes it along when it asks for its plan.
"""

import os

_NAME = "inventory.json"
_CHARACTERS = 1024


def leave_inventory(root: str, line: str) -> None:
    """Put the inventory where fetch finds it, whole or not at all. May raise OSError."""
    new = os.open(f"{root}/{_NAME}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(new, line.encode())
    finally:
        os.close(new)
    os.replace(f"{root}/{_NAME}.new", f"{root}/{_NAME}")  # noqa: PTH105 -- pathlib costs ten milliseconds at every start


def read_inventory(root: str) -> str:
    """The inventory that was left last, fit for a header; empty if there is none."""
    try:
        found = os.open(f"{root}/{_NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        line = os.read(found, _CHARACTERS + 1).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(found)
    return line if len(line) <= _CHARACTERS and line.isascii() and line.isprintable() else ""
