"""Which names may become paths on a node. Everything here is pure; what it accepts still is opened without following
links.

The collector has validated the same names before; they are validated again because this side turns them into paths.
"""

from collections.abc import Iterable
from itertools import pairwise

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
MAX_PARTS = 32

HELIOS_FOLDER = ".helios"
"""In the folder of a task whose volume the node's agent serves, what is not the task's own, its inputs among it."""

_VIEW_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_HEX = frozenset("0123456789abcdef")


class NameRefused(ValueError):
    """A name that must not become a path; the message says which and why."""


def parts_of(name: str) -> tuple[str, ...]:
    """The components of a name below the artifacts folder (`a/b.csv` gives `("a", "b.csv")`), or NameRefused."""
    try:
        # What has too many characters is not looked through for anything else.
        length = len(name) if len(name) > MAX_NAME_BYTES else len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise NameRefused(f"name {escape(name)} is not valid Unicode") from None
    if length > MAX_NAME_BYTES:
        raise NameRefused(f"name {escape(name[:60])}... is longer than {MAX_NAME_BYTES} bytes")
    if not name:
        raise NameRefused("a name is empty")
    if "\0" in name:
        raise NameRefused(f"name {escape(name)} holds a NUL")
    if name.startswith("/"):
        raise NameRefused(f"name {escape(name)} is absolute")
    parts = tuple(name.split("/"))
    if len(parts) > MAX_PARTS:
        raise NameRefused(f"name {escape(name[:60])}... is deeper than {MAX_PARTS} folders")
    for part in parts:
        if part in ("", ".", ".."):
            raise NameRefused(f"name {escape(name)} has the component {escape(part)}")
        if len(part.encode("utf-8")) > MAX_PART_BYTES:
            raise NameRefused(f"name {escape(name[:60])}... has a component longer than {MAX_PART_BYTES} bytes")
    return parts


def check_disjoint(names: Iterable[str]) -> None:
    """Refuses names of which one is another or a folder of another, since both cannot exist side by side."""
    seen = sorted(parts_of(name) for name in names)
    for left, right in pairwise(seen):
        if right[: len(left)] == left:
            if left == right:
                raise NameRefused(f"name {escape('/'.join(left))} is given twice")
            raise NameRefused(f"name {escape('/'.join(left))} would also be the folder of {escape('/'.join(right))}")


def check_view(name: str) -> str:
    """A view's name (the Job's): one path component of letters, digits, `.`, `_` and `-`, or NameRefused."""
    if not 0 < len(name) <= 253 or not name[0].isalnum() or not _VIEW_ALPHABET.issuperset(name):
        raise NameRefused(f"view name {escape(name[:60])} is not a plain file name")
    return name


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in lower-case hexadecimal."""
    return len(text) == 64 and _HEX.issuperset(text)


def check_digest(digest: str) -> str:
    """A SHA-256 in lower-case hexadecimal, or NameRefused."""
    if not is_digest(digest):
        raise NameRefused(f"{escape(digest[:80])} is not a sha256 digest")
    return digest


def escape(name: str) -> str:
    r"""The name in single quotes on one line: `\` and `'` gain a backslash, what does not print becomes \n, \r, \t,
    \xNN, \uNNNN or \UNNNNNNNN.
    """
    return "'" + "".join(_escaped(char) for char in name) + "'"


_SHORT = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
